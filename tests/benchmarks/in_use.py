"""What a database holds that has been in use for long, and that of a benchmark does not.

It is there to be passed by: nothing else in the books is of it, so `verify` would object.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from metering.periods import instant_of
from metering.storage import event_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

# In the order in which they would have come: of all channels in turn, none in that of its digest.
_EVENTS = """
INSERT INTO event (
    channel, digest, month, content, at, position, read_at_offset, state, product, quantity,
    messages
)
SELECT channel, decode(md5(concat(channel, number)), 'hex'), $1, decode(md5(channel), 'hex'), 0, 0,
    number, 0, 0, 0, 0
FROM generate_series(1, $2) AS number CROSS JOIN channel
"""
# The first ones ended some ten months ago, the others a year before each.
_LOTS = """
INSERT INTO lot
SELECT channel, concat(lot, '-before-', years), product, quota,
    starts_on - make_interval(years => years + 1), ends_on - make_interval(years => years + 1),
    month_price, price, false, true, true, 9, 0
FROM generate_series(1, $1::integer) AS years CROSS JOIN lot
"""
_RENEWALS = """
INSERT INTO setting
SELECT channel, name, concat("of", '-before-', years), sequence, at, on_day, value
FROM generate_series(1, $1::integer) AS years CROSS JOIN setting WHERE name = 'renew'
"""
_WINDOWS = """
INSERT INTO lot_window
SELECT channel, lot, number, starts_on + make_interval(months => number), quota, 2 * quota, quota,
    0, 0, 0, 0, quota
FROM generate_series(0, 11) AS number CROSS JOIN lot
WHERE lot LIKE '%-before-%' AND number < quotas_of(product)
"""
# One for each month of each lot, as of a threshold.
_NOTICES = """
INSERT INTO notice (channel, number, kind, product, on_day, detail)
SELECT channel, 1000000 + row_number() OVER (), 'quota_used', product,
    starts_on + make_interval(months => number), '{"percent":80}'
FROM generate_series(0, 11) AS number CROSS JOIN lot WHERE lot LIKE '%-before-%'
"""


async def add_month_before(url: str, *, now: datetime, events: int) -> None:
    """Put so many events into the table of the month before, evenly of all channels."""
    month = event_store.month_of(instant_of(now)) - 1
    async with _books_of(url) as books:
        await event_store.ensure_month(books, month)
        channels = await books.fetchval("SELECT count(*) FROM channel")
        await books.execute(_EVENTS, month, max(1, events // channels))


async def add_lots_over(url: str, *, each: int) -> None:
    """Give channels for each of their lots so many that are over, with all their months used up,
    and a notice of each month.
    """
    async with _books_of(url) as books:
        await books.execute(_LOTS, each)
        await books.execute(_RENEWALS, each)
        await books.execute(_WINDOWS)
        await books.execute(_NOTICES)


@asynccontextmanager
async def _books_of(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, server_settings={"search_path": "lotmeter"})
    try:
        yield connection
        # As autovacuum would have.
        await connection.execute("VACUUM ANALYZE")
    finally:
        await connection.close()
