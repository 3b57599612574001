"""What the command line says of the gateway that is meant."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Where:
    """What the command line says of the gateway."""

    server: str | None = None
    namespace: str | None = None
    context: str | None = None
    service_account: str | None = None

    @property
    def remote(self) -> bool:
        """Whether a gateway was named, so that the database of this folder is not meant."""
        return bool(self.named or self.context or self.service_account or as_plugin())

    @property
    def named(self) -> str | None:
        """The address that was given, here or by the environment."""
        return self.server or os.environ.get("STEPWELL_SERVER") or None


def as_plugin() -> bool:
    """Whether we are called as ``kubectl stepwell``: then the kubeconfig's cluster is always meant."""
    return os.environ.get("STEPWELL_AS_PLUGIN") == "1"
