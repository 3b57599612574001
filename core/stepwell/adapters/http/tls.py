"""Trust in the certificates of servers."""

from __future__ import annotations

import ssl
from functools import lru_cache

from stepwell.domain.retry import StepFailure


def context_of(ca: bytes | None) -> ssl.SSLContext | bool:
    """The context that trusts these authorities (PEM) and no others, or True for the system's.

    The same object for the same authorities, because connections are pooled by it. Raises StepFailure.
    """
    return True if ca is None else _context(ca)


@lru_cache(maxsize=64)
def _context(ca: bytes) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as exc:
        message = "the certificates of tls.caSecretRef cannot be read; they must be in PEM form"
        raise StepFailure("SecretInvalid", message, sent=False, final=True) from exc
