"""What the books of a channel must be: counted again from its events, day by day, the slow way.

Nothing here is shared with what keeps the books, so that no mistake can hide another.
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
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date

    from metering.catalog import Catalog

# How the records of events are written.
VOID, APPLIED, PARKED, VOIDED = 0, 0, 1, 2
PRODUCT_NAMES = dict(enumerate(PRODUCTS, start=1))
# Types of those whose content can be digested again: they hold nothing but a number.
CONTENTS = {"mu": "mu.counted", "workflow": "workflow.executed", "marketing": "marketing.sent"}

SOURCES = ("included", "own", "carried", "borrowed", "postpaid")

Who = tuple[str, bytes]  # A product, and the person who holds a seat.
Report = tuple[int, int]  # Instant and level.


def digest_again(*parts: object) -> bytes:
    """Digest what a record says, as it was digested when it was read."""
    text = "\0".join("" if part is None else str(part) for part in parts)
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


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
        self._plans: dict[tuple[date, int | None], str] = {}

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
        if (day, before) not in self._plans:
            plan = str(self.on("plan", day, before=before))
            ends_on = self.on("trial_ends_on", day, before=before)
            is_over = plan == "trial" and ends_on is not None and ends_on <= day.isoformat()
            self._plans[day, before] = "free" if is_over else plan
        return self._plans[day, before]

    def limit_on(self, catalog: Catalog, product: str, day: date) -> int | None:
        """Find the lower of the limits of a day."""
        own = self.on("limit", day, product)
        system = catalog.allowance(self.plan_on(day), product).limit
        limits = (system, None if own is None else quantity_of(own))
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
    peaks: dict[Who, Counter[date]] = field(default_factory=dict)
    # The latest report of a day; where its cycle had closed, by the day on which it counts.
    reports: dict[Who, dict[tuple[date, date | None], Report]] = field(default_factory=dict)
    # Of late uses: product, own day and the day on which they count.
    late: set[tuple[str, date, date]] = field(default_factory=set)
    strange: list[str] = field(default_factory=list)

    def take(self, row: Mapping[str, Any], zone: str, start: date) -> None:
        """Take in the record of an event, if it counts on a day from a start on."""
        at, late_on, state = row["at"], row["counts_on"], row["state"]
        on, product = day_of(at, zone), PRODUCT_NAMES.get(row["product"], "")
        counts_on = late_on or on
        if not _is_sound(row, product, on):
            self.strange.append(
                f"{product} on {on}: event {row['digest'].hex()} of {row['quantity']} in month "
                f"{row['month']}, counted on {counts_on}, is not what was read"
            )
        if state == PARKED or not product or counts_on < start:
            return
        if late_on is not None:
            self.late.add((product, on, late_on))
        if PRODUCTS[product].adds_up in ("count", "cost"):
            total = self.counted.setdefault((product, counts_on, row["kind"] or ""), [0, 0])
            if state == APPLIED:
                total[0] += row["quantity"]
                total[1] += row["messages"]
            return
        who, level = (product, row["person"] or b""), row["quantity"] // THOUSAND
        peaks, latest = self.peaks.setdefault(who, Counter()), self.reports.setdefault(who, {})
        peaks[counts_on] = max(peaks[counts_on], level)
        latest[on, late_on] = max(latest.get((on, late_on), (at, level)), (at, level))

    def products(self) -> set[str]:
        """Name the products that were used."""
        return {key[0] for key in self.counted} | {who[0] for who in self.reports}

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
        """Find the latest report of days before one, of each person."""
        levels = {}
        for (product, person), latest in self.reports.items():
            earlier = [report for (on, _), report in latest.items() if on < day]
            if earlier:
                levels[product, person.hex()] = max(earlier)
        return levels

    def level_before(self, who: Who, day: date, base: Report, *, by: date | None = None) -> Report:
        """Find the level in force as a day begins, as it is known now, or was by a cycle."""
        known = [base]
        for (on, late_on), report in self.reports.get(who, {}).items():
            # What came after a cycle had closed was unknown to it.
            if on < day and (by is None or late_on is None or late_on <= by):
                known.append(report)
        return max(known)

    def usage(
        self, product: str, starts: Sequence[date], base: Mapping[Who, Report]
    ) -> dict[date, int]:
        """Sum the usage of each day of some cycles, from the levels in force before them."""
        usage: dict[date, int] = defaultdict(int)
        for (name, day, _), (quantity, _) in self.counted.items():
            if name == product:
                usage[day] += quantity
        for who in {*self.reports, *base}:
            for start, following in pairwise(starts if who[0] == product else ()):
                highest = self.level_before(who, start, base.get(who, (0, 0)), by=start)[1]
                usage[start] += quantity_of(highest)
                for day, peak in sorted(self.peaks.get(who, {}).items()):
                    if start <= day < following and peak > highest:
                        usage[day] += quantity_of(peak - highest)
                        highest = peak
        return usage


def _is_sound(row: Mapping[str, Any], product: str, on: date) -> bool:
    """Say whether the record of an event can be what was read."""
    utc_on, waits = day_of(row["at"], "UTC"), row["state"] == PARKED
    adds_up = PRODUCTS[product].adds_up if product else "void"
    if product in CONTENTS and not waits:
        again = digest_again(CONTENTS[product], row["quantity"] // THOUSAND)
        if row["content"] != again or row["quantity"] % THOUSAND:
            return False
    return (
        (bool(product) or row["product"] == VOID)
        and row["state"] in (APPLIED, PARKED, VOIDED)
        and row["month"] == utc_on.year * 12 + utc_on.month - 1
        and (row["counts_on"] is None or row["counts_on"] > on)
        and (row["person"] is not None) == (adds_up in ("distinct", "void"))
        and (waits or (row["kind"] is not None) == (adds_up == "cost"))
        and (row["messages"] == 0 or adds_up == "cost")
    )


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

    def quotas(self, window: int) -> tuple[Sequence[int], ...]:
        """List whose quotas each pass takes: up to the minimum all, then own, carried, borrowed."""
        own, carried, borrowed = [window], range(window), range(window + 1, len(self.starts) - 1)
        return [*own, *carried, *borrowed], own, carried, borrowed


class Standing(NamedTuple):
    """Usage of the cycle, draws of the running windows, and what the lots still hold."""

    usage: int
    drawn: int
    pool: int


class Day(NamedTuple):
    """How things stood as a day began and as it ended."""

    on: date
    before: Standing
    after: Standing
    quota: int
    bought: int


class Pour:
    """Usage of one product poured into its sources, day by day."""

    def __init__(
        self, start: date, lots: Iterable[Held], left: Counter[Any], given: Counter[Any]
    ) -> None:
        # What ends first burns first, then what starts first.
        self.lots = sorted(lots, key=lambda lot: (lot.starts[-1], lot.starts[0], lot.name))
        self.left = left  # By lot and number of the quota.
        self.given = given  # By lot and window: what usage drew.
        self.fills: Counter[tuple[date, str, str, int, int]] = Counter()
        self._usage = self._included = 0
        self.days = [self._day(start - ONE_DAY, Standing(0, 0, 0))]

    def pour(self, day: date, usage: int, included: int | None, *, is_first: bool) -> None:
        """Let happen what is due as a day begins, the first of a cycle or not; pour its usage."""
        if is_first:
            self._usage = self._included = 0
        for lot in self.lots:
            self._end(lot, day)
        valid = [lot for lot in self.lots if lot.is_valid(day)]
        before, unpaid = self._stand(day), usage
        free = unpaid if included is None else max(0, included - self._included)
        unpaid -= self._fill(day, "included", min(unpaid, free))
        self._included += usage - unpaid
        for number in range(4):
            for lot in valid:
                running = lot.window_on(day)
                limit = (lot.least if number == 0 else lot.most) - self.given[lot.name, running]
                wanted, quotas = min(unpaid, limit), lot.quotas(running)[number]
                taken = self._take(day, lot, running, quotas, wanted)
                self.given[lot.name, running] += taken
                unpaid -= taken
        self._fill(day, "postpaid", unpaid)
        self._usage += usage
        self.days.append(self._day(day, before))

    def _end(self, lot: Held, day: date) -> None:
        if day in lot.starts[1:]:
            ended = lot.window_on(day - ONE_DAY)
            missing = lot.least - self.given[lot.name, ended]
            self._take(day, lot, ended, lot.quotas(ended)[0], missing, source="minimum")
        if day == lot.starts[-1]:
            rest = sum(self.left.pop((lot.name, quota), 0) for quota in range(len(lot.starts)))
            self._fill(day, "expired", rest, lot.name)

    def _take(
        self,
        day: date,
        lot: Held,
        window: int,
        quotas: Iterable[int],
        wanted: int,
        *,
        source: str = "",
    ) -> int:
        taken = 0
        for quota in quotas:
            part = min(wanted - taken, self.left[lot.name, quota])
            if part > 0:
                drawn = "own" if quota == window else "carried" if quota < window else "borrowed"
                taken += self._fill(day, source or drawn, part, lot.name, window, quota)
                self.left[lot.name, quota] -= part
        return taken

    def _fill(
        self,
        day: date,
        source: str,
        quantity: int,
        lot: str = "",
        window: int = -1,
        quota: int = -1,
    ) -> int:
        if quantity:
            self.fills[day, source, lot, window, quota] += quantity
        return quantity

    def _stand(self, day: date) -> Standing:
        valid = [lot for lot in self.lots if lot.is_valid(day)]
        drawn = sum(self.given[lot.name, lot.window_on(day)] for lot in valid)
        pool = sum(self.left[lot.name, quota] for lot in valid for quota in range(len(lot.starts)))
        return Standing(self._usage, drawn, pool)

    def _day(self, day: date, before: Standing) -> Day:
        valid = [lot for lot in self.lots if lot.is_valid(day)]
        bought = sum(lot.quota * (len(lot.starts) - 1) for lot in valid)
        return Day(day, before, self._stand(day), sum(lot.quota for lot in valid), bought)


def crossings(
    days: Sequence[Day], limits: Mapping[date, int | None], catalog: Catalog, product: str
) -> Iterator[tuple[str, int, date]]:
    """List which threshold was crossed when: kind, percent, day. The first day is past."""
    thresholds = catalog.thresholds

    def is_over(day: Day, now: Standing, kind: str, percent: int) -> bool:
        if kind == "lot_low":
            return day.bought > 0 and now.pool * 100 <= day.bought * percent
        if kind == "quota_used":
            return 0 < day.quota * percent <= now.drawn * 100
        limit = limits.get(day.on)
        return limit is not None and now.usage * 100 >= max(1, limit * percent)

    lots = (
        ("lot_low", thresholds.lot_low)
        if product == "pu"
        else ("quota_used", thresholds.quota_used)
    )
    for kind, percents in (lots, ("limit_reached", thresholds.limit_reached)):
        for percent in percents:
            was = is_over(days[0], days[0].after, kind, percent)
            for day in days[1:]:
                stays = was and is_over(day, day.before, kind, percent)
                was = is_over(day, day.after, kind, percent)
                if was and not stays:
                    yield kind, percent, day.on


def written(
    catalog: Catalog,
    values: Values,
    product: str,
    cycle: tuple[date, date],
    *,
    fills: Mapping[tuple[date, str, str, int, int], int],
    counted: Mapping[tuple[date, str], Sequence[int]],
) -> dict[str, Any] | None:
    """Write what a closed cycle says of a product; None if it says nothing.

    `fills` and `counted` (quantity and messages, by day and kind) are those of the cycle.
    """
    ends_on = cycle[1]
    by_day: dict[date, Counter[str]] = defaultdict(Counter)
    for (day, source, *_), quantity in fills.items():
        if source in SOURCES:
            by_day[day][source] += quantity
    sums = sum(by_day.values(), Counter[str]())
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, kind), (quantity, messages) in counted.items():
        if kind and messages:
            kinds[kind].update(messages=messages, pu=quantity)
    if not sums and not kinds:
        return None
    position, amount = 0, Decimal(0)
    lists = {day: catalog.ranges_on(product, day) for day in (ends_on, *by_day)}
    for day, sources in sorted(by_day.items()):
        postpaid = sources["postpaid"]
        position += postpaid if catalog.rules.postpaid_scale == "own" else sources.total()
        part = graduated(lists[day] or (), above=position - postpaid, up_to=position)
        amount = EXACT.add(amount, part)
    limit = values.limit_on(catalog, product, ends_on)
    document: dict[str, Any] = {source: quantity_text(sums[source]) for source in SOURCES}
    document["usage"] = quantity_text(sums.total())
    document["postpaid_amount"] = None if None in lists.values() else amount_text(amount)
    document["over_limit"] = quantity_text(0 if limit is None else max(0, sums.total() - limit))
    if product == "pu":
        document["kinds"] = {
            kind: {"messages": str(part["messages"]), "pu": quantity_text(part["pu"])}
            for kind, part in kinds.items()
        }
    return document
