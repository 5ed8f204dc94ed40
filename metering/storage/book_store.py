"""The books as people read them: the documents of a channel, from one snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import sqlalchemy as sa

from metering import statements
from metering.months import Fill, months_of
from metering.storage import account_store
from metering.storage.database import any_of, driver_of
from metering.storage.tables import channel, cycle, notice

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from metering.accounts import Account
    from metering.catalog import Catalog
    from metering.months import Month

Document = dict[str, Any]

# Channels that are read at a time, so that memory stays bounded however many there are.
CHANNELS_MAX = 500


async def read_all(engine: AsyncEngine, catalog: Catalog, *, clock: int) -> dict[str, Document]:
    """Read the books of all registered channels, as of a clock up to which they are settled."""
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="REPEATABLE READ")
        return {name: document async for name, document in _read(connection, catalog, clock)}


async def read_channel(
    engine: AsyncEngine, catalog: Catalog, name: str, *, clock: int
) -> Document | None:
    """Read the books of one channel, with what its months may take; None if there is no such."""
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="REPEATABLE READ")
        return await _read_one(connection, catalog, name, clock)


async def read_months(
    engine: AsyncEngine, catalog: Catalog, name: str, *, clock: int
) -> dict[str, list[Month]] | None:
    """Read the months of one channel, by product; None if there is no such channel."""
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="REPEATABLE READ")
        document = await _read_one(connection, catalog, name, clock)
        if document is None:
            return None
        rows = await connection.execute(_FILLS, {"channel": name})
        return months_of(document, (Fill(*row) for row in rows))


async def _read_one(
    connection: AsyncConnection, catalog: Catalog, name: str, clock: int
) -> Document | None:
    known = await connection.scalar(
        sa.select(channel.c.channel).where(
            channel.c.channel == name, channel.c.time_zone.is_not(None)
        )
    )
    if known is None:
        return None
    return (await _documents(connection, catalog, [name], clock, with_ranges=True))[name]


async def _read(
    connection: AsyncConnection, catalog: Catalog, clock: int
) -> AsyncIterator[tuple[str, Document]]:
    last = ""
    while True:
        names = (
            await connection.scalars(
                sa.select(channel.c.channel)
                .where(channel.c.time_zone.is_not(None), channel.c.channel > last)
                .order_by(channel.c.channel)
                .limit(CHANNELS_MAX)
            )
        ).all()
        if not names:
            return
        for name, document in (await _documents(connection, catalog, names, clock)).items():
            yield name, document
        last = names[-1]


async def _documents(
    connection: AsyncConnection,
    catalog: Catalog,
    names: Sequence[str],
    clock: int,
    *,
    with_ranges: bool = False,
) -> dict[str, Document]:
    accounts = await account_store.load(await driver_of(connection), names)
    closed: dict[str, list[Document]] = {name: [] for name in names}
    rows = await connection.execute(
        sa.select(cycle.c.channel, cycle.c.document)
        .where(any_of(cycle.c.channel, names))
        .order_by(cycle.c.channel, cycle.c.starts_on)
    )
    for row in rows:
        closed[row.channel].append(orjson.loads(row.document))
    notices: dict[str, list[Document]] = {name: [] for name in names}
    rows = await connection.execute(
        sa.select(
            notice.c.channel, notice.c.kind, notice.c.product, notice.c.on_day, notice.c.detail
        ).where(any_of(notice.c.channel, names))
    )
    for row in sorted(rows, key=lambda row: (row.on_day, row.kind, row.product or "", row.detail)):
        notices[row.channel].append(
            {
                "kind": row.kind,
                "product": row.product,
                "on": row.on_day.isoformat(),
                "detail": orjson.loads(row.detail),
            }
        )
    documents = {
        name: document_of(accounts[name], catalog, closed[name], notices[name], clock=clock)
        for name in names
    }
    if with_ranges:
        for name, document in documents.items():
            document["ranges"] = statements.ranges(accounts[name])
    return documents


def document_of(
    account: Account,
    catalog: Catalog,
    closed: list[Document],
    notices: list[Document],
    *,
    clock: int,
) -> Document:
    """Put the document of a channel together."""
    today = account.day_of(clock)
    return {
        "cycles": closed + statements.open_cycles(account, catalog, today=today),
        "lots": statements.lots(account, today=today),
        "reservations": statements.reservations(account, today=today),
        "notices": notices,
    }


async def totals(engine: AsyncEngine) -> Document:
    """Count what became of all records: those that waited are counted as what they became."""
    async with engine.connect() as connection:
        row = (await connection.execute(_TOTALS)).one()
        rejected = await connection.execute(_REJECTED)
        return {
            "records": row.applied + row.duplicate + row.parked + row.rejected,
            "applied": row.events + row.commands,
            "duplicate": row.duplicate,
            "late": row.late,
            "voided": row.voided,
            "parked": row.waiting,
            "rejected": {row.reason: row.records for row in rejected},
        }


_FILLS = sa.text("""
SELECT product, on_day, source, lot, window_number, sum(quantity)::bigint FROM fill
WHERE channel = :channel GROUP BY product, on_day, source, lot, window_number
""")
_TOTALS = sa.text("""
SELECT (SELECT coalesce(sum(applied), 0) FROM batch)::bigint AS applied,
    (SELECT coalesce(sum(duplicate), 0) FROM batch)::bigint AS duplicate,
    (SELECT coalesce(sum(parked), 0) FROM batch)::bigint AS parked,
    (SELECT coalesce(sum(rejected), 0) FROM batch)::bigint AS rejected,
    (SELECT count(*) FROM event WHERE state <> 1) AS events,
    (SELECT count(*) FROM event WHERE counts_on IS NOT NULL) AS late,
    (SELECT count(*) FROM event WHERE state = 2) AS voided,
    (SELECT count(*) FROM command WHERE state = 'applied') AS commands,
    (SELECT count(*) FROM parked) AS waiting
""")
_REJECTED = sa.text(
    "SELECT reason, count(*) AS records FROM reject GROUP BY reason ORDER BY reason"
)
