"""The books could be spread over many databases by channel: nothing that is written by a batch, or
by the clock, brings two channels together.
"""

import re

import sqlalchemy as sa

from consumer.envelopes import instant_from
from metering.storage.tables import metadata
from tests.builders import (
    assigned,
    contacts,
    limit_set,
    message,
    purchased,
    registered,
    voided,
    workflow,
)
from tests.replaying import Reader, fresh_books

# What is about partitions of topics, messages that wait to be sent, and looks at all the books.
OF_NO_CHANNEL = {"position", "batch", "reject", "outbox", "verification", "observation"}
NAMES = "|".join([*(metadata.tables.keys() - OF_NO_CHANNEL), "arrived", r"\w+_staged", "unnest"])
READS = re.compile(rf'\b(?:FROM|JOIN|USING)\s+"?(?:{NAMES})\b', re.IGNORECASE)
CHANGES = re.compile(rf'\b(?:UPDATE|DELETE FROM)\s+"?(?:{NAMES})\b', re.IGNORECASE)
# Equality with a channel of another table, not with any of a list.
TIES = re.compile(
    r'channel"?\s*=\s*(?!ANY)|channel IN \(SELECT channel\b|USING \("?channel\b', re.IGNORECASE
)


def test_every_key_begins_with_the_channel():
    keyed = [table for name, table in metadata.tables.items() if name not in OF_NO_CHANNEL]
    assert len(keyed) >= 14
    for table in keyed:
        assert next(iter(table.primary_key.columns)).name == "channel", table.name
        for constraint in table.constraints:
            if isinstance(constraint, sa.UniqueConstraint | sa.ForeignKeyConstraint):
                assert next(iter(constraint.columns)).name == "channel", constraint.name


def crosses_channels(statement):
    """Say whether a statement reads two tables, or changes one by another, without a tie."""
    text = re.sub(r"DELETE FROM", "UPDATE", statement, flags=re.IGNORECASE)
    tables = len(READS.findall(text)) + len(CHANGES.findall(text))
    return tables > 1 + len(TIES.findall(text))


def test_what_crosses_channels_would_be_seen():
    assert crosses_channels("SELECT * FROM lot JOIN reading ON lot.product = reading.product")
    assert crosses_channels(
        "UPDATE lot SET x = s.x FROM unnest($1) AS s (lot) WHERE lot.lot = s.lot"
    )
    assert crosses_channels("SELECT * FROM lot, LATERAL (SELECT * FROM reading) AS t")
    assert not crosses_channels("SELECT * FROM lot JOIN reading USING (channel, product)")
    assert not crosses_channels("SELECT * FROM lot WHERE channel = ANY ($1)")


async def test_no_statement_of_the_books_crosses_channels(fresh_database_url):
    seen = set()
    async with fresh_books(fresh_database_url) as engine:

        @sa.event.listens_for(engine.sync_engine, "connect")
        def look(connection, _record):
            connection.driver_connection.add_query_logger(lambda query: seen.add(query.query))

        await engine.dispose()
        reader = Reader(engine)
        await reader.claim()
        for lines in batches():
            await reader.read(lines, now=instant_from("2024-01-10T00:00:00Z"))
        # Nothing is remembered: all of it is loaded.
        reader.meter._accounts.clear()
        await reader.settle(instant_from("2025-02-01T00:00:00Z"))

    about = {statement for statement in seen if re.search(rf"\b(?:{NAMES})\b", statement)}
    assert len(about) > 25
    for table in ("daybook", "reading", "lot_window", "event", "parked", "notice", "setting"):
        assert any(re.search(rf"\b{table}\b", statement) for statement in about), table
    # What is due is looked for in three ways, put one below the other: each database has its own.
    together = {statement for statement in about if "SKIP LOCKED" not in statement}
    assert len(about - together) == 1
    assert [statement for statement in together if crosses_channels(statement)] == []


def batches():
    """Make batches in which everything happens that asks something of the database."""
    day = "2024-01-05"
    for round_ in ("a", "b"):
        used = [workflow(day, 3, channel=f"c-{number}") for number in range(3)]
        yield [
            workflow(day, 1, channel=f"stranger-{round_}"),
            registered("2024-01-02", channel=f"c-{round_}"),
            *(registered("2024-01-02", channel=f"c-{number}") for number in range(3)),
            purchased("2024-01-03", "workflow", 10, f"l-{round_}", channel="c-1"),
            limit_set("2024-01-03", "workflow", 4, channel="c-1"),
            contacts(day, 3_000, channel="c-1"),
            assigned(day, channel="c-2"),
            message(day, channel="c-0"),
            *used,
            *used[:1],
            voided(day, used[1], channel="c-1"),
            *(workflow(day, 1, channel=f"c-{number % 3}") for number in range(300)),
        ]
