"""What the API server's refusals of a Workflow's status come to."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from kubernetes.aio import client

from stepwell.adapters.postgres.resource_store import ResourceName
from stepwell.domain.errors import DataRefusedError, NotFoundError, StepwellError, UnavailableError
from stepwell.metrics.operator import OperatorMetrics
from stepwell_operator.workflows import showing
from stepwell_operator.workflows.cluster import Cluster
from stepwell_operator.workflows.decide import Synced
from stepwell_operator.workflows.entries import Entries
from stepwell_operator.workflows.resource import Resource
from stepwell_operator.workflows.showing import Showing

if TYPE_CHECKING:
    from stepwell_operator.workflows.decide import Status

NAME = ResourceName("growth", "welcome")


def refusing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Cluster:
    """A cluster whose API server answers every write so."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(client.CustomObjectsApi, "patch_namespaced_custom_object_status", refuse)
    return Cluster(cast("Any", object()))


def answered(status: int, reason: str, body: str = "") -> client.ApiException:
    error = client.ApiException(status=status, reason=reason)
    error.body = body
    error.headers = {"Audit-Id": "1"}
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answered(404, "Not Found"), NotFoundError),
        (answered(409, "Conflict"), UnavailableError),
        (answered(422, "Unprocessable Entity"), DataRefusedError),
        (answered(413, "Request Entity Too Large"), DataRefusedError),
        (answered(403, "Forbidden"), UnavailableError),
        (answered(503, "Service Unavailable"), UnavailableError),
        (TimeoutError(), UnavailableError),
    ],
)
async def test_what_may_pass_is_told_from_what_will_not(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: type[StepwellError]
) -> None:
    with pytest.raises(StepwellError) as raised:
        await refusing(monkeypatch, error).show(NAME, {})
    assert type(raised.value) is expected


async def test_a_refusal_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    told = 'workflows.stepwell.dev "welcome" is forbidden'
    for error, words in (
        (answered(403, "Forbidden", json.dumps({"message": told})), f"the API server answered 403: {told}"),
        (answered(502, "Bad Gateway", "<html>"), "the API server answered 502: Bad Gateway"),
        (OSError("no route"), "the API server is not available: no route"),
    ):
        with pytest.raises(UnavailableError) as raised:
            await refusing(monkeypatch, error).show(NAME, {})
        assert str(raised.value) == f"Workflow growth/welcome: {words}"


async def test_a_status_that_could_not_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "AGAIN", 0.01)

    class Board:
        """Fails twice."""

        def __init__(self) -> None:
            self.tries = 0
            self.shown = asyncio.Event()

        async def show(self, name: ResourceName, status: Status) -> tuple[int, Status]:
            self.tries += 1
            if self.tries < 3:
                message = f"{name}: the API server answered 409: the object has been modified"
                raise UnavailableError(message)
            self.shown.set()
            return 2, status

        def post(self, *_: Any, **__: Any) -> None:
            pass

    board, entries = Board(), Entries()
    writing = Showing(board, entries, board, OperatorMetrics(), "")
    writing.begun.set()
    entry = entries.take(Resource(NAME, "uid", 1, 1, {}, {}, cancels=False), 0.0)
    entry.outcome = Synced(1, (), suspended=False)
    writing.wanted(entry)
    writer = asyncio.ensure_future(writing.run())
    async with asyncio.timeout(10):
        await board.shown.wait()
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
