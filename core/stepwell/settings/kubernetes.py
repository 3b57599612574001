"""Settings of what a process has of its cluster."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.domain.durations import parse_duration
from stepwell.settings.reading import Reader, one_of


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """Where Secrets and namespaces' allowances come from, and which tokens the API takes."""

    mode: str = "auto"
    """``STEPWELL_KUBERNETES``: ``on``: Secrets, ``stepwell.dev/http-allow`` and the API's rights are the cluster's; ``off``:
    there is none; ``auto``: as in ``on`` in a pod, else ``off``. Default auto."""

    secrets_fresh: float = 3.0
    """``STEPWELL_SECRETS_FRESH``: seconds that a Secret is believed, and so after which a rotated value is used at the latest.
    Default 3s."""

    audiences: tuple[str, ...] = ()
    """``STEPWELL_TOKEN_AUDIENCES``: the audiences, separated by commas, of which the API's bearer tokens must have one.
    Default none: the API server's own."""

    @classmethod
    def read(cls, reader: Reader) -> KubernetesSettings:
        """From the environment."""
        audiences = (reader.text("STEPWELL_TOKEN_AUDIENCES") or "").split(",")
        return cls(
            mode=reader.value("STEPWELL_KUBERNETES", "auto", one_of("auto", "on", "off")),
            secrets_fresh=reader.value("STEPWELL_SECRETS_FRESH", 3.0, parse_duration),
            audiences=tuple(text.strip() for text in audiences if text.strip()),
        )
