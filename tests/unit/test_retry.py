"""Retry policies: which failures are tried again, after how long, and what httpCall does by default."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.actions.registry import default_actions
from stepwell.domain.http_spec import HttpCall
from stepwell.domain.retry import MAX_RETRY_AFTER, NEVER, RetryPolicy, StepFailure

IDEMPOTENT = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]


def failed(kind: str = "Error", status: int | None = None, **more: Any) -> StepFailure:
    return StepFailure("Reason", "message", kind=kind, status=status, **more)


def default(method: str) -> RetryPolicy:
    return default_actions()["httpCall"].retry(HttpCall.model_validate({"url": "https://a.example", "method": method}))


@pytest.mark.parametrize(
    ("marks", "failure", "again"),
    [
        ({"Timeout"}, failed("Timeout"), True),
        ({"Timeout"}, failed("Network"), False),
        ({"Network"}, failed("Network"), True),
        ({"Error"}, failed("Error"), True),
        ({"Error"}, failed("Error", 500), False),
        ({500}, failed("Error", 500), True),
        ({"5xx"}, failed("Error", 503), True),
        ({"4xx"}, failed("Error", 503), False),
        ({429, "5xx"}, failed("Error", 429), True),
        ({"5xx"}, failed("Error", 503, final=True), False),
        (set(), failed("Network"), False),
    ],
)
def test_what_is_tried_again(marks: set[str | int], failure: StepFailure, again: bool) -> None:
    assert RetryPolicy(limit=1, retry_on=frozenset(marks)).allows(failure, 1) is again


def test_the_limit_counts_retries() -> None:
    policy = RetryPolicy(limit=2)
    assert [policy.allows(failed(), attempt) for attempt in (1, 2, 3)] == [True, True, False]
    assert not NEVER.allows(failed(), 1)


def test_what_was_not_sent_has_marks_of_its_own() -> None:
    policy = RetryPolicy(limit=1, retry_on=frozenset(), retry_unsent_on=frozenset({"Network"}))
    assert policy.allows(failed("Network", sent=False), 1)
    assert not policy.allows(failed("Network", sent=True), 1)
    assert not policy.allows(failed("Timeout", sent=False), 1)


@pytest.mark.parametrize("method", IDEMPOTENT)
def test_the_default_of_idempotent_methods(method: str) -> None:
    policy = default(method)
    assert policy.limit == 3
    repeated = [status for status in range(100, 600) if policy.allows(failed(status=status), 1)]
    assert repeated == [408, 425, 429, 500, 502, 503, 504]
    for sent in (True, False):
        assert policy.allows(failed("Network", sent=sent), 1)
        assert policy.allows(failed("Timeout", sent=sent), 1)
    assert not policy.allows(failed("Error"), 1)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_the_default_of_the_other_methods(method: str) -> None:
    policy = default(method)
    assert policy.limit == 3
    assert [status for status in range(100, 600) if policy.allows(failed(status=status), 1)] == [429, 503]
    for kind in ("Network", "Timeout"):
        assert policy.allows(failed(kind, sent=False), 1)
        assert not policy.allows(failed(kind, sent=True), 1)
    assert not policy.allows(failed("Error", sent=False), 1)


def test_the_back_off_without_jitter() -> None:
    policy = RetryPolicy(initial=1.5, factor=2, maximum=10, full_jitter=False)
    assert [policy.delay(failed(), attempt, "r/s") for attempt in (1, 2, 3, 4, 5)] == [1.5, 3.0, 6.0, 10, 10]


POLICIES = st.builds(
    RetryPolicy,
    initial=st.floats(0.001, 3e7),
    factor=st.floats(1, 10),
    maximum=st.floats(0.001, 3e7),
    full_jitter=st.booleans(),
)
ASKED = st.none() | st.floats(0, allow_infinity=True, allow_nan=False)


@given(POLICIES, st.integers(1, 10**6), ASKED, st.text(max_size=8))
def test_a_delay_is_bounded_and_the_same_at_every_replay(
    policy: RetryPolicy, attempt: int, asked: float | None, identity: str
) -> None:
    failure = failed(retry_after=asked)
    delay = policy.delay(failure, attempt, identity)
    assert 0 <= delay <= max(policy.maximum, MAX_RETRY_AFTER)
    assert delay >= min(asked or 0, MAX_RETRY_AFTER)
    assert delay == policy.delay(failure, attempt, identity)
    if asked is None:
        assert delay <= policy.maximum


@given(st.integers(1, 400), st.integers(2, 400))
def test_a_delay_without_jitter_never_shrinks(attempt: int, more: int) -> None:
    policy = RetryPolicy(initial=0.5, factor=3, maximum=1e300, full_jitter=False)
    assert policy.delay(failed(), attempt, "") <= policy.delay(failed(), attempt + more, "")


def test_jitter_spreads_over_the_whole_range() -> None:
    policy = RetryPolicy(initial=1, maximum=1)
    delays = [policy.delay(failed(), 1, f"run-{number}/step") for number in range(2000)]
    assert min(delays) < 0.01
    assert max(delays) > 0.99
    assert 0.47 < sum(delays) / len(delays) < 0.53
    assert policy.delay(failed(), 1, "r/s") != policy.delay(failed(), 2, "r/s")


def test_the_document_of_a_failure() -> None:
    assert failed().document() == {"reason": "Reason", "message": "message"}
    assert failed(status=500).document() == {"reason": "Reason", "message": "message", "status": 500}
    assert str(failed()) == "message"
