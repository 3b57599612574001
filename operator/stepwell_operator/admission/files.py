"""A certificate that others make, such as cert-manager: `tls.crt` and `tls.key` in a mounted directory."""

from __future__ import annotations

import hashlib
import logging
import ssl
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from stepwell.domain.errors import UsageError
from stepwell_operator.admission.certificates import show

PAUSE = timedelta(seconds=10)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class CertificateFiles:
    """Follows the files by their content: a mounted Secret changes without any sign but that."""

    directory: Path
    context: ssl.SSLContext
    _seen: bytes = b""

    @property
    def pause(self) -> timedelta:
        """The time until the next step."""
        return PAUSE

    async def step(self) -> bool:
        """Show what the files hold if that is new; whether there is anything to show.

        A pair that does not fit, as half-way through a change, leaves the one before in use.
        """
        try:
            certificate, key = ((self.directory / name).read_bytes() for name in ("tls.crt", "tls.key"))
            digest = hashlib.sha256(certificate + key).digest()
            if digest != self._seen:
                show(self.context, certificate, key)
                log.info("the admission webhook shows the certificate in %s", self.directory)
            self._seen = digest
        except (OSError, ssl.SSLError, ValueError) as exc:
            if not self._seen:
                message = f"STEPWELL_ADMISSION_CERTIFICATES: no tls.crt and tls.key to use in {self.directory}: {exc}"
                raise UsageError(message) from exc
            log.warning("the certificate in %s cannot be used, the one before goes on: %s", self.directory, exc)
        return True
