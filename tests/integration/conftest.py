"""Topics and books that only one test sees, for members that read the ones into the others."""

import secrets

import asyncpg
import orjson
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer.settings import Settings
from metering.storage.database import create_engine
from metering.storage.schema import migrate

PARTITIONS = 4


@pytest_asyncio.fixture
async def environ(broker, fresh_database_url):
    """Set everything that a process needs, with topics and books of its own."""
    name = secrets.token_hex(4)
    topics = {
        "USAGE_TOPICS": f"{name}.workflow,{name}.message",
        "COMMANDS_TOPIC": f"{name}.commands",
        "NOTICES_TOPIC": f"{name}.notices",
        "STATEMENTS_TOPIC": f"{name}.statements",
        "DEAD_LETTERS_TOPIC": f"{name}.dead-letters",
    }
    names = ",".join(topics.values()).split(",")
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in names])
    await admin.close()
    variables = {
        "KAFKA_SERVERS": broker,
        "DATABASE_URL": fresh_database_url,
        "GROUP": name,
        "HTTP_ADDRESS": "127.0.0.1:0",
        # The embedded broker lets the first member wait for half of it.
        "SESSION_TIMEOUT_SECONDS": "2",
        "IDLE_MARK_SECONDS": "1",
        **topics,
    }
    return {f"LOTMETER_{variable}": value for variable, value in variables.items()}


@pytest_asyncio.fixture
async def books(environ):
    """Yield a connection to books that are ready."""
    settings = Settings.from_environ(environ)
    url = settings.database_url.get_secret_value()
    engine = create_engine(url, schema=settings.database_schema)
    await migrate(engine, settings.database_schema)
    await engine.dispose()
    connection = await asyncpg.connect(url)
    await connection.execute(f"SET search_path = {settings.database_schema}")
    yield connection
    await connection.close()


@pytest_asyncio.fixture
async def send(broker):
    async with AIOKafkaProducer(bootstrap_servers=broker, linger_ms=5) as producer:

        async def send(topic, events):
            for event in events:
                value = event if isinstance(event, bytes) else orjson.dumps(event)
                key = b"x" if isinstance(event, bytes) else event["subject"].encode()
                await producer.send(topic, value, key=key)
            await producer.flush()

        yield send
