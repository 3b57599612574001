"""Settings, read from the environment once, at the edge. ``docs/settings.md`` lists them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from stepwell.domain.durations import format_duration, parse_duration
from stepwell.domain.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How one worker process behaves."""

    slots: int = 200
    """``STEPWELL_SLOTS``: runs that one process executes at once. Default 200."""

    grace: float = 45.0
    """``STEPWELL_GRACE``: seconds that steps in flight may take to end after SIGTERM. Default 45s, the longest default
    step timeout and 15 seconds."""

    heartbeat: float = 5.0
    """``STEPWELL_HEARTBEAT``: seconds between two signs of life. Default 5s."""

    trust: float = 15.0
    """``STEPWELL_TRUST_WINDOW``: seconds after the start of its last confirmed heartbeat in which a worker claims runs
    and starts effects; longer than the heartbeat. Default 15s."""

    silence: float = 20.0
    """``STEPWELL_DEATH_SILENCE``: seconds of silence after which the leader declares a worker dead; longer than every
    worker's trust window. The leader's own lease falls after half of it. All workers are given the same. Default 20s."""

    def __post_init__(self) -> None:
        if not self.heartbeat < self.trust < self.silence:
            values = (self.heartbeat, self.trust, self.silence)
            message = (
                "STEPWELL_HEARTBEAT, STEPWELL_TRUST_WINDOW and STEPWELL_DEATH_SILENCE must grow in this order, not {}"
            )
            raise UsageError(message.format(", ".join(map(format_duration, values))))


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How a process writes its log, which goes to stderr."""

    format: str = "text"
    """``STEPWELL_LOG``: ``text`` for people or ``json`` for collectors, one object a line. Default text."""

    level: str = "INFO"
    """``STEPWELL_LOG_LEVEL``: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``. Default INFO, in ``stepwell run`` WARNING."""


@dataclass(frozen=True, slots=True)
class OperationsSettings:
    """Where a process shows its metrics and its health."""

    port: int = 9090
    """``STEPWELL_METRICS_PORT``: the port of ``/metrics``, ``/healthz`` and ``/readyz``; 0: none. Default 9090."""

    address: str = "0.0.0.0"  # noqa: S104 - probes and scrapes come from other machines
    """``STEPWELL_METRICS_ADDRESS``: the address that it binds. Default 0.0.0.0, every IPv4 address."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that Stepwell's processes read from the environment."""

    database_url: str | None = None
    """``DATABASE_URL``: the PostgreSQL database, as libpq reads it. Unset: an embedded one, in local mode."""

    redis_url: str | None = None
    """``REDIS_URL``: Redis or Valkey 7 or newer. Unset: an embedded one, in local mode."""

    redis_prefix: str = "stepwell"
    """``STEPWELL_REDIS_PREFIX``: begins every key; two installations may share a Redis under different ones."""

    idempotency: float = 86_400.0
    """``STEPWELL_IDEMPOTENCY``: how long an idempotency key is kept. Default 24h."""

    allow_loopback: bool = False
    """``STEPWELL_ALLOW_LOOPBACK``: whether ``httpCall`` may reach 127.0.0.0/8 and ::1. Only local mode sets it."""

    http_proxy: str | None = None
    """``STEPWELL_HTTP_PROXY``: ``http://[user:password@]host:port``, where the cluster is left through a proxy only."""

    worker: WorkerSettings = field(default_factory=WorkerSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    operations: OperationsSettings = field(default_factory=OperationsSettings)


def read(environment: Mapping[str, str] = os.environ, *, default_level: str = "INFO") -> Settings:
    """The settings of an environment. Raises UsageError for a value that cannot be read."""

    def value(name: str, default: T, convert: Callable[[str], T]) -> T:
        text = environment.get(name, "").strip()
        if not text:
            return default
        try:
            return convert(text)
        except ValueError as exc:
            message = f"{name}={text!r}: {exc}"
            raise UsageError(message) from exc

    return Settings(
        database_url=environment.get("DATABASE_URL") or None,
        redis_url=environment.get("REDIS_URL") or None,
        redis_prefix=environment.get("STEPWELL_REDIS_PREFIX") or "stepwell",
        idempotency=value("STEPWELL_IDEMPOTENCY", 86_400.0, parse_duration),
        allow_loopback=value("STEPWELL_ALLOW_LOOPBACK", False, _switch),  # noqa: FBT003 - the default
        http_proxy=environment.get("STEPWELL_HTTP_PROXY") or None,
        worker=WorkerSettings(
            slots=value("STEPWELL_SLOTS", 200, _positive),
            grace=value("STEPWELL_GRACE", 45.0, parse_duration),
            heartbeat=value("STEPWELL_HEARTBEAT", 5.0, parse_duration),
            trust=value("STEPWELL_TRUST_WINDOW", 15.0, parse_duration),
            silence=value("STEPWELL_DEATH_SILENCE", 20.0, parse_duration),
        ),
        logs=LogSettings(
            format=value("STEPWELL_LOG", "text", _one_of("text", "json")),
            level=value("STEPWELL_LOG_LEVEL", default_level, _one_of("DEBUG", "INFO", "WARNING", "ERROR")),
        ),
        operations=OperationsSettings(
            port=value("STEPWELL_METRICS_PORT", 9090, _port),
            address=environment.get("STEPWELL_METRICS_ADDRESS") or "0.0.0.0",  # noqa: S104
        ),
    )


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 10_000:
        message = "must be between 1 and 10000"
        raise ValueError(message)
    return number


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65_535:
        message = "must be between 0 and 65535"
        raise ValueError(message)
    return number


def _switch(text: str) -> bool:
    if text.lower() not in {"true", "false"}:
        message = "must be true or false"
        raise ValueError(message)
    return text.lower() == "true"


def _one_of(*words: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        for word in words:
            if text.lower() == word.lower():
                return word
        message = f"must be {', '.join(words[:-1])} or {words[-1]}"
        raise ValueError(message)

    return convert
