"""A log that says the same now and then."""

from __future__ import annotations

import logging

from stepwell.domain.errors import UnavailableError
from stepwell_gateway.problems import log, problem_of
from stepwell_gateway.seldom import Seldom


def passed(seldom: Seldom, at: float) -> str | None:
    """What comes of a record of that time."""
    record = logging.LogRecord("gateway", logging.WARNING, __file__, 1, "it is %s", ("away",), None)
    record.created = at
    return record.getMessage() if seldom.filter(record) else None


def test_one_of_each_period_is_said_with_the_number_of_the_others() -> None:
    seldom = Seldom(10)
    assert [passed(seldom, at) for at in (100, 101, 109.9)] == ["it is away", None, None]
    assert passed(seldom, 110) == "it is away (2 times more since it was last said)"
    assert passed(seldom, 111) is None
    assert passed(seldom, 500) == "it is away (1 times more since it was last said)"
    assert passed(seldom, 600) == "it is away"


def test_the_log_has_the_reason_that_a_503_does_not_give() -> None:
    said: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, seldom = Listening(), Seldom(60)
    (own,) = log.filters
    log.addHandler(handler)
    log.removeFilter(own)
    log.addFilter(seldom)
    try:
        answers = [problem_of(UnavailableError("connection to db-1 refused")) for _ in range(50)]
    finally:
        log.removeHandler(handler)
        log.removeFilter(seldom)
        log.addFilter(own)
    assert [(answer.status, answer.detail) for answer in answers if answer] == [(503, "")] * 50
    assert said == ["requests are answered 503: connection to db-1 refused"]
