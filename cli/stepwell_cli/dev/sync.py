"""Keeps the database in step with the manifests, and says what that took."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from stepwell.domain.errors import StepwellError
from stepwell_cli.dev.catalogue import Catalogue
from stepwell_cli.dev.files import Watch, signatures
from stepwell_cli.dev.plan import Identity, Planner, wanted
from stepwell_cli.dev.sift import for_workflows, load

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from stepwell.adapters.postgres.workflow_store import WorkflowStore
    from stepwell.adapters.secrets.local import LocalSecrets
    from stepwell.domain.errors import Problem
    from stepwell.domain.manifest import Document
    from stepwell_cli.dev.files import Changes
    from stepwell_cli.dev.http import Served
    from stepwell_cli.dev.plan import Plan, Wanted
    from stepwell_cli.dev.report import Report
    from stepwell_cli.engine import Engine

PERIOD = 0.5  # seconds between two looks
SOON = 0.1  # seconds, while a file is being written
SHARE = 0.1  # of the time, at most, is spent on looking


class Manifests:
    """The files on disk, read as far as they changed. ``read`` blocks, and belongs into a thread."""

    def __init__(self, paths: Sequence[Path], secrets: Sequence[Path], report: Report) -> None:
        self._watch = Watch(lambda: signatures([*secrets, *paths]))
        self._report = report
        self._noted: set[str] = set()
        self._given = frozenset(map(str, secrets))
        self.catalogue = Catalogue(self._given)

    def read(self) -> Changes:
        """Look once, and take what changed into the catalogue."""
        changes = self._watch.changes()
        if changes.changed or changes.gone:
            before = self.catalogue.bad
            there = [name for name in sorted(changes.changed) if Path(name).exists()]
            self.catalogue.update({name: load(name, given=name in self._given) for name in there}, changes.gone)
            self._tell(before, changes)
        return changes

    def _tell(self, before: dict[str, tuple[Problem, ...]], changes: Changes) -> None:
        bad = self.catalogue.bad
        for name in sorted(bad):
            if name in changes.changed or before.get(name) != bad[name]:
                for problem in bad[name]:
                    self._report.problem(problem)
        for name in sorted(before.keys() - bad.keys() - changes.gone):
            self._report.event("sound", name, "what was wrong is gone", file=name)
        for document in self.catalogue.documents:
            if document.kind == "WorkflowRun" and document.file not in self._noted:
                self._noted.add(document.file)
                text = "`stepwell dev` starts no WorkflowRun of a manifest"
                self._report.event("note", f"{document.file}:{document.line}", text, file=document.file)


class Sync:
    """``active`` is what stands in the database and is ours to withdraw, with the hash and number of its revision."""

    def __init__(self, manifests: Manifests, secrets: LocalSecrets, report: Report) -> None:
        self._manifests = manifests
        self._secrets = secrets
        self._report = report
        self._planner = Planner()
        self._asked: dict[Identity, Wanted] = {}
        self._active: dict[Identity, bytes] = {}
        self._revisions: dict[Identity, int] = {}
        self._files: dict[Identity, str] = {}
        self._held: frozenset[Identity] = frozenset()
        self._read: dict[str, Document] = {}
        self._trouble = ""
        self._served: Served | None = None

    @property
    def workflows(self) -> int:
        """How many the manifests define."""
        return len(self._asked)

    async def begin(self, store: WorkflowStore, served: Served, *, sole: bool) -> None:
        """Learn what stands in the database. ``sole``: nobody else keeps workflows there, so all of it is ours."""
        self._served = served
        self._take()
        for standing in await store.standing():
            name = Identity(standing.namespace, standing.name)
            if sole or name in self._asked:
                self._active[name] = standing.hash
                self._revisions[name] = standing.revision_id
            if name in self._asked and self._asked[name].hash == standing.hash:
                self._say("unchanged", name, self._asked[name])

    async def run(self, engine: Engine, store: WorkflowStore) -> None:
        """Look, read and carry out, for ever; cancelled to stop."""
        while True:
            began = time.monotonic()
            try:
                waiting = await self.step(engine, store)
            except StepwellError as exc:
                waiting = False
                if str(exc) != self._trouble:
                    self._report.event("waiting", "manifests", f"not applied yet: {exc}")
                self._trouble = str(exc)
            else:
                self._trouble = ""
            pause = SOON if waiting else PERIOD
            await asyncio.sleep(max(pause, (time.monotonic() - began) / SHARE))

    async def step(self, engine: Engine, store: WorkflowStore) -> bool:
        """One look; whether another one should follow soon."""
        changes = await asyncio.to_thread(self._manifests.read)
        if changes.changed or changes.gone:
            self._take()
        bad = self._manifests.catalogue.bad
        plan = self._planner.plan(self._asked, self._active, bad, time.monotonic())
        self._tell_kept(changes.changed & bad.keys())
        self._tell_held(plan, sorted(bad))
        await self._carry_out(plan, engine, store)
        return changes.unsettled or plan.waiting

    def _take(self) -> None:
        """The catalogue changed."""
        documents = self._manifests.catalogue.documents
        self._asked = wanted(documents)
        self._files |= {name: item.document.file for name, item in self._asked.items()}
        self._take_secrets(documents)

    def _take_secrets(self, documents: Sequence[Document]) -> None:
        """The steps use these from now on. A change is said, never a value."""
        self._secrets.replace(documents)
        secrets = {f"{d.namespace}/{d.name}": d for d in documents if d.kind == "Secret" and for_workflows(d)}
        for name, document in secrets.items():
            if name not in self._read or self._read[name].raw != document.raw:
                self._report.event("read", name, f"Secret, {document.file}:{document.line}", file=document.file)
        for name in self._read.keys() - secrets.keys():
            file = self._read[name].file
            self._report.event("withdrawn", name, f"Secret, {_lost(file)}", file=file)
        self._read = secrets

    async def _carry_out(self, plan: Plan, engine: Engine, store: WorkflowStore) -> None:
        for item in plan.apply:
            name = Identity(item.document.namespace, item.document.name)
            applied = await engine.apply(item.document, item.workflow)
            self._active[name], self._revisions[name] = item.hash, applied.revision_id
            self._say("applied", name, item)
        for name in plan.withdraw:
            await store.withdraw(name.namespace, name.name)
            del self._active[name], self._revisions[name]
            where = self._files.pop(name, "")
            text = f"{_lost(where)}; runs that were accepted go on"
            self._report.event("withdrawn", str(name), text, workflow=str(name), file=where or None)

    def _say(self, word: str, name: Identity, item: Wanted) -> None:
        revision, document = self._revisions[name], item.document
        place = f"{document.file}:{document.line}"
        asleep = ", suspended" if item.workflow.spec.suspend else ""
        fields = {"workflow": str(name), "revision": revision, "file": document.file, "line": document.line}
        self._report.event(word, str(name), f"revision {revision}{asleep}, {place}", **fields)
        for trigger in item.workflow.spec.triggers:
            if trigger.webhook is not None and self._served is not None:
                url = self._served.hook(name.namespace, name.name, trigger.name)
                self._report.event("hook", str(name), f"POST {url}", workflow=str(name), trigger=trigger.name, url=url)
            elif trigger.cron is not None:
                text = f"{trigger.name}: {trigger.cron.schedule} {trigger.cron.time_zone}"
                self._report.event("schedule", str(name), text, workflow=str(name), trigger=trigger.name)

    def _tell_kept(self, bad: Collection[str]) -> None:
        """What a bad file held when it was good goes on."""
        for name, item in self._asked.items():
            if item.document.file in bad and name in self._revisions:
                text = f"revision {self._revisions[name]} goes on until {item.document.file} is sound"
                self._report.event("kept", str(name), text, workflow=str(name), revision=self._revisions[name])

    def _tell_held(self, plan: Plan, bad: Sequence[str]) -> None:
        for name in sorted(frozenset(plan.held) - self._held):
            text = f"no sound manifest holds it; it stays until {' and '.join(bad)} {'is' if len(bad) == 1 else 'are'} sound"
            self._report.event("kept", str(name), text, workflow=str(name))
        self._held = frozenset(plan.held)


def _lost(file: str) -> str:
    if not file:
        return "no manifest holds it"
    return f"{file} holds it no more" if Path(file).exists() else f"{file} is gone"
