"""What went wrong in an exchange, in the words of a step.

The words of a library are used only where they hold nothing of what was received: an answer may repeat a credential, and
what is cut or escaped here could not be masked any more.
"""

from __future__ import annotations

import os
import re
import ssl

import aiohttp

from stepwell.adapters.http.connector import AddressRefusedError
from stepwell.domain.retry import StepFailure

_ASYNCIO_SAYS = "Connect call failed"  # and a Python tuple, instead of why
_QUOTED = re.compile(r"""[:"\n]|\bb'|(?<!\w)'|'(?!t\b)""")  # not the apostrophe of "can't"


def failure_of(exc: BaseException, seconds: float, *, sent: bool) -> StepFailure:
    """Re-type what aiohttp raises. The order matters: its classes are each other's children."""
    if isinstance(exc, StepFailure):
        return exc
    cause = exc.os_error if isinstance(exc, aiohttp.ClientConnectorError) else exc
    if isinstance(cause, AddressRefusedError):
        return StepFailure("AddressNotAllowed", str(cause), sent=False, final=True)
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return _network("ProxyRefused", f"the proxy made no connection: it answered {exc.status}", sent=False)
    if isinstance(exc, aiohttp.ClientProxyConnectionError):
        return _network("ProxyFailed", f"no connection to the proxy: {_plain(cause)}", sent=False)
    if isinstance(exc, TimeoutError):
        where = "no complete answer" if sent else "no connection"
        return StepFailure("Timeout", f"{where} within {round(seconds, 1) or seconds:g} s", kind="Timeout", sent=sent)
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return _network("NameNotResolved", f"the host name does not resolve: {_plain(cause)}", sent=False)
    if isinstance(exc, (aiohttp.ClientSSLError, ssl.SSLError)) or isinstance(cause, ssl.SSLError):
        return _network("TlsFailed", f"no secure connection: {_plain(cause)}", sent=sent)
    if isinstance(exc, aiohttp.ClientConnectorError):
        return _network("ConnectionFailed", f"no connection: {_plain(cause)}", sent=False)
    return _later_failure(exc, sent=sent)


def _later_failure(exc: BaseException, *, sent: bool) -> StepFailure:
    if isinstance(exc, aiohttp.ClientPayloadError):
        return _network("ConnectionLost", "the answer broke off before its end", sent=sent)
    if isinstance(exc, aiohttp.ClientResponseError):
        why = _QUOTED.split(exc.message.strip(), maxsplit=1)[0].strip()
        return StepFailure("InvalidResponse", f"the answer is not valid HTTP: {why}", sent=sent)
    if isinstance(exc, ValueError):
        return StepFailure("InvalidRequest", f"the request cannot be sent: {exc}", sent=sent, final=True)
    return _network("ConnectionLost", f"the connection was lost before the answer: {_later(exc)}", sent=sent)


def _network(reason: str, message: str, *, sent: bool) -> StepFailure:
    return StepFailure(reason, message, kind="Network", sent=sent)


def _plain(exc: BaseException) -> str:
    if isinstance(exc, OSError) and exc.errno and str(exc.strerror).startswith(_ASYNCIO_SAYS):
        return os.strerror(exc.errno)
    return (exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)) or type(exc).__name__


def _later(exc: BaseException) -> str:
    """The library puts the headers that had arrived into the text of ServerDisconnectedError."""
    if isinstance(exc, aiohttp.ServerDisconnectedError):
        return "it was closed"
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else type(exc).__name__
