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


class Person:
    """The readings of the open days of one person, or of the stored contacts."""

    __slots__ = ("before", "last", "peaks")

    def __init__(self, before: Report | None = None) -> None:
        self.before = before  # The latest report of an earlier day than the open ones.
        self.last: dict[date, Report] = {}  # The latest report of each open day, by event time.
        self.peaks: dict[date, int] = {}  # The highest level that counts on each open day.

    def level_before(self, day: date) -> int:
        """Tell the level in force when a day begins."""
        earlier = [known for known in self.last if known < day]
        if earlier:
            return self.last[max(earlier)].level
        return self.before.level if self.before else 0


class Readings:
    """The readings of one product, by person."""

    __slots__ = ("changed", "changed_before", "persons")

    def __init__(self) -> None:
        self.persons: dict[bytes, Person] = {}
        # To be written; also when the day has closed since.
        self.changed: dict[tuple[bytes, date], tuple[int | None, Report | None]] = {}
        self.changed_before: dict[bytes, Report] = {}

    def report(
        self, person_id: bytes, report: Report, *, on: date, counts_on: date, open_from: date
    ) -> None:
        """Take in a report of one day that counts on another, if that one is closed."""
        person = self.persons.get(person_id)
        if person is None:
            person = self.persons[person_id] = Person()
        if report.level > person.peaks.get(counts_on, 0):
            person.peaks[counts_on] = report.level
            self._note(person_id, counts_on)
        if on < open_from:
            if person.before is None or report > person.before:
                person.before = self.changed_before[person_id] = report
        elif on not in person.last or report > person.last[on]:
            person.last[on] = report
            self._note(person_id, on)

    def raised(self, person_id: bytes, level: int, on: date, cycle_on: date) -> int:
        """Say how far a report of the newest day would raise the maximum of its cycle."""
        person = self.persons.get(person_id)
        if person is None:
            return level
        peaks = person.peaks
        if level <= peaks.get(on, 0):
            return 0
        highest = max((peak for day, peak in peaks.items() if cycle_on <= day <= on), default=0)
        return max(0, level - max(highest, person.level_before(cycle_on)))

    def _note(self, person_id: bytes, day: date) -> None:
        person = self.persons[person_id]
        self.changed[person_id, day] = (person.peaks.get(day), person.last.get(day))

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
            closed = [known for known in person.last if known < day]
            if closed:
                person.before = self.changed_before[person_id] = person.last[max(closed)]
            person.last = {known: report for known, report in person.last.items() if known >= day}
            person.peaks = {known: level for known, level in person.peaks.items() if known >= day}


def _rises(person: Person, starts: Sequence[date], through: date) -> Iterator[tuple[date, int]]:
    days = sorted(day for day in person.peaks if day <= through)
    for number, start in enumerate(starts):
        following = starts[number + 1] if number + 1 < len(starts) else None
        highest = person.level_before(start)
        if highest:
            yield start, highest
        for day in days:
            if (
                day >= start
                and (following is None or day < following)
                and person.peaks[day] > highest
            ):
                yield day, (person.peaks[day] - highest)
                highest = person.peaks[day]
