"""What a cycle came to, what a channel has, and what a month of it may take: the books as people
read them.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from copy import copy
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from metering.catalog import PRODUCTS
from metering.lifecycle import planned_day
from metering.periods import ONE_DAY
from metering.prices import graduated
from metering.quantities import EXACT, amount_text, quantity_of, quantity_text
from metering.tallies import Counts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from metering.accounts import Account, DayPour
    from metering.catalog import Catalog
    from metering.lots import Lot

SOURCES = ("included", "own", "carried", "borrowed", "postpaid")

Document = dict[str, Any]


def open_cycles(account: Account, catalog: Catalog, *, today: date) -> list[Document]:
    """Write the cycles that are open, up to the one that holds today."""
    starts = account.cycle_starts(today)
    last = bisect_right(starts, today)
    return [cycle(account, catalog, start, today=today, is_closed=False) for start in starts[:last]]


def cycle(
    account: Account, catalog: Catalog, start: date, *, today: date, is_closed: bool
) -> Document:
    """Write one open cycle, or one that closes now."""
    ends_on = account.cycle_after(start) - ONE_DAY
    products = {
        product: written
        for product in PRODUCTS
        if product in account.books
        and (written := _product(account, catalog, product, start, ends_on, today)) is not None
    }
    return {
        "starts_on": start.isoformat(),
        "ends_on": ends_on.isoformat(),
        "closed": is_closed,
        "products": products,
    }


def _product(
    account: Account, catalog: Catalog, product: str, start: date, ends_on: date, today: date
) -> Document | None:
    books = account.books[product]
    days = [books.days[on] for on in sorted(books.days) if start <= on <= ends_on]
    sums = dict.fromkeys(SOURCES, 0)
    for pour in days:
        for key, quantity in pour.fills.items():
            if key.source in sums:
                sums[key.source] += quantity
    usage = sum(sums.values())
    kinds = (
        _kinds(books.tallies, start, min(ends_on, today))
        if isinstance(books.tallies, Counts)
        else {}
    )
    if not usage and not kinds:
        return None
    limit = account.limit_on(catalog, product, min(ends_on, today))
    amount = postpaid_amount(catalog, product, days, on=ends_on)
    written: Document = {"usage": quantity_text(usage)}
    written.update((source, quantity_text(quantity)) for source, quantity in sums.items())
    written["postpaid_amount"] = None if amount is None else amount_text(amount)
    written["over_limit"] = quantity_text(0 if limit is None else max(0, usage - limit))
    if product == "pu":
        written["kinds"] = kinds
    return written


def _kinds(counts: Counts, start: date, through: date) -> Document:
    sums: dict[str, list[int]] = {}
    for day, kinds in counts.by_day.items():
        if start <= day <= through:
            for kind, part in kinds.items():
                if kind:
                    total = sums.setdefault(kind, [0, 0])
                    total[0] += part.messages
                    total[1] += part.quantity
    return {
        kind: {"messages": str(messages), "pu": quantity_text(quantity)}
        for kind, (messages, quantity) in sorted(sums.items())
        if messages
    }


def postpaid_amount(
    catalog: Catalog, product: str, days: Sequence[DayPour], *, on: date
) -> Decimal | None:
    """Price the postpaid units of the days of a cycle; None where the product has no price.

    Within a cycle a unit's position is that of its day, within a day postpaid units are the last.
    """
    if catalog.ranges_on(product, on) is None:
        return None
    amount, position = Decimal(0), 0
    for pour in days:
        postpaid = sum(quantity for key, quantity in pour.fills.items() if key.source == "postpaid")
        used = sum(quantity for key, quantity in pour.fills.items() if key.source in SOURCES)
        position += postpaid if catalog.rules.postpaid_scale == "own" else used
        ranges = catalog.ranges_on(product, pour.on)
        if ranges is None:
            return None
        if postpaid:
            amount = EXACT.add(amount, graduated(ranges, above=position - postpaid, up_to=position))
    return amount


def lots(account: Account, *, today: date) -> list[Document]:
    """Write the lots of a channel, refunded and expired ones too."""
    return [_lot(account, lot, today) for lot in sorted(account.lots.values(), key=_by_start)]


def lots_of_cycle(account: Account, starts_on: date, ends_on: date) -> list[Document]:
    """Write the lots from which a cycle could draw, as they stood at its end."""
    valid = (
        lot
        for lot in account.lots.values()
        if lot.starts_on <= ends_on and starts_on < lot.expires_on and not lot.is_refunded
    )
    return [
        _lot(account, _as_it_stood(account, lot, ends_on), ends_on)
        for lot in sorted(valid, key=_by_start)
    ]


def _as_it_stood(account: Account, lot: Lot, on: date) -> Lot:
    """Copy a lot without what later days took; the minimum of windows that ended by then is taken.

    What the days after a cycle have taken when it closes depends on what has been read by then.
    """
    expired, windows = lot.expired, [copy(window) for window in lot.windows]
    books = account.books.get(lot.product.name)
    for pour in books.days.values() if books is not None else ():
        for key, quantity in pour.fills.items() if pour.on > on else ():
            if key.lot != lot.lot:
                continue
            if key.source == "expired":
                expired -= quantity
            elif key.source != "minimum" or lot.starts[key.window + 1] - ONE_DAY > on:
                giving, lending = windows[key.window], windows[key.quota]
                setattr(giving, key.source, getattr(giving, key.source) - quantity)
                lending.taken -= quantity
                lending.lent -= quantity if key.quota > key.window else 0
    return replace(lot, expired=expired, windows=windows)


def _by_start(lot: Lot) -> tuple[date, str]:
    return (lot.starts_on, lot.lot)


def _lot(account: Account, lot: Lot, today: date) -> Document:
    state = "refunded" if lot.is_refunded else "expired" if today >= lot.expires_on else "active"
    listed = 0
    if lot.product.is_windowed and not lot.is_refunded and today >= lot.starts_on:
        listed = min(bisect_right(lot.starts, today), lot.quotas)
    return {
        "lot": lot.lot,
        "product": lot.product.name,
        "quantity": quantity_text(lot.quota),
        "starts_on": lot.starts_on.isoformat(),
        "ends_on": lot.ends_on.isoformat(),
        "state": state,
        "renew": bool(account.value_on("renew", max(today, lot.starts_on), lot.lot)),
        "pool": quantity_text(lot.pool),
        "month_price": None if lot.month_price is None else amount_text(lot.month_price),
        "price": None if lot.price is None else amount_text(lot.price),
        "windows": [
            {
                "starts_on": lot.starts[number].isoformat(),
                "own": quantity_text(window.own),
                "carried": quantity_text(window.carried),
                "borrowed": quantity_text(window.borrowed),
                "minimum": quantity_text(window.minimum),
                "lent": quantity_text(window.lent),
            }
            for number, window in enumerate(lot.windows[:listed])
        ],
    }


def reservations(account: Account, *, today: date) -> list[Document]:
    """Write the reservations that wait; those that nobody can say a day for come last."""
    written = []
    for reservation in account.reservations.values():
        if reservation.state != "waiting":
            continue
        executes_on = planned_day(account, reservation, today)
        known_on = max(today, reservation.made_on)
        quantity = account.value_on("quantity", known_on, reservation.lot)
        assert isinstance(quantity, int)
        written.append(
            {
                "lot": reservation.lot,
                "product": reservation.product,
                "quantity": quantity_text(quantity_of(quantity)),
                "executes_on": None if executes_on is None else executes_on.isoformat(),
                "renew": bool(account.value_on("renew", known_on, reservation.lot)),
            }
        )
    return sorted(written, key=lambda document: (document["executes_on"] or "~", document["lot"]))


def ranges(account: Account) -> list[Document]:
    """Write the periods of each windowed product with what one month of them may take."""
    written = []
    for product in PRODUCTS.values():
        held = [lot for lot in account.lots_of(product.name) if product.is_windowed]
        bounds = sorted({day for lot in held for day in (lot.starts_on, lot.expires_on)})
        for begins_on, following in itertools.pairwise(bounds):
            valid = [lot for lot in held if lot.is_valid(begins_on)]
            if valid:
                written.append(
                    {
                        "product": product.name,
                        "from": begins_on.isoformat(),
                        "to": (following - ONE_DAY).isoformat(),
                        "monthly": quantity_text(sum(lot.quota for lot in valid)),
                        "minimum": quantity_text(sum(lot.minimum for lot in valid)),
                        "maximum": quantity_text(sum(lot.maximum for lot in valid)),
                    }
                )
    return written
