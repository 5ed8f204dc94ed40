"""The months of a channel side by side: what each took from where, what it might take, what was
left.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from metering.catalog import PRODUCTS
from metering.periods import MONTHS_OF_A_LOT, ONE_DAY, add_months, window_starts
from metering.quantities import THOUSAND

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Document = dict[str, Any]

# What a month is made of, in the order in which it is stacked.
PARTS = ("own", "carried", "borrowed", "minimum", "postpaid")


class Fill(NamedTuple):
    """What is booked of one day: a quantity, and where it came from."""

    product: str
    on: date
    source: str
    lot: str
    window: int
    quantity: int


@dataclass(slots=True)
class Month:
    """One cycle of one product. Quantities."""

    starts_on: date
    ends_on: date
    is_closed: bool
    included: int = 0
    parts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    # Of the lots that are valid together in it; None where no lot has months.
    quota: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    pool: int | None = None  # What all lots hold at its end, or now; None before the first lot.
    is_askew: bool = False  # Months of its lots begin on other days.
    amount: str | None = None  # Of what is postpaid, in dollars; None where there is no price.

    @property
    def is_empty(self) -> bool:
        """Say whether nothing was used, and nothing was there to be used."""
        return not (self.included or any(self.parts.values()) or self.pool)


@dataclass(slots=True)
class Held:
    """A lot, as far as its months go."""

    quota: int
    starts_on: date
    expires_on: date
    is_windowed: bool

    @property
    def bought(self) -> int:
        """All it held when it was new."""
        return self.quota * (MONTHS_OF_A_LOT if self.is_windowed else 1)


def months_of(document: Document, fills: Iterable[Fill]) -> dict[str, list[Month]]:
    """Lay the cycles of a channel side by side, for each product that has anything to show.

    A draw belongs to the cycle of its day; a minimum to the cycle in which its window ended, and
    what expired to the cycle of the lot's last day, as both are booked on the day after.
    """
    starts = [date.fromisoformat(cycle["starts_on"]) for cycle in document["cycles"]]
    lots = _lots_of(document)
    months = {
        product: [_month_of(cycle, product) for cycle in document["cycles"]]
        for product in PRODUCTS
        if PRODUCTS[product].is_metered
    }
    gone = {product: [0] * len(starts) for product in months}
    shows = {product for product, held in lots.items() if held and product in months}
    for fill in fills:
        shows.add(fill.product)
        on = fill.on
        if fill.source == "minimum":
            starts_on = lots[fill.product][fill.lot].starts_on
            on = add_months(starts_on, fill.window + 1) - ONE_DAY
        elif fill.source == "expired":
            on -= ONE_DAY
        place = max(0, bisect_right(starts, on) - 1)
        month = months[fill.product][place]
        if fill.source == "included":
            month.included += fill.quantity
        elif fill.source != "expired":
            month.parts[fill.source] += fill.quantity
        if fill.lot:
            gone[fill.product][place] += fill.quantity
    for product in shows:
        _draw_lines(months[product], list(lots.get(product, {}).values()), gone[product])
    return {product: found for product, found in months.items() if product in shows}


def _lots_of(document: Document) -> dict[str, dict[str, Held]]:
    lots: dict[str, dict[str, Held]] = {}
    for lot in document["lots"]:
        if lot["state"] != "refunded":
            starts_on = date.fromisoformat(lot["starts_on"])
            lots.setdefault(lot["product"], {})[lot["lot"]] = Held(
                int(Decimal(lot["quantity"]) * THOUSAND),
                starts_on,
                add_months(starts_on, MONTHS_OF_A_LOT),
                PRODUCTS[lot["product"]].is_windowed,
            )
    return lots


def _month_of(cycle: Document, product: str) -> Month:
    sums = cycle["products"].get(product)
    return Month(
        date.fromisoformat(cycle["starts_on"]),
        date.fromisoformat(cycle["ends_on"]),
        cycle["closed"],
        amount=None if sums is None else sums["postpaid_amount"],
    )


def _draw_lines(months: Sequence[Month], lots: Sequence[Held], gone: Sequence[int]) -> None:
    """Say of each month what its lots might give, and what they held when it ended."""
    taken = 0
    for month, deducted in zip(months, gone, strict=True):
        taken += deducted
        known = [lot for lot in lots if lot.starts_on <= month.ends_on]
        if known:
            month.pool = sum(lot.bought for lot in known) - taken
        windowed = [lot for lot in known if lot.is_windowed]
        days = {max(lot.starts_on, month.starts_on) for lot in windowed}
        together = (
            [lot for lot in windowed if lot.starts_on <= day < lot.expires_on] for day in days
        )
        valid = max(together, key=lambda held: sum(lot.quota for lot in held), default=[])
        if valid:
            month.quota = sum(lot.quota for lot in valid)
            month.minimum = sum(lot.quota // 2 for lot in valid)
            month.maximum = month.quota * 2
            month.is_askew = any(
                month.starts_on not in window_starts(lot.starts_on)
                for lot in windowed
                if month.starts_on < lot.expires_on
            )
