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


def thousand_items(port: int) -> dict[str, Any]:
    """A call for each of a thousand items, fifty at once."""
    call = {
        "method": "POST",
        "url": f"http://127.0.0.1:{port}/users",
        "body": {"user": "{{ item }}", "n": "{{ index }}"},
    }
    return {
        "steps": [
            {"name": "each", "forEach": {"items": "{{ users }}", "maxParallel": 50}, "httpCall": call},
            {"name": "count", "transform": {"value": "{{ size(input) }}"}},
        ]
    }


def thousand_documents(_: int) -> dict[str, Any]:
    """A document of 6.4 KB that cannot be compressed for each of a thousand items."""
    text = "".join(f"{{{{ sha256('{n}/' + string(index)) }}}}" for n in range(100))
    return {
        "steps": [
            {
                "name": "each",
                "forEach": {"items": "{{ users }}"},
                "transform": {"value": {"of": "{{ item }}", "text": text}},
            },
            {"name": "count", "transform": {"value": "{{ size(input) }}"}},
        ]
    }


WORKLOADS = {"one_step": one_step, "three_step": three_step, "forty_step": forty_step}

ITEMS = {"thousand_items": thousand_items, "thousand_documents": thousand_documents}
USERS = {"users": [{"id": n, "email": f"user{n}@example.com"} for n in range(1_000)]}
