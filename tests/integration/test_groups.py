"""A batch can be about more channels than are worked on at once, and comes to the same."""

import pytest
import sqlalchemy as sa

from consumer.envelopes import instant_from
from metering import account_cache, meter, records
from metering.accounts import DaysMissing
from metering.verification import verify
from tests.builders import contacts, purchased, registered, voided, workflow
from tests.replaying import Reader, fresh_books

CHANNELS = [f"c-{number}" for number in range(7)]
NOW = instant_from("2024-01-20T00:00:00Z")


def batches():
    """Give batches about all channels: commands, use, a copy, and uses that are taken back."""
    uses = [workflow(f"2024-01-0{4 + n % 3}", 4 + n, channel=CHANNELS[n % 7]) for n in range(21)]
    yield [
        command
        for channel in CHANNELS
        for command in (
            registered("2024-01-02", channel=channel),
            purchased("2024-01-03", "workflow", 20, channel=channel),
        )
    ]
    yield [*uses[:10], voided("2024-01-06", uses[3], channel=CHANNELS[3]), uses[2]]
    yield [*uses[10:], voided("2024-01-06", uses[1], channel=CHANNELS[1])]
    yield [contacts("2024-01-07", n, channel=channel) for n, channel in enumerate(CHANNELS)]


async def books_of(url, sizes):
    """Read the batches; returns the books, what they came to, and how many were worked on."""
    take_in = records.take_in

    def noting(work, places):
        sizes.append((len(work.intake.accounts), len(work.accounts)))
        take_in(work, places)

    async with fresh_books(url) as engine:
        reader = Reader(engine)
        await reader.claim()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(records, "take_in", noting)
            receipts = [await reader.read(lines, now=NOW) for lines in batches()]
        # Whatever became of a batch, it keeps no room.
        assert reader.meter._accounts._promised == 0
        found = await verify(engine, reader.catalog, full=True)
        assert found.differences == []
        documents = await reader.documents(NOW)
        async with engine.begin() as connection:
            await connection.execute(sa.text("DROP SCHEMA lotmeter CASCADE"))
    return documents, receipts


async def test_channels_are_worked_on_in_groups_with_the_same_books(
    fresh_database_url, monkeypatch
):
    at_once, in_groups = [], []
    expected = await books_of(fresh_database_url, at_once)
    monkeypatch.setattr(meter, "GROUP_CHANNELS", 2)
    # Nothing is kept for another batch.
    monkeypatch.setattr(account_cache, "BYTES_MAX", 0)

    assert await books_of(fresh_database_url, in_groups) == expected

    assert [worked for worked, _ in at_once] == [0, 7, 7, 7]
    assert [worked for worked, _ in in_groups] == [0] * 4 + 3 * [1, 2, 2, 2]
    # Those that were worked on are gone.
    assert in_groups[4:] == 3 * [(1, 1), (2, 2), (2, 2), (2, 2)]


async def test_accounts_of_other_groups_stay_in_memory_as_far_as_there_is_room(
    fresh_database_url, monkeypatch
):
    monkeypatch.setattr(meter, "GROUP_CHANNELS", 2)
    sizes = []

    await books_of(fresh_database_url, sizes)

    assert sizes[4:8] == [(1, 1), (2, 3), (2, 5), (2, 7)]


async def test_a_batch_that_begins_again_keeps_no_room(fresh_database_url, monkeypatch):
    monkeypatch.setattr(meter, "GROUP_CHANNELS", 2)
    take_in, promised = records.take_in, []

    def stumbling(work, places):
        promised.append(work.promised)
        if len(promised) == 7:
            raise DaysMissing(CHANNELS[4])
        take_in(work, places)

    monkeypatch.setattr(records, "take_in", stumbling)
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        for lines in batches():
            await reader.read(lines, now=NOW)

    assert promised[6] > 0
    assert reader.meter._accounts._promised == 0
