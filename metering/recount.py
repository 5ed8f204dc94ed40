"""What the books of a channel must be: counted again from its events, day by day, the slow way.

Nothing here is shared with what keeps the books, so that one mistake cannot hide another. Rows of
the books are written as dictionaries, as whoever compares them has them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from metering.catalog import PRODUCTS
from metering.events import DIGEST_BYTES
from metering.periods import ONE_DAY, billing_date_after, day_of
from metering.prices import graduated
from metering.quantities import EXACT, THOUSAND, amount_text, quantity_of, quantity_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date

    from metering.catalog import Catalog

# How the records of events are written.
VOID, APPLIED, PARKED, VOIDED = 0, 0, 1, 2
PRODUCT_NAMES = dict(enumerate(PRODUCTS, start=1))
# Types of those whose content can be digested again.
CONTENTS = {"mu": "mu.counted", "workflow": "workflow.executed", "marketing": "marketing.sent"}

SOURCES = ("included", "own", "carried", "borrowed", "postpaid")

Report = tuple[int, int]  # Instant and level.
FillKey = tuple[str, "date", str, str, int, int]  # Product, day, source, lot, window, quota.


class Setting(NamedTuple):
    """A value as it was set. The later one counts, at one instant the one read last."""

    at: int
    sequence: int
    on: date
    value: Any


class Values:
    """What was set for a channel, as it holds on each day."""

    def __init__(self, rows: Iterable[tuple[str, str, Setting]]) -> None:
        self._set: dict[tuple[str, str], list[Setting]] = defaultdict(list)
        for name, of, setting in rows:
            self._set[name, of].append(setting)
        self._plans: dict[date, str] = {}

    def on(self, name: str, day: date, of: str = "", *, before: int | None = None) -> Any:  # noqa: ANN401
        """Look up the value of a day; `before` a command, as it was known when that was decided."""
        held = [
            setting
            for setting in self._set.get((name, of), ())
            if setting.on <= day and (before is None or setting.sequence < before)
        ]
        return max(held).value if held else None

    def plan_on(self, day: date, *, before: int | None = None) -> str:
        """Say which plan holds: a trial that has ended is free."""
        if before is None and day in self._plans:
            return self._plans[day]
        plan = str(self.on("plan", day, before=before))
        ends_on = self.on("trial_ends_on", day, before=before)
        if plan == "trial" and ends_on is not None and ends_on <= day.isoformat():
            plan = "free"
        if before is None:
            self._plans[day] = plan
        return plan

    def limit_on(self, catalog: Catalog, product: str, day: date) -> int | None:
        """Find the lower of the limits of a day."""
        own = self.on("limit", day, product)
        limits = [catalog.allowance(self.plan_on(day), product).limit, own and quantity_of(own)]
        return min((limit for limit in limits if limit is not None), default=None)

    def cycles(self, first: date, through: date, *, before: int | None = None) -> list[date]:
        """List the first days of the cycles up to a day, and of the one that follows."""
        starts = [first]
        while starts[-1] <= through:
            billing_day = self.on("billing_day", starts[-1] - ONE_DAY, before=before)
            starts.append(billing_date_after(starts[-1], billing_day))
        return starts


@dataclass(slots=True)
class Found:
    """What the events of a channel come to."""

    counted: dict[tuple[str, date, str], list[int]] = field(default_factory=dict)
    # By product and person: the highest level that counts on a day; the latest report of a day, by
    # the cycle that was open when it came, if its own had closed.
    peaks: dict[tuple[str, bytes], Counter[date]] = field(default_factory=dict)
    reports: dict[tuple[str, bytes], dict[tuple[date, date | None], Report]] = field(
        default_factory=dict
    )

    # Of late uses: product, own day and the day on which they count.
    late: set[tuple[str, date, date]] = field(default_factory=set)
    strange: list[str] = field(default_factory=list)

    def take(self, row: Mapping[str, Any], zone: str, start: date) -> None:
        """Take in the record of an event that counts on a day from a start on."""
        at, late_on, state, product = row["at"], row["counts_on"], row["state"], row["product"]
        on, utc_on = day_of(at, zone), day_of(at, "UTC")
        counts_on, name = late_on or on, PRODUCT_NAMES.get(product, "")
        is_void, units = product == VOID, row["quantity"] // THOUSAND
        is_sound = (
            not (name in CONTENTS and state != PARKED)
            or row["content"]
            == blake2b(
                f"{CONTENTS[name]}\0{at}\0{units}".encode(), digest_size=DIGEST_BYTES
            ).digest()
        )
        if (
            not is_sound or counts_on < on or late_on == on or not (name or is_void)
            or state not in (APPLIED, PARKED, VOIDED)
            or row["month"] != utc_on.year * 12 + utc_on.month - 1
        ):  # fmt: skip
            self.strange.append(
                f"{name} on {on}: event {row['digest'].hex()} of {row['quantity']} in month "
                f"{row['month']}, counted on {counts_on}, is not what was read"
            )
        if state == PARKED or is_void or counts_on < start:
            return
        if late_on is not None:
            self.late.add((name, on, late_on))
        if PRODUCTS[name].adds_up in ("count", "cost"):
            total = self.counted.setdefault((name, counts_on, row["kind"] or ""), [0, 0])
            if state == APPLIED:
                total[0] += row["quantity"]
                total[1] += row["messages"]
            return
        who = (name, row["person"] or b"")
        peaks = self.peaks.setdefault(who, Counter())
        peaks[counts_on] = max(peaks[counts_on], units)
        latest = self.reports.setdefault(who, {})
        latest[on, late_on] = max(latest.get((on, late_on), (at, units)), (at, units))

    def products(self) -> set[str]:
        """Name the products that were used."""
        return {key[0] for key in (*self.counted, *self.reports)}

    def readings(self) -> dict[tuple[str, date, str], tuple[int | None, int | None, int | None]]:
        """Write the rows of levels: peak of the day, and its latest report by its own time."""
        rows = {}
        for (product, person), latest in self.reports.items():
            peaks = self.peaks[product, person]
            for day in {*peaks, *(on for on, late_on in latest if late_on is None)}:
                peak, last = peaks[day] or None, latest.get((day, None), (None, None))
                if peak is not None or last[0] is not None:
                    rows[product, day, person.hex()] = (peak, *last)
        return rows

    def levels(self, day: date) -> dict[tuple[str, str], Report]:
        """Write the levels in force as a day begins, as they are known now."""
        return {
            (product, person.hex()): max(before)
            for (product, person), latest in self.reports.items()
            if (before := [report for (on, _), report in latest.items() if on < day])
        }

    def usage(
        self, product: str, starts: Sequence[date], base: dict[tuple[str, bytes], Report]
    ) -> dict[date, int]:
        """Sum the usage of each day."""
        usage: dict[date, int] = defaultdict(int)
        for (name, day, _), (quantity, _) in self.counted.items():
            if name == product:
                usage[day] += quantity
        for who in sorted(key for key in {*self.reports, *base} if key[0] == product):
            for start, following in pairwise(starts):
                # What came after a cycle had closed was unknown to it.
                known = [base.get(who, (0, 0))]
                for (on, late_on), report in self.reports.get(who, {}).items():
                    if on < start and (late_on is None or late_on <= start):
                        known.append(report)
                highest = max(known)[1]
                usage[start] += quantity_of(highest)
                for day, peak in sorted(self.peaks.get(who, {}).items()):
                    if start <= day < following and peak > highest:
                        usage[day] += quantity_of(peak - highest)
                        highest = peak
        return usage


class Held(NamedTuple):
    """A lot as it was bought."""

    name: str
    product: str
    quota: int
    starts: tuple[date, ...]  # Of its windows, and the day after the last.

    @property
    def least(self) -> int:
        """What a window must give."""
        return self.quota // 2 if PRODUCTS[self.product].is_windowed else 0

    @property
    def most(self) -> int:
        """What a window may give."""
        return self.quota * 2 if PRODUCTS[self.product].is_windowed else self.quota

    def is_valid(self, day: date) -> bool:
        """Say whether usage of a day may be poured into it."""
        return self.starts[0] <= day < self.starts[-1]

    def window_on(self, day: date) -> int:
        """Say which window a day falls in."""
        return sum(start <= day for start in self.starts) - 1

    def order(self) -> tuple[date, date, str]:
        """Burn what ends first, then what starts first."""
        return self.starts[-1], self.starts[0], self.name


class Day(NamedTuple):
    """How things stood as a day began and as it ended: usage of the cycle, draws, pool."""

    on: date
    cycle_on: date
    before: tuple[int, int, int]
    after: tuple[int, int, int]
    quota: int
    bought: int


class Pour:
    """Usage of one product poured into its sources, day by day."""

    def __init__(
        self, start: date, lots: Iterable[Held], left: Counter[Any], given: Counter[Any]
    ) -> None:
        self.lots = sorted(lots, key=Held.order)
        self.left = left  # By lot and number of the quota.
        self.given = given  # By lot and window: what usage drew.
        self.fills: Counter[tuple[date, str, str, int, int]] = Counter()
        self._cycle = Counter[str]()
        self.days = [self._day(start - ONE_DAY, start, (0, 0, 0))]

    def stand(self, day: date) -> tuple[int, int, int]:
        """Say how things stand."""
        valid = [lot for lot in self.lots if lot.is_valid(day)]
        drawn = sum(self.given[lot.name, lot.window_on(day)] for lot in valid)
        pool = sum(self.left[lot.name, quota] for lot in valid for quota in range(len(lot.starts)))
        return self._cycle["usage"], drawn, pool

    def pour(self, day: date, cycle_on: date, usage: int, included: int | None) -> None:
        """Let happen what is due as a day begins, then pour its usage."""
        if day == cycle_on:
            self._cycle.clear()
        for lot in self.lots:
            self._end(lot, day)
        valid = [lot for lot in self.lots if lot.is_valid(day)]
        before, unpaid = self.stand(day), usage

        free = unpaid if included is None else max(0, included - self._cycle["included"])
        unpaid -= self._fill((day, "included", "", -1, -1), min(unpaid, free))
        self._cycle["included"] += usage - unpaid
        for number in range(4):
            for lot in valid:
                running = lot.window_on(day)
                given = self.given[lot.name, running]
                limit = (lot.least if number == 0 else lot.most) - given
                quotas = _quotas(lot, running)[number]
                unpaid -= self._take(day, lot, running, quotas, min(unpaid, limit))
        self._fill((day, "postpaid", "", -1, -1), unpaid)
        self._cycle["usage"] += usage

        self.days.append(self._day(day, cycle_on, before))

    def _day(self, day: date, cycle_on: date, before: tuple[int, int, int]) -> Day:
        valid = [lot for lot in self.lots if lot.is_valid(day)]
        bought = sum(lot.quota * (len(lot.starts) - 1) for lot in valid)
        return Day(day, cycle_on, before, self.stand(day), sum(lot.quota for lot in valid), bought)

    def _end(self, lot: Held, day: date) -> None:
        if day in lot.starts[1:]:
            ended = lot.window_on(day - ONE_DAY)
            missing = lot.least - self.given[lot.name, ended]
            self._take(day, lot, ended, _quotas(lot, ended)[0], missing, is_minimum=True)
        if day == lot.starts[-1]:
            rest = sum(self.left.pop((lot.name, quota), 0) for quota in range(len(lot.starts)))
            self._fill((day, "expired", lot.name, -1, -1), rest)

    def _take(
        self,
        day: date,
        lot: Held,
        window: int,
        quotas: Iterable[int],
        wanted: int,
        *,
        is_minimum: bool = False,
    ) -> int:
        taken = 0
        for quota in quotas:
            part = min(wanted - taken, self.left[lot.name, quota])
            if part > 0:
                source = "own" if quota == window else "carried" if quota < window else "borrowed"
                key = (day, "minimum" if is_minimum else source, lot.name, window, quota)
                taken += self._fill(key, part)
                self.left[lot.name, quota] -= part
        if not is_minimum:
            self.given[lot.name, window] += taken
        return taken

    def _fill(self, key: tuple[date, str, str, int, int], quantity: int) -> int:
        if quantity:
            self.fills[key] += quantity
        return quantity


def _quotas(lot: Held, window: int) -> tuple[Sequence[int], ...]:
    """List which quotas each pass takes from; the first, up to the minimum, from all of them."""
    own, carried, borrowed = [window], range(window), range(window + 1, len(lot.starts) - 1)
    return [*own, *carried, *borrowed], own, carried, borrowed


def crossings(
    days: Sequence[Day], limits: dict[date, int | None], catalog: Catalog, product: str
) -> Iterator[tuple[str, int, date]]:
    """List which threshold was crossed when: kind, percent, day.

    The first of the days is the one before those that are looked at.
    """
    thresholds = catalog.thresholds
    tests: dict[str, tuple[tuple[int, ...], Callable[[Day, tuple[int, int, int], int], bool]]] = {
        "limit_reached": (thresholds.limit_reached, lambda day, now, percent: (
            (limit := limits.get(day.on)) is not None and 0 < now[0] and now[0] * 100 >= limit * percent
        )),
        "quota_used": (thresholds.quota_used, lambda day, now, percent: 0 < day.quota * percent <= now[1] * 100),
        "lot_low": (thresholds.lot_low, lambda day, now, percent: now[2] * 100 <= day.bought * percent and day.bought > 0),
    }  # fmt: skip
    del tests["quota_used" if product == "pu" else "lot_low"]
    for kind, (percents, is_reached) in tests.items():
        for percent in percents:
            was = is_reached(days[0], days[0].after, percent)
            for day in days[1:]:
                stays = was and is_reached(day, day.before, percent)
                was = is_reached(day, day.after, percent)
                if was and not stays:
                    yield kind, percent, day.on


def written(
    catalog: Catalog,
    values: Values,
    product: str,
    cycle: tuple[date, date],
    fills: Counter[Any],
    found: Found,
) -> dict[str, Any] | None:
    """Write what a closed cycle says of a product; None if it says nothing."""
    start, ends_on = cycle
    by_day: dict[date, Counter[str]] = defaultdict(Counter)
    for (day, source, *_), quantity in fills.items():
        if start <= day <= ends_on and source in SOURCES:
            by_day[day][source] += quantity
    sums = sum(by_day.values(), Counter[str]())
    kinds: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (name, day, kind), (quantity, messages) in found.counted.items():
        if name == product and kind and messages and start <= day <= ends_on:
            kinds[kind][0] += messages
            kinds[kind][1] += quantity
    if not sums and not kinds:
        return None
    position, amount = 0, Decimal(0)
    is_priced = catalog.ranges_on(product, ends_on) is not None
    for day in sorted(by_day):
        postpaid = by_day[day]["postpaid"]
        position += postpaid if catalog.rules.postpaid_scale == "own" else by_day[day].total()
        ranges = catalog.ranges_on(product, day)
        is_priced = is_priced and ranges is not None
        amount = EXACT.add(
            amount, graduated(ranges or (), above=position - postpaid, up_to=position)
        )
    limit = values.limit_on(catalog, product, ends_on)
    document: dict[str, Any] = {source: quantity_text(sums[source]) for source in SOURCES}
    document["usage"] = quantity_text(sums.total())
    document["postpaid_amount"] = amount_text(amount) if is_priced else None
    document["over_limit"] = quantity_text(0 if limit is None else max(0, sums.total() - limit))
    if product == "pu":
        document["kinds"] = {
            kind: {"messages": str(messages), "pu": quantity_text(quantity)}
            for kind, (messages, quantity) in kinds.items()
        }
    return document
