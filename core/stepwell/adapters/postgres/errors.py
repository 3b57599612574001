"""psycopg's errors, re-typed at the boundary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from stepwell.domain.errors import ConflictError, DataRefusedError, StepwellError, UnavailableError

_CONFLICTS = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.LockNotAvailable)
_LIMIT_EXCEEDED = "54"  # the SQLSTATE class of statements that are too large or too complex


def retyped(doing: str, exc: psycopg.Error) -> StepwellError:
    """An error of psycopg as ConflictError, DataRefusedError, or UnavailableError for everything else.

    Only what a row itself is to blame for is refused: data that does not fit, broken constraints, statements that are too
    large. A standby that was not promoted yet or a missing privilege must cost nobody a result, so it is waited for. After
    UnavailableError it is unknown whether the statement took effect.
    """
    kind = _error(exc)
    lost = kind is UnavailableError and isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
    return kind(f"{doing}: {'PostgreSQL is not available: ' if lost else ''}{_first_line(exc)}")


@contextmanager
def retyping(doing: str) -> Iterator[None]:
    """Raise `retyped` for errors of psycopg."""
    try:
        yield
    except psycopg.Error as exc:
        raise retyped(doing, exc) from exc


def _error(exc: psycopg.Error) -> type[StepwellError]:
    if isinstance(exc, _CONFLICTS):
        return ConflictError
    if isinstance(exc, psycopg.DataError | psycopg.IntegrityError) or (exc.sqlstate or "").startswith(_LIMIT_EXCEEDED):
        return DataRefusedError
    return UnavailableError


def _first_line(exc: psycopg.Error) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
