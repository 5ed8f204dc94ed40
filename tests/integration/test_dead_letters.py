"""Rejected records can be looked at without being shown, and sent through again as they were."""

import stat
from collections import Counter
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from aiokafka import AIOKafkaProducer

from consumer.posting import CUT_OUT
from consumer.redelivery import letter_of, plan_of
from metering.storage.reject_store import Choice
from tests.running import (
    a_member,
    a_service,
    books_of,
    lotmeter,
    publish,
    read_topic,
    until,
    until_read,
)

CANARY = "canary-of-a-message-text"
NOW = datetime.now(UTC)


def event(kind, event_id, data, *, channel="c-1", at=NOW):
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "/tests",
        "type": kind,
        "subject": channel,
        "time": at.isoformat(),
        "data": data,
    }


def registration(channel="c-1"):
    data = {"plan": "enterprise", "time_zone": "Asia/Seoul", "billing_day": 1}
    return event("channel.registered", f"r-{channel}", data, channel=channel, at=NOW - timedelta(3))


def unpriced(number):
    data = {"kind": "global_sms", "country": "AU", "count": 1, "text": CANARY}
    return event("message.sent", f"m-{number}", data)


BINARY = (
    ("ce_type", b"workflow.executed"),
    ("ce_id", b"w-1"),
    ("ce_source", b"/tests"),
    ("ce_subject", b"c-1"),
    ("ce_time", (NOW + timedelta(days=1)).isoformat().encode()),
    ("traceparent", b"\xff\x00"),
    ("lotmeter-reason", b"a stranger wrote this"),
)


@pytest.fixture
async def service(broker, fresh_database_url):
    """Yield a service that has rejected six records of four reasons."""
    environ = await a_service(broker, fresh_database_url)
    _, _, workflow, message = environ["LOTMETER_USAGE_TOPICS"].split(",")
    commands = environ["LOTMETER_COMMANDS_TOPIC"]
    async with a_member(environ), books_of(environ) as books:
        await publish(broker, [(commands, registration())])
        await publish(broker, [(message, unpriced(number)) for number in range(3)])
        await publish(broker, [(workflow, b"{no JSON"), (workflow, b"\xff\xfe")])
        async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
            await producer.send_and_wait(
                workflow, b'{"actions":3}', key=b"\x00k", headers=list(BINARY), partition=1
            )
        await until_read(books, 7)

        await until(books, "SELECT count(*) FROM outbox", 0)
        yield environ, books


async def test_they_are_listed_by_reason_and_never_shown(service):
    environ, _ = service
    *_, workflow, message = environ["LOTMETER_USAGE_TOPICS"].split(",")

    status, out, errors = await lotmeter(environ, "dead-letters", "--json")
    found = orjson.loads(out)
    _, words, _ = await lotmeter(environ, "dead-letters", "--reason", "no_price", "--limit", "2")
    _, narrow, _ = await lotmeter(
        environ, "dead-letters", "--topic", workflow, "--partition", "1", "--json"
    )

    assert (status, errors) == (0, "")
    assert found["rejected"] == 6
    assert found["reasons"] == {"no_price": 3, "malformed": 2, "in_future": 1}
    assert Counter(each["topic"] for each in found["dead_letters"]) == {workflow: 3, message: 3}
    assert CANARY not in out + words
    assert "offset" in words
    assert "and 1 older" in words
    assert {each["partition"] for each in orjson.loads(narrow)["dead_letters"]} == {1}


