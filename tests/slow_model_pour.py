"""Pour the usage of one product day by day into what pays for it, from the first day on."""

from __future__ import annotations

import calendar
from dataclasses import dataclass, field
from datetime import date, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = timedelta(days=1)
WINDOWS = 12
SOURCES = ("included", "own", "carried", "borrowed", "postpaid")

# The first goes only up to the minimum. "Within one lot the source of what it gives is always own,
# then carried, then borrowed (pass a included)."
PASSES = (
    (True, ("own", "carried", "borrowed")),
    (False, ("own",)),
    (False, ("carried",)),
    (False, ("borrowed",)),
)

QUOTA_PERCENTS = LIMIT_PERCENTS = (80, 100)
LOW_PERCENTS = (20, 10, 0)

WORKFLOW_RANGES = ((50, "0"), (3_000, "0.10"), (20_000, "0.05"), (None, "0.01"))
PU_PRICE = Fraction("0.001")


def months_after(day: date, months: int) -> date:
    """Count from the start day, clamped to the month's end."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return date(year, month + 1, min(day.day, last))


def amount_of(product: str, quantity: int) -> Fraction | None:
    """Price the first `quantity` thousandths of a product, None where it has no price."""
    if product == "pu":
        return Fraction(quantity, 1000) * PU_PRICE
    if product != "workflow":
        return None
    total, below, units = Fraction(0), 0, Fraction(quantity, 1000)
    for top, price in WORKFLOW_RANGES:
        inside = max(Fraction(0), (units if top is None else min(units, Fraction(top))) - below)
        total += inside * Fraction(price)
        below = top or below
    return total


@dataclass(kw_only=True)
class Filling:
    """What a lot gave so far; all quantities in thousandths."""

    lot: str
    product: str
    quota: int
    starts_on: date
    ends_on: date
    pool: int = 0
    carry: int = 0  # What ended windows left of their own quotas.
    windows: list[dict[str, int]] = field(default_factory=list)
    # Windows start on start + 0..11 months; the thirteenth start is the day after the lot.
    window_starts: list[date] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.window_starts = [months_after(self.starts_on, k) for k in range(WINDOWS + 1)]
        self.pool = self.quota
        if self.product != "pu":
            self.pool = WINDOWS * self.quota
            self.windows = [
                {"own": 0, "carried": 0, "borrowed": 0, "minimum": 0, "lent": 0, "left": self.quota}
                for _ in range(WINDOWS)
            ]

    def burn_order(self) -> tuple[date, date, str]:
        """Spend what ends first, then what starts first, then by lot id."""
        return (self.ends_on, self.starts_on, self.lot)

    def is_valid_on(self, day: date) -> bool:
        """Say whether the lot can pay on that day."""
        return self.starts_on <= day <= self.ends_on

    def window_on(self, day: date) -> int:
        """Return the number of the window that holds the day."""
        return max(k for k in range(WINDOWS) if self.window_starts[k] <= day)

    def given(self, number: int) -> int:
        """Count what a window gave, minimum apart."""
        window = self.windows[number]
        return window["own"] + window["carried"] + window["borrowed"]

    def draw(self, number: int, wanted: int, sources: tuple[str, ...]) -> dict[str, int]:
        """Give up to `wanted` in a window, own before carried before borrowed."""
        # "A lot never gives more than 2 q in one window, nor more than its pool."
        wanted = min(wanted, 2 * self.quota - self.given(number), self.pool)
        taken = self._take(number, wanted, sources)
        for source, units in taken.items():
            self.windows[number][source] += units
        return taken

    def deduct_minimum(self, number: int) -> None:
        """End a window: deduct what is missing to 0.5 q, and let the rest be carried."""
        missing = max(0, self.quota // 2 - self.given(number))
        taken = self._take(number, missing, ("own", "carried", "borrowed"))
        window = self.windows[number]
        window["minimum"] = sum(taken.values())
        # "What is left of its own quota joins what later windows may carry."
        self.carry += window["left"]
        window["left"] = 0

    def _take(self, number: int, wanted: int, sources: tuple[str, ...]) -> dict[str, int]:
        taken = {}
        if "own" in sources:
            taken["own"] = min(wanted, self.windows[number]["left"])
            self.windows[number]["left"] -= taken["own"]
            wanted -= taken["own"]
        if "carried" in sources:
            taken["carried"] = min(wanted, self.carry)
            self.carry -= taken["carried"]
            wanted -= taken["carried"]
        if "borrowed" in sources:
            taken["borrowed"] = 0
            for later in self.windows[number + 1 :]:  # Nearest first.
                units = min(wanted, later["left"])
                later["left"] -= units
                later["lent"] += units
                taken["borrowed"] += units
                wanted -= units
        self.pool -= sum(taken.values())
        return taken


@dataclass(kw_only=True)
class Poured:
    """The books of one product of one channel: cycles, lots and what was crossed on the way."""

    cycles: dict[date, dict[str, Any]] = field(default_factory=dict)
    fillings: dict[str, Filling] = field(default_factory=dict)
    crossings: list[Crossing] = field(default_factory=list)


@dataclass(kw_only=True)
class Crossing:
    """Something to tell, once: a notice of the same key within its span has told it already."""

    key: tuple[Any, ...]  # Kind and product, then what tells one from another.
    on: date
    detail: dict[str, Any]
    reached_from: date = date.min
    armed_on: date = date.max  # The first day after the span.


@dataclass(kw_only=True)
class Pour:
    """What is poured: the usage of each day and all that decides who pays for it."""

    product: str
    usage: dict[date, int]
    fillings: list[Filling]
    cycle_of: Callable[[date], date]
    included_on: Callable[[date], int | None]  # None is without end.
    limit_on: Callable[[date], int | None]
    changes: set[date]  # Days on which a cycle, plan or limit begins.
    today: date

    def pour(self) -> Poured:
        """Go through all days on which anything can happen, up to today."""
        self.fillings.sort(key=Filling.burn_order)
        poured = Poured(fillings={filling.lot: filling for filling in self.fillings})
        thresholds = Thresholds(self, poured)
        for day in sorted(day for day in self._days() if day <= self.today):
            self._end_windows(day)
            cycle = self.cycle_of(day)
            totals = poured.cycles.setdefault(cycle, _empty_totals())
            valid = [filling for filling in self.fillings if filling.is_valid_on(day)]
            thresholds.begin(day, totals, valid)
            self._pour_day(day, totals, valid)
            thresholds.end(day, cycle, totals, valid)
        return poured

    def _days(self) -> set[date]:
        days = set(self.usage) | self.changes
        for filling in self.fillings:
            days |= set(filling.window_starts)
        return days

    def _end_windows(self, day: date) -> None:
        """Book the minimums of windows that ended the day before, then expiry."""
        for filling in self.fillings:
            for number in range(len(filling.windows)):
                if filling.window_starts[number + 1] == day:
                    filling.deduct_minimum(number)
            if filling.ends_on + DAY == day:
                filling.pool = 0

    def _pour_day(self, day: date, totals: dict[str, Any], valid: list[Filling]) -> None:
        usage = self.usage.get(day, 0)
        gone = dict.fromkeys(SOURCES, 0)
        rest = usage
        # 1. "What the plan on that day includes in the cycle, less what the cycle already took."
        included = self.included_on(day)
        room = rest if included is None else max(0, included - totals["included"])
        gone["included"] = min(rest, room)
        rest -= gone["included"]

        # 2. "Every lot valid that day, in burn order, in four passes."
        if self.product == "pu":
            for filling in valid:
                units = min(rest, filling.pool)
                filling.pool -= units
                gone["own"] += units
                rest -= units
        else:
            for is_first_pass, sources in PASSES:
                for filling in valid:
                    number = filling.window_on(day)
                    wanted = rest
                    if is_first_pass:
                        # a. "Up to its minimum 0.5 q drawn in the running window."
                        missing = max(0, filling.quota // 2 - filling.given(number))
                        wanted = min(rest, missing)
                    for source, units in filling.draw(number, wanted, sources).items():
                        gone[source] += units
                        rest -= units

        # 3. "Postpaid, without end."
        gone["postpaid"] = rest
        assert sum(gone.values()) == usage

        totals["usage"] += usage
        for source, units in gone.items():
            totals[source] += units
        # "Within a cycle a unit's position is that of its day, within a day postpaid units are the
        # last."
        last = amount_of(self.product, totals["usage"]) if rest else None
        if last is not None:
            totals["amount"] += last - (amount_of(self.product, totals["usage"] - rest) or 0)


class Thresholds:
    """Watch one pour, and note each day on which a threshold is reached that was not before."""

    def __init__(self, pour: Pour, poured: Poured) -> None:
        self._pour = pour
        self._crossings = poured.crossings
        self._reached: dict[tuple[str, int], Crossing] = {}
        self._noted: set[tuple[Any, ...]] = set()

    def begin(self, day: date, totals: dict[str, Any], valid: list[Filling]) -> None:
        """Arm again what is not reached at the beginning of a day."""
        for threshold, is_reached in self._levels(day, totals, valid).items():
            if not is_reached and threshold in self._reached:
                self._reached.pop(threshold).armed_on = day

    def end(self, day: date, cycle: date, totals: dict[str, Any], valid: list[Filling]) -> None:
        """Note what is reached at the end of a day, or so far today."""
        product = self._pour.product
        for threshold, is_reached in self._levels(day, totals, valid).items():
            if is_reached and threshold not in self._reached:
                kind, percent = threshold
                detail: dict[str, Any] = {"percent": percent}
                if kind == "limit_reached":
                    detail["limit"] = decimal_text(self._pour.limit_on(day))
                key = (kind, product, percent)
                crossing = Crossing(key=key, on=day, detail=detail, reached_from=day)
                self._reached[threshold] = crossing
                self._crossings.append(crossing)
        for filling in valid if product != "pu" else []:
            number = filling.window_on(day)
            if filling.windows[number]["borrowed"]:
                start = filling.window_starts[number]
                detail = {"lot": filling.lot, "window": start.isoformat()}
                self._note_once(("borrowing", product, filling.lot, start), day, detail)
        if totals["postpaid"]:
            self._note_once(("postpaid", product, cycle), day, {})

    def _note_once(self, key: tuple[Any, ...], day: date, detail: dict[str, Any]) -> None:
        if key not in self._noted:
            self._noted.add(key)
            # "`borrowing` once a window, `postpaid` once a cycle, whatever is voided in between."
            self._crossings.append(Crossing(key=key, on=day, detail=detail))

    def _levels(
        self, day: date, totals: dict[str, Any], valid: list[Filling]
    ) -> dict[tuple[str, int], bool]:
        levels = {}
        limit, used = self._pour.limit_on(day), totals["usage"]
        for percent in LIMIT_PERCENTS:
            levels["limit_reached", percent] = (
                # "A limit of 0 is reached with the first unit."
                limit is not None and used > 0 and used * 100 >= percent * limit
            )
        bought = sum(filling.quota for filling in valid)
        if self._pour.product == "pu":
            left = sum(filling.pool for filling in valid)
            for percent in LOW_PERCENTS:
                levels["lot_low", percent] = bool(valid) and left * 100 <= percent * bought
        else:
            drawn = sum(filling.given(filling.window_on(day)) for filling in valid)
            for percent in QUOTA_PERCENTS:
                levels["quota_used", percent] = bool(valid) and drawn * 100 >= percent * bought
        return levels


def decimal_text(thousandths: int | None) -> str:
    """Write a quantity as a decimal without trailing zeros."""
    whole, rest = divmod(thousandths or 0, 1000)
    return f"{whole}.{rest:03}".rstrip("0").rstrip(".")


def money_text(amount: Fraction | None) -> str | None:
    """Round half up to the cent, once, when an amount is shown."""
    if amount is None:
        return None
    cents = (amount * 100 + Fraction(1, 2)).__floor__()
    return f"{cents // 100}.{cents % 100:02}"


def _empty_totals() -> dict[str, Any]:
    return {"usage": 0, **dict.fromkeys(SOURCES, 0), "amount": Fraction(0)}
