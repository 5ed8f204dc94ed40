"""Tallies are poured into buckets: target books; target − booked = entries.

The law: what is booked is a function of the tallies, the lots and the values of the account, and of
the day. It does not matter in which steps the books came there.
"""

from __future__ import annotations

from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from metering.accounts import DayPour, FillKey, Fills, PourState, Tip
from metering.booked import held_by, standing, state_before
from metering.lots import Burn
from metering.periods import ONE_DAY
from metering.tallies import Readings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from metering.accounts import Account, Books
    from metering.catalog import Catalog
    from metering.lots import Lot


_INCLUDED: Final = FillKey("included")
_POSTPAID: Final = FillKey("postpaid")


class Entry(NamedTuple):
    """One immutable line of the ledger: this much more (or less) was poured there."""

    product: str
    on: date
    fill: FillKey
    quantity: int
    original_on: date | None  # The day of the use, where it is late.


def settle(
    account: Account,
    catalog: Catalog,
    product: str,
    *,
    today: date,
    original_on: date | None = None,
) -> list[Entry]:
    """Bring the books of a product up to a day, and say what must be entered for it."""
    books = account.books_of(product)
    if books.dirty_from is None and books.poured_through == today:
        return _pour_on_top(books, product, original_on) if books.growth else []
    after, tip = _starting_point(account, product)
    state = tip.state if tip is not None else state_before(account, product, after)
    days = days_to_pour(account, books, product, after=after, today=today)
    usage = usage_of(account, books, today)
    fixed_days = account.fixed_days(product, today)
    lots = account.open_lots_of(product)
    if tip is None:
        books.look_from(after)

    poured: list[DayPour] = []
    for day in days:
        if tip is None or day in fixed_days:
            books.look_from(day)
            included = account.allowance_on(catalog, product, day).included
            cycle_on = account.cycle_on(day)
            tip = pour_day(state, day, cycle_on, usage.get(day, 0), included, lots)
        else:
            tip = _pour_next_day(books, tip, day, usage[day])
        poured.append(tip.pour)
    books.tip, books.growth = tip, 0

    booked = {on: books.days.pop(on) for on in [on for on in books.days if on >= after]}
    books.days.update((pour.on, pour) for pour in poured)
    entries = list(_differences(product, poured, booked, original_on=original_on))
    books.dirty_from = None
    books.poured_through = today
    return entries


def _pour_on_top(books: Books, product: str, original_on: date | None) -> list[Entry]:
    """Pour more usage of the newest day on top of what it has: pouring all of it again would fill
    the same buckets in the same order.

    Nearly all usage comes this way, at a tenth of the cost.
    """
    tip, grown, fills = books.tip, books.growth, Fills()
    assert tip is not None
    pour = tip.pour
    _pour_usage(tip.state, grown, tip.included, tip.lots, tip.burns, fills)
    books.growth = 0
    _look_if_needed(books, tip, tip.on, grown, fills)

    # In the order of pouring: notices are issued in it.
    for key, quantity in fills.items():
        pour.fills[key] = pour.fills.get(key, 0) + quantity
    pour.after = standing(tip.state, tip.lots, tip.burns)
    return [Entry(product, tip.on, key, fills[key], original_on) for key in sorted(fills)]


def _pour_next_day(books: Books, tip: Tip, day: date, usage: int) -> Tip:
    """Pour a day that begins as the one before it ended: no cycle, window or lot begins or ends,
    and no value was set.

    Most days are of this kind, at a third of the cost.
    """
    fills: Fills = {}
    _pour_usage(tip.state, usage, tip.included, tip.lots, tip.burns, fills)
    _look_if_needed(books, tip, day, usage, fills)
    last, after = tip.pour, standing(tip.state, tip.lots, tip.burns)
    pour = DayPour(day, last.cycle_on, fills, last.after, after, last.quota, last.bought)
    return Tip(day, pour, tip.state, tip.included, tip.lots, tip.burns)


