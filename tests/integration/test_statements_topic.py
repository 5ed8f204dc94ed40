"""Invoicing hears of each cycle once it has closed, in the words of the contract."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from consumer.wall_clock import now_instant
from metering.catalog import shipped_catalog
from metering.storage import book_store
from metering.storage.database import create_engine
from tests.builders import message, purchased, registered, workflow
from tests.running import a_member, a_service, books_of, prepare, publish, read_topic, until

NOON = "12:00:00+09:00"
CLOSING_DAYS = 3


@pytest.fixture
def boundary():
    """Return a billing date on which a cycle ended that has closed since."""
    day = datetime.now(UTC).date() - timedelta(days=CLOSING_DAYS + 2)
    while day.day > 27:
        day -= timedelta(days=1)
    return day


def ago(boundary, days):
    return f"{boundary - timedelta(days=days)}T{NOON}"


def traffic(boundary):
    """Say what happened in the month before, and after it but before it closed."""
    return [
        registered(ago(boundary, 20), plan="growth", billing_day=boundary.day),
        purchased(ago(boundary, 19), "workflow", 100),
        workflow(ago(boundary, 5), 150),
        message(ago(boundary, 4), "global_sms", country="US", segments=1),
        workflow(ago(boundary, -1), 7),
    ]


async def statement_of(environ, broker, records):
    """Run a service on what is in its topics until a statement has come."""
    if records:
        usage = environ["LOTMETER_USAGE_TOPICS"].split(",")
        places = {"billing.commands": environ["LOTMETER_COMMANDS_TOPIC"]}
        places |= {f"usage.{topic.rpartition('.')[2]}": topic for topic in usage}
        await publish(broker, [(places[line["topic"]], line["event"]) for line in records])
    # All is read before any partition is known to be read beyond the closing.
    async with a_member(environ), books_of(environ) as books:
        [record] = await read_topic(broker, environ["LOTMETER_STATEMENTS_TOPIC"], 1)
        await until(books, "SELECT count(*) FROM outbox", 0)
        assert await books.fetchval("SELECT count(*) FROM cycle") == 1
    return record


async def test_a_closed_cycle_is_told_to_invoicing_and_again_after_a_restore(
    broker, fresh_database_url, boundary
):
    environ = await a_service(broker, fresh_database_url, IDLE_MARK_SECONDS="4")
    restored = {
        **environ,
        "LOTMETER_DATABASE_SCHEMA": "restored",
        "LOTMETER_GROUP": environ["LOTMETER_GROUP"] + "-restored",
        "LOTMETER_STATEMENTS_TOPIC": environ["LOTMETER_STATEMENTS_TOPIC"] + "-restored",
        "LOTMETER_BATCH_RECORDS_MAX": "1",
    }
    await prepare(restored)

    record = await statement_of(environ, broker, traffic(boundary))
    again = await statement_of(restored, broker, [])

    engine = create_engine(fresh_database_url, schema="lotmeter")
    books = await book_store.read_channel(engine, shipped_catalog(), "c-1", clock=now_instant())
    await engine.dispose()
    event = orjson.loads(record.value)
    data = event["data"]
    starts_on = books["cycles"][0]["starts_on"]
    assert record.key == f"c-1|{starts_on}".encode()
    assert event["specversion"] == "1.0"
    assert event["type"] == "lotmeter.cycle.closed"
    assert event["subject"] == "c-1"
    assert event["source"] == "/lotmeter"
    # The cycle's object of `simulate` …
    assert {name: data[name] for name in data if name not in ("plan", "lots")} == books["cycles"][0]
    assert data["closed"] is True
    assert data["ends_on"] == str(boundary - timedelta(days=1))
    assert data["products"]["workflow"]["borrowed"] == "50"
    assert data["products"]["pu"]["kinds"] == {"global_sms": {"messages": "1", "pu": "28.5"}}
    # … with plan and lots, as they stood when it ended.
    assert data["plan"] == "growth"
    [lot] = data["lots"]
    assert (lot["lot"], lot["quantity"], lot["pool"]) == ("l-1", "100", "1050")
    assert lot["windows"][0]["borrowed"] == "50"
    assert (again.key, again.value) == (record.key, record.value)
