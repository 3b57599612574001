"""Settings of the gateway."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.settings.reading import Reader, port


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Where and how one gateway process serves."""

    port: int = 8080
    """``PORT``: the port of hooks, approvals and the API. Default 8080."""

    @classmethod
    def read(cls, reader: Reader) -> GatewaySettings:
        """From the environment."""
        return cls(port=reader.value("PORT", 8080, port))
