"""An account is loaded with the days that a batch needs, and the books do not show it."""

import random
from datetime import date

import asyncpg
import pytest

from metering import account_cache, meter, records
from metering.accounts import DaysMissing, Earlier
from metering.periods import ONE_DAY
from metering.storage import account_store
from metering.storage.database import driver_of, transaction
from tests.builders import assigned, contacts, purchased, registered, released, workflow
from tests.random_scenarios import scenario
from tests.replaying import Reader, clocks_of, fresh_books

TABLES = (
    "channel", "setting", "lot", "lot_window", "reservation", "tally", "reading", "level", "fill",
    "entry", "notice", "cycle", "reject", "parked", "event", "command",
)  # fmt: skip
WHEN_WRITTEN = ["booked_at", "issued_at", "closed_at", "rejected_at"]
# In which order the products of a channel are settled is nobody's business.
NUMBERED_AS_SETTLED = ("entry", "notice")
FAR_AHEAD = 2**60


@pytest.fixture(autouse=True)
def no_room(monkeypatch):
    """Have accounts loaded for each batch."""
    monkeypatch.setattr(account_cache, "BYTES_MAX", 0)


@pytest.fixture
def loads(monkeypatch):
    """Note of each account that is loaded whether it has all its open days."""
    found = []
    load = account_store.load

    async def noting(driver, channels, needed_from=None):
        accounts = await load(driver, channels, needed_from)
        found.extend("some" if account.is_cut else "all" for account in accounts.values())
        return accounts

    monkeypatch.setattr(account_store, "load", noting)
    return found


@pytest.fixture
def begun_again(monkeypatch):
    """Note of each batch whether it was begun before, with too few days."""
    found = []
    record = meter.Meter.record

    async def noting(self, batch, **clocks):
        found.append(batch.needs_all_days)
        return await record(self, batch, **clocks)

    monkeypatch.setattr(meter.Meter, "record", noting)
    return found


def with_all_days(monkeypatch):
    """Have every batch, and whatever is due, ask for all open days."""
    load = meter.Meter._load_accounts

    async def loading(self, driver, work, versions, **_):
        await load(self, driver, work, versions, all_days=True)

    monkeypatch.setattr(meter.Meter, "_load_accounts", loading)


def foreseeing_nothing(monkeypatch):
    """Have accounts loaded as if records were about the newest day, whatever they are about."""
    sort_out = records.sort_out

    class Unaware(dict):
        def get(self, *_):
            return FAR_AHEAD

    def sorting_out(work, catalog, rows):
        sort_out(work, catalog, rows)
        work.oldest = Unaware(work.oldest)

    monkeypatch.setattr(records, "sort_out", sorting_out)


