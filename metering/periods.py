"""Days, cycles and windows: which calendar day an instant falls on, and where months begin.

Units: an instant is an int of microseconds since 1970 in UTC; a day is a `date` in the channel's
time zone.
"""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MONTHS_OF_A_LOT: Final = 12
SECOND: Final = 1_000_000
HOUR: Final = 3600 * SECOND

# The billing day that stands for the last day of every month.
END_OF_MONTH: Final = 31

ONE_DAY: Final = timedelta(days=1)

# Files that lie among the zones: what this machine happens to be set to, and placeholders.
_NO_ZONES: Final = frozenset({"localtime", "posixrules", "Factory"})

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

# Clocks change at quarters of an hour, so one look at the zone serves a whole quarter.
_QUARTER: Final = 900 * SECOND


def instant_of(moment: datetime) -> int:
    """Turn an aware datetime into an instant."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


def moment_of(instant: int) -> datetime:
    """Turn an instant into a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=instant)


@lru_cache(maxsize=1024)
def zone_named(name: str) -> ZoneInfo:
    """Find a time zone by its IANA name. Raises ValueError if there is none."""
    if name in _NO_ZONES or name.startswith(("posix/", "right/")):
        raise ValueError("no time zone has this name")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError, ValueError) as error:
        raise ValueError("no time zone has this name") from error


@lru_cache(maxsize=65_536)
def _day_of_quarter(quarter: int, zone: str) -> date:
    return moment_of(quarter * _QUARTER).astimezone(zone_named(zone)).date()


# Of each zone the day that was looked for last: from when, until when, and which.
_last_days: Final[dict[str, tuple[int, int, date]]] = {}


def day_of(instant: int, zone: str) -> date:
    """Say on which day of the zone an instant falls."""
    last = _last_days.get(zone)
    if last is not None and last[0] <= instant < last[1]:
        return last[2]
    day = _day_of_quarter(instant // _QUARTER, zone)
    begins, ends = first_instant(day, zone), first_instant(day + ONE_DAY, zone)
    # Where the clocks are moved a day is shorter or longer, and may come in two pieces.
    if ends - begins == 24 * HOUR and begins <= instant < ends:
        _last_days[zone] = begins, ends, day
    return day


@lru_cache(maxsize=65_536)
def first_instant(day: date, zone: str) -> int:
    """Say when a day begins in the zone: at its first instant, also where midnight is skipped."""
    # Where the clocks jump over midnight both readings of it may lie off the mark: search between
    # them.
    quarter = instant_of(datetime(day.year, day.month, day.day, tzinfo=UTC)) // _QUARTER
    low, high = quarter - 15 * 4, quarter + 15 * 4
    while low < high:
        middle = (low + high) // 2
        if _day_of_quarter(middle, zone) < day:
            low = middle + 1
        else:
            high = middle
    return low * _QUARTER


@lru_cache(maxsize=65_536)
def add_months(day: date, months: int) -> date:
    """Count months from a day, clamped to the month's end."""
    years, month = divmod(day.month - 1 + months, 12)
    year = day.year + years
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


@lru_cache(maxsize=16_384)
def window_starts(starts_on: date) -> tuple[date, ...]:
    """List the first days of the twelve windows of a lot, and the day after the last of them."""
    return tuple(add_months(starts_on, month) for month in range(MONTHS_OF_A_LOT + 1))


def billing_date_after(day: date, billing_day: int) -> date:
    """Find the first billing date strictly later than a day."""
    candidate = _billing_date(day.year, day.month, billing_day)
    if candidate > day:
        return candidate
    following = add_months(day, 1)
    return _billing_date(following.year, following.month, billing_day)


def billing_date_up_to(day: date, billing_day: int) -> date:
    """Find the last billing date that is not later than a day."""
    candidate = _billing_date(day.year, day.month, billing_day)
    if candidate <= day:
        return candidate
    previous = add_months(day, -1)
    return _billing_date(previous.year, previous.month, billing_day)


def _billing_date(year: int, month: int, billing_day: int) -> date:
    return date(year, month, min(billing_day, monthrange(year, month)[1]))
