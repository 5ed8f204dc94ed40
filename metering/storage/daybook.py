"""Days as rows: what a channel used on one day and where it was poured, of all products.

Nearly every visit of a channel changes several sums of the same day. With one row of each day
PostgreSQL has a sixth less to do than with a row of each sum, of all that a batch costs it; the
views `tally` and `fill` show the sums.
"""

from __future__ import annotations

from sys import intern
from typing import TYPE_CHECKING

import orjson

from metering.accounts import UNKNOWN, Account, DayPour, Earlier, FillKey, Sheet
from metering.tallies import Counts, Sum

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

# The channel, the day, and as JSON: of what there are tallies, their quantities and messages, of
# what there are fills, their quantities. Only numbers are told apart from names: the database sees
# that none is negative.
Row = tuple[str, "date", str, str, str, str]


def row_of(channel: str, day: date, sheet: Sheet) -> Row:
    """Write a row of a day."""
    tallies, tallied, fills, filled = [], [], [], []
    for product, kinds in sheet.tallies:
        for kind, total in kinds.items():
            tallies.append((product, kind))
            tallied.append((total.quantity, total.messages))
    for product, poured in sheet.fills:
        for (source, lot, window, quota), quantity in poured.items():
            if quantity:
                fills.append((product, source, lot, window, quota))
                filled.append(quantity)
    return channel, day, _json(tallies), _json(tallied), _json(fills), _json(filled)


def put_day(
    account: Account, on: date, tallies: str, tallied: str, fills: str, filled: str
) -> None:
    """Put a day that was kept into an account."""
    for (product, kind), (quantity, messages) in zip(
        orjson.loads(tallies), orjson.loads(tallied), strict=True
    ):
        counts = account.books_of(intern(product)).tallies
        assert isinstance(counts, Counts)
        counts.put(on, intern(kind), Sum(quantity, messages))
    for (product, source, lot, window, quota), quantity in zip(
        orjson.loads(fills), orjson.loads(filled), strict=True
    ):
        days = account.books_of(intern(product)).days
        pour = days.get(on)
        if pour is None:
            pour = days[on] = DayPour(on, account.cycle_on(on), {}, UNKNOWN, UNKNOWN, 0, 0)
        pour.fills[FillKey(intern(source), lot, window, quota)] = quantity


def add_earlier(account: Account, fills: str, filled: str) -> None:
    """Add a day that is not held to what came of the days before those that are."""
    for (product, source, *_), quantity in zip(
        orjson.loads(fills), orjson.loads(filled), strict=True
    ):
        if source in ("minimum", "expired"):
            continue
        books = account.books_of(intern(product))
        usage, included = books.earlier
        books.earlier = Earlier(
            usage + quantity, included + (quantity if source == "included" else 0)
        )


def _json(values: Sequence[object]) -> str:
    return orjson.dumps(values).decode()
