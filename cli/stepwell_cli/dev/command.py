"""``stepwell dev``: from the services' start to their end."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.domain.durations import format_duration
from stepwell.domain.errors import UsageError
from stepwell.settings import read
from stepwell.telemetry import setup_logging
from stepwell_cli.dev.folder import NAME, approval_key, held, published
from stepwell_cli.dev.report import report
from stepwell_cli.interrupts import run_interruptible
from stepwell_cli.local import services

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from stepwell.adapters.postgres.workflow_store import WorkflowStore
    from stepwell.adapters.secrets.local import LocalSecrets
    from stepwell.settings import Settings
    from stepwell_cli.dev.feed import Feed
    from stepwell_cli.dev.http import Served
    from stepwell_cli.dev.report import Report
    from stepwell_cli.dev.sync import Manifests, Sync
    from stepwell_cli.engine import Engine
    from stepwell_cli.interrupts import Interrupts


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    paths: Sequence[str] = (".",)
    secrets: Sequence[str] = ()
    json: bool = False


def dev(options: Options) -> int:
    """The exit code: 0 once it was asked to end and has drained. Raises ManifestError for bad Secrets, UsageError."""
    settings = read(default_level="WARNING")
    setup_logging(settings.logs)
    for name in (*options.paths, *options.secrets):
        if not Path(name).exists():
            message = f"{name}: there is no such file or directory"
            raise UsageError(message)
    if options.secrets:
        from stepwell_cli.manifests import load_files

        load_files(options.secrets)
    folder = Path(NAME)
    with held(folder):
        system = System(options, folder, report(json=options.json))
        return run_interruptible(lambda interrupts: system.run(settings, interrupts))


@dataclass(slots=True)
class System:
    """Everything of one ``stepwell dev``. ``prepare`` fills what needs the large imports."""

    options: Options
    folder: Path
    report: Report
    began: float = field(default_factory=time.monotonic)
    manifests: Manifests = field(init=False)
    secrets: LocalSecrets = field(init=False)
    sync: Sync = field(init=False)

    async def run(self, settings: Settings, interrupts: Interrupts) -> int:
        """Until it is interrupted."""
        async with AsyncExitStack() as stack:
            running = await stack.enter_async_context(services(settings, self.prepare, directory=self.folder))
            feed, store = await stack.enter_async_context(self._feed(running, sole=settings.database_url is None))
            running = replace(running, approval_key=settings.approval_key or approval_key(self.folder))
            served = await stack.enter_async_context(_gateway(running, self.secrets))
            running = replace(running, public_url=served.url)
            engine = await stack.enter_async_context(_engine(running, self.secrets, feed))
            await self.sync.begin(store, served, sole=settings.database_url is None)
            await self.sync.step(engine, store)
            stack.enter_context(published(self.folder, running, served.url, served.token))
            interrupts.patient = True
            self._welcome(served.url)
            await self._work(engine, store, interrupts)
            self._farewell(feed, settings)
        return 0

    def prepare(self) -> None:
        """Read the manifests, and import the engine: both while the services start."""
        from stepwell.adapters.secrets.local import LocalSecrets
        from stepwell_cli import engine  # noqa: F401 - a third of a second
        from stepwell_cli.dev import http  # noqa: F401 - a tenth
        from stepwell_cli.dev.sync import Manifests, Sync

        self.manifests = Manifests([*map(Path, self.options.paths)], [*map(Path, self.options.secrets)], self.report)
        self.manifests.read()
        self.secrets = LocalSecrets(self.manifests.catalogue.documents)
        self.sync = Sync(self.manifests, self.secrets, self.report)

    @asynccontextmanager
    async def _feed(self, settings: Settings, *, sole: bool) -> AsyncIterator[tuple[Feed, WorkflowStore]]:
        """What tells of runs, beside the engine and until that has drained, on a database that is ready for it."""
        from stepwell.adapters.postgres.migrate import migrate
        from stepwell.adapters.postgres.session import Session
        from stepwell.adapters.postgres.workflow_store import WorkflowStore
        from stepwell_cli.dev.feed import Feed
        from stepwell_cli.dev.orphans import bury_workers

        await migrate(str(settings.database_url))
        async with Session(str(settings.database_url), "manifests") as session:
            if sole:
                await bury_workers(session)
            feed, store = Feed(self.report), WorkflowStore(session)
            telling = asyncio.ensure_future(feed.run(store))
            try:
                yield feed, store
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
                await feed.tell(store)

    async def _work(self, engine: Engine, store: WorkflowStore, interrupts: Interrupts) -> None:
        """Until somebody asks to end it; what fails here or in the worker ends it, too."""
        asked = asyncio.ensure_future(interrupts.asked.wait())
        syncing = asyncio.ensure_future(self.sync.run(engine, store))
        try:
            first: list[asyncio.Future[Any]] = [asked, syncing, engine.work]
            done, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            asked.cancel()
            syncing.cancel()
            await asyncio.gather(asked, syncing, return_exceptions=True)

    def _welcome(self, url: str) -> None:
        paths, number = ", ".join(self.options.paths), self.sync.workflows
        took, pid = time.monotonic() - self.began, os.getpid()
        what = "1 workflow" if number == 1 else f"{number} workflows"
        text = f"{what} in {paths}; {url}; data in {self.folder}/; process {pid}; started in {took:.1f} s"
        self.report.event("ready", "stepwell dev", text, pid=pid, url=url, seconds=round(took, 3), workflows=number)
        if number:
            text = "`stepwell run FILE` in this folder starts a run here; Ctrl-C ends this"
        elif bad := sorted(self.manifests.catalogue.bad):
            text = f"nothing is applied until {' and '.join(bad)} {'is' if len(bad) == 1 else 'are'} sound"
        else:
            text = f"no manifest yet: write one into {paths}, it is applied at once"
        self.report.event("note", "", text)

    def _farewell(self, feed: Feed, settings: Settings) -> None:
        text = ""
        if feed.live <= feed.parked:
            text = "what waits goes on at the next start" if feed.live else ""
        else:
            grace = format_duration(settings.worker.grace)
            text = f"steps in flight may take {grace} to end; Ctrl-C again ends this now. What is left goes on at the next start"
        self.report.event("stopping", "stepwell dev", text, live=len(feed.live))


@asynccontextmanager
async def _gateway(settings: Settings, secrets: LocalSecrets) -> AsyncIterator[Served]:
    from stepwell_cli.dev.http import gateway

    async with gateway(settings, secrets) as served:
        yield served


@asynccontextmanager
async def _engine(settings: Settings, secrets: LocalSecrets, feed: Feed) -> AsyncIterator[Engine]:
    from stepwell_cli.engine import engine_on

    async with engine_on(settings, secrets, observer=feed) as engine:
        yield engine
