"""What people do to runs over a gateway: trigger, cancel, retry, rerun, approve, reject, and hear what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stepwell.adapters.postgres.history_store import checked_id
from stepwell.domain.errors import UsageError
from stepwell_cli.console import plain, print_json, say
from stepwell_cli.interrupts import run_interruptible
from stepwell_cli.server.target import gateway
from stepwell_cli.sources import read_input

if TYPE_CHECKING:
    from stepwell_cli.interrupts import Interrupts
    from stepwell_cli.server.client import Client, Event
    from stepwell_cli.server.where import Where

FAILED = 1  # the exit code
PRIORITIES = ("Low", "Normal", "High")


def trigger(
    where: Where, workflow: str, given: str | None, *, key: str | None, priority: str | None, json: bool
) -> int:
    """Start a run, and print its id."""
    value = read_input(given)
    if not isinstance(value, dict):
        raise UsageError("a run's input is a JSON object, such as {}")
    if priority is not None and priority not in PRIORITIES:
        message = f"--priority {priority}: it is one of {', '.join(PRIORITIES)}"
        raise UsageError(message)
    body: dict[str, object] = {"input": value} | ({"priority": priority} if priority else {})

    async def work(_: Interrupts) -> int:
        async with gateway(where) as client:
            _print_reference(await client.post(f"/workflows/{quote(workflow, safe='')}/runs", body, key), json=json)
        return 0

    return run_interruptible(work)


def act(
    where: Where, run_id: str, what: str, body: dict[str, object] | None = None, *, key: str | None = None, json: bool
) -> int:
    """Cancel, retry or rerun; print the id of the run that it leads to."""

    async def work(_: Interrupts) -> int:
        async with gateway(where) as client:
            _print_reference(await client.post(f"/runs/{checked_id(run_id)}:{what}", body, key), json=json)
        return 0

    return run_interruptible(work)


def decide(
    where: Where, run_id: str, step: str, *, approve: bool, comment: str | None, data: str | None, json: bool
) -> int:
    """Approve or reject what a run waits for."""
    body: dict[str, object] = {} if comment is None else {"comment": comment}
    if data is not None:
        body["data"] = read_input(data)
    word = "approve" if approve else "reject"

    async def work(_: Interrupts) -> int:
        async with gateway(where) as client:
            answer = await client.post(f"/runs/{checked_id(run_id)}/steps/{quote(step, safe='')}:{word}", body)
        if json:
            print_json(answer)
        else:
            say(f"step {step} of run {run_id} is {'approved' if approve else 'rejected'}")
        return 0

    return run_interruptible(work)


def follow_events(where: Where, run_id: str, *, json: bool) -> int:
    """A line for everything that happens to a run, until it has ended; the exit code says how."""

    async def work(_: Interrupts) -> int:
        async with gateway(where) as client:
            return await _told(client, checked_id(run_id), json=json)

    return run_interruptible(work)


async def _told(client: Client, run_id: str, *, json: bool) -> int:
    status = ""
    async for event in client.events(run_id):
        if event.kind == "run":
            status = str(event.data["status"])
        if json:
            print_json({"event": event.kind, **event.data}, one_line=True)
        else:
            print(plain(_line(event)), flush=True)
    return 0 if status == "succeeded" else FAILED


def _line(event: Event) -> str:
    data = event.data
    if event.kind != "step":
        return f"run {data['id']} {_words(data['status'])}{_why(data)}"
    item = "" if data["itemIndex"] is None else f"[{data['itemIndex']}]"
    attempt = f", attempt {data['attempt']}" if data["attempt"] > 1 or data["retryAt"] else ""
    again = f"; again at {data['retryAt']}" if data["retryAt"] else ""
    return f"step {data['step']}{item}{attempt} {_words(data['status'])}{_why(data)}{again}"


def _words(status: str) -> str:
    return {"timed_out": "timed out", "queued": "is queued", "running": "is running", "waiting": "is waiting"}.get(
        status, status
    )


def _why(data: dict[str, Any]) -> str:
    reason = (data.get("error") or {}).get("reason")
    return f": {reason}" if reason else ""


def _print_reference(reference: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(reference)
        return
    if reference.get("inputDiffers"):
        say("the key was used before, with another request: this is the run that it led to")
    print(reference["runId"])
