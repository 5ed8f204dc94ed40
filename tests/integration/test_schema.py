"""The schema is what the tables say, and each role may do what it needs and no more."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from asyncpg.exceptions import CheckViolationError, InsufficientPrivilegeError

from consumer import operating, simulate
from consumer.envelopes import instant_from
from consumer.readers import decoder_for
from metering.catalog import PRODUCTS, shipped_catalog
from metering.lots import quotas_of
from metering.meter import Meter
from metering.storage import book_store, database, schema
from metering.storage.database import create_engine
from metering.storage.tables import IMMUTABLE, metadata
from metering.verification import verify

SCENARIO = Path(__file__).parents[1] / "scenarios" / "books-medium-lots"
END = instant_from(SCENARIO.with_suffix(".as-of").read_text().strip())
PASSWORD = "only-here"


@pytest.fixture
async def owner(fresh_database_url):
    engine = create_engine(fresh_database_url, connections=2)
    await schema.migrate(engine, "lotmeter")
    yield engine
    await engine.dispose()


@pytest.fixture
async def roles(fresh_database_url, owner):
    """Make an app role and a reader role, and yield the URL of each."""
    name = fresh_database_url.rpartition("_")[2]
    app, reader = f"app_{name}", f"reader_{name}"
    await schema.grant(owner, "lotmeter", app=app, reader=reader, create_roles=True)
    administrator = await asyncpg.connect(fresh_database_url)
    for role in (app, reader):
        await administrator.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'")
    place = fresh_database_url.rpartition("@")[2]
    yield [f"postgresql://{role}:{PASSWORD}@{place}" for role in (app, reader)]
    for role in (app, reader):
        await administrator.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    await administrator.close()


async def feed(url):
    engine = create_engine(url, connections=2)
    read = decoder_for(shipped_catalog(), commands_topic=simulate.COMMANDS)
    meter = Meter(engine, shipped_catalog(), read, group=simulate.GROUP)
    lines = simulate.read_scenario(SCENARIO.with_suffix(".ndjson"))
    await simulate._feed(meter, read, lines, simulate._clocks(lines), END)
    return engine


@pytest.mark.usefixtures("owner")
async def test_the_migrations_make_the_tables_that_the_program_knows(fresh_database_url):
    def differences(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        found = compare_metadata(context, metadata)
        return [each for each in found if "alembic_version" not in str(each)]

    # A new one: an engine learns on its first connection which schema it searches first.
    engine = create_engine(fresh_database_url)
    async with engine.connect() as connection:
        found = await connection.run_sync(differences)
    await engine.dispose()

    assert found == []


async def test_keys_have_their_columns_in_the_order_that_the_program_knows(owner):
    async with owner.connect() as connection:
        keys = await connection.run_sync(
            lambda sync: {
                table.name: sa.inspect(sync).get_pk_constraint(table.name)["constrained_columns"]
                for table in metadata.sorted_tables
            }
        )
    assert keys == {
        table.name: [column.name for column in table.primary_key.columns]
        for table in metadata.sorted_tables
    }


async def test_the_database_knows_how_many_quotas_a_lot_holds(owner):
    async with owner.connect() as connection:
        found = {
            name: await connection.scalar(sa.text("SELECT quotas_of(:name)"), {"name": name})
            for name in PRODUCTS
        }

    assert found == {name: quotas_of(product) for name, product in PRODUCTS.items()}


ALL_ROWS = """
INSERT INTO lot_window SELECT channel, lot, number,
    (starts_on + make_interval(months => number))::date, quota, 2 * quota, 0, 0, 0, 0, 0, 0
