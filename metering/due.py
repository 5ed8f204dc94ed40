"""When something happens to a channel next that nobody asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metering import lifecycle
from metering.periods import first_instant
from metering.tallies import Counts, Readings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from metering.accounts import Account
    from metering.catalog import Catalog


def due_at(account: Account, catalog: Catalog) -> int | None:
    """Say at which instant something happens to a channel that nobody asks for; closing apart."""
    today = account.settled_on
    assert today is not None
    if account.is_due_known:
        # More usage up to today can only bring levels that carry over into the next cycle.
        on = account.cycle_after(today)
        following = first_instant(on, account.time_zone)
        if account.due_at is not None and account.due_at <= following:
            return account.due_at
        return following if _is_level_in_force(account, on) else account.due_at
    account.is_due_known = True
    days = [day for day in _days_ahead(account, catalog, today) if day > today]
    return first_instant(min(days), account.time_zone) if days else None


def _days_ahead(account: Account, catalog: Catalog, today: date) -> Iterator[date]:
    act_on = lifecycle.next_act_on(account, catalog, today)
    if act_on is not None:
        yield act_on
    following = account.cycle_after(today)
    if _is_level_in_force(account, following):
        yield following
    for books in account.books.values():
        tallies = books.tallies
        yield from tallies.by_day if isinstance(tallies, Counts) else tallies.days
    for lot in account.lots.values():
        if lot.product.is_windowed and not lot.is_refunded:
            yield from lot.starts
    for settings in account.values.values():
        yield from (setting.on for setting in settings)


def _is_level_in_force(account: Account, on: date) -> bool:
    return any(
        isinstance(books.tallies, Readings) and books.tallies.in_force(on)
        for books in account.books.values()
    )
