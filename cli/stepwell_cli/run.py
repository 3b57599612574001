"""``stepwell run``: a manifest's workflow from start to end on this machine."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stepwell.adapters.secrets.local import LocalSecrets
from stepwell.domain.errors import UnavailableError, UsageError
from stepwell.settings import read
from stepwell.telemetry import setup_logging
from stepwell_cli.console import print_json, say
from stepwell_cli.documents import run_document
from stepwell_cli.failure import explain
from stepwell_cli.interrupts import run_interruptible
from stepwell_cli.manifests import check_input, chosen, load_files, workflows
from stepwell_cli.reach import reached
from stepwell_cli.sources import read_input
from stepwell_cli.steps_table import view

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from stepwell.domain.documents import JsonValue
    from stepwell.domain.manifest import Document
    from stepwell.settings import Settings
    from stepwell_cli.engine import Engine
    from stepwell_cli.interrupts import Interrupts
    from stepwell_cli.steps_table import View

CANCEL_PATIENCE = 10.0  # seconds that a cancelled run gets to end
FAILED = 1  # the exit code


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    file: str
    input: str | None = None
    workflow: str | None = None
    secrets: Sequence[str] = ()
    json: bool = False
    tables: bool = False


def run(options: Options) -> int:
    """The exit code. Raises StepwellError for what is wrong before a run starts."""
    settings = read(default_level="WARNING")
    setup_logging(settings.logs)
    documents = load_files([options.file, *options.secrets])
    target, workflow = chosen(documents, options.workflow, options.file)
    value = read_input(options.input)
    check_input(workflow, value)
    for document in documents:
        if document.kind == "WorkflowRun":
            say(f"{document.file}:{document.line}: note: `stepwell run` starts no WorkflowRun of a manifest")
    settings, live = reached(settings)
    if live is not None and options.secrets:
        message = f"the steps run within `stepwell dev`, process {live.pid}: give --secrets to that one"
        raise UsageError(message)
    job = Job(options, documents, target, value, working=live is None)
    return run_interruptible(lambda interrupts: job.run(settings, interrupts))


@dataclass(frozen=True, slots=True)
class Job:
    """One run of ``target``, among the documents that are applied with it; executed here where we are ``working``."""

    options: Options
    documents: Sequence[Document]
    target: Document
    input: JsonValue
    working: bool

    async def run(self, settings: Settings, interrupts: Interrupts) -> int:
        """From the services' start to their end; the exit code."""
        from stepwell_cli.local import services

        shown = view(quiet=self.options.json)
        async with AsyncExitStack() as stack:
            with shown:
                shown.phase("Starting PostgreSQL and Valkey" if self.working else "Connecting")
                running = await stack.enter_async_context(services(settings, _engine_on))
                shown.phase("Preparing the database")
                secrets = LocalSecrets(self.documents)
                # A database of the run's own goes with it, and so would whatever the clock started meanwhile.
                shared = settings.database_url is not None
                opened = _engine_on()(running, secrets, working=self.working, scheduling=shared)
                engine = await stack.enter_async_context(opened)
                run_id = await self._start(engine)
                ended = await self._wait(engine, run_id, shown, interrupts)
            if not ended:
                say(f"run {run_id} has not ended; a worker on its database goes on with it")
                return 128 + interrupts.number
            if self.options.tables:
                await self._show_tables(engine, None if settings.database_url is None else run_id)
            code = await self._report(engine, run_id)
        return 128 + interrupts.number if interrupts.number else code

    async def _start(self, engine: Engine) -> str:
        for document, workflow in workflows(self.documents):
            await engine.apply(document, workflow)
        return await engine.start(self.target, self.input)

    async def _wait(self, engine: Engine, run_id: str, shown: View, interrupts: Interrupts) -> bool:
        """Until the run has ended, cancelled where we are interrupted; whether it has."""
        from stepwell_cli.follow import follow

        interrupts.patient = True
        asked = asyncio.ensure_future(interrupts.asked.wait())
        end = asyncio.ensure_future(follow(engine.history, run_id, shown.show, changed=engine.changed))
        try:
            first: list[asyncio.Future[Any]] = [end, asked, engine.work]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if engine.work.done():
                engine.work.result()
            if not end.done():
                await self._cancel(engine, run_id)
                await asyncio.wait([end], timeout=CANCEL_PATIENCE)
            if end.done():
                end.result()
            return end.done()
        finally:
            asked.cancel()
            end.cancel()
            await asyncio.gather(asked, end, return_exceptions=True)

    async def _cancel(self, engine: Engine, run_id: str) -> None:
        try:
            await engine.control.cancel(self.target.namespace, [run_id])
        except UnavailableError as exc:
            say(f"run {run_id} could not be cancelled: {exc}")

    async def _show_tables(self, engine: Engine, run_id: str | None) -> None:
        from stepwell_cli.tables import show_tables

        await show_tables(engine.session, run_id)

    async def _report(self, engine: Engine, run_id: str) -> int:
        record = await engine.history.run(run_id)
        succeeded = record.status == "succeeded"
        if self.options.json:
            print_json(run_document(record, await engine.history.steps(run_id)))
        elif succeeded:
            print_json(record.output)
        else:
            explain(record, await engine.history.steps(run_id))
        return 0 if succeeded else FAILED


def _engine_on() -> Callable[..., AbstractAsyncContextManager[Engine]]:
    """Imported late: it takes a third of a second, in which the services start."""
    from stepwell_cli.engine import engine_on

    return engine_on