FROM lot, generate_series(0, quotas_of(product) - 1) AS number WHERE product <> 'pu'
ON CONFLICT DO NOTHING
"""


async def test_a_month_on_which_nothing_is_booked_may_have_a_row_or_none(fresh_database_url, roles):
    engine = await feed(roles[0])
    books = await asyncpg.connect(fresh_database_url, server_settings={"search_path": "lotmeter"})
    empty = "SELECT count(*) FROM lot_window WHERE own + carried + borrowed + minimum + taken = 0"
    views = "SELECT * FROM channel_lot_month ORDER BY 1, 2, 4", "SELECT * FROM channel_lot"

    async def seen():
        documents = await book_store.read_all(engine, shipped_catalog(), clock=END)
        return documents, [await books.fetch(view) for view in views]

    assert await books.fetchval(empty) == 0
    without_rows = await seen()
    # As they were once written for all months of a lot that was bought.
    added = await books.execute(ALL_ROWS)
    assert int(added.split()[-1]) > 0
    with_rows = await seen()
    report = await verify(engine, shipped_catalog(), full=True, keep=False)
    await books.close()
    await engine.dispose()

    assert with_rows == without_rows
    assert report.differences == []


SUMS_OF_OLD = """
INSERT INTO tally VALUES
    ('c-1', 'pu', '2024-01-05', 'sms', 24000, 2), ('c-1', 'pu', '2024-01-05', 'lms', 28000, 1),
    ('c-1', 'workflow', '2024-01-05', '', 3000, 0), ('c-1', 'workflow', '2024-01-06', '', 0, 0),
    ('c-2', 'workflow', '2024-01-06', '', 1000, 0);
INSERT INTO fill VALUES
    ('c-1', 'workflow', '2024-01-05', 'own', 'l-1', 0, 0, 2000),
    ('c-1', 'workflow', '2024-01-05', 'postpaid', '', -1, -1, 1000),
    ('c-1', 'workflow', '2024-01-07', 'minimum', 'l "1"', 0, 2, 500),
    ('c-1', 'pu', '2024-01-05', 'postpaid', '', -1, -1, 52000),
    ('c-2', 'workflow', '2024-01-06', 'included', '', -1, -1, 1000),
    ('c-2', 'workflow', '2024-01-06', 'postpaid', '', -1, -1, 0);
