"""Go on from books as they were loaded: what is booked says where they stand.

To pour the open days of a product again takes several times as long as to see it from the windows
of its lots, which move with all that is booked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.accounts import UNKNOWN, DayPour, PourState, Standing, Tip
from metering.lots import Burn
from metering.periods import ONE_DAY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from metering.accounts import Account, Books, Fills
    from metering.catalog import Catalog
    from metering.lots import Lot


def base_of(account: Account, product: str) -> PourState:
    """Find where the open days begin: what is booked in all, less what the open days hold."""
    books = account.books[product]
    if books.base is None:
        last_closed = account.open_from - ONE_DAY
        books.base = PourState(account.open_from)
        for lot in account.lots_of(product):
            if lot.starts_on < account.open_from <= lot.expires_on:
                books.base.burns[lot.lot] = _burn_before(books, lot, last_closed)
    return books.base


def tip_as_booked(account: Account, catalog: Catalog, product: str) -> Tip | None:
    """Make the day up to which a product was poured ready to take more usage on top; None where
    there is something to pour first.

    What was reached as that day began was told then, so the evening before may stand as it did.
    """
    books, today = account.books[product], account.settled_on
    if books.dirty_from is not None or books.poured_through != today or today is None:
        return None
    cycle_on = account.cycle_on(today)
    state = PourState(cycle_on)
    lots = [lot for lot in account.lots_of(product) if lot.is_valid(today)]
    for lot in lots:
        state.burns[lot.lot] = _burn_on(lot, today)
    for on, pour in books.days.items():
        if on >= cycle_on:
            add_usage(state, pour)
    burns = list(state.burns.values())
    after = standing(state, lots, burns)
    quota, bought = sum([lot.quota for lot in lots]), sum([lot.bought for lot in lots])
    fills = books.days[today].fills if today in books.days else {}
    before = _standing_before(after, fills, has_pool=not lots or not lots[0].product.is_windowed)
    evening = books.days.get(today - ONE_DAY)
    booked = evening.fills if evening is not None else {}
    books.days[today - ONE_DAY] = DayPour(
        today - ONE_DAY, cycle_on, booked, UNKNOWN, before, quota, bought
    )
    pour = books.days[today] = DayPour(today, cycle_on, fills, before, after, quota, bought)
    included = account.allowance_on(catalog, product, today).included
    return Tip(today, pour, state, included, lots, burns)


def standing(state: PourState, valid: Sequence[Lot], burns: Sequence[Burn]) -> Standing:
    """Say what thresholds are held against, of a state and the lots that are valid in it."""
    drawn = pool = 0
    for lot, burn in zip(valid, burns, strict=True):
        drawn += burn.drawn
        # Only the pool of PU lots has thresholds.
        if not lot.product.is_windowed:
            pool += burn.pool(lot)
    return Standing(state.usage, drawn, pool)


def add_usage(state: PourState, pour: DayPour) -> None:
    """Move what a state has used in its cycle on by a day that is booked."""
    for key, quantity in pour.fills.items():
        if key.source not in ("minimum", "expired"):
            state.usage += quantity
        if key.source == "included":
            state.included += quantity


def _burn_on(lot: Lot, day: date) -> Burn:
    running = lot.window_of(day)
    window = lot.windows[running]
    drawn = window.own + window.carried + window.borrowed
    return Burn([each.taken for each in lot.windows], running, drawn)


def _burn_before(books: Books, lot: Lot, last_closed: date) -> Burn:
    burn = _burn_on(lot, last_closed)
    for pour in books.days.values():
        for key, quantity in pour.fills.items():
            if key.lot == lot.lot and key.source != "expired":
                burn.taken[key.quota] -= quantity
                if key.window == burn.window and key.source != "minimum":
                    burn.drawn -= quantity
    return burn


def _standing_before(after: Standing, fills: Fills, *, has_pool: bool) -> Standing:
    """Take the usage of a day off again; what was due as it began comes before that."""
    usage = drawn = 0
    for key, quantity in fills.items():
        if key.source not in ("minimum", "expired"):
            usage += quantity
            if key.lot:
                drawn += quantity
    return Standing(after.usage - usage, after.drawn - drawn, after.pool + drawn * has_pool)
