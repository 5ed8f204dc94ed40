"""How the identities of a batch are claimed: straight into their table where none is known, and in
one order whatever the batch.
"""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager

import asyncpg
import pytest
import pytest_asyncio

from consumer.envelopes import instant_from
from metering import meter as meter_module
from metering.meter import Meter
from metering.storage import event_store
from metering.storage.database import go_by_indexes
from metering.storage.event_rows import Claimed, EventRows
from metering.verification import verify
from tests.builders import line, registered
from tests.replaying import GROUP, SCHEMA, Reader, fresh_books

WAITING = """
WITH waiting AS (
    SELECT pid FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND datname = current_database()
)
SELECT (SELECT count(*) FROM waiting),
    (SELECT count(*) FROM waiting WHERE pg_blocking_pids(pid) && ARRAY(SELECT pid FROM waiting))
"""
NOW = instant_from("2024-02-03T00:00:00Z")


@pytest_asyncio.fixture
async def reader(fresh_database_url):
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read([registered("2024-01-10")], now=NOW)
        yield reader
        report = await verify(engine, reader.catalog, full=True)
        assert report.differences == []


def used(event_id, at="2024-01-30", topic="usage.workflow", channel="c-1"):
    data = {"actions": 3}
    return line(topic, "workflow.executed", at, data, event_id=event_id, channel=channel)


@pytest.fixture
def expected(monkeypatch):
    """Tell of each time that a batch claims its identities whether some are taken to be known."""
    seen, claim_events = [], event_store.claim_events

    async def watched(driver, claimed, *, expect_known):
        seen.append(expect_known)
        return await claim_events(driver, claimed, expect_known=expect_known)

    monkeypatch.setattr(event_store, "claim_events", watched)
    return seen


async def test_a_batch_that_meets_a_known_identity_begins_again_and_others_are_wary_for_a_while(
    reader, expected, monkeypatch
):
    monkeypatch.setattr(meter_module, "WARY_BATCHES", 2)
    first = await reader.read([used("a"), used("b")], now=NOW)
    again = await reader.read([used("c"), used("b"), used("d")], now=NOW)
    others = [await reader.read([used(name)], now=NOW) for name in ("e", "f", "g")]

    assert first.outcomes["usage.workflow", "applied"] == 2
    assert again.outcomes["usage.workflow", "applied"] == 2
    assert again.outcomes["usage.workflow", "duplicate"] == 1
    assert [each.outcomes["usage.workflow", "applied"] for each in others] == [1, 1, 1]
    assert expected == [False, False, True, True, True, False]


async def test_a_known_identity_keeps_others_wary(reader, expected, monkeypatch):
    monkeypatch.setattr(meter_module, "WARY_BATCHES", 2)
    for name in ("a", "a", "b", "a", "c", "d", "e"):
        await reader.read([used(name)], now=NOW)

    assert expected == [False, False, True, True, True, True, True, False]


@asynccontextmanager
async def held(url, reader, built):
    """Hold the identity of an event in a transaction that is taken back at the end."""
    connection = await asyncpg.connect(url, server_settings={"search_path": SCHEMA})
    try:
        transaction = connection.transaction()
        await transaction.start()
        record = reader.batch_of([built]).records[0]
        month, row, _ = EventRows(reader.catalog).write(record.found, *record.place)
        claimed = Claimed()
        claimed.add(record.found.channel, record.found.digest, row)
        await event_store.claim_events(connection, {month: claimed}, expect_known=False)
        yield
        await transaction.rollback()
    finally:
        await connection.close()


