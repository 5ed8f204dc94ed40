"""One channel of the slow model: what was set up, what was used, and the books that follow."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from tests.slow_model_pour import DAY, Crossing, Filling, Pour, Poured, months_after
from tests.slow_model_reading import THOUSANDTHS, Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

CLOSES_AFTER = timedelta(hours=72)
QUANTITY_BOUNDS = {
    "mu": (100, 1_000_000),
    "basic_seat": (1, 1_000),
    "operator_seat": (1, 1_000),
    "workflow": (1, 9_999_999_999),
    "marketing": (1, 9_999_999_999),
    "white_label": (1, 1),
    "security_bundle": (1, 1),
    "pu": (100, 9_999_999_999),
}
INCLUDED = {
    "early_stage": {"mu": 1_000, "basic_seat": 5, "operator_seat": 2},
    "growth": {"mu": 3_000},
}
SYSTEM_LIMITS = {"early_stage": {"mu": 3_000, "basic_seat": 10, "operator_seat": 5}}


@dataclass(kw_only=True)
class Value:
    """Something that changes and has one value a day."""

    # The day from which it counts, its instant, the order in which it was read, the value.
    settings: list[tuple[date, datetime, int, Any]] = field(default_factory=list)

    def put(self, day: date, at: datetime, order: int, value: Any) -> None:
        """Set it up from one instant on."""
        self.settings.append((day, at, order, value))

    def on(self, day: date) -> Any:
        """Take the latest set up to that day, at one instant the one read last."""
        known = [setting for setting in self.settings if setting[0] <= day]
        return max(known, key=lambda setting: setting[1:3])[3] if known else None

    def days(self) -> set[date]:
        """List the days on which it may change."""
        return {setting[0] for setting in self.settings}


@dataclass(kw_only=True, eq=False)
class Lot:
    """One prepaid purchase, also when refunded."""

    id: str
    product: str
    quantity: int
    starts_on: date
    renew: Value = field(default_factory=Value)
    number: int = 1  # `<lot>~2` is the second.
    is_refunded: bool = False
    is_renewal_decided: bool = False

    @property
    def ends_on(self) -> date:
        """The last day is start + 12 months - 1 day."""
        return months_after(self.starts_on, 12) - DAY

    def is_valid_on(self, day: date) -> bool:
        """Say whether the lot counts on that day."""
        return not self.is_refunded and self.starts_on <= day <= self.ends_on


@dataclass(kw_only=True, eq=False)
class Reservation:
    """A lot that waits for the day it is bought on."""

    id: str
    product: str
    quantity: Value
    renew: Value
    made_on: date
    executes_on: date | None  # None if it was made in a trial.
    is_waiting: bool = True


@dataclass(kw_only=True, eq=False)
class Counted:
    """A usage event that was applied."""

    record: Record
    day: date  # Its own.
    counts_on: date  # Another one if it came late.
    is_voided: bool = False


@dataclass(kw_only=True)
class Channel:
    """All that is known of one registered channel."""

    id: str
    zone: ZoneInfo
    first_cycle_on: date
    first_cycle_end: date  # The first day after it.
    values: dict[tuple[str, ...], Value]
    open_from: date  # First day of the earliest open cycle.
    events: list[Counted] = field(default_factory=list)
    lots: list[Lot] = field(default_factory=list)
    reservations: list[Reservation] = field(default_factory=list)
    products_of_lots: dict[str, str] = field(default_factory=dict)  # Of every id ever accepted.
    frozen: dict[date, dict[str, dict[date, int]]] = field(default_factory=dict)
    frozen_kinds: dict[date, dict[str, tuple[int, int]]] = field(default_factory=dict)
    told: dict[tuple[Any, ...], list[date]] = field(default_factory=lambda: defaultdict(list))
    notices: list[dict[str, Any]] = field(default_factory=list)
    version: Counter[str] = field(
        default_factory=Counter
    )  # Of what a pour of a product depends on.
    # What was worked out last, and the state that it holds for.
    cycles: tuple[Any, list[tuple[date, date]]] = (None, [])
    poured: dict[str, tuple[Any, Poured]] = field(default_factory=dict)
    looked: Any = None

    # Time.

    def day_of(self, at: datetime) -> date:
        """Tell the day of an instant, which "only ever decides which day it falls on"."""
        return at.astimezone(self.zone).date()

    def first_instant(self, day: date) -> datetime:
        """Find when a day begins: at its first instant in the zone."""
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).astimezone(UTC)

    def value(self, *key: str) -> Value:
        """Look up something that has one value a day."""
        return self.values.setdefault(key, Value())

    def boundaries(self) -> Iterator[date]:
        """List the first days of all cycles, without end."""
        yield self.first_cycle_on
        boundary = self.first_cycle_end
        while True:
            yield boundary
            # "The running cycle ends as planned; the next boundary is the first new billing date
            # strictly later than that. Of several changes in one cycle the last counts."
            boundary = next_billing_date(boundary, self.value("billing_day").on(boundary - DAY))

    def boundary_after(self, day: date) -> date:
        """Find the first billing date strictly after a day."""
        return next(boundary for boundary in self.boundaries() if boundary > day)

    def cycles_up_to(self, day: date) -> list[tuple[date, date]]:
        """List first day and first day after of each cycle, up to the one that holds the day."""
        state = (self.version["*"], day)
        if self.cycles[0] != state:
            starts = list(takewhile(lambda boundary: boundary <= day, self.boundaries()))
            ends = [*starts[1:], self.boundary_after(day)]
            self.cycles = (state, list(zip(starts, ends, strict=True)) if starts else [])
        return self.cycles[1]

    def closes_at(self, end: date) -> datetime:
        """Find when a cycle closes: 72 hours after the end of its last day."""
        return self.first_instant(end) + CLOSES_AFTER

    def status_on(self, day: date) -> str:
        """Name the plan of a day; a trial that has ended is `free`."""
        plan = self.value("plan").on(day)
        if plan == "trial":
            ends_on = self.value("trial_ends_on").on(day)
            return "free" if ends_on is not None and ends_on <= day else "trial"
        return str(plan)

    def included_on(self, product: str, day: date) -> int | None:
        """Tell what the plan of a day includes in the cycle; None is without end."""
        status = self.status_on(day)
        if status in ("free", "trial") and product != "pu":
            return None
        return INCLUDED.get(status, {}).get(product, 0) * THOUSANDTHS

    def limit_on(self, product: str, day: date) -> int | None:
        """Take the lower of the plan's system limit and the channel's own; None is no limit."""
        own = self.value("limit", product).on(day)
        system = SYSTEM_LIMITS.get(self.status_on(day), {}).get(product)
        limits = [limit for limit in (own, system) if limit is not None]
        return min(limits) * THOUSANDTHS if limits else None

    def plan_days(self) -> set[date]:
        """List the days on which the plan may become another."""
        ends: set[date] = {setting[3] for setting in self.value("trial_ends_on").settings}
        return ends | self.value("plan").days() | self.value("trial_ends_on").days()

    # Tallies.

    def tallies(self, product: str, today: date) -> dict[date, int]:
        """Tell the usage of each day, in thousandths."""
        days: dict[date, int] = {}
        for start, end in self.cycles_up_to(today):
            tally = self.frozen[start].get(product, {}) if start in self.frozen else None
            days |= self.tally(product, start, end) if tally is None else tally
        return days

    def kinds(self, start: date, end: date, today: date) -> dict[str, tuple[int, int]]:
        """Count messages and PU of each kind in a cycle."""
        if start in self.frozen_kinds:
            return self.frozen_kinds[start]
        kinds: dict[str, tuple[int, int]] = {}
        for event in self._counted("message.sent", start, min(end, today + DAY)):
            data = event.record.data
            messages, units = kinds.get(data["kind"], (0, 0))
            kinds[data["kind"]] = (messages + data["count"], units + data["pu"])
        return kinds

    def _counted(self, kind: str, start: date, end: date) -> list[Counted]:
        return [
            event
            for event in self.events
            if event.record.type == kind and not event.is_voided and start <= event.counts_on < end
        ]

    def tally(self, product: str, start: date, end: date) -> dict[date, int]:
        """Add up one product in one cycle that is open."""
        if product == "mu":
            return self._level_tally(start, end)
        if product in ("basic_seat", "operator_seat"):
            return self._distinct_tally(product.removesuffix("_seat"), start, end)
        kind, key = {
            "workflow": ("workflow.executed", "actions"),
            "marketing": ("marketing.sent", "messages"),
            "pu": ("message.sent", "pu"),
        }[product]
        days: dict[date, int] = defaultdict(int)
        for event in self._counted(kind, start, end):
            units = event.record.data[key]
            days[event.counts_on] += units if product == "pu" else units * THOUSANDTHS
        return dict(days)

    def _level_tally(self, start: date, end: date) -> dict[date, int]:
        levels: dict[date, int] = defaultdict(int)
        # "The level in force when a cycle begins (the latest report of an earlier day, by event
        # time; at the same instant the higher) counts on the cycle's first day."
        earlier = [
            (event.record.time, event.record.data["count"])
            for event in self.events
            if event.record.type == "mu.counted" and event.day < start
        ]
        levels[start] = max(earlier)[1] if earlier else 0
        for event in self._counted("mu.counted", start, end):
            levels[event.counts_on] = max(levels[event.counts_on], event.record.data["count"])
        # "A day's usage is how far that day raised the cycle's maximum."
        days, highest = {}, 0
        for day in sorted(levels):
            days[day] = max(0, levels[day] - highest) * THOUSANDTHS
            highest = max(highest, levels[day])
        return days

    def _distinct_tally(self, seat: str, start: date, end: date) -> dict[date, int]:
        # "Whoever holds one when the cycle begins (by the latest report of an earlier day) counts
        # on the first day, anyone else on the day they were first assigned in it."
        latest: dict[str, tuple[datetime, bool]] = {}
        for event in self.events:
            data, is_assigned = event.record.data, event.record.type == "seat.assigned"
            if data.get("seat") == seat and event.day < start:
                # "At one instant, assigned beats released."
                report = (event.record.time, is_assigned)
                latest[data["manager"]] = max(report, latest.get(data["manager"], report))
        first = {manager: start for manager, (_, is_assigned) in latest.items() if is_assigned}
        for event in self._counted("seat.assigned", start, end):
            data = event.record.data
            if data["seat"] == seat:
                known = first.get(data["manager"], event.counts_on)
                first[data["manager"]] = min(known, event.counts_on)
        return {day: count * THOUSANDTHS for day, count in Counter(first.values()).items()}

    # Books.

    def pour(self, product: str, today: date) -> Poured:
        """Pour a product from the first day on, unless nothing changed since it was last asked."""
        state = (self.version[product], self.version["*"], today)
        if product in self.poured and self.poured[product][0] == state:
            return self.poured[product][1]
        lots = [lot for lot in self.lots if lot.product == product and not lot.is_refunded]
        starts = [start for start, _ in self.cycles_up_to(today)]
        changes = {*starts, *self.plan_days(), *self.value("limit", product).days()}
        poured = Pour(
            product=product,
            usage=self.tallies(product, today),
            fillings=[
                Filling(
                    lot=lot.id,
                    product=product,
                    quota=lot.quantity * THOUSANDTHS,
                    starts_on=lot.starts_on,
                    ends_on=lot.ends_on,
                )
                for lot in lots
            ],
            cycle_of=lambda day: starts[bisect_right(starts, day) - 1],
            included_on=lambda day: self.included_on(product, day),
            limit_on=lambda day: self.limit_on(product, day),
            changes={day for day in changes if day >= self.first_cycle_on},
            today=today,
        ).pour()
        self.poured[product] = (state, poured)
        return poured

    def notify(self, kind: str, product: str | None, day: date, detail: dict[str, Any]) -> None:
        """Issue a notice; it is never taken back."""
        self.notices.append(
            {"kind": kind, "product": product, "on": day.isoformat(), "detail": detail}
        )

    def tell(self, crossing: Crossing) -> None:
        """Issue a notice "once per crossing", also when late usage moves the day of the crossing.

        A crossing was told if a notice of it was issued for a day from the one on which it is now
        reached to the one on which it is armed again. After a void it may be another crossing.
        """
        days = self.told[crossing.key]
        if not any(crossing.reached_from <= day < crossing.armed_on for day in days):
            days.append(crossing.on)
            self.notify(crossing.key[0], crossing.key[1], crossing.on, crossing.detail)


def purchase_refusal(channel: Channel, product: str, quantity: int, day: date) -> str:
    """Say why a product may not be bought on a day, for the first reason that holds."""
    if channel.status_on(day) == "trial":
        return "in_trial"
    return _refusal(channel, product, quantity, day)


def schedule_refusal(
    channel: Channel, product: str, quantity: int, executes_on: date | None
) -> str:
    """Say why a product may not be reserved, as of the day it will buy (never `in_trial`)."""
    if executes_on is None:
        # "Made in a trial it is checked without regard to the plan."
        least, most = QUANTITY_BOUNDS[product]
        return "" if least <= quantity <= most else "quantity_out_of_bounds"
    return _refusal(channel, product, quantity, executes_on)


def _refusal(channel: Channel, product: str, quantity: int, day: date) -> str:
    if channel.status_on(day) == "free" and product != "pu":
        return "free_plan"
    least, most = QUANTITY_BOUNDS[product]
    if not least <= quantity <= most:
        return "quantity_out_of_bounds"
    status = channel.status_on(day)
    limit = SYSTEM_LIMITS.get(status, {}).get(product)
    if limit is not None:
        # "Included + q of all lots valid that day + new q exceeds it."
        valid = [lot for lot in channel.lots if lot.product == product and lot.is_valid_on(day)]
        held = INCLUDED[status].get(product, 0) + sum(lot.quantity for lot in valid)
        if held + quantity > limit:
            return "over_plan_limit"
    return ""


def next_billing_date(day: date, billing_day: int | str) -> date:
    """Find the first billing date strictly later than a day."""
    return min(one for one in billing_dates_near(day, billing_day) if one > day)


def last_billing_date(day: date, billing_day: int | str) -> date:
    """Find the last billing date up to a day."""
    return max(one for one in billing_dates_near(day, billing_day) if one <= day)


def billing_dates_near(day: date, billing_day: int | str) -> list[date]:
    """List those of three months; a billing day is 1 to 27, or `end` for the last of the month."""
    firsts = [months_after(day.replace(day=1), months) for months in (-1, 0, 1)]
    if billing_day == "end":
        return [months_after(first, 1) - DAY for first in firsts]
    return [first.replace(day=int(billing_day)) for first in firsts]
