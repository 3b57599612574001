import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.domain.durations import LONGEST, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10.0), ("250ms", 0.25), ("1h30m", 5400.0), ("1m1s1ms", 61.001), ("8760h", LONGEST), ("90m", 5400.0)],
)
def test_parse(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10", "is no duration"),
        ("", "is no duration"),
        ("1.5h", "is no duration"),
        ("-1s", "is no duration"),
        ("1d", "is no duration"),
        ("10s\n", "is no duration"),
        ("1h1m1s1ms1ms", "is no duration"),
        ("0s", "out of range"),
        ("8760h1ms", "out of range"),
        (10, "not 10"),
        (True, "not true"),
        ([], "not a list"),
    ],
)
def test_refuse(text: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_duration(text)


@given(st.integers(1, int(LONGEST * 1000)))
def test_format_is_the_inverse_of_parse(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


def test_format_is_short() -> None:
    assert [format_duration(seconds) for seconds in (0, 5400, 2592000.0, 0.25)] == ["0s", "1h30m", "720h", "250ms"]