async def test_originals_are_saved_only_when_asked_and_for_oneself(service, tmp_path):
    environ, _ = service
    path = tmp_path / "letters.ndjson"

    saved = await lotmeter(environ, "dead-letters", "--reason", "no_price", "--save", str(path))
    again = await lotmeter(environ, "dead-letters", "--save", str(path))
    everything = await lotmeter(environ, "dead-letters", "--save", str(tmp_path / "all"), "--json")

    assert saved[0] == 0
    assert CANARY not in saved[1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert sorted(line["raw"] for line in lines) == [
        orjson.dumps(unpriced(number)).decode() for number in range(3)
    ]
    assert again[0] == 1
    assert "is there already" in again[2]
    assert orjson.loads(everything[1])["saved"] == 6
    # What can be corrected and read is a file for `send`.
    assert (await lotmeter(environ, "send", str(path)))[1] == "sent 3 messages\n"


async def test_redelivered_records_are_the_ones_that_were_rejected(service, broker):
    environ, books = service
    *_, workflow, message = environ["LOTMETER_USAGE_TOPICS"].split(",")

    status, out, _ = await lotmeter(environ, "redeliver", "--all", "--yes", "--json")

    assert status == 0
    report = orjson.loads(out)
    assert (report["sent"], report["copies"], report["foreign"]) == (6, 0, 0)
    await until_read(books, 13)
    for topic, number in ((workflow, 6), (message, 6)):
        records = await read_topic(broker, topic, number)
        assert len({(each.partition, each.offset) for each in records}) == number
        kinds = Counter((each.partition, each.key, each.value, each.headers) for each in records)
        assert set(kinds.values()) == {2}
    # They are rejected for the same reasons, and nobody else was.
    reasons = await books.fetch("SELECT reason, count(*) FROM reject GROUP BY reason")
    assert dict(map(tuple, reasons)) == {"no_price": 6, "malformed": 4, "in_future": 2}


async def test_a_record_with_neither_key_nor_value_goes_there_and_back(service, broker):
    environ, books = service
    *_, message = environ["LOTMETER_USAGE_TOPICS"].split(",")
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        nothing = producer.create_batch()
        nothing.append(timestamp=None, key=None, value=None)
        await (await producer.send_batch(nothing, message, partition=0))

    await until_read(books, 8)
    await until(books, "SELECT count(*) FROM outbox", 0)
    status, out, _ = await lotmeter(
        environ, "redeliver", "--topic", message, "--reason", "malformed", "--yes", "--json"
    )

    assert (status, orjson.loads(out)["sent"]) == (0, 1)
    await until_read(books, 9)


async def test_a_repetition_sends_each_record_once_and_not_its_copies(service):
    environ, books = service
    for repetition in (1, 2):
        _, out, _ = await lotmeter(environ, "redeliver", "--all", "--yes", "--json")

        report = orjson.loads(out)
        assert (report["sent"], report["copies"]) == (6, 6 * (repetition - 1))
        await until(books, "SELECT count(*) FROM reject", 6 + 6 * repetition)
        await until(books, "SELECT count(*) FROM outbox", 0)


async def test_a_dry_run_and_a_no_send_nothing(service):
    environ, books = service

    _, planned, _ = await lotmeter(environ, "redeliver", "--reason", "no_price", "--dry-run")
    status, _, refused = await lotmeter(environ, "redeliver", "--all", answer="n\n")

    assert "no_price" in planned
    assert "malformed" not in planned
    assert status == 1
    assert refused.splitlines()[-1].endswith("lotmeter: nothing was sent")
    assert await books.fetchval("SELECT sum(next_offset - start_offset) FROM position") == 7


async def test_what_became_right_is_applied_once_however_often_it_is_sent(service, broker):
    environ, books = service
    *_, workflow, _ = environ["LOTMETER_USAGE_TOPICS"].split(",")
    stranger = event("workflow.executed", "w-9", {"actions": 5}, at=NOW - timedelta(hours=1))
    commands = environ["LOTMETER_COMMANDS_TOPIC"]
    await publish(broker, [(commands, stranger)])  # The wrong topic: rejected.
    await until_read(books, 8)
    await publish(broker, [(workflow, stranger)])
    await until_read(books, 9)

    status, *_ = await lotmeter(environ, "redeliver", "--reason", "wrong_topic", "--yes")

    assert status == 0
    await until_read(books, 10)
    assert (
        await books.fetchval("SELECT sum(quantity) FROM tally WHERE product = 'workflow'") == 5000
    )


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["redeliver"], "say which ones"),
        (["redeliver", "--all", "--reason", "no_price"], "say which ones"),
        (["redeliver", "--all", "--json"], "--json does not ask"),
        (["redeliver", "--reason", "nonsense"], "there is no reason nonsense: choose from"),
        (["dead-letters", "--partition", "1"], "--partition needs --topic"),
        (["dead-letters", "--topic", "t", "--from-offset", "1"], "offsets need --topic"),
        (["dead-letters", "--channel", "c", "--save", "f"], "--save cannot choose by --channel"),
    ],
)
async def test_wrong_usage_is_said_in_one_line(words, error):
    servers = {
        "LOTMETER_KAFKA_SERVERS": "127.0.0.1:1",
        "LOTMETER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    }

    status, out, errors = await lotmeter(servers, *words)

    assert (status, out) == (2, "")
    assert error in errors
    assert len(errors.splitlines()) == 1


async def test_without_a_broker_it_says_so():
    status, out, errors = await lotmeter(
        {"LOTMETER_KAFKA_SERVERS": "127.0.0.1:1"}, "redeliver", "--all", "--yes"
    )

    assert (status, out) == (1, "")
    assert "usage.dead-letters cannot be read: KafkaConnectionError" in errors


class Box:
    def __init__(self, *letters):
        self._letters = letters

    async def letters(self):
        for letter in self._letters:
            yield letter


async def test_what_cannot_be_sent_as_it_was_is_not_sent():
    letter = letter_of(Record(*OURS))
    cut = f"too much; the value of 9 bytes {CUT_OUT}"
    box = Box(
        letter,
        letter._replace(offset=9, reason="malformed", at=(0, 0)),
        letter._replace(value=None, detail=cut),
        letter._replace(value=None, detail="the value must be JSON", at=(0, 1)),
        letter._replace(topic="payroll"),
        None,
    )

    plan = await plan_of(box, Choice(), topics=["usage.mu"])

    assert plan.chosen == {("usage.mu", "no_price"): 2}
    assert plan.places == {(1, 2), (0, 1)}
    assert (plan.copies, plan.cut, plan.foreign) == (1, 1, 2)


class Record:
    key, value, partition, offset = b"k", b"v", 1, 2

    def __init__(self, *headers):
        self.headers = headers


OURS = tuple(
    (f"lotmeter-{name}", value)
    for name, value in (
        ("reason", b"no_price"),
        ("detail", b"because"),
        ("topic", b"usage.mu"),
        ("partition", b"3"),
        ("offset", b"4"),
    )
)


def test_a_letter_is_the_record_without_what_was_added_to_it():
    letter = letter_of(Record(("a", b"1"), ("lotmeter-reason", b"not ours"), *OURS))

    assert letter.headers == (("a", b"1"), ("lotmeter-reason", b"not ours"))
    assert letter.found_at == ("no_price", "usage.mu", 3, 4)
    assert (letter.key, letter.value, letter.at) == (b"k", b"v", (1, 2))


@pytest.mark.parametrize(
    "headers",
    [
        (),
        OURS[:4],
        (*OURS, ("more", b"")),
        (*OURS[:3], ("lotmeter-partition", b"x"), OURS[4]),
        (*OURS[:2], ("lotmeter-topic", b"\xff"), *OURS[3:]),
        (*OURS[:2], ("lotmeter-topic", b"t"), ("lotmeter-partition", None), OURS[4]),
    ],
)
def test_what_we_did_not_write_is_no_letter(headers):
    assert letter_of(Record(*headers)) is None
