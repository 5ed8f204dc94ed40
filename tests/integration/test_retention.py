"""Records of old months go, what is open stays, and the books can still be proven."""

from pathlib import Path

import asyncpg
import pytest

from consumer import simulate
from consumer.envelopes import instant_from
from consumer.readers import decoder_for
from metering.catalog import shipped_catalog
from metering.meter import Meter
from metering.storage import schema
from metering.storage.database import create_engine
from metering.verification import verify

SCENARIO = Path(__file__).parents[1] / "scenarios" / "books-medium-lots"
MONTHS = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'event'::regclass"


@pytest.fixture
async def books(fresh_database_url):
    """Feed a scenario; yield its meter, its end and a connection."""
    engine = create_engine(fresh_database_url, connections=2)
    await schema.migrate(engine, "lotmeter")
    read = decoder_for(shipped_catalog(), commands_topic=simulate.COMMANDS)
    meter = Meter(engine, shipped_catalog(), read, group=simulate.GROUP)
    lines = simulate.read_scenario(SCENARIO.with_suffix(".ndjson"))
    end = instant_from(SCENARIO.with_suffix(".as-of").read_text().strip())
    await simulate._feed(meter, read, lines, simulate._clocks(lines), end)
    owner = await asyncpg.connect(fresh_database_url, server_settings={"search_path": "lotmeter"})
    yield meter, engine, end, owner
    await owner.close()
    await engine.dispose()


async def test_old_months_go_and_the_rest_can_be_proven(books):
    meter, engine, end, owner = books
    before = await owner.fetchval(MONTHS)

    dropped = await meter.drop_old_records(now=end, kept_months=3)

    assert dropped > 0
    assert await owner.fetchval(MONTHS) == before - dropped
    report = await verify(engine, shipped_catalog(), full=True)
    assert report.differences == []
    assert await meter.drop_old_records(now=end, kept_months=3) == 0


async def test_what_is_open_stays_however_old_it_is(books):
    meter, _, end, owner = books
    before = await owner.fetchval("SELECT count(*) FROM event")
    await owner.execute("UPDATE channel SET open_from = first_cycle_on")
    centuries_later = end + 200 * 366 * 86_400 * 1_000_000

    await meter.drop_old_records(now=centuries_later, kept_months=3)

    assert await owner.fetchval("SELECT count(*) FROM event") == before


async def test_what_is_young_stays(books):
    meter, _, end, owner = books
    before = await owner.fetchval("SELECT count(*) FROM event")

    assert await meter.drop_old_records(now=end, kept_months=1_200) == 0

    assert await owner.fetchval("SELECT count(*) FROM event") == before
