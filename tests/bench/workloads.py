"""The workloads of the performance budget."""

from __future__ import annotations

from typing import Any

INPUT = {"email": "user@example.com", "age": 20}


def one_step(_: int) -> dict[str, Any]:
    """A pure step."""
    return {"steps": [{"name": "pick", "transform": {"select": ["email"]}}]}


def three_step(port: int) -> dict[str, Any]:
    """transform, httpCall, transform."""
    call = {"method": "POST", "url": f"http://127.0.0.1:{port}/users", "body": {"email": "{{ email }}"}}
    return {
        "steps": [
            {"name": "pick", "transform": {"select": ["email"]}},
            {"name": "create", "httpCall": call},
            {"name": "result", "transform": {"set": {"created": "{{ steps.create.output.id }}"}}},
        ]
    }


def forty_step(_: int) -> dict[str, Any]:
    """Forty pure steps in a row."""
    steps = [{"name": f"s{i:02}", "transform": {"set": {"n": "{{ run.input.age }}"}}} for i in range(40)]
    return {"steps": steps}


WORKLOADS = {"one_step": one_step, "three_step": three_step, "forty_step": forty_step}
