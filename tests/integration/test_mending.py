"""An operator lets a halted partition go on, and the books still account for every offset."""

import pytest
import pytest_asyncio

from metering.catalog import shipped_catalog
from metering.storage import position_store, schema
from metering.storage.database import create_engine, driver_of, driver_transaction, transaction
from metering.storage.position_store import Partition, Slice
from metering.verification import verify

HALTED, WELL = Partition("usage.mu", 0), Partition("usage.mu", 1)
GROUP = "metering"


@pytest_asyncio.fixture
async def engine(fresh_database_url):
    engine = create_engine(fresh_database_url, connections=2)
    await schema.migrate(engine, "lotmeter")
    yield engine
    await engine.dispose()


async def claim(engine, beginning=0):
    async with transaction(engine) as connection:
        return await position_store.claim(
            connection, dict.fromkeys((HALTED, WELL), beginning), group=GROUP,
            owner="me", cluster_id="here",
        )  # fmt: skip


@pytest_asyncio.fixture
async def halted(engine):
    """Read ten holes of a partition and halt it."""
    mine, _ = await claim(engine)
    async with transaction(engine) as connection:
        driver = await driver_of(connection)
        await position_store.advance(driver, [Slice(mine, 0, 10, (9, bytes(16)), 5)])
        lines = [(mine.number, 0, 10, mine.epoch, 0, 0, 0, 0)]
        await position_store.keep_account(driver, lines)
        await position_store.halt(connection, mine, "it is another log")
    return mine


async def decide(engine, work, *arguments, **options):
    async with transaction(engine) as connection:
        return await work(connection, GROUP, *arguments, **options)


async def proven(engine):
    return (await verify(engine, shipped_catalog(), full=True, keep=False)).differences == []


async def test_a_halted_partition_is_taken_up_where_it_stands(engine, halted):
    assert await decide(engine, position_store.resume, HALTED)
    assert not await decide(engine, position_store.resume, HALTED)

    mine, _ = await claim(engine)
    assert (mine.number, mine.next_offset, mine.halted) == (halted.number, 10, None)


async def test_another_log_is_read_from_its_beginning_under_another_number(engine, halted):
    assert await decide(engine, position_store.retire, HALTED)

    mine, _ = await claim(engine, beginning=3)
    assert mine.number != halted.number
    assert (mine.next_offset, mine.anchor, mine.halted) == (3, None, None)
    assert await proven(engine)


async def test_the_log_that_is_gone_holds_no_closing_back(engine, halted):
    assert halted
    await decide(engine, position_store.retire, HALTED)
    claims = await claim(engine)

    async with transaction(engine) as connection:
        await position_store.mark_read(connection, claims, read_up_to=1_000)
        assert await position_store.read_up_to(await driver_of(connection), GROUP) == 1_000


async def test_what_is_skipped_is_a_hole_and_fences_whoever_claimed_before(engine, halted):
    assert await decide(engine, position_store.skip, HALTED, to_offset=12)

    async with driver_transaction(engine) as driver:
        with pytest.raises(position_store.Fenced):
            await position_store.advance(driver, [Slice(halted, 10, 13, None, 6)])
    mine, _ = await claim(engine)
    assert (mine.number, mine.next_offset) == (halted.number, 12)
    assert await proven(engine)


async def test_nothing_is_skipped_backwards(engine, halted):
    assert halted
    assert not await decide(engine, position_store.skip, HALTED, to_offset=10)


@pytest.mark.usefixtures("halted")
@pytest.mark.parametrize(
    ("work", "options"),
    [
        (position_store.resume, {}),
        (position_store.retire, {}),
        (position_store.skip, {"to_offset": 100}),
    ],
)
async def test_a_partition_that_is_read_is_left_alone(engine, work, options):
    assert not await decide(engine, work, WELL, **options)
    assert not await decide(engine, work, Partition("usage.mu", 7), **options)


@pytest.mark.usefixtures("halted")
async def test_operators_see_what_stands_still_and_why(engine):
    async with transaction(engine) as connection:
        found = await position_store.standings(connection, GROUP)

    assert [(each.partition, each.halted) for each in found] == [
        (HALTED, "it is another log"),
        (WELL, None),
    ]
