"""An account is loaded with the days that a batch needs, and without lots that are over; the books
do not show it.
"""

import random
from datetime import date

import asyncpg
import pytest

from metering import account_cache, meter, records
from metering.accounts import DaysMissing, Earlier
from metering.periods import ONE_DAY
from metering.storage import account_store
from metering.storage.database import driver_of, go_by_indexes, transaction
from tests.builders import (
    assigned,
    contacts,
    limit_set,
    purchased,
    refunded,
    registered,
    released,
    renewal_set,
    reservation_cancelled,
    scheduled,
    workflow,
)
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

    async def noting(driver, channels, needed_from=None, **others):
        accounts = await load(driver, channels, needed_from, **others)
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

    async def load_too_little(driver, channels, _, **others):
        return await load(driver, channels, lambda account: account.settled_on, **others)

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

    async def load_too_little(driver, channels, _, **others):
        return await load(driver, channels, lambda account: account.settled_on, **others)

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await reader.read(lines, now=begin)
        monkeypatch.setattr(account_store, "load", load_too_little)
        late = [workflow("2024-01-04", 1)]
        work = reader.read(late, now=begin) if what == "a batch" else reader.settle(closing)
        with pytest.raises(DaysMissing):
            await work


def with_all_lots(monkeypatch):
    """Have every account loaded with lots that are over; returns how many each has."""
    load, found = account_store.load, []

    async def loading(driver, channels, needed_from=None, **_):
        accounts = await load(driver, channels, needed_from, deciding=channels)
        found.extend(len(account.lots) for account in accounts.values())
        return accounts

    monkeypatch.setattr(account_store, "load", loading)
    return found


@pytest.mark.parametrize("room", [0, 2**20])
@pytest.mark.parametrize("seed", [5001, 5007])
async def test_the_books_are_the_same_with_and_without_lots_that_are_over(
    fresh_database_url, monkeypatch, seed, room
):
    # Of two and a half to four years, with ids that come again and refunds of any lot.
    batches = cut(scenario(seed, lines=400)[0], seed)
    monkeypatch.setattr(account_cache, "BYTES_MAX", room)
    without = await books_after(fresh_database_url, batches)

    lots = with_all_lots(monkeypatch)
    assert await books_after(fresh_database_url, batches) == without
    assert max(lots) > 5


YEARS = [
    registered("2021-01-02"),
    purchased("2021-01-03", "workflow", 10),
    purchased("2021-02-03", "pu", 100, lot="l-2"),
    scheduled("2021-02-04", "mu", 100, lot="l-3"),
    workflow("2021-06-07", 4),
    workflow("2023-02-04", 1),
    limit_set("2023-02-04", "workflow", 500),
    purchased("2023-02-05", "workflow", 20, lot="l-4"),
    scheduled("2023-02-06", "mu", 200, lot="l-5"),
    workflow("2023-02-07", 1),
]


async def read_in_turns(reader, lines):
    """Read lines one by one, and let happen what is due."""
    for line in lines:
        now = clocks_of([line])[0]
        await reader.mark_read(now)
        await reader.settle(now)
        await reader.read([line], now=now)


async def loaded(engine, channels, **deciding):
    """Load channels as a batch does that is about their open days."""
    async with transaction(engine) as connection:
        driver = await driver_of(connection)
        return await account_store.load(
            driver, channels, lambda account: account.open_from, **deciding
        )


async def test_what_is_over_is_not_loaded_unless_somebody_decides(fresh_database_url):
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await read_in_turns(reader, YEARS)
        open_ones = (await loaded(engine, ["c-1"]))["c-1"]
        all_ones = (await loaded(engine, ["c-1"], deciding=["c-1"]))["c-1"]
    assert set(open_ones.lots) == {"l-4"}
    assert set(open_ones.reservations) == {"l-5"}
    assert set(all_ones.lots) == {"l-1", "l-2", "l-3", "l-4"}
    assert set(all_ones.reservations) == {"l-3", "l-5"}
    over, kept = {"l-1", "l-2", "l-3"}, {"l-4", "l-5", "workflow", ""}
    assert {of for _, of in all_ones.values} == over | kept
    assert {of for _, of in open_ones.values} == kept
    assert open_ones.values == {key: all_ones.values[key] for key in open_ones.values}


async def test_a_lot_that_is_over_is_not_taken_for_one_of_its_name(fresh_database_url):
    channel = {"channel": "c-2"}
    others = [registered("2023-02-07", **channel)]
    others += [purchased("2023-02-07", "workflow", 30, **channel)]
    others += [workflow("2023-02-08", 7, **channel)]
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await read_in_turns(reader, [*YEARS, *others])
        apart = await loaded(engine, ["c-1"]) | await loaded(engine, ["c-2"])
        together = await loaded(engine, ["c-1", "c-2"])
    assert set(together["c-1"].lots) == {"l-4"}
    assert together["c-2"].lots["l-1"].windows[0].own == 7_000
    assert [account.lots for account in together.values()] == [
        account.lots for account in apart.values()
    ]


