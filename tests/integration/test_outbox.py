"""What waits in the outbox for one topic never keeps back what is for another."""

from contextlib import suppress

import pytest_asyncio

from consumer.relay import NotSent, Relay
from consumer.settings import Settings
from metering.storage import outbox_store, schema
from metering.storage.database import create_engine, driver_of, transaction
from metering.storage.outbox_store import Draft
from tests.producers import FakeProducer


@pytest_asyncio.fixture
async def relay(fresh_database_url):
    engine = create_engine(fresh_database_url, connections=2)
    await schema.migrate(engine, "lotmeter")
    settings = Settings(
        kafka_servers="kafka:9092", database_url=fresh_database_url, relay_messages_max=10
    )
    drafts = [Draft("dead_letters", None, b"%d" % n) for n in range(25)]
    async with transaction(engine) as connection:
        await outbox_store.put(await driver_of(connection), [*drafts, Draft("notices", None, b"n")])
    yield Relay(engine, settings=settings)
    await engine.dispose()


async def test_a_dead_topic_with_a_long_queue_keeps_nothing_else_back(relay):
    producer = FakeProducer(refused=["usage.dead-letters"])

    for _ in range(3):
        with suppress(NotSent):
            await relay._send_some(producer)

    assert producer.sent == [("billing.notices", None, b"n", [])]


async def test_a_topic_that_came_back_gets_what_waited_in_its_order(relay, monkeypatch):
    monkeypatch.setattr("consumer.relay.backoff_seconds", lambda _: 0)
    producer = FakeProducer(refused=["usage.dead-letters"])
    with suppress(NotSent):
        await relay._send_some(producer)
    producer.refused.clear()

    while await relay._send_some(producer):
        pass

    letters = [value for topic, _, value, _ in producer.sent if topic == "usage.dead-letters"]
    assert letters == [b"%d" % n for n in range(25)]
