"""Which day an instant falls on, when a day begins, and where cycles and windows do."""

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.periods import (
    END_OF_MONTH,
    HOUR,
    ONE_DAY,
    SECOND,
    _day_of_quarter,
    add_months,
    billing_date_after,
    billing_date_up_to,
    day_of,
    first_instant,
    instant_of,
    moment_of,
    window_starts,
    zone_named,
)

ZONES = (
    "Asia/Seoul",
    "UTC",
    "America/New_York",
    "America/St_Johns",
    "Africa/Cairo",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "America/Havana",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Etc/GMT+12",
)
BILLING_DAYS = st.one_of(st.integers(1, 27), st.just(END_OF_MONTH))
DAYS = st.dates(date(2000, 1, 1), date(2100, 1, 1))


def at(text):
    return instant_of(datetime.fromisoformat(text))


# Instants


def test_an_instant_counts_microseconds_since_1970():
    assert at("1970-01-01T00:00:00+00:00") == 0
    assert at("1970-01-02T00:00:01.000002+00:00") == 86_401_000_002
    assert at("1970-01-01T09:00:00+09:00") == 0
    assert at("1969-12-31T23:59:59.999999+00:00") == -1


def test_an_instant_of_today_is_exact():
    assert at("2024-02-29T23:59:59.999999+00:00") == 1_709_251_199_999_999


@given(st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-3.5))])))
def test_a_moment_survives_the_way_to_an_instant_and_back(moment):
    assert moment_of(instant_of(moment)) == moment


def test_a_moment_is_in_utc():
    assert moment_of(1_500_000) == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert moment_of(0).tzinfo is UTC


# Zones and days


def test_a_zone_is_found_by_its_name():
    assert zone_named("Asia/Seoul") == ZoneInfo("Asia/Seoul")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Nowhere/City",
        "Asia",
        "/etc/localtime",
        "../UTC",
        "Asia/Seoul\0",
        "localtime",
        "posixrules",
        "Factory",
        "posix/Asia/Seoul",
        "right/Asia/Seoul",
        "x" * 300,
    ],
)
def test_what_is_no_zone_is_refused(name):
    with pytest.raises(ValueError, match=r"^no time zone has this name$"):
        zone_named(name)


@pytest.mark.parametrize("name", ["localtime", "posixrules", "Factory", "posix/UTC", "right/UTC"])
def test_what_only_lies_among_the_zones_is_refused_without_looking(name, monkeypatch):
    monkeypatch.setattr("metering.periods.ZoneInfo", lambda _: ZoneInfo("UTC"))

    with pytest.raises(ValueError, match=r"^no time zone has this name$"):
        zone_named.__wrapped__(name)


@pytest.mark.parametrize(
    ("zone", "instant", "day"),
    [
        ("Asia/Seoul", "2024-01-31T14:59:59.999999+00:00", "2024-01-31"),
        ("Asia/Seoul", "2024-01-31T15:00:00+00:00", "2024-02-01"),
        ("Asia/Kathmandu", "2024-01-31T18:14:59.999999+00:00", "2024-01-31"),
        ("Asia/Kathmandu", "2024-01-31T18:15:00+00:00", "2024-02-01"),
        ("America/New_York", "2024-03-11T03:59:59+00:00", "2024-03-10"),
        ("America/New_York", "2024-03-11T04:00:00+00:00", "2024-03-11"),
        ("UTC", "1969-12-31T23:59:59.999999+00:00", "1969-12-31"),
    ],
)
def test_an_instant_falls_on_the_day_that_the_zone_shows(zone, instant, day):
    assert day_of(at(instant), zone).isoformat() == day


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        ("Asia/Seoul", "2024-02-01", "2024-01-31T15:00:00+00:00"),
        ("UTC", "2024-02-01", "2024-02-01T00:00:00+00:00"),
        ("Pacific/Kiritimati", "2024-02-01", "2024-01-31T10:00:00+00:00"),
        ("Etc/GMT+12", "2024-02-01", "2024-02-01T12:00:00+00:00"),
        ("America/New_York", "2024-11-04", "2024-11-04T05:00:00+00:00"),
        # Midnight is skipped.
        ("Africa/Cairo", "2024-04-26", "2024-04-25T22:00:00+00:00"),
        # Midnight is there twice; the day begins at the first.
        ("America/Havana", "2024-11-03", "2024-11-03T04:00:00+00:00"),
        # The day itself is skipped.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00+00:00"),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00+00:00"),
    ],
)
def test_a_day_begins_at_its_first_instant(zone, day, begins):
    assert first_instant(date.fromisoformat(day), zone) == at(begins)


def test_a_day_begins_at_a_whole_microsecond():
    assert repr(first_instant(date(1970, 1, 2), "UTC")) == "86400000000"


