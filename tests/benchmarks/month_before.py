"""The month before: every identity is looked for in its table, too.

A database that has been in use for long has one, that of a benchmark does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from metering.periods import instant_of
from metering.storage import event_store

if TYPE_CHECKING:
    from datetime import datetime

# In the order in which they would have come: of all channels in turn, none in that of its digest.
_FILL = """
INSERT INTO event (
    channel, digest, month, content, at, position, read_at_offset, state, product, quantity,
    messages
)
SELECT channel, decode(md5(concat(channel, number)), 'hex'), $1, decode(md5(channel), 'hex'), 0, 0,
    number, 0, 0, 0, 0
FROM generate_series(1, $2) AS number CROSS JOIN channel
"""


async def fill(url: str, *, now: datetime, events: int) -> None:
    """Put so many events into the table of the month before, evenly of all channels.

    They are there to be looked through: nothing else in the books is of them, so `verify` would
    object.
    """
    month = event_store.month_of(instant_of(now)) - 1
    connection = await asyncpg.connect(url, server_settings={"search_path": "lotmeter"})
    try:
        await event_store.ensure_month(connection, month)
        channels = await connection.fetchval("SELECT count(*) FROM channel")
        await connection.execute(_FILL, month, max(1, events // channels))
    finally:
        await connection.close()
