"""A connection is used again, and first the one that was used last, but none that is of no use any
more.
"""

import asyncio

import asyncpg
import pytest
import sqlalchemy as sa
from asyncpg.transaction import Transaction

from metering.errors import Unavailable
from metering.storage.database import create_engine, driver_transaction, transaction


@pytest.mark.parametrize("by_driver", [False, True])
async def test_a_session_that_may_not_write_is_given_up(fresh_database_url, by_driver):
    administrator = await asyncpg.connect(fresh_database_url)
    name = await administrator.fetchval("SELECT current_database()")
    await administrator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    engine = create_engine(fresh_database_url, schema="public", connections=1)

    async def write():
        if by_driver:
            async with driver_transaction(engine) as driver:
                await driver.execute("CREATE TABLE written (id integer)")
        else:
            async with transaction(engine) as connection:
                await connection.execute(sa.text("CREATE TABLE written (id integer)"))

    with pytest.raises(Unavailable):
        await write()
    # As after a failover: who connects now reaches a server that takes what is written.
    await administrator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")

    await write()

    await engine.dispose()
    await administrator.close()


async def test_a_statement_whose_table_was_changed_under_it_is_tried_again(fresh_database_url):
    administrator = await asyncpg.connect(fresh_database_url)
    await administrator.execute("CREATE TABLE changing (id integer)")
    engine = create_engine(fresh_database_url, schema="public", connections=1)

    async def read():
        async with driver_transaction(engine) as driver:
            return await driver.fetch("SELECT * FROM changing WHERE id > $1", 0)

    assert await read() == []
    # As a newer version does while this one runs.
    await administrator.execute("ALTER TABLE changing ADD COLUMN of_tomorrow text")
    with pytest.raises(Unavailable):
        await read()

    assert await read() == []

    await engine.dispose()
    await administrator.close()


async def test_the_connection_that_was_used_last_is_used_first(fresh_database_url):
    engine = create_engine(fresh_database_url, schema="public", connections=3)

    async def server_process(together=None):
        async with driver_transaction(engine) as driver:
            if together is not None:
                await together.wait()
            return await driver.fetchval("SELECT pg_backend_pid()")

    together = asyncio.Barrier(3)
    assert len(set(await asyncio.gather(*(server_process(together) for _ in range(3))))) == 3

    # What is prepared on one connection is prepared on no other.
    assert len({await server_process() for _ in range(6)}) == 1

    await engine.dispose()


async def test_a_connection_that_went_while_nobody_used_it_is_not_used(fresh_database_url):
    engine = create_engine(fresh_database_url, schema="public", connections=1)

    async def server_process():
        async with driver_transaction(engine) as driver:
            return await driver.fetchval("SELECT pg_backend_pid()")

    before = await server_process()
    administrator = await asyncpg.connect(fresh_database_url)
    await administrator.execute("SELECT pg_terminate_backend($1, 5000)", before)
    await asyncio.sleep(0.1)

    assert await server_process() != before

    await administrator.close()
    await engine.dispose()


async def test_a_server_that_closes_each_connection_at_once_cannot_be_reached(fresh_database_url):
    engine = create_engine(fresh_database_url, schema="public", connections=1)

    def close(connection, _):
        connection.driver_connection.terminate()

    sa.event.listen(engine.sync_engine, "connect", close)

    for _ in range(2):
        with pytest.raises(Unavailable):
            async with driver_transaction(engine):
                pass

    await engine.dispose()


async def test_a_connection_that_goes_while_it_is_used_is_not_used_again(fresh_database_url):
    engine = create_engine(fresh_database_url, schema="public", connections=1)

    with pytest.raises(Unavailable):
        async with driver_transaction(engine) as driver:
            await driver.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    async with driver_transaction(engine) as driver:
        assert await driver.fetchval("SELECT 1") == 1

    await engine.dispose()


async def test_a_connection_whose_transaction_does_not_end_is_given_up(
    fresh_database_url, monkeypatch
):
    engine = create_engine(fresh_database_url, schema="public", connections=1)

    async def hang(*_):
        raise TimeoutError

    with monkeypatch.context() as hanging:
        hanging.setattr(Transaction, "__aexit__", hang)
        with pytest.raises(Unavailable):
            async with driver_transaction(engine) as driver:
                await driver.execute("CREATE TABLE half (id integer)")

    async with driver_transaction(engine) as driver:
        assert await driver.fetchval("SELECT to_regclass('half')") is None

    await engine.dispose()
