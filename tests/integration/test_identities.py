"""An identity is claimed once, whatever claims it, in whichever month and transaction."""

import json

import pytest

from consumer import simulate
from consumer.decoding import instant_from
from consumer.readers import decoder_for
from metering.catalog import shipped_catalog
from metering.meter import Batch, Meter, Partition, Record, Slice
from metering.verification import verify
from tests.builders import arriving, line, registered, with_attributes, with_data


@pytest.fixture(params=[1, 1000])
def lines_a_transaction(request, monkeypatch):
    monkeypatch.setattr(simulate, "LINES_MAX", request.param)


async def books_of(lines, database_url):
    read = [simulate._line(json.dumps(each)) for each in lines]
    as_of = instant_from("2024-02-20T00:00:00Z")
    return await simulate.simulate(read, shipped_catalog(), as_of=as_of, database_url=database_url)


def used(at, event_id):
    return line("usage.workflow", "workflow.executed", at, {"actions": 3}, event_id=event_id)


@pytest.mark.usefixtures("lines_a_transaction")
async def test_a_resend_with_a_time_of_another_month_is_a_conflict_and_leaves_no_record(
    database_url,
):
    original = used("2024-01-30", "x-1")
    moved = with_attributes(original, time="2024-02-02T12:00:00+09:00")

    books = await books_of([registered("2024-01-10"), original, moved], database_url)

    assert books.document["outcomes"]["rejected"] == {"conflict": 1}
    assert books.differences == []


@pytest.mark.usefixtures("lines_a_transaction")
@pytest.mark.parametrize("other_commands", [0, 9])
async def test_an_event_with_the_identity_of_a_command_is_a_conflict(other_commands, database_url):
    command = registered("2024-01-10", event_id="one")
    others = [
        line("billing.commands", "limit.set", "2024-01-11", {"product": "workflow", "limit": 5})
        for _ in range(other_commands)
    ]

    books = await books_of([command, *others, used("2024-01-12", "one")], database_url)

    assert books.document["outcomes"]["rejected"] == {"conflict": 1}
    assert books.differences == []


@pytest.mark.usefixtures("lines_a_transaction")
async def test_a_command_with_the_identity_of_an_event_is_a_conflict(database_url):
    data = {"product": "workflow", "limit": 5}
    command = line("billing.commands", "limit.set", "2024-01-13", data, event_id="one")

    books = await books_of(
        [registered("2024-01-10"), used("2024-01-12", "one"), command], database_url
    )

    assert books.document["outcomes"]["rejected"] == {"conflict": 1}
    assert books.differences == []


@pytest.mark.usefixtures("lines_a_transaction")
async def test_what_waits_holds_its_identity_against_other_months(database_url):
    waiting = used("2024-01-30", "x-1")
    other = arriving(with_data(used("2024-02-02", "x-1"), actions=4), "2024-02-02")

    books = await books_of([waiting, other, registered("2024-01-10")], database_url)

    assert books.document["outcomes"]["rejected"] == {"conflict": 1}
    assert books.document["outcomes"]["applied"] == 2
    assert books.differences == []


async def of_two_batches(first, second, database_url):
    """Record lines of one partition and then of another, as `run` does: what is due happens by one
    clock for all of a batch. Returns what became of each, and the differences.
    """
    read = decoder_for(shipped_catalog(), commands_topic=simulate.COMMANDS)
    now = instant_from("2024-01-13T00:00:00Z")
    async with simulate._fresh_books(database_url) as engine:
        meter = Meter(engine, shipped_catalog(), read, group="metering")

        async def recorded(lines, partition):
            [claim] = await meter.claim({partition: 0}, owner="me", cluster_id="here")
            records = [
                Record(
                    claim.number, offset, now, each.topic, None, each.value, (),
                    simulate._found(read, each),
                )
                for offset, each in enumerate(simulate._line(json.dumps(line)) for line in lines)
            ]  # fmt: skip
            part = Slice(claim, 0, len(lines), None, now)
            receipt = await meter.record(Batch([part], records), now=now)
            return {outcome: count for (_, outcome), count in receipt.outcomes.items() if count}

        await recorded([registered("2024-01-10")], Partition("billing.commands", 0))
        outcomes = [
            await recorded(lines, Partition("usage.workflow", number))
            for number, lines in enumerate((first, second))
        ]
        report = await verify(engine, shipped_catalog(), full=True)
    return outcomes, report.differences


async def test_a_copy_in_the_same_batch_leaves_the_record_of_its_original(database_url):
    event = used("2024-01-12", "x-1")

    outcomes, differences = await of_two_batches([event, event], [event], database_url)

    assert outcomes == [{"applied": 1, "duplicate": 1}, {"duplicate": 1}]
    assert differences == []


async def test_a_namesake_that_is_too_old_leaves_the_record_of_the_next_one(database_url):
    event, too_old = used("2024-01-12", "x-1"), used("2023-11-01", "x-1")

    outcomes, differences = await of_two_batches([too_old, event], [event], database_url)

    assert outcomes == [{"applied": 1, "rejected": 1}, {"duplicate": 1}]
    assert differences == []


async def test_a_namesake_of_another_content_leaves_the_record_of_the_one_before(database_url):
    event = used("2024-01-12", "x-1")
    other = with_data(event, actions=4)

    outcomes, differences = await of_two_batches([event, other], [event, other], database_url)

    assert outcomes == [{"applied": 1, "rejected": 1}, {"duplicate": 1, "rejected": 1}]
    assert differences == []
