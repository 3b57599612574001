"""An operator and a worker in a thread of their own, for tests that use the cluster from outside.

kopf cancels every task of its loop that began after it did, so it shares its loop with no test.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import kubernetes.aio.config.kube_config
import kubernetes.config.kube_config
import pytest

from stepwell.adapters.secrets.local import LocalSecrets
from stepwell.metrics.operator import OperatorMetrics
from stepwell.settings import AdmissionSettings, OperatorSettings, Settings, WorkerSettings
from stepwell_cli.engine import Engine, engine_on
from stepwell_operator.context import opened
from stepwell_operator.process import operate
from stepwell_operator.readiness import Readiness
from stepwell_operator.rooms import ROOMS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Sequence

    from kube_server import KubeServer

    from stepwell_operator.rooms import Room

T = TypeVar("T")
CLOSING = 0.25  #: seconds
START = 60.0  #: seconds that an operator may take to watch, on a busy machine


class Thread:
    """Runs one coroutine in a thread with a loop; it is asked to end by an event, and its failure is the test's."""

    def __init__(self, main: Callable[[Thread], Coroutine[Any, Any, None]]) -> None:
        self._main = main
        self._loop = asyncio.new_event_loop()
        self._failure: BaseException | None = None
        self.ready = threading.Event()
        self.stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T], timeout: float = 30.0) -> T:
        """The result of a coroutine that runs in the thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def is_ready(self, timeout: float = START) -> None:
        """Wait until the coroutine says so."""
        self.ready.wait(timeout)
        if self._failure is not None:
            raise self._failure
        assert self.ready.is_set(), f"not ready after {timeout:g} s"

    def stop(self, timeout: float = 30.0) -> None:
        """Ask it to end, and wait until it has."""
        self._loop.call_soon_threadsafe(self.stopping.set)
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"it goes on {timeout:g} s after it was asked to end"
        self._loop.close()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main(self))
        except BaseException as exc:  # it belongs to whoever stops the thread
            self._failure = exc
            self.ready.set()
        # aiohttp's connections over TLS are only closed some turns of the loop after their session is (its own advice).
        self._loop.run_until_complete(asyncio.sleep(CLOSING))


@contextmanager
def operator(kube: KubeServer, settings: Settings, rooms: Sequence[Room] = ROOMS) -> Iterator[Thread]:
    """An operator that watches, until the block ends."""

    async def main(thread: Thread) -> None:
        readiness = Readiness()
        async with opened(settings, OperatorMetrics()) as context:
            operating = asyncio.ensure_future(operate(context, thread.stopping, readiness, rooms))
            watching = asyncio.ensure_future(readiness.watching.wait())
            await asyncio.wait([operating, watching], return_when=asyncio.FIRST_COMPLETED)
            thread.ready.set()
            watching.cancel()
            await operating

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kube.kubeconfig))
        for module in (
            kubernetes.config.kube_config,
            kubernetes.aio.config.kube_config,
        ):  # they read it once, at import
            patch.setattr(module, "KUBE_CONFIG_DEFAULT_LOCATION", str(kube.kubeconfig))
        thread = Thread(main)
        try:
            thread.is_ready()
            yield thread
        finally:
            thread.stop()


class WorkerThread:
    """A worker, with an engine beside it that applies workflows directly."""

    def __init__(self, thread: Thread, engine: Engine) -> None:
        self.thread = thread
        self.engine = engine


@contextmanager
def worker(settings: Settings) -> Iterator[WorkerThread]:
    """A worker, until the block ends."""
    found: list[Engine] = []

    async def main(thread: Thread) -> None:
        async with engine_on(settings, LocalSecrets()) as engine:
            found.append(engine)
            thread.ready.set()
            await thread.stopping.wait()

    thread = Thread(main)
    try:
        thread.is_ready()
        yield WorkerThread(thread, found[0])
    finally:
        thread.stop()


def settings_for(database: str, redis_url: str, prefix: str = "operating") -> Settings:
    """Settings of a system that reacts quickly; its operator serves no webhook."""
    return Settings(
        database_url=database,
        redis_url=redis_url,
        redis_prefix=prefix,
        allow_loopback=True,
        worker=dataclasses.replace(WorkerSettings(), grace=1.0),
        operator=OperatorSettings(admission=AdmissionSettings(port=0)),
    )
