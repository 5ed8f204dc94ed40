"""Bring the schema up to date, and give each role what it may do and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from metering.storage.tables import APP_MAY_DELETE, APP_MAY_UPDATE, REVISION, metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

MIGRATIONS = Path(__file__).parents[2] / "migrations"

_REVISION = sa.text("SELECT version_num FROM alembic_version")

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


async def migrate(engine: AsyncEngine, schema: str) -> str:
    """Create the schema or bring it up to date, as owner; returns the revision it is at."""
    async with engine.begin() as connection:
        # Two who migrate at once take turns.
        await connection.execute(
            sa.text("SELECT pg_advisory_xact_lock(hashtext('lotmeter.migrate'))")
        )
        await connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
        await connection.execute(sa.text(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}"))
        await connection.run_sync(_upgrade)
        return str(await connection.scalar(_REVISION))


async def grant(
    engine: AsyncEngine, schema: str, *, app: str | None, reader: str | None, create_roles: bool
) -> None:
    """Grant the app and reader roles the least that they need."""
    async with engine.begin() as connection:
        for role in filter(None, (app, reader)):
            known = await connection.scalar(
                sa.text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}
            )
            if known is None and create_roles:
                await connection.execute(sa.text(f"CREATE ROLE {quoted(role)} LOGIN"))
            elif known is None:
                raise ValueError(
                    f"there is no role {role}: create it, or migrate with --create-roles"
                )
            await connection.execute(
                sa.text(f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {quoted(role)}")
            )
            await connection.execute(
                sa.text(f"GRANT SELECT ON ALL TABLES IN SCHEMA {quoted(schema)} TO {quoted(role)}")
            )
        if app is not None:
            await _grant_app(connection, quoted(app))
        if reader is not None:
            # Originals of waiting records and of rejects may hold message texts.
            for private in ("parked", "outbox"):
                revoke = f"REVOKE SELECT ON {private} FROM {quoted(reader)}"  # noqa: S608
                await connection.execute(sa.text(revoke))


async def _grant_app(connection: AsyncConnection, role: str) -> None:
    database = await connection.scalar(sa.text("SELECT current_database()"))
    statements = [f'GRANT TEMPORARY ON DATABASE "{database}" TO {role}']
    statements += [f"GRANT INSERT ON {table.name} TO {role}" for table in metadata.tables.values()]
    statements += [f"GRANT UPDATE ON {table.name} TO {role}" for table in APP_MAY_UPDATE]
    statements += [f"GRANT DELETE ON {table.name} TO {role}" for table in APP_MAY_DELETE]
    # Rows of the outbox are locked while they are sent, and those of waiting records while they are
    # taken up.
    statements += [
        f"GRANT UPDATE (created_at) ON outbox TO {role}",
        f"GRANT UPDATE (clock) ON parked TO {role}",
    ]
    statements += [
        f"GRANT EXECUTE ON FUNCTION {function}(smallint) TO {role}"
        for function in ("ensure_month", "drop_months")
    ]
    for statement in statements:
        await connection.execute(sa.text(statement))


async def revision_of(engine: AsyncEngine) -> tuple[str | None, str]:
    """Tell the revision of the schema, and the one that this program wants."""
    async with engine.connect() as connection:
        if await connection.scalar(sa.text("SELECT to_regclass('alembic_version')")) is None:
            return None, REVISION
        return await connection.scalar(_REVISION), REVISION


def quoted(name: str) -> str:
    """Quote the name of a schema or role. Raises ValueError if it is not a plain one."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no plain lower-case SQL name")
    return f'"{name}"'


def _upgrade(connection: Connection, revision: str = "head") -> None:
    # Those who only read and write the books spare the 14 MiB that it takes with what it brings.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
