"""Settings that every process has."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.settings.reading import Reader, one_of, port


@dataclass(frozen=True, slots=True)
class LogSettings:
    """How a process writes its log, which goes to stderr."""

    format: str = "text"
    """``STEPWELL_LOG``: ``text`` for people or ``json`` for collectors, one object a line. Default text."""

    level: str = "INFO"
    """``STEPWELL_LOG_LEVEL``: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``. Default INFO, in ``stepwell run`` WARNING."""

    @classmethod
    def read(cls, reader: Reader, default_level: str) -> LogSettings:
        """From the environment."""
        return cls(
            format=reader.value("STEPWELL_LOG", "text", one_of("text", "json")),
            level=reader.value("STEPWELL_LOG_LEVEL", default_level, one_of("DEBUG", "INFO", "WARNING", "ERROR")),
        )


@dataclass(frozen=True, slots=True)
class OperationsSettings:
    """Where a process shows its metrics and its health."""

    port: int = 9090
    """``STEPWELL_METRICS_PORT``: the port of ``/metrics``, ``/healthz`` and ``/readyz``; 0: none. Default 9090."""

    address: str = "0.0.0.0"  # noqa: S104 - probes and scrapes come from other machines
    """``STEPWELL_METRICS_ADDRESS``: the address that it binds. Default 0.0.0.0, every IPv4 address."""

    @classmethod
    def read(cls, reader: Reader) -> OperationsSettings:
        """From the environment."""
        return cls(
            port=reader.value("STEPWELL_METRICS_PORT", 9090, port),
            address=reader.text("STEPWELL_METRICS_ADDRESS") or "0.0.0.0",  # noqa: S104
        )
