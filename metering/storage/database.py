"""How the books are reached: connections, transactions, and statements made from tables."""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import sqlalchemy as sa
from asyncpg import exceptions as driver_errors
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from metering.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from sqlalchemy.sql.elements import ColumnElement

CONNECT_SECONDS = 5
COMMAND_SECONDS = 60

# From so many rows on COPY is faster than arrays, which the driver writes value by value.
STAGED_ROWS_MIN = 200

# A client cannot forget these: a lost member must not keep its locks, nor wait for ever.
SERVER_SETTINGS = {
    "jit": "off",
    "application_name": "lotmeter",
    "statement_timeout": "60s",
    "lock_timeout": "15s",
    "idle_in_transaction_session_timeout": "15s",
    "client_connection_check_interval": "5s",
    "tcp_user_timeout": "15s",
    "tcp_keepalives_idle": "10",
}

# Of some channels, whose names come as JSON: the driver writes an array value by value, in five
# times as long.
OF_THESE = "channel = ANY (ARRAY(SELECT json_array_elements_text($1)))"

_BY_INDEXES = """
SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL enable_seqscan = off
"""

# A temporary table that rows go through. With a default that has to be asked for row by row COPY
# puts them in one by one, and keeps no slots for a thousand of them: to make these and let go of
# them was a twentieth of PostgreSQL's time in a stream.
_STAGE = """
CREATE TEMPORARY TABLE IF NOT EXISTS {staging} (
    LIKE "{name}", one_by_one double precision DEFAULT random()
) ON COMMIT DELETE ROWS
"""

# Classes of SQLSTATE after which the same batch is tried again. Anything else is a bug or a bad
# record.
_READ_ONLY = "25006"
# A table was changed under a prepared statement, which the driver then prepares anew.
_CHANGED = "0A000"
_TRY_AGAIN = ("08", "53", "57", "40001", "40P01", "55P03", _READ_ONLY, _CHANGED, "25P03", "25P04")


def create_engine(
    url: str, *, schema: str = "lotmeter", connections: int = 8, is_patient: bool = False
) -> AsyncEngine:
    """Make an engine for a database URL (postgresql://user:password@host/db), which waits for an
    answer as long as it takes if it is patient.
    """

    async def connect() -> asyncpg.Connection:
        # The driver reads the URL itself: it knows sslmode, sslrootcert and the like as others do.
        connection: asyncpg.Connection = await asyncpg.connect(
            url,
            timeout=CONNECT_SECONDS,
            command_timeout=None if is_patient else COMMAND_SECONDS,
            server_settings={**SERVER_SETTINGS, "search_path": schema},
        )
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=connections,
        # The one that was used last: with each in its turn all of them had every statement prepared
        # and every temporary table made, which took a backlog of 500,000 events 1.06 times as long.
        pool_use_lifo=True,
        max_overflow=0,
        pool_timeout=30,
        hide_parameters=True,
    )
    sa.event.listen(engine.sync_engine, "checkout", _leave_out_the_closed)
    return engine


def _leave_out_the_closed(connection: Any, record: Any, _: object) -> None:
    """Have the pool make another connection in the place of one that went while nobody used it. Of
    a new one it will be seen that it is closed: the pool gives up by an error of misuse.
    """
    if record.info.get("was_used") and connection.driver_connection.is_closed():
        raise DisconnectionError("it was closed")
    record.info["was_used"] = True


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """Run a block in one transaction. Raises Unavailable where trying again can help."""
    async with _connected(engine) as connection, connection.begin():
        yield connection


@asynccontextmanager
async def driver_transaction(engine: AsyncEngine) -> AsyncIterator[Any]:
    """Run a block in one transaction of asyncpg's connection, with nothing of SQLAlchemy on the way
    to it: a batch of few events takes a tenth less of a member's time. Raises Unavailable where
    trying again can help.
    """
    async with _connected(engine) as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        try:
            async with driver.transaction():
                yield driver
        except BaseException:
            # The pool does not see what it has begun, and would give it out again.
            if driver.is_closed() or driver.is_in_transaction():
                await connection.invalidate()
            raise