def _look_if_needed(books: Books, tip: Tip, day: date, grown: int, fills: Fills) -> None:
    """Have thresholds looked at where more usage reaches one, or is the first of its kind."""
    books.quiet -= grown
    if books.quiet < 0 or any(
        key.source in ("borrowed", "postpaid") and key not in tip.pour.fills for key in fills
    ):
        books.look_from(day)


def book(account: Account, entries: Iterable[Entry]) -> None:
    """Move the days and the lots on by what is entered in the ledger."""
    for entry in entries:
        if entry.on not in account.unsaved.days:
            account.unsaved.days |= {entry.on}
        source, name, window, quota = entry.fill
        if not name:
            continue
        lot = account.lots[name]
        if source == "expired":
            account.unsaved.lots |= {name}
            lot.expired += entry.quantity
            continue
        account.unsaved.windows |= {name}
        giving, lending = lot.window_to_book(window), lot.window_to_book(quota)
        setattr(giving, source, getattr(giving, source) + entry.quantity)
        lending.taken += entry.quantity
        if quota > window:
            lending.lent += entry.quantity
        lot.changed |= {window, quota}


def freeze(account: Account, product: str, *, until: date) -> None:
    """Close all days before a day. What is booked of them stays with the lots."""
    books = account.books[product]
    books.days = {on: pour for on, pour in books.days.items() if on >= until}
    books.tallies.forget_before(until)
    books.usage_cache = None
    if books.tip is not None and books.tip.on < until:
        books.tip = None


def usage_of(account: Account, books: Books, today: date) -> Mapping[date, int]:
    """Sum the usage of each open day up to today."""
    if not isinstance(books.tallies, Readings):
        return books.tallies.totals
    starts = tuple(account.cycle_starts(today))
    key = (starts, today)
    if books.usage_cache is None or books.usage_cache[0] != key:
        books.usage_cache = (key, books.tallies.usage(starts, today))
    return books.usage_cache[1]


def days_to_pour(
    account: Account, books: Books, product: str, *, after: date, today: date
) -> list[date]:
    """List the days, from one on, on which anything can happen; nothing changes on the others."""
    days = {*usage_of(account, books, today), *account.fixed_days(product, today)}
    return sorted(day for day in days if after <= day <= today)


def pour_day(
    state: PourState,
    day: date,
    cycle_on: date,
    usage: int,
    included: int | None,
    lots: Sequence[Lot],
) -> Tip:
    """Pour the usage of one day, after what is due as the day begins; moves the state on."""
    fills: Fills = {}
    if cycle_on != state.cycle_on:
        state.cycle_on, state.usage, state.included = cycle_on, 0, 0
    for lot in lots:
        _end_windows(state, lot, day, fills)
    valid = [lot for lot in lots if lot.is_valid(day)]
    burns = [_burn_of(state, lot) for lot in valid]
    before = standing(state, valid, burns)

    _pour_usage(state, usage, included, valid, burns, fills)
    after = standing(state, valid, burns)
    pour = DayPour(day, cycle_on, fills, before, after, *held_by(valid))
    return Tip(day, pour, state, included, valid, burns)


def _pour_usage(
    state: PourState,
    usage: int,
    included: int | None,
    lots: list[Lot],
    burns: list[Burn],
    fills: Fills,
) -> None:
    deducted = sum(fills.values())
    unpaid = usage - _pour_included(state, usage, included, fills)
    if len(lots) == 1:
        # One alone gives in this order, too, if it is asked for all at once.
        unpaid -= _draw(lots[0], burns[0], unpaid, fills)
    elif lots:
        for limit in _PASSES:
            if unpaid == 0:
                break
            for number, lot in enumerate(lots):
                burn = burns[number]
                unpaid -= _draw(lot, burn, min(unpaid, limit(lot, burn)), fills)
    if unpaid:
        fills[_POSTPAID] = unpaid
    state.usage += usage
    assert sum(fills.values()) - deducted == usage


