"""Every manifest in examples/ is valid and does what it says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import commands
import pytest
from http_servers import unused_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lending import Databases

CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("test-workflow.yaml", {"email": "user@example.com", "age": 20}, {"received": {"email": "user@example.com"}}),
    (
        "for-each.yaml",
        {"people": [{"name": "Ada", "answer": 200}, {"name": "Bob", "answer": 200}]},
        {"told": ["Ada", "Bob"], "missed": 0, "why": ""},
    ),
    ("for-each.yaml", {"people": []}, {"told": [], "missed": 0, "why": ""}),
    ("github-webhook.yaml", {"email": "user@example.com"}, {"received": {"email": "user@example.com"}}),
    ("nightly.yaml", {"day": "2026-11-23T02:00:00Z"}, {"day": "2026-11-23", "title": "Report of 2026-11-23"}),
    ("on-failure.yaml", {"parcel": 7}, {"received": {"parcel": 7, "answer": 200, "shelf": "S-7"}}),
    ("order.yaml", {"article": "a/b", "amount": 3}, {"article": "a/b", "cents": 750, "available": True}),
    ("retry.yaml", {"order": 7}, {"order": 7, "extra": "Failed", "why": 404}),
    ("routing.yaml", {"plan": "pro", "seats": 30}, {"text": "30 seat(s) of pro", "discount": 20}),
    ("routing.yaml", {"plan": "free"}, {"text": "1 seat(s) of free", "discount": 0}),
    (
        "schema.yaml",
        {"email": "Ada@Example.org", "language": "de"},
        {
            "to": "Ada@Example.org",
            "mail": {"email": "Ada@Example.org", "tags": [], "subject": "Willkommen", "domain": "example.org"},
        },
    ),
]


@pytest.fixture(scope="module")
def receiver() -> Iterator[int]:
    """The port of the examples' receiver while it runs."""
    port = unused_port()
    command = [sys.executable, str(commands.EXAMPLES / "receiver.py"), "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr
        assert process.stderr.readline().startswith(b"receiver: listening on ")
        yield port
        process.terminate()


@pytest.fixture(scope="module")
def services(databases: Databases, valkey_server: str) -> Iterator[dict[str, str]]:
    """An environment that names running services."""
    with databases.lent() as dsn:
        yield {"DATABASE_URL": dsn, "REDIS_URL": valkey_server, "STEPWELL_REDIS_PREFIX": "examples"}


def test_every_example_is_run_here() -> None:
    assert {name for name, _, _ in CASES} == {path.name for path in commands.EXAMPLES.glob("*.yaml")}


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_it_is_valid(name: str) -> None:
    done = commands.within("validate", commands.EXAMPLES / name)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(("name", "given", "output"), CASES)
def test_it_does_what_it_says(
    name: str, given: dict[str, Any], output: Any, receiver: int, services: dict[str, str], tmp_path: Path
) -> None:
    done = commands.within("run", commands.example(name, receiver, tmp_path), "-i", json.dumps(given), env=services)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == output


def test_the_seats_of_the_free_plan(services: dict[str, str]) -> None:
    done = commands.within("run", commands.EXAMPLES / "routing.yaml", "-i", '{"plan":"free","seats":3}', env=services)
    assert done.returncode == 1
    assert "the free plan has one seat, not 3" in done.stderr


def test_each_item_is_tried_on_its_own_and_shown_in_the_table(
    receiver: int, services: dict[str, str], tmp_path: Path
) -> None:
    manifest = commands.example("for-each.yaml", receiver, tmp_path)
    people = [{"name": "Ada", "answer": 200}, {"name": "Bob", "answer": 503}, {"name": "Cyd", "answer": 200}]
    done = commands.within("run", manifest, "-i", json.dumps({"people": people}), env=services)
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert (output["told"], output["missed"]) == (["Ada", "Cyd"], 1)
    assert output["why"].startswith("1 of 3 items failed, first item 1: POST http://127.0.0.1:")
    assert "step tell succeeded (" in done.stderr
    assert "): 3/3 items, 1 of 3 items failed, first item 1: POST " in done.stderr


def test_somebody_is_told_of_a_parcel_that_cannot_be_sent(
    receiver: int, services: dict[str, str], tmp_path: Path
) -> None:
    manifest = commands.example("on-failure.yaml", receiver, tmp_path)
    done = commands.within("run", manifest, "-i", '{"parcel": 7, "answer": 503}', "--json", env=services)
    assert done.returncode == 1, done.stderr
    run = json.loads(done.stdout)
    assert (run["error"]["step"], run["error"]["status"]) == ("send", 503)
    attempts = {step["step"]: (step["status"], step["attempt"], step["output"]) for step in run["steps"]}
    assert attempts == {
        "reserve": ("succeeded", 1, {"parcel": 7, "answer": 503, "shelf": "S-7"}),
        "send": ("failed", 2, None),
        "tell": ("succeeded", 1, {"received": {"text": "parcel 7: send failed, UnexpectedStatus"}}),
        "release": ("succeeded", 1, {"received": None}),
    }
