"""What a quantity costs: graduated unit prices, purchases with their discount."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from metering.periods import MONTHS_OF_A_LOT
from metering.quantities import EXACT, THOUSAND

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from metering.catalog import Catalog, Product, Range

_HUNDRED = Decimal(100)


@dataclass(frozen=True, slots=True)
class PricedRange:
    """The part of a quantity that falls in one range."""

    above: int  # The range holds the quantities above this one …
    up_to: int | None  # … up to this one.
    each: Decimal
    quantity: int
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Quote:
    """The price of a purchase, exact; None where the product has no price."""

    ranges: tuple[PricedRange, ...]
    month: Decimal | None  # Before the discount; None for PU, which know no months.
    discount_percent: Decimal
    total: Decimal | None  # A year, or all of the PU, after the discount.


def by_range(ranges: Sequence[Range], *, above: int, up_to: int) -> tuple[PricedRange, ...]:
    """Price the quantities from one position to another, range by range."""
    priced, floor = [], 0
    for price in ranges:
        ceiling = up_to if price.up_to is None else min(up_to, price.up_to)
        quantity = ceiling - max(above, floor)
        if quantity > 0:
            amount = EXACT.divide(EXACT.multiply(quantity, price.each), THOUSAND)
            priced.append(PricedRange(floor, price.up_to, price.each, quantity, amount))
        if price.up_to is None:
            break
        floor = price.up_to
    return tuple(priced)


def graduated(ranges: Sequence[Range], *, above: int, up_to: int) -> Decimal:
    """Sum the price of the quantities from one position to another."""
    total = Decimal(0)
    for priced in by_range(ranges, above=above, up_to=up_to):
        total = EXACT.add(total, priced.amount)
    return total


def quote(catalog: Catalog, product: Product, quantity: int, *, on: date) -> Quote:
    """Price a purchase alone, from the first range, as of a day."""
    discount = catalog.discounts[product.name]
    ranges = catalog.ranges_on(product.name, on)
    if ranges is None:
        return Quote((), None, discount, None)
    priced = by_range(ranges, above=0, up_to=quantity)
    gross = graduated(ranges, above=0, up_to=quantity)
    is_monthly = product.name != "pu"
    net = EXACT.divide(EXACT.multiply(gross, _HUNDRED - discount), _HUNDRED)
    total = EXACT.multiply(net, MONTHS_OF_A_LOT) if is_monthly else net
    return Quote(priced, gross if is_monthly else None, discount, total)
