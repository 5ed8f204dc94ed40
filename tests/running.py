"""A whole service on the servers of a test: its topics, its books, its members, its commands."""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from consumer import topics
from consumer.service import serve
from consumer.settings import Settings
from metering.storage.database import create_engine
from metering.storage.schema import migrate

PARTITIONS = 2
PATIENCE_SECONDS = 60


async def a_service(broker: str, url: str, **changes: str) -> dict[str, str]:
    """Make topics and books that nobody else has; returns the variables of a process."""
    name = secrets.token_hex(4)
    usage = ",".join(f"{name}.{each}" for each in ("mu", "seat", "workflow", "message"))
    variables = {
        "KAFKA_SERVERS": broker,
        "DATABASE_URL": url,
        "GROUP": name,
        "HTTP_ADDRESS": "127.0.0.1:0",
        # The embedded broker lets the first member wait for half of it.
        "SESSION_TIMEOUT_SECONDS": "2",
        "IDLE_MARK_SECONDS": "1",
        "USAGE_TOPICS": usage,
        "COMMANDS_TOPIC": f"{name}.commands",
        "NOTICES_TOPIC": f"{name}.notices",
        "STATEMENTS_TOPIC": f"{name}.statements",
        "DEAD_LETTERS_TOPIC": f"{name}.dead-letters",
        **changes,
    }
    environ = {f"LOTMETER_{variable}": value for variable, value in variables.items()}
    await prepare(environ)
    return environ


async def prepare(environ: Mapping[str, str]) -> None:
    """Make the topics and tables that the variables name, where they are missing."""
    settings = Settings.from_environ(environ)
    await topics.create_missing(settings, partitions=PARTITIONS, replication=1)
    engine = create_engine(
        settings.database_url.get_secret_value(), schema=settings.database_schema
    )
    await migrate(engine, settings.database_schema)
    await engine.dispose()


@asynccontextmanager
async def a_member(environ: Mapping[str, str]) -> AsyncIterator[None]:
    """Run a member of the group within this process."""
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(Settings.from_environ(environ), stop=stop))
    try:
        yield
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def books_of(environ: Mapping[str, str]) -> AsyncIterator[asyncpg.Connection]:
    """Open the database of a service."""
    connection = await asyncpg.connect(
        environ["LOTMETER_DATABASE_URL"],
        server_settings={"search_path": environ.get("LOTMETER_DATABASE_SCHEMA", "lotmeter")},
    )
    try:
        yield connection
    finally:
        await connection.close()


async def becomes_true(claim: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a claim about another process holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await claim():
            await asyncio.sleep(0.05)


async def until(books: asyncpg.Connection, question: str, answer: object) -> None:
    """Wait until the books give an answer."""

    async def is_so() -> bool:
        return bool(await books.fetchval(question) == answer)

    await becomes_true(is_so)


async def until_read(books: asyncpg.Connection, records: int) -> None:
    """Wait until so many records are in the books."""
    done = "SELECT coalesce(sum(next_offset - start_offset), 0)::bigint FROM position"
    await until(books, done, records)


async def publish(broker: str, records: Iterable[tuple[str, Any]], **options: Any) -> None:
    """Publish events, as objects or as bytes, to topics."""
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        for topic, event in records:
            if isinstance(event, bytes):
                await producer.send_and_wait(topic, event, key=b"k", **options)
            else:
                key = event["subject"].encode()
                await producer.send_and_wait(topic, orjson.dumps(event), key=key, **options)


async def read_topic(broker: str, topic: str, number: int) -> list[Any]:
    """Read the first records of a topic."""
    async with (
        AIOKafkaConsumer(topic, bootstrap_servers=broker, auto_offset_reset="earliest") as reader,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        return [await reader.getone() for _ in range(number)]


async def lotmeter(
    environ: Mapping[str, str], *words: str, code: str | None = None, answer: str | None = None
) -> tuple[int, str, str]:
    """Run the command line; returns its status, output and errors.

    With code, in a Python that runs this first; with an answer, that is typed.
    """
    start: Sequence[str] = ["-m", "consumer"]
    if code is not None:
        start = ["-c", f"{code}; from consumer.cli import main; main()"]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *start,
        *words,
        env={**os.environ, "COLUMNS": "80", **environ},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    typed = None if answer is None else answer.encode()
    out, errors = await asyncio.wait_for(process.communicate(typed), PATIENCE_SECONDS)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()
