"""Everything the books hold about one channel while it is being worked on: values, cycles, lots,
tallies, fills.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from metering.catalog import PRODUCTS
from metering.lots import Burn, Lot, burn_order
from metering.periods import ONE_DAY, billing_date_after, day_of, first_instant
from metering.tallies import NO_DAYS, Counts, Readings, Sum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metering.catalog import Allowance, Catalog

# A window that runs when a cycle begins began at most this long before.
LONGEST_MONTH: Final = 31 * ONE_DAY

# What an account takes in memory, each of its lots, each day of a product, what was reported of
# each person on a day, and what came of the days before.
ACCOUNT_BYTES, LOT_BYTES, DAY_BYTES, REPORT_BYTES, EARLIER_BYTES = 2_500, 1_000, 1_600, 240, 60

# Before every time that a command can have: the registration's values hold from the first day on.
ALWAYS: Final = -(2**63)

NOTHING: Final[frozenset[str]] = frozenset()

ValueName = Literal["plan", "billing_day", "trial_ends_on", "limit", "renew", "quantity"]
Value = str | int | bool | None  # A date is kept as its ISO text, a limit and a quantity in units.


class Setting(NamedTuple):
    """A value that was set at an instant. The later one counts, at one instant the last read."""

    at: int
    sequence: int
    on: date
    value: Value


class FillKey(NamedTuple):
    """Where usage was poured, or what was deducted without any."""

    source: str  # included, own, carried, borrowed, postpaid, minimum, expired
    lot: str = ""
    window: int = -1  # The window of the lot that gave it, or for which a minimum was taken.
    quota: int = -1  # The window whose quota it came from.


Fills = dict[FillKey, int]


@dataclass(slots=True)
class Reservation:
    """A purchase that is still to happen. Its quantity and flag are values of the account."""

    lot: str
    product: str
    made_on: date
    sequence: int  # The order in which reservations were read.
    executes_on: date | None  # None: made in a trial, it waits for the first day off it.
    state: Literal["waiting", "executed", "refused", "cancelled"] = "waiting"


# Of the following there are many, with an `__init__` that is written out as that of an event is.


@dataclass(slots=True, init=False)
class Standing:
    """What thresholds are held against, at one moment of a day."""

    usage: int  # Of the cycle so far.
    drawn: int  # By the running windows of all lots.
    pool: int  # Of all valid lots that have one pool.

    def __init__(self, usage: int, drawn: int, pool: int) -> None:
        self.usage, self.drawn, self.pool = usage, drawn, pool


# How days that were loaded stood: it is found when they are poured again, or on top of.
UNKNOWN: Final = Standing(0, 0, 0)


@dataclass(slots=True, init=False)
class DayPour:
    """One day after it was poured."""

    on: date
    cycle_on: date
    fills: Fills
    before: Standing  # At the beginning of the day.
    after: Standing
    quota: int  # Of all lots valid that day.
    bought: int  # What all lots valid that day were bought with.

    def __init__(
        self, on: date, cycle_on: date, fills: Fills, before: Standing, after: Standing,
        quota: int, bought: int,
    ) -> None:  # fmt: skip
        self.on, self.cycle_on, self.fills = on, cycle_on, fills
        self.before, self.after, self.quota, self.bought = before, after, quota, bought


class DaysMissing(Exception):
    """An account was loaded without days that turned out to be needed: nothing that was done with
    it stands.
    """


class Earlier(NamedTuple):
    """What was poured before the days that are held, in the cycle in which they begin."""

    usage: int
    included: int


NOTHING_EARLIER: Final = Earlier(0, 0)


class PourState:
    """How far the sources of one product have been used up, seen from one day."""

    __slots__ = ("burns", "cycle_on", "included", "usage")

    def __init__(self, cycle_on: date) -> None:
        self.cycle_on = cycle_on
        self.usage = 0  # Of the cycle so far.
        self.included = 0  # Taken in the cycle so far.
        self.burns: dict[str, Burn] = {}


class Tip(NamedTuple):
    """The newest day that was poured, ready to take more usage on top."""

    on: date
    pour: DayPour  # What is booked of it.
    state: PourState  # At the end of the day; moves on with what is poured on top.
    included: int | None  # What the plan of the day includes in the cycle.
    lots: list[Lot]  # Those valid that day, in burn order …
    burns: list[Burn]  # … and how far each is used up.


class Books:
    """The books of one product of one channel: what was used and booked on the open days."""

    __slots__ = (
        "days",
        "dirty_from",
        "earlier",
        "fixed_days",
        "growth",
        "poured_through",
        "quiet",
        "tallies",
        "tip",
        "unlooked_from",
        "usage_cache",
    )

    def __init__(self, tallies: Counts | Readings) -> None:
        self.tallies = tallies
        self.days: dict[date, DayPour] = {}  # What is booked of the days that are held.
        self.earlier = NOTHING_EARLIER
        self.dirty_from: date | None = None  # The first day that must be poured again.
        self.poured_through: date | None = None
        # Usage of the newest day that is to be poured on top of it. Nothing else has changed.
        self.tip: Tip | None = None
        self.growth = 0
        # How much more usage of that day, and of days that begin as it ended, reaches no threshold.
        self.quiet = 0
        self.unlooked_from: date | None = (
            None  # The first day that was poured since thresholds were looked at.
        )
        self.usage_cache: tuple[object, dict[date, int]] | None = None
        # Days on which more than usage can happen, and for which open days they were found.
        self.fixed_days: tuple[tuple[date, date], tuple[date, ...]] | None = None

    def is_settled(self, today: date) -> bool:
        """Say whether there is nothing to pour, and nothing that people may have to hear of."""
        return (
            not self.growth
            and self.dirty_from is None
            and self.poured_through == today
            and self.unlooked_from is None
        )

    def touch(self, day: date) -> None:
        """Note that something changed on a day."""
        if self.growth:
            assert self.tip is not None
            day, self.growth = min(day, self.tip.on), 0
        if self.dirty_from is None or day < self.dirty_from:
            self.dirty_from = day
        self.usage_cache = None

    def look_from(self, day: date) -> None:
        """Note that thresholds may have been reached on a day."""
        if self.unlooked_from is None or day < self.unlooked_from:
            self.unlooked_from = day

    def grow(self, day: date, quantity: int) -> None:
        """Note that a day has so much more usage than before, and nothing else changed."""
        if self.dirty_from is None and self.tip is not None and day == self.tip.on:
            self.growth += quantity
            if quantity:
                self.usage_cache = None
        else:
            self.touch(day)


class Sheet(NamedTuple):
    """What was used on a day and where it was poured, by product."""

    tallies: list[tuple[str, dict[str, Sum]]]
    fills: list[tuple[str, Fills]]


class Unsaved:
    """What changed since the account was loaded, apart from tallies and windows, which keep their
    own lists.
    """

    __slots__ = ("closed", "days", "lots", "reservations", "settings", "windows")

    def __init__(self) -> None:
        self.settings: list[tuple[ValueName, str, Setting]] = []
        # Mostly empty, and then shared by all accounts.
        self.lots: frozenset[str] = NOTHING
        self.windows: frozenset[str] = NOTHING  # The lots whose windows changed.
        self.reservations: frozenset[str] = NOTHING
        self.days: frozenset[date] = NO_DAYS  # Those on which something was booked …
        self.closed: dict[date, Sheet] | None = None  # … and what changed before it closed.


@dataclass(slots=True)
class Account:
    """One registered channel. The earliest open cycle begins on `open_from`; what was before never
    changes.

    Its open days are held from `held_from` on. Of those before, if any, only sums are known: most
    batches are about the last hours, and a month has many days.
    """

    channel: str
    time_zone: str
    registered_on: date
    first_cycle_on: date
    open_from: date
    sequence: int = 0  # Of the commands that took effect, in the order they were read.
    version: int = 0  # Of the row in the database.
    entries: int = 0  # How many lines its ledger has …
    notices: int = 0  # … and how many notices were issued.
    due_at: int | None = None  # The instant at which something happens that nobody asks for.
    is_due_known: bool = False  # Nothing has changed since that could move it.
    settled_on: date | None = None  # The day of the clock when it was last settled.
    values: dict[tuple[ValueName, str], list[Setting]] = field(default_factory=dict)
    lots: dict[str, Lot] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    books: dict[str, Books] = field(default_factory=dict)
    # The days of the notices that were issued of each threshold, so that none is issued twice.
    told: dict[tuple[object, ...], list[date]] = field(default_factory=dict)
    unsaved: Unsaved = field(default_factory=Unsaved)
    # Without lots that are over, and reservations that no longer wait, nothing can be decided.
    has_all_lots: bool = True
    # The identities of its commands, one behind the other; None: not known.
    commands: bytes | None = None
    _starts: list[date] = field(default_factory=list)
    _closing: tuple[date, int] | None = None
    _burning: dict[str, list[Lot]] = field(default_factory=dict)
    _held_from: date | None = None  # None: all open days are held.
    _bytes_held: int = 0  # 0 until it is asked for.

    @property
    def held_from(self) -> date:
        """The first open day that is held."""
        return self.open_from if self._held_from is None else self._held_from

    @property
    def is_cut(self) -> bool:
        """Say whether there are open days that are not held."""
        return self._held_from is not None

    def hold_from(self, day: date) -> None:
        """Note that days are held from one on, before any is put in."""
        self._held_from = day if day > self.open_from else None

    @property
    def days_held(self) -> int:
        """How many days are held, up to the one that runs."""
        return 0 if self.settled_on is None else (self.settled_on - self.held_from).days + 1

    def need(self, day: date) -> None:
        """Make sure that an open day is held, and all that follow. Raises DaysMissing."""
        if day < self.held_from:
            raise DaysMissing(self.channel)

    @property
    def bytes_held(self) -> int:
        """Say how much memory it takes, roughly: as it was written last."""
        if self._bytes_held:
            return self._bytes_held
        size = ACCOUNT_BYTES + LOT_BYTES * len(self.lots) + len(self.commands or b"")
        for books in self.books.values():
            size += DAY_BYTES * len(books.days)
            if isinstance(books.tallies, Readings):
                size += REPORT_BYTES * books.tallies.reports_held
                size += EARLIER_BYTES * len(books.tallies.earlier)
        self._bytes_held = size
        return size

    def note_written(self) -> None:
        """Note that what changed is on its way into the database."""
        self.version += 1
        self._bytes_held = 0

    def close_days(self, until: date) -> None:
        """Set aside what changed of the days before one, which are let go of: it is still to be
        written.
        """
        closing = {day: self._sheet_of(day) for day in sorted(self._take_changed(before=until))}
        if closing:
            self.unsaved.closed = {**(self.unsaved.closed or {}), **closing}

    def take_changed(self) -> list[tuple[date, Sheet]]:
        """Take the days on which sums changed: from then on they count as written."""
        changed = [(day, self._sheet_of(day)) for day in self._take_changed(before=date.max)]
        if self.unsaved.closed:
            changed += self.unsaved.closed.items()
            self.unsaved.closed = None
        return changed

    def _take_changed(self, *, before: date) -> list[date]:
        booked = [day for day in self.unsaved.days if day < before]
        self.unsaved.days = self.unsaved.days.difference(booked)
        changed = set(booked)
        for books in self.books.values():
            if isinstance(books.tallies, Counts):
                changed.update(books.tallies.take_changed(before=before))
        return list(changed)

    def _sheet_of(self, day: date) -> Sheet:
        tallies, fills = [], []
        for product, books in self.books.items():
            if isinstance(books.tallies, Counts) and day in books.tallies.by_day:
                tallies.append((product, books.tallies.by_day[day]))
            if day in books.days:
                fills.append((product, books.days[day].fills))
        return Sheet(tallies, fills)

    # Values

    def put_value(self, name: ValueName, of: str, setting: Setting) -> None:
        """Put in a value that was set before."""
        insort(self.values.setdefault((name, of), []), setting)

    def set_value(self, name: ValueName, of: str, setting: Setting) -> None:
        """Set a value from its day on."""
        self.put_value(name, of, setting)
        self.unsaved.settings.append((name, of, setting))
        self._starts.clear()
        self._closing = None
        for books in self.books.values():
            books.fixed_days = None

    def value_on(self, name: ValueName, day: date, of: str = "") -> Value:
        """Look up the value of a day; None if none was set."""
        for setting in reversed(self.values.get((name, of), ())):
            if setting.on <= day:
                return setting.value
        return None

    def plan_on(self, day: date) -> str:
        """Say which plan holds on a day: a trial that is over is free."""
        plan = self.value_on("plan", day)
        assert isinstance(plan, str)
        if plan == "trial":
            ends_on = self.value_on("trial_ends_on", day)
            if isinstance(ends_on, str) and day.isoformat() >= ends_on:
                return "free"
        return plan

    def may_have_limit(self, catalog: Catalog, product: str) -> bool:
        """Say whether there was ever a limit of a product; nearly always there was none."""
        plans = {setting.value for setting in self.values.get(("plan", ""), ())}
        return ("limit", product) in self.values or any(
            catalog.allowance(str(plan), product).limit is not None for plan in plans
        )

    def limit_on(self, catalog: Catalog, product: str, day: date) -> int | None:
        """Find the lower of the plan's limit and the channel's own, as a quantity."""
        system = self.allowance_on(catalog, product, day).limit
        own = self.value_on("limit", day, product)
        limits = [
            limit
            for limit in (system, None if own is None else int(own) * 1000)
            if limit is not None
        ]
        return min(limits, default=None)

    def allowance_on(self, catalog: Catalog, product: str, day: date) -> Allowance:
        """Look up what the plan of a day gives."""
        return catalog.allowance(self.plan_on(day), product)

    # Cycles

    def day_of(self, instant: int) -> date:
        """Say on which of the channel's days an instant falls."""
        return day_of(instant, self.time_zone)

    def cycle_starts(self, through: date) -> list[date]:
        """List the first days of the open cycles up to a day, and of the one that follows."""
        starts = self._starts
        if not starts or starts[0] != self.open_from:
            starts[:] = [self.open_from]
        while starts[-1] <= through:
            billing_day = self.value_on("billing_day", starts[-1] - ONE_DAY)
            assert isinstance(billing_day, int)
            starts.append(billing_date_after(starts[-1], billing_day))
        return starts

    def cycle_on(self, day: date) -> date:
        """Find the first day of the cycle that holds an open day."""
        starts = self.cycle_starts(day)
        return starts[bisect_right(starts, day) - 1]

    def cycle_after(self, day: date) -> date:
        """Find the first day of the cycle that follows the one that holds an open day."""
        starts = self.cycle_starts(day)
        return starts[bisect_right(starts, day)]

    def closes_at(self, catalog: Catalog) -> int:
        """Say at which instant the earliest open cycle closes."""
        if self._closing is None or self._closing[0] != self.open_from:
            following = first_instant(self.cycle_after(self.open_from), self.time_zone)
            self._closing = (self.open_from, following + catalog.rules.closing)
        return self._closing[1]

    # Lots and books

    def lots_of(self, product: str) -> list[Lot]:
        """List the lots of a product in burn order, but for the refunded ones."""
        if product not in self._burning:
            mine = (lot for lot in self.lots.values() if lot.product.name == product)
            self._burning[product] = sorted(
                (lot for lot in mine if not lot.is_refunded), key=burn_order
            )
        return self._burning[product]

    def open_lots_of(self, product: str) -> list[Lot]:
        """List the lots of a product in burn order that concern the open days."""
        return [lot for lot in self.lots_of(product) if lot.expires_on >= self.open_from]

    def books_of(self, product: str) -> Books:
        """Open the books of a product, empty ones if there are none yet."""
        if product not in self.books:
            adds_up = PRODUCTS[product].adds_up
            is_read_off = adds_up in ("level", "distinct")
            tallies = Readings(self._held_from) if is_read_off else Counts()
            books = self.books[product] = Books(tallies)
            # Of a product without books nothing happened on the days before, either.
            books.dirty_from = self.held_from
        return self.books[product]

    def touch_all(self, day: date) -> None:
        """Note that something changed on a day that may concern every product, also those without
        books. Raises DaysMissing.
        """
        self.need(max(day, self.open_from))
        self._burning.clear()
        for product in {lot.product.name for lot in self.lots.values() if lot.product.is_metered}:
            self.books_of(product)
        for books in self.books.values():
            books.touch(max(day, self.open_from))
            books.tip = books.fixed_days = None

    def forget_told(self, open_from: date) -> None:
        """Let go of notices about days so far back that nothing can bring them up again."""
        oldest = open_from - LONGEST_MONTH
        self.told = {
            key: kept
            for key, told in self.told.items()
            if (kept := [on for on in told if on >= oldest])
        }

    def fixed_days(self, product: str, today: date) -> tuple[date, ...]:
        """List the open days up to one on which more than usage can happen to a product: where a
        cycle, a window or a lot begins or ends, or a value was set.
        """
        books = self.books_of(product)
        span = (self.open_from, today)
        if books.fixed_days is None or books.fixed_days[0] != span:
            days = set(self.cycle_starts(today))
            for lot in self.open_lots_of(product):
                days.update(
                    lot.starts if lot.product.is_windowed else (lot.starts_on, lot.expires_on)
                )
            days.update(
                self.days_of_values(("plan", ""), ("limit", product), ("trial_ends_on", ""))
            )
            for setting in self.values.get(("trial_ends_on", ""), ()):
                if isinstance(setting.value, str):
                    days.add(type(today).fromisoformat(setting.value))
            found = tuple(sorted(day for day in days if self.open_from <= day <= today))
            books.fixed_days = (span, found)
        return books.fixed_days[1]

    def days_of_values(self, *names: tuple[ValueName, str]) -> Iterator[date]:
        """List the days on which one of these values was set."""
        for key in names:
            for setting in self.values.get(key, ()):
                yield setting.on