async def until(url, *states):
    """Wait until so many sessions wait for a lock, and so many of them for one that waits."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(10):
            while tuple(await connection.fetchrow(WAITING)) not in states:
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


def digest_of(reader, built):
    return reader.batch_of([built]).records[0].found.digest


@pytest.fixture(params=[(0, 0), (1, 1), (0, 1), (1, 0)])
def wary(request):
    """Say of each of two batches whether it takes some identities to be known."""
    return request.param


def begin_both(reader, batches, wary):
    """Record two batches at the same time."""
    both = []
    for batch, is_wary in zip(batches, wary, strict=True):
        reader.meter = Meter(reader.engine, reader.catalog, reader.meter._decode, group=GROUP)
        reader.meter._wary_batches = is_wary
        both.append(asyncio.create_task(reader.meter.record(batch, now=NOW)))
    return both


async def kinds_of(batches):
    """Count what became of the records of batches that were begun."""
    found = Counter()
    for receipt in await asyncio.gather(*batches):
        for (_, kind), count in receipt.outcomes.items():
            found[kind] += count
    return +found


async def test_batches_with_the_same_identities_queue_whatever_their_order(
    reader, fresh_database_url, wary
):
    names = [f"x-{number}" for number in range(9)]
    middle = sorted(names, key=lambda name: digest_of(reader, used(name)))[4]
    await reader.claim()  # Goes back to where the books are.
    await reader.read([used("first")], now=NOW)
    batches = [
        reader.batch_of([used(name) for name in names]),
        reader.batch_of([used(name, topic="usage.mu") for name in reversed(names)]),
    ]

    async with held(fresh_database_url, reader, used(middle)):
        both = begin_both(reader, batches, wary)
        await until(fresh_database_url, (2, 0), (2, 1))

    assert await kinds_of(both) == {"applied": 9, "duplicate": 9}


async def test_batches_of_two_months_queue_whichever_they_begin_with(
    reader, fresh_database_url, wary
):
    january, february = "2024-01-30", "2024-02-02"
    await reader.read([used("first", january), used("second", february)], now=NOW)
    names = [f"x-{number}" for number in range(5)]
    digests = {name: digest_of(reader, used(name)) for name in names}
    await reader.claim()
    # By digests alone one batch would begin with February, and the other one with January.
    one, other, feb, jan, last = sorted(names, key=digests.__getitem__)
    first = [used(one, february), used(feb, february), used(jan), used(last, february)]
    second = [used(other), used(feb, february), used(jan)]
    batches = [
        reader.batch_of(first),
        reader.batch_of([built | {"topic": "usage.mu"} for built in second]),
    ]

    async with held(fresh_database_url, reader, used(last, february)):
        async with held(fresh_database_url, reader, used(jan)):
            both = begin_both(reader, batches, wary)
            await until(fresh_database_url, (2, 0), (2, 1))
        # Whoever has the one goes for the other.
        await until(fresh_database_url, (2, 1), (1, 0))

    assert await kinds_of(both) == {"applied": 5, "duplicate": 2}


async def test_batches_of_two_channels_queue_whichever_name_is_longer(
    reader, fresh_database_url, wary
):
    # By length the first of them comes first, by the alphabet the second.
    names = ["z", "aa"]
    await reader.read([registered("2024-01-10", channel=name) for name in names], now=NOW)
    await reader.read([used("first", channel=name) for name in names], now=NOW)
    uses = [used("x", channel=name) for name in names]
    copies = [built | {"topic": "usage.mu"} for built in reversed(uses)]
    batches = [reader.batch_of(uses), reader.batch_of(copies)]

    async with held(fresh_database_url, reader, uses[1]):
        async with held(fresh_database_url, reader, uses[0]):
            both = begin_both(reader, batches, wary)
            await until(fresh_database_url, (2, 0), (2, 1))
        # Whoever has the one goes for the other.
        await until(fresh_database_url, (2, 1), (1, 0))

    assert await kinds_of(both) == {"applied": 2, "duplicate": 2}


@pytest.mark.usefixtures("reader")
async def test_the_wary_claim_in_the_order_of_bytes_whatever_the_collation(fresh_database_url):
    # No collation of the embedded server has another order: only the plan tells.
    connection = await asyncpg.connect(fresh_database_url, server_settings={"search_path": SCHEMA})
    try:
        async with connection.transaction():
            await connection.execute(event_store._STAGE)
            plan = await connection.fetch("EXPLAIN " + event_store._CLAIM)
    finally:
        await connection.close()

    [order] = [line for (line,) in plan if "Sort Key" in line]
    assert order.endswith('arrived.channel COLLATE "C", arrived.digest')


async def test_identities_are_looked_up_by_the_index_of_another_month(reader, fresh_database_url):
    await reader.read([used(f"x-{number}") for number in range(500)], now=NOW)
    event = reader.batch_of([used("y", "2024-02-02")]).records[0].found
    claimed = Claimed()
    for number in range(500):
        claimed.add(event.channel, number.to_bytes(16), b"")
    keys = event_store._as_these([claimed])
    connection = await asyncpg.connect(fresh_database_url, server_settings={"search_path": SCHEMA})
    try:
        async with connection.transaction():
            await go_by_indexes(connection)
            month = event_store.month_of(instant_from("2024-01-30T00:00:00Z"))
            plan = await connection.fetch("EXPLAIN " + event_store._MET, *keys, month)
    finally:
        await connection.close()

    conditions = [line for (line,) in plan if "Index Cond" in line]
    assert conditions
    assert all("digest = " in line for line in conditions)


async def test_of_many_identities_those_that_another_month_holds_are_told_from_the_others(reader):
    await reader.read([registered("2024-01-10", channel="c-2")], now=NOW)
    held = {"c-1": (0, 2, 6), "c-2": (0, 6)}
    before = [used(f"x-{n}", channel=channel) for channel, own in held.items() for n in own]
    await reader.read(before, now=NOW)

    # The first and the last of each channel are among them.
    moved = [used(f"x-{n}", "2024-02-02", channel=channel) for n in range(7) for channel in held]
    receipt = await reader.read(moved, now=NOW)

    assert receipt.rejected == {"conflict": 5}
    assert receipt.outcomes["usage.workflow", "applied"] == 9
    for again in (before, moved):
        receipt = await reader.read(again, now=NOW)
        assert receipt.outcomes["usage.workflow", "applied"] == 0


async def test_no_identity_is_looked_for_in_a_month_that_has_no_table(reader, monkeypatch):
    asked = []
    lists_identities = event_store._as_these

    def noting(claimed):
        asked.append(len(claimed))
        return lists_identities(claimed)

    monkeypatch.setattr(event_store, "_as_these", noting)

    await reader.read([used("x-1")], now=NOW)
    assert asked == []
    # The horizon of the next one reaches into that month.
    await reader.read([used("y-1", "2024-02-02")], now=NOW)
    assert asked == [1]


@pytest.mark.usefixtures("reader")
async def test_a_month_that_another_member_made_meanwhile_is_looked_in(fresh_database_url):
    month = event_store.month_of(NOW) - 1
    settings = {"search_path": SCHEMA}
    ours = await asyncpg.connect(fresh_database_url, server_settings=settings)
    other = await asyncpg.connect(fresh_database_url, server_settings=settings)
    try:
        async with ours.transaction():
            assert await ours.fetch(event_store._MONTHS, [month]) == []
            await event_store.ensure_month(other, month)
            assert await ours.fetch(event_store._MONTHS, [month]) == [(month,)]
    finally:
        await ours.close()
        await other.close()