def test_one_look_at_the_zone_serves_a_quarter_of_an_hour():
    _day_of_quarter.cache_clear()

    for second in range(900):
        day_of(second * SECOND, "UTC")

    assert _day_of_quarter.cache_info().misses == 1


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("year", [2010, 2011, 2024])
def test_an_instant_is_of_the_same_day_whatever_was_looked_for_before(zone, year):
    # In 2010 a day came in two pieces: in St. John's clocks went back at a minute past midnight.
    first, last = at(f"{year}-01-01T00:00:00Z"), at(f"{year + 1}-01-01T00:00:00Z")
    instants = [instant + 1 for instant in range(first, last, HOUR // 4)]
    alone = [_day_of_quarter(instant // (HOUR // 4), zone) for instant in instants]

    assert [day_of(instant, zone) for instant in instants] == alone
    assert [day_of(instant, zone) for instant in reversed(instants)] == alone[::-1]


@pytest.mark.parametrize("zone", ZONES)
def test_every_day_of_some_years_begins_where_the_day_before_ends(zone):
    day = date(2022, 1, 1)
    while day < date(2028, 1, 1):
        begins = first_instant(day, zone)
        assert day_of(begins, zone) == day
        assert day_of(begins - 1, zone) == day - ONE_DAY
        day += ONE_DAY


@given(DAYS, st.sampled_from(ZONES), st.integers(0, 22 * HOUR))
def test_what_follows_the_beginning_of_a_day_falls_on_it(day, zone, later):
    assert day_of(first_instant(day, zone) + later, zone) >= day


def test_an_hour_is_3600_seconds():
    assert HOUR == 3600 * SECOND == 3_600_000_000


# Months


@pytest.mark.parametrize(
    ("day", "months", "expected"),
    [
        ("2024-01-31", 0, "2024-01-31"),
        ("2024-01-31", 1, "2024-02-29"),
        ("2023-01-31", 1, "2023-02-28"),
        ("2024-01-31", 2, "2024-03-31"),
        ("2024-01-31", 3, "2024-04-30"),
        ("2024-01-31", 11, "2024-12-31"),
        ("2024-01-31", 12, "2025-01-31"),
        ("2024-02-29", 12, "2025-02-28"),
        ("2024-12-15", 1, "2025-01-15"),
        ("2024-11-30", 3, "2025-02-28"),
        ("2024-01-15", -1, "2023-12-15"),
        ("2024-03-31", -1, "2024-02-29"),
        ("2024-03-31", -15, "2022-12-31"),
    ],
)
def test_months_are_counted_and_clamped_to_the_end_of_the_month(day, months, expected):
    assert add_months(date.fromisoformat(day), months).isoformat() == expected


@pytest.mark.parametrize(
    ("starts_on", "windows"),
    [
        (
            "2024-01-31",
            (
                "2024-01-31 2024-02-29 2024-03-31 2024-04-30 2024-05-31 2024-06-30 2024-07-31"
                " 2024-08-31 2024-09-30 2024-10-31 2024-11-30 2024-12-31 2025-01-31"
            ),
        ),
        (
            "2024-02-29",
            (
                "2024-02-29 2024-03-29 2024-04-29 2024-05-29 2024-06-29 2024-07-29 2024-08-29"
                " 2024-09-29 2024-10-29 2024-11-29 2024-12-29 2025-01-29 2025-02-28"
            ),
        ),
    ],
)
def test_windows_are_always_counted_from_the_first_day(starts_on, windows):
    found = window_starts(date.fromisoformat(starts_on))

    assert " ".join(day.isoformat() for day in found) == windows


@pytest.mark.parametrize(
    ("day", "billing_day", "up_to", "after"),
    [
        ("2024-01-14", 15, "2023-12-15", "2024-01-15"),
        ("2024-01-15", 15, "2024-01-15", "2024-02-15"),
        ("2024-12-31", 1, "2024-12-01", "2025-01-01"),
        ("2024-12-31", 27, "2024-12-27", "2025-01-27"),
        ("2024-01-01", 1, "2024-01-01", "2024-02-01"),
        ("2024-01-01", 2, "2023-12-02", "2024-01-02"),
        ("2024-01-30", END_OF_MONTH, "2023-12-31", "2024-01-31"),
        ("2024-01-31", END_OF_MONTH, "2024-01-31", "2024-02-29"),
        ("2024-02-28", END_OF_MONTH, "2024-01-31", "2024-02-29"),
        ("2024-02-29", END_OF_MONTH, "2024-02-29", "2024-03-31"),
        ("2023-02-28", END_OF_MONTH, "2023-02-28", "2023-03-31"),
        ("2024-03-30", END_OF_MONTH, "2024-02-29", "2024-03-31"),
    ],
)
def test_a_day_lies_between_two_billing_dates(day, billing_day, up_to, after):
    found = date.fromisoformat(day)

    assert billing_date_up_to(found, billing_day).isoformat() == up_to
    assert billing_date_after(found, billing_day).isoformat() == after


@given(DAYS, BILLING_DAYS)
def test_billing_dates_are_neighbours(day, billing_day):
    before, after = billing_date_up_to(day, billing_day), billing_date_after(day, billing_day)

    assert before <= day < after
    assert billing_date_after(before, billing_day) == after
    assert billing_date_up_to(after - ONE_DAY, billing_day) == before
    assert after.day == min(billing_day, monthrange(after.year, after.month)[1])
