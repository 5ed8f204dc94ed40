"""Events become daily tallies, in four ways: count, cost, level and distinct.

Counts (count, cost) are sums of a day. Readings (level, distinct) raise the maximum of their cycle:
of the stored contacts, or of each person's seat, which is held once or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, NamedTuple

from metering.quantities import quantity_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date


@dataclass(slots=True, init=False)
class Sum:
    """What one kind came to on one day. Moves on with each use: to make a new one costs more."""

    quantity: int
    messages: int

    def __init__(self, quantity: int = 0, messages: int = 0) -> None:
        self.quantity, self.messages = quantity, messages


NO_DAYS: Final[frozenset[date]] = frozenset()


class Counts:
    """The sums of the open days of one product, by day and kind of message (empty for other
    products).
    """

    __slots__ = ("by_day", "changed", "totals")

    def __init__(self) -> None:
        self.by_day: dict[date, dict[str, Sum]] = {}
        self.totals: dict[date, int] = {}  # The usage of each day.
        self.changed: frozenset[date] = NO_DAYS  # Those that are to be written.

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
        if day not in self.changed:
            self.changed |= {day}

    def put(self, day: date, kind: str, total: Sum) -> None:
        """Set the sum of a kind on a day."""
        kinds = self.by_day.setdefault(day, {})
        before = kinds[kind].quantity if kind in kinds else 0
        self.totals[day] = self.totals.get(day, 0) + total.quantity - before
        kinds[kind] = total

    def take_changed(self, *, before: date) -> frozenset[date]:
        """Take the days before one that are to be written: from then on they count as written."""
        if not self.changed:
            return NO_DAYS
        taken = frozenset([day for day in self.changed if day < before])
        self.changed -= taken
        return taken

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
    # The latest report, by event time. Not as a report of its own: there are many of these.
    last_at: int | None = None
    last_level: int = 0

    @property
    def last(self) -> Report | None:
        """The latest report, if there was any of this very day."""
        return None if self.last_at is None else Report(self.last_at, self.last_level)


NO_REPORT: Final = PersonDay()


class SoFar(NamedTuple):
    """What came of the days before those that are held: the highest level of the cycle that goes on
    in them, and the level in force.
    """

    highest: int
    in_force: int


NOTHING_SO_FAR: Final = SoFar(0, 0)


@lru_cache(maxsize=1_024)
def _so_far(highest: int, in_force: int) -> SoFar:
    # Nearly all seats have the same two levels: one of these for all takes a third of the memory.
    return SoFar(highest, in_force)


class Readings:
    """The readings of the open days of one product, by day and person (the stored contacts are
    one): all of them, or those from a day on.
    """

    __slots__ = (
        "_days_held", "before", "changed", "changed_before", "days", "earlier", "held_from"
    )  # fmt: skip

    def __init__(self, held_from: date | None = None) -> None:
        self.held_from = held_from
        self.days: dict[date, dict[bytes, PersonDay]] = {}
        self._days_held = 0  # Reports of them.
        # The latest report before these days, where they are all the open ones …
        self.before: dict[bytes, Report] = {}
        # … and where they are not, what came of those before.
        self.earlier: dict[bytes, SoFar] = {}
        # To be written; also when the day has closed since.
        self.changed: dict[tuple[bytes, date], PersonDay] = {}
        self.changed_before: dict[bytes, Report] = {}

    @property
    def reports_held(self) -> int:
        """How many reports are kept in memory."""
        return len(self.before) + self._days_held

    def report(
        self, person_id: bytes, report: Report, *, on: date, counts_on: date, open_from: date
    ) -> None:
        """Take in a report of one day that counts on another, if that one is closed."""
        told = self.days.get(counts_on)
        known = NO_REPORT if told is None else told.get(person_id, NO_REPORT)
        peak, last_at, last_level = known
        if report.level > (peak or 0):
            peak = report.level
        if on < open_from:
            before = self.before.get(person_id)
            if before is None or report > before:
                self.before[person_id] = self.changed_before[person_id] = report
        elif last_at is None or report > (last_at, last_level):
            last_at, last_level = report
        found = PersonDay(peak, last_at, last_level)
        if found != known:
            self.put(person_id, counts_on, found)
            self.changed[person_id, counts_on] = found

    def put_before(self, person_id: bytes, report: Report) -> None:
        """Set the latest report of somebody before the open days."""
        if self.held_from is None:
            self.before[person_id] = report
        else:
            self.earlier[person_id] = _so_far(report.level, report.level)

    def put_earlier(self, person_id: bytes, peak: int, first: int | None, last: int | None) -> None:
        """Set what came of the open days that are not held: the peak of the cycle that goes on in
        those that are, the level that was reported last before it, and the one reported last of
        all. None where nothing was reported in these days: then it is the one before them.
        """
        before = self.earlier.get(person_id, NOTHING_SO_FAR).in_force
        highest = max(peak, before if first is None else first)
        self.earlier[person_id] = _so_far(highest, before if last is None else last)

    def put(self, person_id: bytes, day: date, told: PersonDay) -> None:
        """Set what was reported of somebody on a day."""
        own = self.days.setdefault(day, {})
        self._days_held -= len(own)
        own[person_id] = told
        self._days_held += len(own)

    def raised(self, person_id: bytes, level: int, on: date, cycle_on: date) -> int:
        """Say how far a report of the newest day would raise the maximum of its cycle."""
        highest = 0
        for day, told in self.days.items():
            if cycle_on <= day <= on:
                highest = max(highest, told.get(person_id, NO_REPORT).peak or 0)
        if level <= highest:
            return 0
        if self._is_cut(cycle_on):
            highest = max(highest, self.earlier.get(person_id, NOTHING_SO_FAR).highest)
        else:
            highest = max(highest, self.level_before(person_id, cycle_on))
        return max(0, level - highest)

    def usage(self, cycle_starts: Sequence[date], through: date) -> dict[date, int]:
        """Sum how far each day that is held raised the maximum of its cycle, person by person, up
        to a day.
        """
        usage: dict[date, int] = {}
        days, starts = sorted(self.days), [start for start in cycle_starts if start <= through]
        for start, following in zip_longest(starts, starts[1:]):
            if self._is_cut(start):
                in_force = {person_id: known.highest for person_id, known in self.earlier.items()}
            elif in_force := self._levels_before(start):
                usage[start] = sum(map(quantity_of, in_force.values()))
            for day in days:
                if start <= day <= through and (following is None or day < following):
                    raised = _raise(in_force, self.days[day])
                    if raised:
                        usage[day] = usage.get(day, 0) + quantity_of(raised)
        return usage

    def in_force(self, day: date) -> bool:
        """Say whether any level carries over into a day."""
        return bool(self._levels_before(day))

    def level_before(self, person_id: bytes, day: date) -> int:
        """Tell the level of somebody that is in force when a day begins."""
        for earlier in sorted(self.days, reverse=True):
            told = self.days[earlier].get(person_id) if earlier < day else None
            if told is not None and told.last_at is not None:
                return told.last_level
        if self.held_from is not None:
            return self.earlier.get(person_id, NOTHING_SO_FAR).in_force
        before = self.before.get(person_id)
        return before.level if before else 0

    def forget_before(self, day: date) -> None:
        """Let go of the days that are closed, but for the level that carries over."""
        for closed in sorted(self.days):
            if closed < day:
                own = self.days.pop(closed)
                self._days_held -= len(own)
                for person_id, told in own.items():
                    if told.last is not None:
                        self.before[person_id] = self.changed_before[person_id] = told.last

    def _is_cut(self, cycle_on: date) -> bool:
        """Say whether not all days of a cycle are held."""
        return self.held_from is not None and cycle_on < self.held_from

    def _levels_before(self, day: date) -> dict[bytes, int]:
        """Tell the levels that are in force when a day begins, and are not 0."""
        levels = {person_id: before.level for person_id, before in self.before.items()}
        levels.update([(person_id, known.in_force) for person_id, known in self.earlier.items()])
        for earlier in sorted(self.days):
            if earlier < day:
                for person_id, told in self.days[earlier].items():
                    if told.last_at is not None:
                        levels[person_id] = told.last_level
        return {person_id: level for person_id, level in levels.items() if level}


def _raise(highest: dict[bytes, int], told: dict[bytes, PersonDay]) -> int:
    """Raise the maxima of a cycle by what was told of a day; returns by how much in all."""
    raised = 0
    for person_id, (peak, _, _) in told.items():
        before = highest.get(person_id, 0)
        if peak is not None and peak > before:
            highest[person_id] = peak
            raised += peak - before
    return raised