"""


async def upgrade(url, revision):
    engine = create_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(schema._upgrade, revision)
    await engine.dispose()


async def test_sums_that_had_a_row_each_are_taken_over_by_day(fresh_database_url):
    books = await asyncpg.connect(fresh_database_url, server_settings={"search_path": "lotmeter"})
    await books.execute("CREATE SCHEMA lotmeter")

    async def seen():
        tallies = await books.fetch("SELECT * FROM tally ORDER BY 1, 2, 3, 4")
        return tallies, await books.fetch(
            "SELECT * FROM fill WHERE quantity > 0 ORDER BY 1, 2, 3, 4"
        )

    await upgrade(fresh_database_url, "0005")
    await books.execute(SUMS_OF_OLD)
    before = await seen()
    await upgrade(fresh_database_url, "0006")
    after = await seen()
    days = await books.fetchval("SELECT count(*) FROM daybook")
    await books.close()

    assert after == before
    assert [len(rows) for rows in after] == [5, 5]
    assert days == 4


async def test_what_was_reported_stays_under_its_new_key(fresh_database_url):
    books = await asyncpg.connect(fresh_database_url, server_settings={"search_path": "lotmeter"})
    await books.execute("CREATE SCHEMA lotmeter")
    await upgrade(fresh_database_url, "0006")
    await books.execute("""
        INSERT INTO reading (channel, product, person, on_day, peak, last_at, last_level)
        SELECT 'c-' || channel, product, int8send(person), date '2024-01-01' + day, 1, 2, 3
        FROM generate_series(1, 2) AS channel, unnest(ARRAY['mu', 'basic_seat']) AS product,
            generate_series(1, 3) AS person, generate_series(1, 4) AS day
    """)
    before = await books.fetch("SELECT * FROM reading ORDER BY 1, 2, 3, 4")
    await upgrade(fresh_database_url, "0007")
    after = await books.fetch("SELECT * FROM reading ORDER BY 1, 2, 3, 4")
    await books.close()

    assert len(before) == 48
    assert after == before


async def test_the_revision_that_the_program_wants_is_the_last_of_the_migrations(owner):
    last = ScriptDirectory(str(schema.MIGRATIONS)).get_current_head()

    assert await schema.revision_of(owner) == (last, last)


async def test_a_database_without_a_schema_has_no_revision(fresh_database_url):
    engine = create_engine(fresh_database_url)
    assert (await schema.revision_of(engine))[0] is None
    await engine.dispose()


async def test_migrating_again_changes_nothing(owner):
    assert await schema.migrate(owner, "lotmeter") == (await schema.revision_of(owner))[1]


async def test_migrating_may_take_longer_than_members_wait_for_an_answer(
    fresh_database_url, monkeypatch
):
    monkeypatch.setattr(database, "COMMAND_SECONDS", 0.5)
    monkeypatch.setenv("LOTMETER_DATABASE_URL", fresh_database_url)
    other = await asyncpg.connect(fresh_database_url)
    await other.execute("SELECT pg_advisory_lock(hashtext('lotmeter.migrate'))")
    migrating = asyncio.create_task(asyncio.to_thread(operating.migrate, create_roles=False))
    await asyncio.sleep(1.5)
    assert not migrating.done()
    await other.close()
    await migrating


async def test_the_app_role_can_keep_the_books_and_prove_them(roles):
    engine = await feed(roles[0])

    report = await verify(engine, shipped_catalog(), full=True)
    await engine.dispose()

    assert report.differences == []


async def test_the_app_role_cannot_change_a_book_of_record(roles):
    engine = await feed(roles[0])
    await engine.dispose()
    app = await asyncpg.connect(roles[0], server_settings={"search_path": "lotmeter"})

    for table in IMMUTABLE:
        for statement in (f"DELETE FROM {table.name}", f"TRUNCATE {table.name}"):
            with pytest.raises(InsufficientPrivilegeError):
                await app.execute(statement)
    with pytest.raises(InsufficientPrivilegeError):
        await app.execute("UPDATE entry SET quantity = 0")
    with pytest.raises(InsufficientPrivilegeError):
        await app.execute("CREATE TABLE mine (number int)")
    await app.close()


async def test_not_even_the_owner_changes_the_ledger(fresh_database_url, roles):
    engine = await feed(roles[0])
    await engine.dispose()
    owner = await asyncpg.connect(fresh_database_url, server_settings={"search_path": "lotmeter"})

    with pytest.raises(InsufficientPrivilegeError, match="book of record"):
        await owner.execute("UPDATE entry SET quantity = 0")
    await owner.close()


async def test_the_reader_role_reads_the_books_but_no_originals(roles):
    reader = await asyncpg.connect(roles[1], server_settings={"search_path": "lotmeter"})

    assert await reader.fetchval("SELECT count(*) FROM entry") == 0
    for private in ("parked", "outbox"):
        with pytest.raises(InsufficientPrivilegeError):
            await reader.fetch(f"SELECT * FROM {private}")
    with pytest.raises(InsufficientPrivilegeError):
        await reader.execute("DELETE FROM daybook")
    await reader.close()


async def test_the_database_refuses_an_overdrawn_lot_and_window_and_negative_sums(
    fresh_database_url, roles
):
    engine = await feed(roles[0])
    await engine.dispose()
    owner = await asyncpg.connect(fresh_database_url, server_settings={"search_path": "lotmeter"})

    for statement in (
        "UPDATE lot SET expired = -1",
        "UPDATE lot_window SET taken = quota + 1, lent = 0",
        "UPDATE lot_window SET own = maximum + 1",
        "UPDATE lot_window SET lent = taken + 1",
        "UPDATE daybook SET tallied = '[[-1,0]]'",
        "UPDATE daybook SET filled = '[1,-1]'",
    ):
        with pytest.raises(CheckViolationError):
            await owner.execute(statement)
    await owner.close()
