"""A record that the database refuses is rejected alone: its neighbours in the batch apply."""

import asyncpg
import orjson
import pytest

from consumer.envelopes import instant_from
from consumer.readers import decoder_for
from metering.catalog import shipped_catalog
from metering.meter import Batch, Meter, Partition, Record, Slice
from metering.storage import schema
from metering.storage.database import create_engine
from metering.verification import verify
from tests.builders import registered, workflow

JANUARY = 2024 * 12
NOW = instant_from("2024-01-20T00:00:00Z")


@pytest.fixture
async def engine(fresh_database_url):
    engine = create_engine(fresh_database_url, connections=2)
    await schema.migrate(engine, "lotmeter")
    yield engine
    await engine.dispose()


@pytest.mark.parametrize("place", [1, 4, 8])
async def test_its_neighbours_apply_wherever_it_stands(engine, fresh_database_url, place):
    owner = await asyncpg.connect(fresh_database_url, server_settings={"search_path": "lotmeter"})
    await owner.execute(f"SELECT ensure_month({JANUARY}::smallint)")
    await owner.execute(f"ALTER TABLE event_{JANUARY} ADD CHECK (quantity <> 13000)")
    lines = [registered("2024-01-02"), *(workflow("2024-01-05", 1) for _ in range(8))]
    lines[place] = workflow("2024-01-05", 13)

    receipt = await record(engine, lines)

    assert receipt.rejected == {"unprocessable": 1}
    assert await owner.fetchval("SELECT sum(quantity) FROM tally") == 7_000
    assert await owner.fetchval("SELECT next_offset FROM position") == len(lines)
    assert await owner.fetchval("SELECT read_at_offset FROM reject") == place
    dead_letter = await owner.fetchval(
        "SELECT value FROM outbox WHERE destination = 'dead_letters'"
    )
    assert dead_letter == orjson.dumps(lines[place]["event"])
    await owner.close()
    assert (await verify(engine, shipped_catalog(), full=True)).differences == []


async def record(engine, lines):
    catalog = shipped_catalog()
    read = decoder_for(catalog, commands_topic="billing.commands")
    meter = Meter(engine, catalog, read, group="g")
    [claim] = await meter.claim({Partition("usage.workflow", 0): 0}, owner="o", cluster_id="c")
    records = []
    for offset, line in enumerate(lines):
        value = orjson.dumps(line["event"])
        found = read(line["topic"], value, ())
        records.append(Record(claim.number, offset, NOW, line["topic"], None, value, (), found))
    slices = [Slice(claim, 0, len(lines), (len(lines) - 1, b"\0" * 16), NOW)]
    return await meter.record(Batch(slices, records), now=NOW)
