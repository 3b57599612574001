"""Settings of the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.settings.reading import Reader, count, port, positive


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where and how one gateway process serves."""

    port: int = 8080
    """``PORT``: the port of hooks, approvals and the API. Default 8080."""

    address: str = "0.0.0.0"  # noqa: S104 - senders are on other machines
    """``STEPWELL_ADDRESS``: the address that it binds. Default 0.0.0.0, every IPv4 address."""

    connections: int = 1_000
    """``STEPWELL_CONNECTIONS``: connections that one process serves at once; one more is answered 503. Default 1000."""

    quota_starts: int = 0
    """``STEPWELL_QUOTA_STARTS``: runs of a namespace that may be started a second; 0: any number. Default 0."""

    quota_queued: int = 100_000
    """``STEPWELL_QUOTA_QUEUED``: runs of a namespace that may be queued; 0: any number. Default 100000."""

    @classmethod
    def read(cls, reader: Reader) -> GatewaySettings:
        """From the environment."""
        return cls(
            port=reader.value("PORT", 8080, port),
            address=reader.text("STEPWELL_ADDRESS") or "0.0.0.0",  # noqa: S104
            connections=reader.value("STEPWELL_CONNECTIONS", 1_000, positive),
            quota_starts=reader.value("STEPWELL_QUOTA_STARTS", 0, count),
            quota_queued=reader.value("STEPWELL_QUOTA_QUEUED", 100_000, count),
        )
