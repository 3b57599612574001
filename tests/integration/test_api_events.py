"""Following a run: server-sent events, resumed wherever the connection was lost."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from api import Api, api, attempt, ending
from waiting import eventually

from stepwell.adapters.postgres import run_reader
from stepwell.domain.errors import UnavailableError
from stepwell.domain.states import RunStatus
from stepwell_gateway.api import events, listeners

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True)
class Event:
    id: str
    kind: str
    data: dict[str, Any]

    @property
    def said(self) -> str:
        return f"{self.kind} {self.data.get('step') or self.data['status']}"


class Stream:
    """What a client hears."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines
        self.comments = 0

    async def next(self) -> Event | None:
        """The next event; None: the stream has ended."""
        fields: dict[str, str] = {}
        async for line in self._lines:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, text = line.partition(": ")
                fields[name] = text
            elif "data" in fields:
                return Event(fields["id"], fields["event"], json.loads(fields["data"]))
            else:
                fields.clear()
        return None

    async def rest(self) -> list[Event]:
        found = []
        while (event := await self.next()) is not None:
            found.append(event)
        return found


@asynccontextmanager
async def listening(a: Api, run: str, last: str | None = None, user: str = "root") -> AsyncIterator[Stream]:
    headers = {"authorization": f"Bearer {user}"} | ({"last-event-id": last} if last else {})
    url = f"/api/v1/namespaces/growth/runs/{run}/events"
    async with a.gateway.client.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield Stream(response.aiter_lines())


