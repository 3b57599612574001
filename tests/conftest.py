"""Fixtures of all rooms: servers, databases, and coroutines as tests."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import hypothesis
import lending
import pytest
import scratch
import services
import uvloop

from stepwell_cli.embedded import EmbeddedPostgres, EmbeddedValkey

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from xdist.remote import Producer
    from xdist.scheduler import LoadFileScheduling

DEADLINE = 120.0  #: seconds a coroutine test may take; ``@pytest.mark.deadline(240)`` sets another
GRACE = 1.0  #: seconds that tasks have to end after their test


def pytest_configure(config: pytest.Config) -> None:
    scratch.use_memory()
    hypothesis.settings.register_profile("stepwell", deadline=None)  # a busy machine is no failure
    hypothesis.settings.load_profile("stepwell")
    config.addinivalue_line("markers", f"deadline(seconds): how long an async test may take (default {DEADLINE:g})")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Who runs what under ``--dist loadfile``, see `scheduling`."""
    if config.getoption("dist") != "loadfile":
        return None
    from scheduling import ByServer

    return ByServer(config, log)


def pytest_report_header() -> str:
    where = "DATABASE_URL and REDIS_URL" if services.EXTERNAL else "embedded, started when first needed"
    return f"PostgreSQL and Valkey: {where}"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    marker = pyfuncitem.get_closest_marker("deadline")
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names if name in pyfuncitem.funcargs}
    run_coroutine(pyfuncitem.obj(**arguments), marker.args[0] if marker else DEADLINE)
    return True


def run_coroutine(coroutine: Coroutine[Any, Any, Any], deadline: float = DEADLINE) -> Any:
    """The coroutine's result; fails after ``deadline`` seconds, and where it leaves tasks behind."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_guarded(coroutine, deadline))


async def _guarded(coroutine: Coroutine[Any, Any, Any], deadline: float) -> Any:
    try:
        async with asyncio.timeout(deadline) as limit:
            result = await coroutine
    except TimeoutError as error:
        if limit.expired():
            raise AssertionError(f"the test took longer than {deadline:g} s") from error
        raise
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, others = await asyncio.wait(others, timeout=GRACE)
    assert not others, f"the test left tasks behind: {sorted(map(repr, others))}"
    return result


@pytest.fixture
def run() -> Callable[..., Any]:
    """``run(coroutine)`` for tests that are not coroutines themselves (hypothesis)."""
    return run_coroutine


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The DSN of the session's PostgreSQL; tests that stop or kill it take `own_postgres`."""
    with services.postgres() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def databases(postgres_server: str) -> Iterator[lending.Databases]:
    made = lending.Databases(postgres_server)
    yield made
    made.close()


@pytest.fixture
def database(databases: lending.Databases) -> Iterator[str]:
    """The DSN of a database of the test's own, with all migrations applied."""
    with databases.lent() as dsn:
        yield dsn


@pytest.fixture
def empty_database(databases: lending.Databases) -> Iterator[str]:
    """The DSN of a database without tables."""
    with databases.empty() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[str]:
    """The URL of the session's Valkey; tests that stop or kill it take `own_valkey`."""
    with services.valkey() as url:
        yield url


@pytest.fixture
def redis_url(valkey_server: str) -> str:
    """The URL of a Valkey that is empty, of keys and of functions."""
    services.flush(valkey_server)
    return valkey_server


@pytest.fixture
def own_postgres() -> Iterator[EmbeddedPostgres]:
    """A started PostgreSQL of the test's own, with an empty database, to be killed at will (a second a test)."""
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
def own_valkey() -> Iterator[EmbeddedValkey]:
    """A started Valkey of the test's own, to be killed at will."""
    with EmbeddedValkey() as server:
        yield server
