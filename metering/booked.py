"""Where the books of a product stand on a day, by what is booked.

The windows of its lots move with all that is booked. Less what the days from one on hold, they say
how that day began: nothing has to be poured again to know it, or kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering.accounts import DayPour, PourState, Standing, Tip
from metering.lots import Burn
from metering.periods import ONE_DAY

if TYPE_CHECKING:
    from datetime import date

    from metering.accounts import Account, Fills
    from metering.catalog import Catalog
    from metering.lots import Lot


def state_before(account: Account, product: str, day: date) -> PourState:
    """Find how an open day began, before anything was due on it. Raises DaysMissing."""
    account.need(day)
    books, evening = account.books[product], day - ONE_DAY
    state = PourState(account.cycle_on(evening) if evening >= account.open_from else day)
    if state.cycle_on < account.held_from:
        state.usage, state.included = books.earlier
    for lot in account.lots_of(product):
        if lot.starts_on < day <= lot.expires_on:
            state.burns[lot.lot] = _burn_as_booked(lot, evening)
    for on, pour in books.days.items():
        if on >= day:
            _take_back(state, pour.fills)
        elif on >= state.cycle_on:
            _add_usage(state, pour.fills)
    return state


def tip_as_booked(account: Account, catalog: Catalog, product: str) -> Tip | None:
    """Make the day up to which a product was poured ready to take more usage on top; None where
    there is something to pour first.
    """
    books, today = account.books[product], account.settled_on
    if books.dirty_from is not None or books.poured_through != today or today is None:
        return None
    state = state_before(account, product, today + ONE_DAY)
    lots = [lot for lot in account.lots_of(product) if lot.is_valid(today)]
    burns = [state.burns[lot.lot] for lot in lots]
    cycle_on, after = account.cycle_on(today), standing(state, lots, burns)
    fills = books.days[today].fills if today in books.days else {}
    before = _standing_before(after, fills, has_pool=product == "pu")
    pour = books.days[today] = DayPour(today, cycle_on, fills, before, after, *held_by(lots))
    included = account.allowance_on(catalog, product, today).included
    return Tip(today, pour, state, included, lots, burns)


def evening_before(account: Account, product: str, day: date) -> DayPour:
    """Find how the day before an open one ended."""
    evening = day - ONE_DAY
    state = state_before(account, product, day)
    lots = [lot for lot in account.lots_of(product) if lot.is_valid(evening)]
    ended = standing(state, lots, [state.burns[lot.lot] for lot in lots])
    return DayPour(evening, state.cycle_on, {}, ended, ended, *held_by(lots))


def standing(state: PourState, valid: list[Lot], burns: list[Burn]) -> Standing:
    """Say what thresholds are held against, of a state and the lots that are valid in it."""
    drawn = pool = 0
    for number, lot in enumerate(valid):
        burn = burns[number]
        drawn += burn.drawn
        # Only the pool of PU lots has thresholds.
        if not lot.product.is_windowed:
            pool += burn.pool(lot)
    return Standing(state.usage, drawn, pool)


def held_by(lots: list[Lot]) -> tuple[int, int]:
    """Sum the quotas of some lots, and what they were bought with."""
    return sum([lot.quota for lot in lots]), sum([lot.bought for lot in lots])


def _burn_as_booked(lot: Lot, day: date) -> Burn:
    running = lot.window_of(day)
    window = lot.windows[running]
    drawn = window.own + window.carried + window.borrowed
    return Burn([each.taken for each in lot.windows], running, drawn)


def _take_back(state: PourState, fills: Fills) -> None:
    for key, quantity in fills.items():
        burn = state.burns.get(key.lot)
        if burn is not None and key.source != "expired":
            burn.taken[key.quota] -= quantity
            if key.window == burn.window and key.source != "minimum":
                burn.drawn -= quantity


def _add_usage(state: PourState, fills: Fills) -> None:
    for key, quantity in fills.items():
        if key.source not in ("minimum", "expired"):
            state.usage += quantity
        if key.source == "included":
            state.included += quantity


def _standing_before(after: Standing, fills: Fills, *, has_pool: bool) -> Standing:
    """Take the usage of a day off again; what was due as it began comes before that."""
    usage = drawn = 0
    for key, quantity in fills.items():
        if key.source not in ("minimum", "expired"):
            usage += quantity
            if key.lot:
                drawn += quantity
    return Standing(after.usage - usage, after.drawn - drawn, after.pool + drawn * has_pool)
