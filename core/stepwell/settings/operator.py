"""Settings of the operator."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.domain.durations import parse_duration
from stepwell.settings.reading import Reader, port


@dataclass(frozen=True, slots=True)
class AdmissionSettings:
    """How the validating webhook is served, and who vouches for its certificate."""

    port: int = 9443
    """``STEPWELL_ADMISSION_PORT``: the port of the webhook; 0: none. Default 9443."""

    address: str = "0.0.0.0"  # noqa: S104 - API servers call from other machines
    """``STEPWELL_ADMISSION_ADDRESS``: the address that it binds. Default 0.0.0.0, every IPv4 address."""

    configuration: str = "stepwell"
    """``STEPWELL_ADMISSION_CONFIGURATION``: the name of the ValidatingWebhookConfiguration. Default stepwell."""

    lifetime: float = 7 * 86_400.0
    """``STEPWELL_ADMISSION_LIFETIME``: how long a certificate made by the operator is valid; it is replaced after two
    thirds of it. Default 168h."""

    certificates: str | None = None
    """``STEPWELL_ADMISSION_CERTIFICATES``: a directory with ``tls.crt`` and ``tls.key``. Unset: the operator makes its own."""

    @classmethod
    def read(cls, reader: Reader) -> AdmissionSettings:
        """From the environment."""
        return cls(
            port=reader.value("STEPWELL_ADMISSION_PORT", 9443, port),
            address=reader.text("STEPWELL_ADMISSION_ADDRESS") or "0.0.0.0",  # noqa: S104
            configuration=reader.text("STEPWELL_ADMISSION_CONFIGURATION") or "stepwell",
            lifetime=reader.value("STEPWELL_ADMISSION_LIFETIME", 7 * 86_400.0, parse_duration),
            certificates=reader.text("STEPWELL_ADMISSION_CERTIFICATES"),
        )


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """How the operator keeps cluster and database in step."""

    sweep: float = 600.0
    """``STEPWELL_SWEEP``: seconds between two comparisons of all resources with the database. Default 10m."""

    admission: AdmissionSettings = field(default_factory=AdmissionSettings)

    @classmethod
    def read(cls, reader: Reader) -> OperatorSettings:
        """From the environment."""
        return cls(
            sweep=reader.value("STEPWELL_SWEEP", 600.0, parse_duration), admission=AdmissionSettings.read(reader)
        )
