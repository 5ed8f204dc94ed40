"""The relay keeps what Kafka has not taken, and nothing that is too large blocks the rest."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiokafka.errors import TopicAuthorizationFailedError

from consumer import relay as relaying
from consumer.posting import DETAIL_HEADER, REQUEST_BYTES_MAX
from consumer.relay import Relay
from consumer.settings import Settings
from metering.storage.outbox_store import OutboxMessage
from tests.producers import FakeProducer


@pytest.fixture
def relay():
    settings = Settings(kafka_servers="kafka:9092", database_url="postgresql://db/books")
    return Relay(None, settings=settings)


def a_message(number=1, key=b"c-1", *, destination="notices", value=b"{}", headers=()):
    return OutboxMessage(number, destination, key, value, headers)


def dead_letter(value, *headers):
    own = ((DETAIL_HEADER, b"not JSON"), ("lotmeter-reason", b"malformed"))
    return a_message(destination="dead_letters", value=value, headers=(*headers, *own))


async def test_each_message_goes_to_the_topic_of_its_destination(relay):
    producer = FakeProducer()

    results = await relay._send(
        producer,
        [
            a_message(1),
            a_message(2, destination="statements"),
            a_message(3, destination="dead_letters", headers=(("a", b"b"),)),
        ],
    )

    assert results == {1: "sent", 2: "sent", 3: "sent"}
    assert producer.sent == [
        ("billing.notices", b"c-1", b"{}", []),
        ("billing.statements", b"c-1", b"{}", []),
        ("usage.dead-letters", b"c-1", b"{}", [("a", b"b")]),
    ]


@pytest.mark.parametrize("size", [101, REQUEST_BYTES_MAX])
async def test_a_message_that_is_too_large_goes_without_its_value_and_says_so(relay, size):
    producer = FakeProducer(bytes_max=150)

    results = await relay._send(producer, [dead_letter(b"x" * (size + 100))])

    assert results == {1: "cut"}
    [(_, key, value, headers)] = producer.sent
    assert (key, value) == (b"c-1", None)
    detail = dict(headers)[DETAIL_HEADER]
    assert detail.startswith(b"not JSON; the value of ")
    assert detail.endswith(b"was too large for this topic: cut out")
    assert dict(headers)["lotmeter-reason"] == b"malformed"


async def test_headers_of_the_original_go_too_if_they_are_what_is_too_large(relay):
    producer = FakeProducer(bytes_max=150)

    results = await relay._send(producer, [dead_letter(b"x", ("trace", b"y" * 200))])

    assert results == {1: "cut"}
    [(_, key, _, headers)] = producer.sent
    assert key is None
    assert sorted(dict(headers)) == [DETAIL_HEADER, "lotmeter-reason"]


async def test_many_go_at_once_and_those_of_a_partition_in_their_order(relay):
    producer = FakeProducer(room=3, partitions=2)
    keys = [b"c-1", b"c-2", b"c-1", b"c-1", b"c-2", b"c-1"]

    results = await relay._send(producer, [a_message(*each) for each in enumerate(keys)])

    assert results == dict.fromkeys(range(6), "sent")
    # Where the clients of Kafka look for them.
    assert sorted(producer.batches) == [
        (0, [b"c-2", b"c-2"]),
        (1, [b"c-1"]),
        (1, [b"c-1", b"c-1", b"c-1"]),
    ]


async def test_one_that_is_too_large_does_not_cost_those_beside_it_their_value(relay):
    producer = FakeProducer(bytes_max=150)

    results = await relay._send(
        producer,
        [a_message(1), a_message(2, value=b"x" * 200), a_message(3, value=b"y" * 140)],
    )

    assert results == {1: "sent", 2: "cut", 3: "sent"}
    assert [value for _, _, value, _ in producer.sent] == [b"{}", None, b"y" * 140]


async def test_a_topic_that_is_dead_keeps_only_its_own_messages_back(relay):
    producer = FakeProducer(refused=["usage.dead-letters"])

    results = await relay._send(producer, [a_message(1, destination="dead_letters"), a_message(2)])

    assert isinstance(results[1], TopicAuthorizationFailedError)
    assert results[2] == "sent"


async def test_a_topic_that_does_not_answer_is_not_waited_for(relay, monkeypatch):
    monkeypatch.setattr(relaying, "SEND_SECONDS_MAX", 0.05)
    producer = FakeProducer(silent=["billing.statements"])

    results = await relay._send(producer, [a_message(1, destination="statements"), a_message(2)])

    assert isinstance(results[1], asyncio.CancelledError)
    assert results[2] == "sent"


async def test_it_rests_unless_more_waits_than_it_takes_at_once(relay, monkeypatch):
    sent, rests = [500, 500, 3, 2, 0], []

    @asynccontextmanager
    async def producer():
        yield

    async def send_some(_):
        if len(sent) <= 3:
            relay.stop()
        return sent.pop(0)

    async def rest(seconds):
        rests.append((len(sent), seconds))

    async def show():
        pass

    for name, fake in {
        "producer": producer,
        "send_some": send_some,
        "show": show,
        "rest": rest,
    }.items():
        monkeypatch.setattr(relay, f"_{name}", fake)
    async with asyncio.timeout(5):
        await relay.run()

    # Also while it comes to an end: what is left then is sent, however little.
    assert rests == [(2, relaying.LOOK_SECONDS), (1, relaying.LOOK_SECONDS)]