@asynccontextmanager
async def _connected(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    try:
        async with engine.connect() as connection, _reaching_who_may_write(connection):
            yield connection
    except DBAPIError as error:
        if is_passing(error):
            raise Unavailable(describe(error)) from error
        raise
    except (PoolTimeout, InterfaceError) as error:
        raise Unavailable(describe(error)) from error
    except (
        OSError,
        TimeoutError,
        driver_errors.InterfaceError,
        driver_errors.InternalClientError,
    ) as error:
        raise Unavailable(describe(error)) from error
    except driver_errors.PostgresError as error:
        if is_passing(error):
            raise Unavailable(describe(error)) from error
        raise


@asynccontextmanager
async def _reaching_who_may_write(connection: AsyncConnection) -> AsyncIterator[None]:
    """Give up a session that may not write: after a failover others lead to a server that may."""
    try:
        yield
    except Exception as error:
        if sqlstate_of(error) == _READ_ONLY:
            await connection.invalidate()
        raise


async def go_by_indexes(driver: Any) -> None:
    """Have the statements of this transaction look rows up one by one.

    They are about a few channels of many. The planner does not know how few, least of all of what
    stands in a temporary table, and reads whole tables instead.
    """
    await driver.execute(_BY_INDEXES)


def sqlstate_of(error: BaseException) -> str | None:
    """Find the SQLSTATE in an error of either library."""
    for place in (error, getattr(error, "orig", None)):
        state = getattr(place, "sqlstate", None) or getattr(place, "pgcode", None)
        if isinstance(state, str):
            return state
    return None


def is_passing(error: BaseException) -> bool:
    """Say whether the world may be well again soon."""
    state = sqlstate_of(error)
    if state is None:
        return True  # The connection went; no server said anything.
    return state.startswith(_TRY_AGAIN)


def is_about_a_value(error: BaseException) -> bool:
    """Say whether the database refused what was to be written: one record may be to blame."""
    return (sqlstate_of(error) or "").startswith(("22", "23"))


def describe(error: BaseException) -> str:
    """Say what went wrong without the values that were sent."""
    state = sqlstate_of(error)
    return f"{type(error).__name__}{f' ({state})' if state else ''}"


async def driver_of(connection: AsyncConnection) -> Any:
    """Reach asyncpg's connection, inside the transaction that SQLAlchemy has begun."""
    assert connection.in_transaction()
    raw = await connection.get_raw_connection()
    # A transaction begins with SQLAlchemy's first statement; what goes around it must come after.
    await connection.execute(_BEGIN)
    return raw.driver_connection


_BEGIN = sa.text("SELECT 1")


@lru_cache(maxsize=64)
def _columns_of(table: sa.Table) -> list[str]:
    return [
        column.name for column in table.columns if column.identity is None and _is_written(column)
    ]


def _is_written(column: sa.Column[Any]) -> bool:
    return not (column.server_default is not None and isinstance(column.type, sa.DateTime))


@lru_cache(maxsize=64)
def _upsert_statements(table: sa.Table) -> tuple[str, str, str]:
    """Write the statements that make a staging table, stage into it by arrays, and move it into
    its table.
    """
    columns = _columns_of(table)
    keys = [column.name for column in table.primary_key.columns]
    names = ", ".join(f'"{name}"' for name in columns)
    changes = ", ".join(f'"{name}" = EXCLUDED."{name}"' for name in columns if name not in keys)
    conflict = ", ".join(f'"{name}"' for name in keys)
    arrays = ", ".join(
        f"${number}::{_sql_type(table.columns[name])}[]"
        for number, name in enumerate(columns, start=1)
    )
    action = f"ON CONFLICT ({conflict}) DO UPDATE SET {changes}"
    staging = f"{table.name}_staged"
    return (
        _STAGE.format(staging=staging, name=table.name),
        f'INSERT INTO "{table.name}" ({names}) SELECT * FROM unnest({arrays}) {action}',  # noqa: S608
        f'INSERT INTO "{table.name}" ({names}) SELECT {names} FROM {staging} {action}',  # noqa: S608
    )


def _sql_type(column: sa.Column[Any]) -> str:
    return column.type.compile(dialect=PGDialect())


async def insert(driver: Any, table: sa.Table, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows, whose values stand in the order of the table's columns."""
    if rows:
        await driver.copy_records_to_table(table.name, records=rows, columns=_columns_of(table))


async def upsert(driver: Any, table: sa.Table, rows: Iterable[Sequence[object]]) -> None:
    """Insert rows, or give those that are there the new values. Each key may come once."""
    found = list(rows)
    if not found:
        return
    staging, by_arrays, by_staging = _upsert_statements(table)
    if len(found) < STAGED_ROWS_MIN:
        await driver.execute(by_arrays, *zip(*found, strict=True))
        return
    await driver.execute(staging)
    await driver.copy_records_to_table(
        f"{table.name}_staged", records=found, columns=_columns_of(table)
    )
    await driver.execute(by_staging)


def count_of(status: str) -> int:
    """Read from what a statement ended with how many rows it was about: `UPDATE 3`."""
    return int(status.rpartition(" ")[2])


def as_json(values: Iterable[object]) -> str:
    """Write many values as one parameter."""
    return orjson.dumps(list(values)).decode()


def any_of(column: ColumnElement[Any], values: Iterable[object]) -> ColumnElement[bool]:
    """Write a condition that a column has one of many values, as one array parameter."""
    return column == sa.any_(sa.bindparam(None, list(values), type_=pg.ARRAY(column.type)))
