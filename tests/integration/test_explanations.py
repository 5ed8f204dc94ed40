"""From an event to its entries, and from an entry to the events behind it."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from consumer import explaining
from metering.explanations import NotInTheBooks, explain_entry, explain_record
from metering.storage.database import create_engine
from tests.builders import (
    contacts,
    purchased,
    registered,
    voided,
    workflow,
)
from tests.feeding import feed_built
from tests.running import a_member, a_service, books_of, lotmeter, publish, until_read

SOURCE = "/tests"
NOW = datetime.now(UTC)


@pytest.fixture
async def explained(fresh_database_url):
    """Return what feeds lines and explains one of them, or an entry."""
    engines = []

    async def feed(*lines, as_of):
        engine, _ = await feed_built(lines, as_of, fresh_database_url)
        engines.append(engine)

        async def explain(line=None, *, entry=None):
            if entry is not None:
                return await explain_entry(engine, "c-1", entry)
            event = line["event"]
            return await explain_record(engine, event["subject"], event["source"], event["id"])

        return explain

    yield feed
    for engine in engines:
        await engine.dispose()


async def test_an_event_is_followed_from_its_offset_to_its_entries(explained):
    used = workflow("2024-01-10", 150)
    explain = await explained(
        registered("2024-01-01"), purchased("2024-01-01", "workflow", 100), used, as_of="2024-01-11"
    )

    found = await explain(used)

    assert found["record"] == {"topic": "usage.workflow", "partition": 0, "offset": 0}
    assert (found["state"], found["counts_on"], found["is_late"]) == (
        "applied",
        "2024-01-10",
        False,
    )
    assert (found["product"], found["quantity"]) == ("workflow", "150")
    [settlement] = found["settlements"]
    assert settlement["events_in_all"] == 1
    assert [
        (each["source"], each["window"], each["quota_of"], each["quantity"])
        for each in settlement["entries"]
    ] == [
        ("borrowed", "2024-01-01", "2024-02-01", "50"),
        ("own", "2024-01-01", "2024-01-01", "100"),
    ]
    assert found["day"]["usage"] == "150"
    assert found["day"]["events"] == 1


async def test_a_late_event_says_on_which_day_it_counts(explained):
    late = workflow("2024-01-30", 7, clock="2024-02-10")
    explain = await explained(registered("2024-01-01"), late, as_of="2024-02-10")

    found = await explain(late)

    assert (found["day"]["on"], found["counts_on"], found["is_late"]) == (
        "2024-02-01",
        "2024-02-01",
        True,
    )
    [entry] = found["settlements"][0]["entries"]
    assert (entry["on"], entry["original_on"], entry["quantity"]) == (
        "2024-02-01",
        "2024-01-30",
        "7",
    )


async def test_an_event_that_was_taken_back_names_the_void_and_the_other_way_round(explained):
    used = workflow("2024-01-10", 9)
    void = voided("2024-01-11", used)
    explain = await explained(registered("2024-01-01"), used, void, as_of="2024-01-12")

    event, taker = await explain(used), await explain(void)

    assert event["state"] == "voided"
    assert event["taken_back"] == taker["record"]
    assert taker["takes_back"] == event["record"]
    assert event["day"]["usage"] == "0"
    assert event["day"]["events"] == 0


async def test_what_waits_says_for_what(explained):
    stranger = workflow("2024-01-10", 1, channel="nobody")
    void = voided("2024-01-10", workflow("2024-01-09", 1))
    explain = await explained(registered("2024-01-01"), stranger, void, as_of="2024-01-11")

    assert (await explain(stranger))["waits_for"] == "channel"
    assert (await explain(void))["waits_for"] == "event"
    assert (await explain(void))["settlements"] == []


async def test_commands_are_explained_with_their_answer(explained):
    granted, refused = (purchased("2024-01-02", "workflow", 100, "l-1") for _ in range(2))
    explain = await explained(registered("2024-01-01"), granted, refused, as_of="2024-01-03")

    assert (await explain(granted))["refused"] is None
    assert (await explain(granted))["command"] == "lot.purchased"
    assert (await explain(refused))["refused"] == "lot_exists"


async def test_an_entry_of_the_clock_has_no_record_behind_it(explained):
    explain = await explained(
        registered("2024-01-01"), purchased("2024-01-01", "workflow", 100), as_of="2024-02-02"
    )

    found = await explain(entry=1)

    assert found["settled_by"] == "clock"
    assert (found["entry"]["source"], found["entry"]["quantity"]) == ("minimum", "50")
    assert (found["batch"], found["events"]) == ([], [])


async def test_an_entry_names_the_events_that_count_on_its_day_or_before(explained):
    lines = [workflow("2024-01-10", 60), workflow("2024-01-11", 60), workflow("2024-01-12", 60)]
    explain = await explained(
        registered("2024-01-01"), *lines, contacts("2024-01-10", 9), as_of="2024-01-13"
    )
    entries = [await explain(entry=number) for number in (1, 2, 3, 4)]

    [second] = [
        each
        for each in entries
        if (each["entry"]["product"], each["entry"]["on"]) == ("workflow", "2024-01-11")
    ]

    assert second["settled_by"] == "batch"
    assert [event["record"]["offset"] for event in second["events"]] == [0, 1]
    assert second["events_in_all"] == 2


async def test_what_is_not_there_is_said_with_what_to_do(explained):
    explain = await explained(registered("2024-01-01"), as_of="2024-01-02")

    with pytest.raises(NotInTheBooks, match="see lotmeter dead-letters"):
        await explain(workflow("2024-01-01", 1))
    with pytest.raises(NotInTheBooks, match="no record of this channel"):
        await explain(workflow("2024-01-01", 1, channel="nobody"))
    with pytest.raises(NotInTheBooks, match="has no entry 9"):
        await explain(entry=9)


def recent(line, **ago):
    return line["topic"], line["event"] | {"time": (NOW - timedelta(**ago)).isoformat()}


async def test_a_batch_of_the_running_service_is_one_settlement(broker, fresh_database_url):
    environ = await a_service(broker, fresh_database_url)
    *_, topic, _ = environ["LOTMETER_USAGE_TOPICS"].split(",")
    # All of one moment: were there two days of the channel, there would be an entry of each.
    waited, first, second, third = (
        recent(workflow("2024-01-01", 5, event_id=f"w-{n}"), minutes=9)[1] for n in range(4)
    )
    registration = recent(registered("2024-01-01"), days=3)[1]
    async with a_member(environ), books_of(environ) as books:
        await publish(broker, [(topic, waited)])
        await until_read(books, 1)
        await publish(broker, [(environ["LOTMETER_COMMANDS_TOPIC"], registration)])
        await until_read(books, 2)
        await publish(broker, [(topic, first)])
        await until_read(books, 3)
    # Nobody reads now, so these two come in one batch.
    await publish(broker, [(topic, second), (topic, third)])
    async with a_member(environ), books_of(environ) as books:
        await until_read(books, 5)
        numbers = await books.fetch("SELECT number FROM entry ORDER BY number")
    engine = create_engine(fresh_database_url, schema="lotmeter")
    found = [
        await explain_record(engine, "c-1", SOURCE, event["id"])
        for event in (waited, first, second, third)
    ]
    entries = [await explain_entry(engine, "c-1", row["number"]) for row in numbers]
    await engine.dispose()

    counted = [
        (
            each["events_in_all"],
            each["events_that_had_waited"],
            [e["number"] for e in each["entries"]],
        )
        for explained in found
        for each in explained["settlements"]
    ]
    assert [(events, waiting) for events, waiting, _ in counted] == [(0, 1), (1, 0), (2, 0), (2, 0)]
    assert counted[2][2] == counted[3][2] != counted[1][2]
    assert [each["settled_by"] for each in entries] == ["batch"] * len(entries)
    assert entries[0]["events_that_had_waited"] == 1

    status, out, errors = await lotmeter(
        environ, "explain", "c-1", "--source", SOURCE, "--id", "w-3"
    )
    assert (status, errors) == (0, "")
    assert "with 1 other event of workflow" in out
    assert explaining.SHARED.split(":")[0] in out
    assert max(map(len, out.splitlines())) <= 80
    status, out, _ = await lotmeter(environ, "explain", "c-1", "--entry", "1", "--json")
    assert orjson.loads(out)["entry"]["number"] == 1
    status, out, errors = await lotmeter(environ, "explain", "c-1", "--source", SOURCE, "--id", "x")
    assert (status, out, len(errors.splitlines())) == (1, "", 1)


@pytest.mark.parametrize(
    "words", [[], ["--id", "x"], ["--entry", "1", "--id", "x", "--source", "s"]]
)
async def test_it_wants_an_identity_or_an_entry(words):
    servers = {"LOTMETER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}

    status, _, errors = await lotmeter(servers, "explain", "c-1", *words)

    assert status == 2
    assert "say --source and --id of an event or command, or --entry" in errors