async def test_a_run_is_followed_to_its_end(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run_id = await a.queued()
        async with listening(a, run_id) as stream:
            heard = [await stream.next()]
            (run,) = await a.runs.claim(a.worker, [run_id], token=1)
            heard.append(await stream.next())
            await a.flush(run, [attempt("one", at=1)])
            heard.append(await stream.next())
            await a.flush(run, [attempt("two", at=2)], ending(RunStatus.SUCCEEDED))
            heard += await stream.rest()
        assert [(e.said, e.id) for e in heard if e] == [
            ("run queued", "0"), ("run running", "0"), ("step one", "1"), ("step two", "2"), ("run succeeded", "2.end"),
        ]  # fmt: skip
        assert "secret" not in str(heard), "events carry no payloads"


async def test_whoever_lost_the_connection_goes_on_after_the_last_event(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.running()
        await a.flush(run, [attempt(f"s{n}", at=n) for n in range(5)])
        async with listening(a, run.id) as stream:
            heard = [await stream.next() for _ in range(3)]
        assert [e.said for e in heard if e] == ["run running", "step s0", "step s1"]
        await a.flush(run, [attempt("s5", at=5)], ending(RunStatus.SUCCEEDED))
        assert heard[-1] is not None
        async with listening(a, run.id, heard[-1].id) as stream:
            rest = await stream.rest()
        assert [e.said for e in rest] == ["step s2", "step s3", "step s4", "step s5", "run succeeded"]
        over = await a.call("GET", f"/runs/{run.id}/events", headers={"last-event-id": rest[-1].id})
        assert (over.status_code, over.content) == (204, b""), "a browser comes back no more"


async def test_more_attempts_than_fit_a_page(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PAGE", 3)
    async with api(database, redis_url) as a:
        run = await a.running()
        await a.flush(run, [attempt(f"s{n}", at=n) for n in range(10)], ending(RunStatus.FAILED))
        async with listening(a, run.id) as stream:
            heard = await stream.rest()
        assert [e.said for e in heard] == [f"step s{n}" for n in range(10)] + ["run failed"]
        assert heard[-1].data["error"] == {"reason": "Broken", "step": "two"}


async def test_wrong_ids_of_events(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.ended()
        for last in ("x", "-1", "1.2", "9" * 30):
            assert (await a.call("GET", f"/runs/{run}/events", headers={"last-event-id": last})).status_code == 400
        async with listening(a, run, "700") as stream:
            assert [e.said for e in await stream.rest()] == ["run succeeded"]


async def test_all_listeners_share_one_look_at_the_database(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with api(database, redis_url) as a:
        runs = [await a.running() for _ in range(5)]
        statements: list[int] = []
        read = a.gateway.context.readers.execute

        async def counted(query: Any, params: Any = None) -> Any:
            if params and "recorded" in query and "ids" in params:
                statements.append(len(params["ids"].split(",")))
            return await read(query, params)

        monkeypatch.setattr(a.gateway.context.readers, "execute", counted)
        everyone = [asyncio.ensure_future(follow(a, run.id)) for run in runs for _ in range(4)]
        await eventually(lambda: max(statements, default=0) == 5)
        before = len(statements)
        await eventually(lambda: len(statements) >= before + 2)
        for run in runs:
            await a.flush(run, [attempt("one")], ending(RunStatus.SUCCEEDED))
        heard = await asyncio.gather(*everyone)
        assert [h[-2:] for h in heard] == [["step one", "run succeeded"]] * 20
        at_rest = len(statements)
        await eventually(lambda: True)
        assert len(statements) == at_rest, "nobody listens, nobody looks"


async def follow(a: Api, run: str) -> list[str]:
    async with listening(a, run) as stream:
        return [e.said for e in await stream.rest()]


async def test_there_are_only_so_many_listeners(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listeners, "MOST", 2)
    monkeypatch.setattr(listeners.Listeners.__init__, "__defaults__", (2, 0.05))
    async with api(database, redis_url) as a:
        run = await a.queued()
        async with listening(a, run) as first, listening(a, run) as second:
            assert [(await s.next()).said for s in (first, second)] == ["run queued"] * 2  # type: ignore[union-attr]
            refused = await a.call("GET", f"/runs/{run}/events")
            assert (refused.status_code, "retry-after" in refused.headers) == (503, True)

        async def free() -> bool:
            async with a.gateway.client.stream(
                "GET", f"/api/v1/namespaces/growth/runs/{run}/events", headers={"authorization": "Bearer root"}
            ) as response:
                return response.status_code == 200

        await eventually(free)


async def test_silence_is_filled_and_the_right_is_asked_for_again(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.05)
    async with api(database, redis_url) as a:
        a.access.give("guest", "get runs")
        run = await a.queued()
        async with listening(a, run, user="guest") as stream:
            assert (await stream.next()).said == "run queued"  # type: ignore[union-attr]
            ended = asyncio.ensure_future(stream.rest())
            await eventually(lambda: stream.comments >= 2)
            a.access.rights.clear()
            assert await ended == [], "the stream of who may listen no more ends"


async def test_an_outage_is_waited_out(database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with api(database, redis_url) as a:
        run = await a.running()
        read = a.gateway.context.readers.execute
        lost: list[str] = []

        async def away(query: Any, params: Any = None) -> Any:
            if "ids" in params and "recorded" in query and len(lost) < 2:
                lost.append(query)
                raise UnavailableError("away")
            return await read(query, params)

        monkeypatch.setattr(a.gateway.context.readers, "execute", away)
        async with listening(a, run.id) as stream:
            assert (await stream.next()).said == "run running"  # type: ignore[union-attr]
        assert len(lost) == 2


async def test_a_stream_that_cannot_go_on_ends_without_a_defect(
    database: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with api(database, redis_url) as a:
        run = await a.running()
        async with listening(a, run.id) as stream:
            assert (await stream.next()).said == "run running"  # type: ignore[union-attr]

            async def away(*_: Any, **__: Any) -> Any:
                raise UnavailableError("away")

            with monkeypatch.context() as patch:
                patch.setattr(run_reader.RunReader, "attempts", away)
                await a.flush(run, [attempt("one")])
                assert await stream.rest() == []
        assert "defect" not in caplog.text
        await a.flush(run, [], ending(RunStatus.SUCCEEDED))
        async with listening(a, run.id, "0") as stream:
            assert [e.said for e in await stream.rest()] == ["step one", "run succeeded"]


async def test_streams_end_when_the_process_drains(database: str, redis_url: str) -> None:
    async with api(database, redis_url) as a:
        run = await a.queued()
        async with listening(a, run) as stream:
            assert (await stream.next()).said == "run queued"  # type: ignore[union-attr]
            a.gateway.context.stopping.set()
            assert await stream.rest() == []
