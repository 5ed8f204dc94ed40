"""A transaction about a few channels reads a few rows, however many channels there are."""

import asyncpg
import pytest

from consumer.envelopes import instant_from
from tests.builders import assigned, contacts, marketing, purchased, registered, voided, workflow
from tests.replaying import Reader, fresh_books

CHANNELS = 600
# Of what grows with the channels: how many rows were read because a whole table was read.
READ_WHOLE = """
SELECT relname, seq_tup_read FROM pg_stat_user_tables
WHERE schemaname = 'lotmeter' AND n_live_tup >= $1
"""
THEN, NOW = instant_from("2024-01-04T00:00:00Z"), instant_from("2024-02-03T00:00:00Z")


def life_of(number):
    """Tell of a channel that has a row in each of the tables that grow with the channels."""
    to = {"channel": f"c-{number}"}
    return [
        registered("2024-01-02", **to),
        purchased("2024-01-02T01:00:00Z", "workflow", 10, "l-1", **to),
        contacts("2024-01-03", 3_000, **to),
        assigned("2024-01-03", **to),
        marketing("2024-01-03", 3, **to),
        workflow("2024-01-03", 1_000, **to),
    ]


@pytest.mark.parametrize("what", ["a batch", "the clock"])
async def test_no_table_of_channels_is_read_whole(fresh_database_url, what):
    lines = [line for number in range(CHANNELS) for line in life_of(number)]
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read(lines, now=THEN)
    owner = await asyncpg.connect(fresh_database_url)
    if what == "the clock":
        await owner.execute("UPDATE lotmeter.channel SET due_at = NULL WHERE channel <> 'c-9'")
    await owner.execute("VACUUM ANALYZE")
    before = dict(await owner.fetch(READ_WHOLE, CHANNELS))

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        if what == "a batch":
            event = workflow("2024-01-04", 1, channel="c-7")
            few = [event, voided("2024-01-04", event, channel="c-7")]
            await reader.read([*few, contacts("2024-01-04", 9, channel="c-8")], now=THEN)
        else:
            assert await reader.settle(NOW) == 1

    after = dict(await owner.fetch(READ_WHOLE, CHANNELS))
    await owner.close()
    assert {"channel", "command", "daybook", "entry", "lot_window"} <= before.keys()
    assert after == before
