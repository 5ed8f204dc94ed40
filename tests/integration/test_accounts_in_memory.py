"""Accounts stay in memory between batches, as many as there is room for."""

import json

import pytest

from consumer import simulate
from consumer.decoding import instant_from
from metering import account_cache, meter
from metering.catalog import shipped_catalog
from metering.storage import account_store, event_store
from metering.storage.database import driver_of, transaction
from tests.builders import (
    COMMANDS,
    arriving,
    contacts,
    line,
    purchased,
    refunded,
    registered,
    workflow,
)
from tests.replaying import GROUP, Reader, fresh_books

CHANNELS = [f"c-{number}" for number in range(6)]


@pytest.fixture
def kept(monkeypatch):
    """Note how many accounts were kept after each batch."""
    counts = []
    finish = meter.Meter._finish

    def noting(self, work):
        receipt = finish(self, work)
        counts.append(len(self._accounts))
        return receipt

    monkeypatch.setattr(meter.Meter, "_finish", noting)
    monkeypatch.setattr(simulate, "LINES_MAX", 2)
    return counts


async def books(database_url):
    lines = [registered("2024-01-02", channel=channel) for channel in CHANNELS]
    lines += [purchased("2024-01-03", "workflow", 10, channel=channel) for channel in CHANNELS]
    lines += [workflow(f"2024-01-0{day}", day, channel=c) for day in (4, 5, 6) for c in CHANNELS]
    simulation = await simulate.simulate(
        [simulate._line(json.dumps(line)) for line in lines],
        shipped_catalog(),
        as_of=instant_from("2024-03-20T00:00:00Z"),
        database_url=database_url,
    )
    assert simulation.differences == []
    return simulation.document


async def test_no_more_accounts_are_kept_than_there_is_room_for(database_url, kept, monkeypatch):
    with_room = await books(database_url)
    assert max(kept) == len(CHANNELS)
    kept.clear()

    # Room for two of these, or less once they have many days.
    monkeypatch.setattr(account_cache, "BYTES_MAX", 16_000)
    without = await books(database_url)

    assert max(kept[-3:]) <= 2
    assert without == with_room


async def test_batches_make_room_for_themselves(fresh_database_url, monkeypatch):
    """With batches of two records there is room for an account beside those of three lanes, with
    batches of ten there is none.
    """
    now = instant_from("2024-01-04T12:00:00Z")
    batch = 2 * account_cache.RECORD_BYTES + account_cache.CHANNEL_BYTES
    monkeypatch.setattr(account_cache, "ALL_BYTES_MAX", 3 * batch + 16_000)
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        reader.meter = meter.Meter(engine, reader.catalog, reader._decode, group=GROUP, lanes=3)
        await reader.claim()
        await reader.read([registered("2024-01-03")], now=now)
        used = [workflow("2024-01-04", number) for number in range(1, 13)]
        kept = []
        for lines in (used[:2], used[2:]):
            await reader.read(lines, now=now)
            kept.append(len(reader.meter._accounts))

    assert kept == [1, 0]


async def test_an_account_that_is_loaded_is_left_as_it_was_saved(fresh_database_url, monkeypatch):
    monkeypatch.setattr(account_cache, "DAYS_MAX", 31)
    now = instant_from("2024-01-20T00:00:00Z")
    lines = [registered("2024-01-02"), purchased("2024-01-03", "workflow", 10, "l-1")]
    lines += [workflow("2024-01-04", 12), contacts("2024-01-05", 7)]
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read(lines, now=now)
        async with transaction(engine) as connection:
            found = await account_store.load(await driver_of(connection), ["c-1"])

    saved = reader.meter._accounts.take("c-1", found["c-1"].version)
    for name in ("open_from", "due_at", "entries", "notices", "settled_on", "values", "lots"):
        assert getattr(found["c-1"], name) == getattr(saved, name)
    for product, books in found["c-1"].books.items():
        assert books.is_settled(saved.settled_on)
        assert {on: day.fills for on, day in books.days.items()} == {
            on: day.fills for on, day in saved.books[product].days.items() if day.fills
        }


@pytest.mark.parametrize("ahead", [workflow, contacts])
async def test_use_of_the_day_ahead_is_due_when_that_day_begins(ahead, fresh_database_url):
    minutes_before = instant_from("2024-01-20T14:55:00Z")  # The channel's midnight is at 15:00.
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read([registered("2024-01-02"), contacts("2024-01-03", 1)], now=minutes_before)
        await reader.read([workflow("2024-01-04", 1)], now=minutes_before)

        early = arriving(ahead("2024-01-21T00:02:00+09:00", 3), "2024-01-20T14:55:00Z")
        await reader.read([early], now=minutes_before)

        assert await reader.settle(minutes_before) == 0
        assert await reader.settle(instant_from("2024-01-20T15:00:00Z")) == 1


@pytest.fixture
def read_of(monkeypatch):
    """Note of which channels the identities of commands are read."""
    monkeypatch.setattr(account_cache, "DAYS_MAX", 31)
    found = []
    commands_of = event_store.commands_of

    async def noting(driver, channels):
        found.append(sorted(channels))
        return await commands_of(driver, channels)

    monkeypatch.setattr(event_store, "commands_of", noting)
    return found


async def test_identities_of_commands_are_read_with_an_account(fresh_database_url, read_of):
    now = instant_from("2024-01-20T00:00:00Z")
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read([registered("2024-01-02", event_id="one")], now=now)
        # Then the account is there, and so are they; nobody knows of a channel that is unknown.
        for channels in (["c-1"], ["c-1", "c-2"], ["c-1", "c-2"]):
            await reader.read([workflow("2024-01-04", 1, channel=c) for c in channels], now=now)
        receipt = await reader.read([workflow("2024-01-04", 1, event_id="one")], now=now)

    assert read_of == [["c-1"], ["c-2"], ["c-2"], []]
    assert receipt.rejected == {"conflict": 1}


def limit_set(event_id):
    data = {"product": "workflow", "limit": 5}
    return line(COMMANDS, "limit.set", "2024-01-05", data, event_id=event_id)


def refused(event_id):
    return refunded("2024-01-05", "nobody's", event_id=event_id)


@pytest.mark.parametrize("command", [limit_set, refused])
@pytest.mark.parametrize("beside", [[], [workflow("2024-01-04", 1)]])
@pytest.mark.parametrize("is_by_another", [False, True])
async def test_a_command_that_comes_later_holds_its_identity_too(
    is_by_another, beside, command, fresh_database_url, monkeypatch
):
    monkeypatch.setattr(account_cache, "DAYS_MAX", 31)
    now = instant_from("2024-01-20T00:00:00Z")
    async with fresh_books(fresh_database_url) as engine:
        reader = other = Reader(engine)
        await reader.claim()
        await reader.read([registered("2024-01-02")], now=now)
        await reader.read([workflow("2024-01-04", 1)], now=now)
        if is_by_another:
            other = Reader(engine)
            await other.claim()
        receipt = await other.read([*beside, command("two")], now=now)
        assert receipt.outcomes[COMMANDS, "applied"] == 1
        await reader.claim()

        receipt = await reader.read([workflow("2024-01-06", 1, event_id="two")], now=now)

    assert receipt.rejected == {"conflict": 1}
