"""psycopg's errors, re-typed at the boundary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from stepwell.domain.errors import ConflictError, DataRefusedError, UnavailableError

_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable)
_LIMIT_EXCEEDED = "54"  # the SQLSTATE class of statements that are too large or too complex


@contextmanager
def retyped(doing: str) -> Iterator[None]:
    """Re-type errors of psycopg: UnavailableError for a lost or refused connection, else ConflictError or
    DataRefusedError. After UnavailableError it is unknown whether the statement took effect.
    """
    try:
        yield
    except _CONFLICTS as exc:
        message = f"{doing}: {_first_line(exc)}"
        raise ConflictError(message) from exc
    except psycopg.OperationalError as exc:
        if (exc.sqlstate or "").startswith(_LIMIT_EXCEEDED):
            message = f"{doing}: {_first_line(exc)}"
            raise DataRefusedError(message) from exc
        message = f"{doing}: PostgreSQL is not available: {_first_line(exc)}"
        raise UnavailableError(message) from exc
    except psycopg.InterfaceError as exc:
        message = f"{doing}: PostgreSQL is not available: {_first_line(exc)}"
        raise UnavailableError(message) from exc
    except psycopg.Error as exc:
        message = f"{doing}: {_first_line(exc)}"
        raise DataRefusedError(message) from exc


def _first_line(exc: psycopg.Error) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