@pytest.mark.parametrize("room", [0, 2**20])
async def test_an_id_is_used_once_also_that_of_a_lot_which_is_over(
    fresh_database_url, monkeypatch, room
):
    monkeypatch.setattr(account_cache, "BYTES_MAX", room)
    again = [
        purchased("2023-02-08", "workflow", 10, lot="l-1"),
        refunded("2023-02-09", "l-2"),
        renewal_set("2023-02-10", "l-2", renew=True),
        scheduled("2023-02-11", "mu", 100, lot="l-3"),
        reservation_cancelled("2023-02-12", "l-3"),
    ]
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await read_in_turns(reader, YEARS)
        # Only now, as after a restart, is the channel loaded without them.
        reader.meter._accounts.clear()
        await read_in_turns(reader, [workflow("2023-02-08", 1), *again])
        documents = await reader.documents(clocks_of(again)[-1])
    refused = [
        notice["detail"]["reason"]
        for notice in documents["c-1"]["notices"]
        if notice["kind"] == "command_refused"
    ]
    assert refused == [
        "lot_exists", "refund_window_over", "unknown_lot", "lot_exists", "unknown_reservation"
    ]  # fmt: skip


async def test_an_account_in_memory_without_lots_is_loaded_again_for_who_decides(
    fresh_database_url, monkeypatch
):
    monkeypatch.setattr(account_cache, "BYTES_MAX", 2**20)
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await read_in_turns(
            reader, [registered("2023-02-08", billing_day=8), workflow("2023-02-08", 1)]
        )
        reader.meter._accounts.clear()
        # All its days are in memory: it is new.
        bought = purchased("2023-02-09", "workflow", 10)
        await read_in_turns(reader, [workflow("2023-02-08", 2), bought])
        documents = await reader.documents(clocks_of([bought])[0])
    assert [lot["lot"] for lot in documents["c-1"]["lots"]] == ["l-1"]


async def test_what_is_left_of_a_lot_expires_though_it_ended_before_the_first_open_day(
    fresh_database_url,
):
    # It ends with the cycle, and expires on the first day of the next one, the first open one.
    lines = [registered("2021-01-01", billing_day=1, time_zone="UTC")]
    lines += [
        purchased("2021-01-01", "workflow", 10),
        purchased("2021-06-01", "workflow", 30, "l-2"),
    ]
    lines += [workflow("2021-12-30", 1), workflow("2022-01-05", 1)]
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await read_in_turns(reader, lines)
        held = (await loaded(engine, ["c-1"]))["c-1"]
    assert held.lots["l-1"].expires_on == held.open_from == date(2022, 1, 1)


async def test_nothing_is_decided_without_lots_that_are_over(fresh_database_url, monkeypatch):
    load = account_store.load

    async def load_too_little(driver, channels, needed_from=None, **_):
        return await load(driver, channels, needed_from)

    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await read_in_turns(reader, YEARS)
        monkeypatch.setattr(account_store, "load", load_too_little)
        with pytest.raises(AssertionError):
            await read_in_turns(reader, [purchased("2023-02-08", "workflow", 10, lot="l-1")])


OLD_READINGS = """
INSERT INTO reading (channel, on_day, product, person, peak, last_at, last_level)
SELECT 'c-1', date '2023-02-01' - day, 'operator_seat', int8send(person), 1, 0, 1
FROM generate_series(1, 400) AS day, generate_series(1, 20) AS person
"""
OLD_NOTICES = """
INSERT INTO notice (channel, number, kind, product, on_day, detail)
SELECT 'c-1', 1000 + day, 'quota_used', 'workflow', date '2023-01-01' - day, '{"percent": 80}'
FROM generate_series(1, 2000) AS day
"""


async def pages_read(driver, statement):
    """Count the pages that a statement looks at which is about the last days of a channel."""
    explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
    [plan] = await driver.fetchval(explained, '["c-1"]', '["2023-02-07"]')
    return plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]


@pytest.mark.parametrize(
    ("statement", "older"),
    [(account_store._READINGS, OLD_READINGS), (account_store._TOLD, OLD_NOTICES)],
    ids=["readings", "notices"],
)
async def test_a_load_passes_by_what_came_on_days_long_before(fresh_database_url, statement, older):
    async with fresh_books(fresh_database_url) as engine:
        reader = Reader(engine)
        await reader.claim()
        await read_in_turns(reader, YEARS)
        async with transaction(engine) as connection:
            driver = await driver_of(connection)
            await go_by_indexes(driver)
            before = await pages_read(driver, statement)
            await driver.execute(older)
            assert await pages_read(driver, statement) <= before + 4