def _starting_point(account: Account, product: str) -> tuple[date, Tip | None]:
    """Find the first day that is to be poured, and the newest one if that ended before it."""
    books, tip = account.books[product], account.books[product].tip
    candidates = [] if books.dirty_from is None else [books.dirty_from]
    if books.poured_through is not None:
        candidates.append(books.poured_through + ONE_DAY)
    if tip is not None and books.growth:
        candidates.append(tip.on)
    after = max(min(candidates), account.open_from)
    if tip is not None and tip.on < after:
        # Nothing but days after it: most days come so.
        return tip.on + ONE_DAY, tip
    return after, None


def _burn_of(state: PourState, lot: Lot) -> Burn:
    burn = state.burns.get(lot.lot)
    if burn is None:
        burn = state.burns[lot.lot] = Burn([0] * lot.quotas)
    return burn


def _end_windows(state: PourState, lot: Lot, day: date, fills: Fills) -> None:
    """Take the minimum of windows that ended, and what is left of a lot that expired."""
    burn = state.burns.get(lot.lot)
    if burn is None:
        return
    ended = lot.window_of(day)
    while burn.window < ended:
        _take(lot, burn, lot.minimum - burn.drawn, fills, minimum=True)
        burn.window, burn.drawn = burn.window + 1, 0
    if day >= lot.expires_on:
        if burn.pool(lot):
            fills[FillKey("expired", lot.lot)] = burn.pool(lot)
        del state.burns[lot.lot]


def _pour_included(state: PourState, usage: int, included: int | None, fills: Fills) -> int:
    poured = usage if included is None else min(usage, max(0, included - state.included))
    if poured:
        fills[_INCLUDED] = poured
        state.included += poured
    return poured


def _up_to_minimum(lot: Lot, burn: Burn) -> int:
    return lot.minimum - burn.drawn


def _up_to_own(lot: Lot, burn: Burn) -> int:
    return lot.quota - burn.taken[burn.window]


def _up_to_carried(lot: Lot, burn: Burn) -> int:
    return lot.quota * burn.window - sum(burn.taken[: burn.window])


def _up_to_borrowed(lot: Lot, burn: Burn) -> int:
    return burn.pool(lot)


# All lots give up to the first limit before any gives up to the second.
_PASSES: Final = (_up_to_minimum, _up_to_own, _up_to_carried, _up_to_borrowed)


@cache
def _nearest_first(window: int, quotas: int) -> tuple[int, ...]:
    return (window, *range(quotas))


def _draw(lot: Lot, burn: Burn, wanted: int, fills: Fills) -> int:
    drawn = _take(lot, burn, min(wanted, lot.maximum - burn.drawn), fills)
    burn.drawn += drawn
    return drawn


def _take(lot: Lot, burn: Burn, wanted: int, fills: Fills, *, minimum: bool = False) -> int:
    """Take from own, then carried, then later quotas, nearest first; nothing where less than
    nothing is wanted.
    """
    window, left = burn.window, wanted
    for quota in _nearest_first(window, lot.quotas):
        if left <= 0:
            break
        given = min(left, lot.quota - burn.taken[quota])
        if given > 0:
            source = "carried" if quota < window else "borrowed" if quota > window else "own"
            key = FillKey("minimum" if minimum else source, lot.lot, window, quota)
            fills[key] = fills.get(key, 0) + given
            burn.taken[quota] += given
            left -= given
    return wanted - left


def _differences(
    product: str,
    poured: Sequence[DayPour],
    booked: Mapping[date, DayPour],
    *,
    original_on: date | None,
) -> Iterator[Entry]:
    target = {pour.on: pour.fills for pour in poured}
    for on in sorted({*target, *booked}):
        wanted, had = target.get(on, {}), booked[on].fills if on in booked else {}
        for key in sorted({*had, *wanted}):
            difference = wanted.get(key, 0) - had.get(key, 0)
            if difference:
                yield Entry(product, on, key, difference, original_on)
