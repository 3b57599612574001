"""Runs read over the API, as the same records that a database gives."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from stepwell.adapters.postgres.history_store import Page, RunRecord, RunState, Selection, StepRecord, checked_id
from stepwell.domain.revision import Part

if TYPE_CHECKING:
    from stepwell.domain.documents import JsonObject
    from stepwell_cli.server.client import Client

LARGEST_PAGE = 200


class RemoteHistory:
    """Implements History over a gateway. Payloads that the caller may not read are null."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._workflows: dict[int, str] = {}

    async def page(self, selection: Selection) -> Page:
        """See History."""
        found = await self._client.get(
            "/runs",
            workflow=selection.workflow,
            status=selection.status,
            since=None if selection.since is None else selection.since.isoformat().replace("+00:00", "Z"),
            cursor=selection.cursor,
            limit=min(selection.limit, LARGEST_PAGE),
        )
        return Page([_state(run) for run in found["runs"]], found["cursor"])

    async def state(self, run_id: str) -> RunState:
        """See History."""
        return _state(await self._run(run_id))

    async def run(self, run_id: str) -> RunRecord:
        """See History."""
        found = await self._run(run_id)
        state = _state(found)
        return RunRecord(
            **{name: getattr(state, name) for name in RunState.__dataclass_fields__},
            input=found.get("input", {}),
            output=found.get("output"),
            error=found["error"],
            revision_id=self._known(state.workflow),
        )

    async def steps(self, run_id: str, *, documents: bool = True) -> list[StepRecord]:  # noqa: ARG002 - the rights decide
        """See History."""
        records: list[StepRecord] = []
        cursor: str | None = None
        while True:
            found = await self._client.get(f"/runs/{checked_id(run_id)}/steps", cursor=cursor, limit=LARGEST_PAGE)
            records += [_step(step) for step in found["steps"]]
            cursor = found["cursor"]
            if cursor is None:
                return records

    async def spec(self, revision_id: int) -> JsonObject:
        """The steps of the workflow as it stands now: the API tells no more of what a run was pinned to."""
        found = await self._client.get(f"/workflows/{self._workflows[revision_id]}")
        return {part.word: [_outline(step) for step in found.get(part.word, ())] for part in Part}

    async def _run(self, run_id: str) -> dict[str, Any]:
        return await self._client.get(f"/runs/{checked_id(run_id)}")

    def _known(self, workflow: str) -> int:
        """A number that stands for a workflow's steps."""
        for number, name in self._workflows.items():
            if name == workflow:
                return number
        self._workflows[len(self._workflows)] = workflow
        return len(self._workflows) - 1


def _outline(step: dict[str, Any]) -> dict[str, Any]:
    known = {name: step[name] for name in ("needs", "onError") if step.get(name) is not None}
    return {"name": step["name"], step["action"]: {}, **known}


def _state(run: dict[str, Any]) -> RunState:
    return RunState(
        id=run["id"],
        namespace=run["namespace"],
        workflow=run["workflow"],
        status=run["status"],
        trigger=run["trigger"],
        created_at=_moment(run["createdAt"]),
        started_at=_perhaps(run["startedAt"]),
        finished_at=_perhaps(run["finishedAt"]),
    )


def _step(step: dict[str, Any]) -> StepRecord:
    return StepRecord(
        step=step["step"],
        item_index=-1 if step["itemIndex"] is None else step["itemIndex"],
        attempt=step["attempt"],
        status=step["status"],
        started_at=_moment(step["startedAt"]),
        finished_at=_moment(step["finishedAt"]),
        retry_at=_perhaps(step["retryAt"]),
        error=step.get("error"),
        http=step.get("http"),
        items=step.get("items"),
        input=step.get("input"),
        output=step.get("output"),
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _perhaps(text: str | None) -> datetime | None:
    return None if text is None else _moment(text)
