"""Settings, read from the environment once, at the edge. ``docs/settings.md`` lists them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.domain.durations import parse_duration
from stepwell.settings.gateway import GatewaySettings
from stepwell.settings.kubernetes import KubernetesSettings
from stepwell.settings.operator import AdmissionSettings, OperatorSettings
from stepwell.settings.process import LogSettings, OperationsSettings
from stepwell.settings.reading import Reader, secret, switch
from stepwell.settings.worker import WorkerSettings

__all__ = [
    "AdmissionSettings",
    "GatewaySettings",
    "KubernetesSettings",
    "LogSettings",
    "OperationsSettings",
    "OperatorSettings",
    "Settings",
    "WorkerSettings",
    "read",
]


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

    public_url: str = ""
    """``STEPWELL_PUBLIC_URL``: where the gateway is reached from outside; begins every address of a webhook that is shown."""

    approval_key: str | None = field(default=None, repr=False)
    """``STEPWELL_APPROVAL_KEY``: 32 characters or more, the same for workers and gateways: signs the links of approvals."""

    worker: WorkerSettings = field(default_factory=WorkerSettings)
    logs: LogSettings = field(default_factory=LogSettings)
    operations: OperationsSettings = field(default_factory=OperationsSettings)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    kubernetes: KubernetesSettings = field(default_factory=KubernetesSettings)
    operator: OperatorSettings = field(default_factory=OperatorSettings)


def read(environment: Mapping[str, str] = os.environ, *, default_level: str = "INFO") -> Settings:
    """The settings of an environment. Raises UsageError for a value that cannot be read."""
    reader = Reader(environment)
    return Settings(
        database_url=reader.text("DATABASE_URL"),
        redis_url=reader.text("REDIS_URL"),
        redis_prefix=reader.text("STEPWELL_REDIS_PREFIX") or "stepwell",
        idempotency=reader.value("STEPWELL_IDEMPOTENCY", 86_400.0, parse_duration),
        allow_loopback=reader.value("STEPWELL_ALLOW_LOOPBACK", False, switch),  # noqa: FBT003 - the default
        http_proxy=reader.text("STEPWELL_HTTP_PROXY"),
        public_url=reader.text("STEPWELL_PUBLIC_URL") or "",
        approval_key=reader.value("STEPWELL_APPROVAL_KEY", None, secret),
        worker=WorkerSettings.read(reader),
        logs=LogSettings.read(reader, default_level),
        operations=OperationsSettings.read(reader),
        gateway=GatewaySettings.read(reader),
        kubernetes=KubernetesSettings.read(reader),
        operator=OperatorSettings.read(reader),
    )