async def books_after(database_url, batches):
    """Read some batches into new books, and tell all that they then hold."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("DROP SCHEMA IF EXISTS lotmeter CASCADE")
    async with fresh_books(database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        for lines, is_settled in batches:
            now = clocks_of(lines)[-1]
            await reader.mark_read(now)
            if is_settled:
                await reader.settle(now)
            await reader.read(lines, now=now)
    held = {}
    for table in TABLES:
        left_out = [*WHEN_WRITTEN, *["number"] * (table in NUMBERED_AS_SETTLED)]
        rows = await connection.fetch(
            f"SELECT to_jsonb(t) - $1::text[] FROM lotmeter.{table} AS t", left_out
        )
        held[table] = sorted(row[0] for row in rows)
    await connection.close()
    return held


def cut(lines, seed):
    """Cut lines into batches, and say before which of them the clock settles what is due."""
    draw, batches = random.Random(seed), []
    while lines:
        size = draw.randint(1, 6)
        batches.append((lines[:size], draw.random() < 0.3))
        lines = lines[size:]
    return batches


@pytest.mark.parametrize("seed", range(8))
async def test_the_books_are_the_same_with_the_days_a_batch_needs_or_with_all(
    fresh_database_url, monkeypatch, loads, begun_again, seed
):
    lines, _ = scenario(2_000 + seed, lines=70)
    batches = cut(lines, seed)
    with_some = await books_after(fresh_database_url, batches)
    assert "some" in loads
    assert not any(begun_again)

    loads.clear()
    with_all_days(monkeypatch)
    assert await books_after(fresh_database_url, batches) == with_some
    assert "some" not in loads


@pytest.mark.parametrize("seed", range(4))
async def test_a_batch_that_turns_out_to_need_other_days_begins_again(
    fresh_database_url, monkeypatch, begun_again, seed
):
    lines, _ = scenario(3_000 + seed, lines=70)
    batches = cut(lines, seed)
    foreseen = await books_after(fresh_database_url, batches)
    assert not any(begun_again)

    foreseeing_nothing(monkeypatch)

    assert await books_after(fresh_database_url, batches) == foreseen
    assert any(begun_again)


async def test_what_is_due_and_turns_out_to_need_other_days_begins_again(
    fresh_database_url, monkeypatch
):
    lines = [registered("2024-01-02"), workflow("2024-01-04", 12), workflow("2024-01-20", 3)]
    begin, closing = clocks_of(lines)[-1], clocks_of([workflow("2024-03-20", 1)])[0]
    load, load_accounts, asked = account_store.load, meter.Meter._load_accounts, []

    async def load_too_little(driver, channels, _):
        return await load(driver, channels, lambda account: account.settled_on)

    async def loading(self, driver, work, versions, *, all_days):
        asked.append(all_days)
        with monkeypatch.context() as patch:
            if not all_days:
                patch.setattr(account_store, "load", load_too_little)
            await load_accounts(self, driver, work, versions, all_days=all_days)

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read(lines, now=begin)
        monkeypatch.setattr(meter.Meter, "_load_accounts", loading)
        await reader.settle(closing)
        documents = await reader.documents(closing)
    assert asked[:2] == [False, True]
    january = documents["c-1"]["cycles"][0]
    assert january["closed"]
    assert january["products"]["workflow"]["usage"] == "15"


@pytest.mark.parametrize("seed", range(4))
async def test_accounts_that_stay_in_memory_are_loaded_again_for_earlier_days(
    fresh_database_url, monkeypatch, loads, begun_again, seed
):
    monkeypatch.setattr(account_cache, "BYTES_MAX", 2**20)
    batches = cut(scenario(4_000 + seed, lines=70)[0], seed)
    await books_after(fresh_database_url, batches)
    assert "some" in loads
    assert not any(begun_again)


async def test_what_came_of_earlier_days_is_what_they_say(fresh_database_url):
    lines = [registered("2024-01-02"), purchased("2024-01-03", "workflow", 10)]
    lines += [contacts("2024-01-10", 50), assigned("2024-01-11", "m-1"), workflow("2024-01-12", 4)]
    lines += [released("2024-01-20", "m-1"), assigned("2024-01-21", "m-2")]
    lines += [contacts("2024-02-05", 20), released("2024-02-06", "m-2")]
    lines += [contacts("2024-02-09", 60), contacts("2024-02-10", 55), workflow("2024-02-11", 90)]
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read(lines, now=clocks_of([workflow("2024-02-12", 1)])[0])
        async with transaction(engine) as connection:
            driver = await driver_of(connection)
            whole = (await account_store.load(driver, ["c-1"]))["c-1"]
            sums = set()
            for number in range(2, 42):
                on = date(2024, 1, 1) + number * ONE_DAY
                loaded = await account_store.load(driver, ["c-1"], lambda _, on=on: on)
                sums |= compared(loaded["c-1"], whole, on)
    # January is still open: its minimum, taken as February began, is nobody's usage.
    assert len(sums) > 5


def compared(some, whole, on):
    """Hold what an account says of the days before one against the days themselves."""
    cycle_on, sums = whole.cycle_on(on - ONE_DAY), set()
    for product, books in whole.books.items():
        poured = [
            (key.source, quantity)
            for day, pour in books.days.items()
            if cycle_on <= day < on
            for key, quantity in pour.fills.items()
        ]
        earlier = Earlier(
            sum(number for source, number in poured if source not in ("minimum", "expired")),
            sum(number for source, number in poured if source == "included"),
        )
        assert some.books_of(product).earlier == earlier
        sums.add(earlier)
        held = {day: pour.fills for day, pour in books.days.items() if day >= on}
        assert {day: pour.fills for day, pour in some.books[product].days.items()} == held
        if product in ("mu", "operator_seat"):
            mine, all_of_them = some.books[product].tallies, books.tallies
            for person in {person for told in all_of_them.days.values() for person in told}:
                assert mine.level_before(person, on) == all_of_them.level_before(person, on)
                raised = (person, 10**6, on, whole.cycle_on(on))
                assert mine.raised(*raised) == all_of_them.raised(*raised)
    return sums


@pytest.mark.parametrize("what", ["a batch", "the clock"])
async def test_who_misses_days_with_all_of_them_is_not_begun_again_for_ever(
    fresh_database_url, monkeypatch, what
):
    lines = [registered("2024-01-02"), workflow("2024-01-04", 12), workflow("2024-01-20", 3)]
    begin, closing = clocks_of(lines)[-1], clocks_of([workflow("2024-03-20", 1)])[0]
    load = account_store.load

    async def load_too_little(driver, channels, _):
        return await load(driver, channels, lambda account: account.settled_on)

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read(lines, now=begin)
        monkeypatch.setattr(account_store, "load", load_too_little)
        late = [workflow("2024-01-04", 1)]
        work = reader.read(late, now=begin) if what == "a batch" else reader.settle(closing)
        with pytest.raises(DaysMissing):
            await work
