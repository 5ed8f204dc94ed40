"""Events become daily tallies, in four ways: count, cost, level and distinct.

Counts (count, cost) are sums of a day. Readings (level, distinct) raise the maximum of their cycle:
of the stored contacts, or of each person's seat, which is held once or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from metering.quantities import quantity_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date


@dataclass(slots=True)
class Sum:
    """What one kind came to on one day. Moves on with each use: to make a new one costs more."""

    quantity: int = 0
    messages: int = 0


class Counts:
    """The sums of the open days of one product, by day and kind of message (empty for other
    products).
    """

    __slots__ = ("by_day", "changed", "totals")

    def __init__(self) -> None:
        self.by_day: dict[date, dict[str, Sum]] = {}
        self.totals: dict[date, int] = {}  # The usage of each day.
        self.changed: dict[
            tuple[date, str], Sum
        ] = {}  # To be written; also when the day has closed since.

    def add(self, day: date, kind: str, quantity: int, messages: int) -> None:
        """Add to the sum of a day; what a void takes back is negative."""
        kinds = self.by_day.get(day)
        if kinds is None:
            kinds = self.by_day[day] = {}
        total = kinds.get(kind)
        if total is None:
            total = kinds[kind] = Sum()
        total.quantity += quantity
        total.messages += messages
        assert total.quantity >= 0 <= total.messages
        self.totals[day] = self.totals.get(day, 0) + quantity
        self.changed[day, kind] = total

    def put(self, day: date, kind: str, total: Sum) -> None:
        """Set the sum of a kind on a day."""
        kinds = self.by_day.setdefault(day, {})
        before = kinds[kind].quantity if kind in kinds else 0
        self.totals[day] = self.totals.get(day, 0) + total.quantity - before
        kinds[kind] = total

    def forget_before(self, day: date) -> None:
        """Let go of the days that are closed."""
        self.by_day = {kept: kinds for kept, kinds in self.by_day.items() if kept >= day}
        self.totals = {kept: total for kept, total in self.totals.items() if kept >= day}


class Report(NamedTuple):
    """A level at an instant. The later report counts; at one instant the higher one does."""

    at: int
    level: int


class PersonDay(NamedTuple):
    """What was reported of somebody on a day."""

    peak: int | None = None  # The highest level that counts on it.
    last: Report | None = None  # The latest report, by event time.


NO_REPORT = PersonDay()


class Person:
    """The readings of the open days of one person, or of the stored contacts."""

    __slots__ = ("before", "days")

    def __init__(self, before: Report | None = None) -> None:
        self.before = before  # The latest report of an earlier day than the open ones.
        self.days: dict[date, PersonDay] = {}

    def last_before(self, day: date) -> Report | None:
        """Find the latest report of a day before a day."""
        earlier = [known for known, told in self.days.items() if known < day and told.last]
        return self.days[max(earlier)].last if earlier else self.before

    def level_before(self, day: date) -> int:
        """Tell the level in force when a day begins."""
        last = self.last_before(day)
        return last.level if last else 0


class Readings:
    """The readings of one product, by person."""

    __slots__ = ("changed", "changed_before", "persons")

    def __init__(self) -> None:
        self.persons: dict[bytes, Person] = {}
        # To be written; also when the day has closed since.
        self.changed: dict[tuple[bytes, date], PersonDay] = {}
        self.changed_before: dict[bytes, Report] = {}

    def report(
        self, person_id: bytes, report: Report, *, on: date, counts_on: date, open_from: date
    ) -> None:
        """Take in a report of one day that counts on another, if that one is closed."""
        person = self.persons.get(person_id)
        if person is None:
            person = self.persons[person_id] = Person()
        known = person.days.get(counts_on, NO_REPORT)
        peak, last = known
        if report.level > (peak or 0):
            peak = report.level
        if on < open_from:
            if person.before is None or report > person.before:
                person.before = self.changed_before[person_id] = report
        elif last is None or report > last:
            last = report
        if (peak, last) != known:
            person.days[counts_on] = self.changed[person_id, counts_on] = PersonDay(peak, last)

    def raised(self, person_id: bytes, level: int, on: date, cycle_on: date) -> int:
        """Say how far a report of the newest day would raise the maximum of its cycle."""
        person = self.persons.get(person_id)
        if person is None:
            return level
        days = person.days
        if level <= (days.get(on, NO_REPORT).peak or 0):
            return 0
        peaks = [told.peak or 0 for day, told in days.items() if cycle_on <= day <= on]
        return max(0, level - max(*peaks, 0, person.level_before(cycle_on)))

    def usage(self, cycle_starts: Sequence[date], through: date) -> dict[date, int]:
        """Sum how far each day raised the maximum of its cycle, person by person, up to a day."""
        usage: dict[date, int] = {}
        starts = [start for start in cycle_starts if start <= through]
        for person in self.persons.values():
            for day, raised in _rises(person, starts, through):
                usage[day] = usage.get(day, 0) + quantity_of(raised)
        return usage

    def in_force(self, day: date) -> bool:
        """Say whether any level carries over into a day."""
        return any(person.level_before(day) for person in self.persons.values())

    def forget_before(self, day: date) -> None:
        """Let go of the days that are closed, but for the level that carries over."""
        for person_id, person in self.persons.items():
            last = person.last_before(day)
            if last is not None and last is not person.before:
                person.before = self.changed_before[person_id] = last
            person.days = {known: told for known, told in person.days.items() if known >= day}


def _rises(person: Person, starts: Sequence[date], through: date) -> Iterator[tuple[date, int]]:
    peaks = {day: told.peak for day, told in person.days.items() if told.peak and day <= through}
    days = sorted(peaks)
    for number, start in enumerate(starts):
        following = starts[number + 1] if number + 1 < len(starts) else None
        highest = person.level_before(start)
        if highest:
            yield start, highest
        for day in days:
            if day >= start and (following is None or day < following) and peaks[day] > highest:
                yield day, (peaks[day] - highest)
                highest = peaks[day]
