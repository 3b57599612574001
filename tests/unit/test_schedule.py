"""When a schedule is due: summer time in many zones, the calendar's corners, and what no calendar ever reaches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.domain import schedule as schedules
from stepwell.domain.schedule import Schedule, ScheduleError, check

if TYPE_CHECKING:
    from collections.abc import Sequence


def walls(fields: str, zone: str, after: str, count: int) -> list[str]:
    """Wall times with their offset: the next ``count`` after a wall time."""
    moment = datetime.fromisoformat(after)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=ZoneInfo(zone))
    found = islice(Schedule(fields, zone).ticks(moment), count)
    return [f"{tick.astimezone(ZoneInfo(zone)):%m-%dT%H:%M%z}" for tick in found]


# -- summer time --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "zone", "after", "expected"),
    [
        # clocks go forward: a wall time that is left out is not due
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", ["03-28T02:30+0100", "03-30T02:30+0200"]),
        ("0 3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29T03:00+0200", "03-30T03:00+0200"]),
        ("0 * * * *", "Europe/Berlin", "2026-03-29T00:30", ["03-29T01:00+0100", "03-29T03:00+0200"]),
        ("0 0 * * *", "Africa/Cairo", "2026-04-22T12:00", ["04-23T00:00+0200", "04-25T00:00+0300"]),
        ("0 0 * * *", "America/Santiago", "2026-09-05T12:00", ["09-07T00:00-0300", "09-08T00:00-0300"]),
        # clocks go back: a wall time that comes twice is due twice
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00",
         ["10-25T02:30+0200", "10-25T02:30+0100", "10-26T02:30+0100"]),
        ("30 1 25 10 *", "Europe/London", "2026-10-25T01:30+01:00", ["10-25T01:30+0000", "10-25T01:30+0100"]),
        ("0 3 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25T03:00+0100", "10-26T03:00+0100"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25T02:00+02:00",
         ["10-25T02:30+0200", "10-25T02:00+0100", "10-25T02:30+0100", "10-25T03:00+0100"]),
        # half an hour
        ("0 3 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-04T03:00+1100", "10-05T03:00+1100"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-05T02:15+1100"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00",
         ["04-05T01:45+1100", "04-05T01:45+1030", "04-06T01:45+1030"]),
        ("0 12 * * *", "Asia/Kathmandu", "2026-01-01T00:00", ["01-01T12:00+0545", "01-02T12:00+0545"]),
        # a whole day that a country left out
        ("0 12 * * *", "Pacific/Apia", "2011-12-28T13:00", ["12-29T12:00-1000", "12-31T12:00+1400"]),
        # a month of winter time in the middle of summer
        ("0 6 1 * *", "Africa/Casablanca", "2026-01-15T00:00",
         ["02-01T06:00+0100", "03-01T06:00+0000", "04-01T06:00+0100"]),
    ],
)  # fmt: skip
def test_summer_time(fields: str, zone: str, after: str, expected: Sequence[str]) -> None:
    assert walls(fields, zone, after, len(expected)) == list(expected)


@pytest.mark.parametrize(
    ("after", "fields", "expected"),
    [
        ("2012-03-11T00:00-05:00", "30 2 11 Mar ?", "2013-03-11T02:30-04:00"),
        ("2012-03-11T01:00-05:00", "0 * * * ?", "2012-03-11T03:00-04:00"),
        ("2012-03-11T01:00-05:00", "0 1 * * ?", "2012-03-12T01:00-04:00"),
        ("2012-03-11T00:00-05:00", "0 2 * * ?", "2012-03-12T02:00-04:00"),
        ("2012-11-04T00:00-04:00", "30 2 04 Nov ?", "2012-11-04T02:30-05:00"),
        ("2012-11-04T01:45-04:00", "30 1 04 Nov ?", "2012-11-04T01:30-05:00"),
        ("2012-11-04T01:00-04:00", "0 * * * ?", "2012-11-04T01:00-05:00"),
        ("2012-11-04T00:00-04:00", "0 1 * * ?", "2012-11-04T01:00-04:00"),
        ("2012-11-04T01:00-04:00", "0 1 * * ?", "2012-11-04T01:00-05:00"),
        ("2012-11-04T01:00-05:00", "0 1 * * ?", "2012-11-05T01:00-05:00"),
        ("2012-11-04T02:00-05:00", "0 2 * * ?", "2012-11-05T02:00-05:00"),
    ],
)
def test_as_a_cronjob(after: str, fields: str, expected: str) -> None:
    """What the tests of robfig/cron v3, the library of CronJob, say of New York."""
    found = Schedule(fields, "America/New_York").after(datetime.fromisoformat(after))
    assert found == datetime.fromisoformat(expected)


# -- the calendar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "after", "expected"),
    [
        ("0 0 29 2 *", "2026-01-01T00:00", ["2028-02-29", "2032-02-29"]),
        ("0 0 29 2 *", "2096-03-01T00:00", ["2104-02-29"]),  # 2100 is no leap year
        ("0 0 31 * *", "2026-01-31T00:00", ["2026-03-31", "2026-05-31", "2026-07-31", "2026-08-31"]),
        ("0 0 L * *", "2028-01-31T00:00", ["2028-02-29", "2028-03-31"]),
        ("0 0 LW * *", "2026-01-01T00:00", ["2026-01-30", "2026-02-27"]),
        ("0 0 * * MON#2", "2026-11-01T00:00", ["2026-11-09", "2026-12-14"]),
        ("0 0 * * 5L", "2026-11-01T00:00", ["2026-11-27", "2026-12-25"]),
        ("0 0 13 * FRI", "2026-11-01T00:00", ["2026-11-06", "2026-11-13", "2026-11-20"]),  # either
        ("0 0 */2 * MON", "2026-11-01T00:00", ["2026-11-09", "2026-11-23"]),  # both
        ("0 0 * * 7", "2026-11-01T00:00", ["2026-11-08"]),
        ("0 0 ? JAN-feb sun", "2026-11-01T00:00", ["2027-01-03"]),
        ("0 0 31 12 *", "2026-12-31T00:00", ["2027-12-31"]),
    ],
)
def test_calendar(fields: str, after: str, expected: Sequence[str]) -> None:
    found = islice(Schedule(fields).ticks(datetime.fromisoformat(after).replace(tzinfo=UTC)), len(expected))
    assert [f"{tick:%Y-%m-%d}" for tick in found] == list(expected)


@pytest.mark.parametrize(
    ("fields", "zone", "message"),
    [
        ("0 0 31 2 *", "UTC", "its day of month is not valid, or never comes"),
        ("0 0 31 4,6,9,11 *", "UTC", "its day of month is not valid, or never comes"),
        ("0 0 */30 * SUN#2", "UTC", "it is never due in UTC"),
        ("30 2 * 3 SUN#2", "America/New_York", "it is never due in America/New_York"),
        ("60 * * * *", "UTC", "its minute is not valid, or never comes"),
        ("* 24 * * *", "UTC", "its hour is not valid, or never comes"),
        ("* * * 13 *", "UTC", "its month is not valid, or never comes"),
        ("* * * * 8", "UTC", "its weekday is not valid, or never comes"),
        ("*/0 * * * *", "UTC", "its minute is not valid, or never comes"),
        ("5-1 * * * *", "UTC", "its minute is not valid, or never comes"),
    ],
)
def test_what_never_comes_is_refused(fields: str, zone: str, message: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        check(fields, zone)
    assert str(caught.value) == message


def test_what_never_comes_in_one_zone_comes_in_another() -> None:
    check("30 2 * 3 SUN#2", "Europe/Berlin")


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789*?/,-#LWMONJAdec"), min_size=1, max_size=8))
def test_odd_fields_are_refused_or_work(field: str) -> None:
    for place in range(5):
        fields = ["0", "0", "*", "*", "*"]
        fields[place] = field
        try:
            found = Schedule(" ".join(fields))
        except ScheduleError:
            continue
        found.after(datetime(2026, 1, 1, tzinfo=UTC))


# -- against brute force ------------------------------------------------------------------------------------------------

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "America/Santiago",
         "Asia/Kathmandu", "America/St_Johns", "Africa/Casablanca", "Pacific/Chatham"]  # fmt: skip
CHANGES = ["2026-03-08", "2026-03-29", "2026-04-05", "2026-04-24", "2026-09-06", "2026-10-04", "2026-10-25",
           "2026-10-30", "2026-11-01", "2026-12-31", "2028-02-28"]  # fmt: skip

minutes = st.lists(st.integers(0, 59), min_size=1, max_size=4, unique=True)
hours = st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True) | st.none()
starts = st.builds(
    lambda day, offset: datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(seconds=offset),
    st.sampled_from(CHANGES),
    st.integers(-86_400, 86_400),
)


@settings(max_examples=100, deadline=None)
@given(minutes, hours, st.sampled_from(ZONES), starts)
def test_it_is_due_at_every_minute_whose_wall_time_matches(
    minute: list[int], hour: list[int] | None, zone: str, start: datetime
) -> None:
    text = ",".join(map(str, minute)), "*" if hour is None else ",".join(map(str, hour))
    end = start + timedelta(hours=30)
    due = []
    moment = start.replace(second=0) + timedelta(minutes=1)
    while moment <= end:
        wall = moment.astimezone(ZoneInfo(zone))
        if wall.minute in minute and (hour is None or wall.hour in hour):
            due.append(moment)
        moment += timedelta(minutes=1)
    found = Schedule(f"{text[0]} {text[1]} * * *", zone)
    assert found.latest(start + timedelta(seconds=1), end, 10_000) == due
    assert found.latest(start + timedelta(seconds=1), end, 3) == due[-3:]
    assert found.after(start) == next(found.ticks(start))


FIELDS = ["* * * * *", "*/7 * * * *", "0 0 * * *", "30 2 * * *", "15 1-3 * * SUN", "0 0 29 2 *", "59 23 L * *"]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FIELDS), st.sampled_from(ZONES), starts)
def test_ticks_grow_and_lie_behind_where_they_are_counted_from(fields: str, zone: str, start: datetime) -> None:
    schedule = Schedule(fields, zone)
    ticks = list(islice(schedule.ticks(start), 6))
    assert start < ticks[0]
    assert all(early < late for early, late in pairwise(ticks))
    assert all(schedule.after(early) == late for early, late in pairwise(ticks))
    assert schedule.after(ticks[0] - timedelta(microseconds=1)) == ticks[0]
    assert all(tick.tzinfo is UTC and tick.second == tick.microsecond == 0 for tick in ticks)


def test_the_latest_of_years_are_found_without_walking_them(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    between = Schedule._between

    def counted(self: Schedule, first: datetime, until: datetime) -> list[datetime]:
        found = list(between(self, first, until))
        looked_at.extend(found)
        return found

    monkeypatch.setattr(Schedule, "_between", counted)
    until = datetime(2026, 11, 1, tzinfo=UTC)
    found = Schedule("*/3 * * * *", "Europe/Berlin").latest(until - timedelta(days=3_000), until, 100)
    assert (len(found), found[-1]) == (100, until)
    assert len(looked_at) <= 300


def test_a_burst_long_ago_is_found_at_its_end() -> None:
    """The steps back double, so the last may hold far more than was asked for."""
    until = datetime(2026, 6, 1, tzinfo=UTC)
    found = Schedule("* * * 1 *").latest(until - timedelta(days=360), until, 100)
    assert (len(found), found[-1]) == (100, datetime(2026, 1, 31, 23, 59, tzinfo=UTC))


def test_it_gives_up_after_half_a_century() -> None:
    assert timedelta(days=365 * 50) < schedules.HORIZON < timedelta(days=366 * 51)
    assert Schedule("30 2 * 3 SUN#2", "America/New_York").after(datetime(2026, 1, 1, tzinfo=UTC)) is None
