"""Whether everything is there that the consumer needs, and what to do where it is not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import sqlalchemy as sa
from aiokafka.admin import AIOKafkaAdminClient
from sqlalchemy.exc import DBAPIError

from consumer.brokers import CannotReachKafka, kafka_options, reaching_kafka
from consumer.terminal import ADVICE, engine_of
from metering.errors import Unavailable
from metering.storage import schema
from metering.storage.database import describe, sqlstate_of, transaction
from metering.storage.tables import APP_MAY_DELETE, APP_MAY_UPDATE, metadata

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from consumer.settings import Settings

BROKER_SECONDS = 15


async def problems_of(settings: Settings) -> list[str]:
    """Try everything, and list what is wrong in sentences."""
    return [*await _broker_problems(settings), *await _database_problems(settings)]


async def _broker_problems(settings: Settings) -> list[str]:
    admin = AIOKafkaAdminClient(**kafka_options(settings))
    try:
        with reaching_kafka(settings):
            async with asyncio.timeout(BROKER_SECONDS):
                await admin.start()
                known = set(await admin.list_topics())
    except CannotReachKafka as error:
        return [str(error)]
    finally:
        await admin.close()
    wanted = (
        *settings.topics,
        settings.notices_topic,
        settings.statements_topic,
        settings.dead_letters_topic,
    )
    missing = [topic for topic in wanted if topic not in known]
    if not missing:
        return []
    names = ", ".join(missing)
    return [f"topics are missing, or our user may not see them: {names}; run lotmeter topics"]


async def _database_problems(settings: Settings) -> list[str]:
    engine = engine_of(settings)
    try:
        current, wanted = await schema.revision_of(engine)
        if current != wanted:
            return [
                f"the schema is at {current or 'nothing'}, not at {wanted}: run lotmeter migrate"
            ]
        return await _grant_problems(engine)
    except (DBAPIError, Unavailable) as error:
        unknown = f"the database does not answer: {describe(error)}; see LOTMETER_DATABASE_URL"
        return [ADVICE.get(sqlstate_of(error) or "", unknown)]
    except OSError as error:
        return [f"the database does not answer: {error.strerror or type(error).__name__}"]
    finally:
        await engine.dispose()


async def _grant_problems(engine: AsyncEngine) -> list[str]:
    wanted = [(table.name, "SELECT") for table in metadata.tables.values()]
    wanted += [(table.name, "INSERT") for table in metadata.tables.values()]
    wanted += [(table.name, "UPDATE") for table in APP_MAY_UPDATE]
    wanted += [(table.name, "DELETE") for table in APP_MAY_DELETE]
    problems = []
    async with transaction(engine) as connection:
        for table, right in wanted:
            allowed = await connection.scalar(
                sa.text("SELECT has_table_privilege(current_user, :table, :right)"),
                {"table": table, "right": right},
            )
            if not allowed:
                problems.append(
                    f"the database role may not {right} on {table}: run lotmeter migrate as owner"
                )
        temporary = sa.text(
            "SELECT has_database_privilege(current_user, current_database(), 'TEMP')"
        )
        if not await connection.scalar(temporary):
            problems.append(
                "the database role may not make temporary tables: run lotmeter migrate as owner"
            )
    return problems
