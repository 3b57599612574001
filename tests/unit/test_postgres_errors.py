"""What an error of psycopg means to the engine."""

from __future__ import annotations

import psycopg
import pytest

from stepwell.adapters.postgres.errors import retyping
from stepwell.domain.errors import ConflictError, DataRefusedError, StepwellError, UnavailableError

E = psycopg.errors


@pytest.mark.parametrize(
    ("raised", "meant"),
    [
        (E.DeadlockDetected("x"), ConflictError),
        (E.LockNotAvailable("x"), ConflictError),
        (E.SerializationFailure("x"), ConflictError),
        (E.CheckViolation("x"), DataRefusedError),
        (E.UniqueViolation("x"), DataRefusedError),
        (E.UntranslatableCharacter("x"), DataRefusedError),
        (psycopg.DataError("made by the client"), DataRefusedError),
        (E.StatementTooComplex("x"), DataRefusedError),
        (E.ReadOnlySqlTransaction("x"), UnavailableError),
        (E.InsufficientPrivilege("x"), UnavailableError),
        (E.UndefinedTable("x"), UnavailableError),
        (E.DiskFull("x"), UnavailableError),
        (E.AdminShutdown("x"), UnavailableError),
        (psycopg.OperationalError("lost"), UnavailableError),
        (psycopg.InterfaceError("closed"), UnavailableError),
    ],
)
def test_only_what_a_row_is_to_blame_for_is_refused(raised: psycopg.Error, meant: type[StepwellError]) -> None:
    with pytest.raises(meant, match="flushing: ") as caught, retyping("flushing"):
        raise raised
    assert type(caught.value) is meant
    assert caught.value.__cause__ is raised
