"""Accounts stay in memory, as many as there is room for."""

import gc
import tracemalloc
from datetime import date

import pytest

from metering import account_cache
from metering.account_cache import (
    ALL_BYTES_MAX,
    BYTES_MAX,
    CHANNEL_BYTES,
    DAYS_MAX,
    IDLE_RECORDS,
    RECORD_BYTES,
    AccountCache,
)
from metering.accounts import ACCOUNT_BYTES, Account
from metering.periods import ONE_DAY
from metering.tallies import Report

DAY = date(2024, 1, 1)


@pytest.fixture(autouse=True)
def room_for_three(monkeypatch):
    monkeypatch.setattr(account_cache, "BYTES_MAX", 3 * ACCOUNT_BYTES)


def accounts(*names, version=1):
    return {name: Account(name, "UTC", DAY, DAY, DAY, version=version) for name in names}


def kept_by(cache, *names):
    return [name for name in names if cache.take(name, 1) is not None]


def put(cache, *names):
    cache.put(accounts(*names), loaded=names)


def test_an_account_is_taken_out_once():
    cache = AccountCache()
    put(cache, "a", "b")

    assert cache.take("a", 1).channel == "a"
    assert cache.take("a", 1) is None
    assert (len(cache), cache.bytes_held) == (1, ACCOUNT_BYTES)


def test_an_account_that_was_changed_elsewhere_is_let_go():
    cache = AccountCache()
    put(cache, "a")

    assert cache.take("a", 2) is None
    assert (len(cache), cache.bytes_held) == (0, 0)


def test_accounts_that_are_in_use_are_not_driven_out_by_those_of_a_large_batch():
    cache = AccountCache()
    put(cache, "a", "b")
    for _ in range(3):
        known = {name: cache.take(name, 1) for name in ("a", "b")}
        cache.put({**accounts("c", "d", "e"), **known}, loaded=["c", "d", "e"])
        assert (len(cache), cache.bytes_held) == (3, 3 * ACCOUNT_BYTES)

    assert kept_by(cache, "a", "b", "c", "d", "e") == ["a", "b", "c"]


def test_batches_at_work_share_the_room_that_there_is():
    cache = AccountCache()
    put(cache, "a")

    assert [cache.promise(ACCOUNT_BYTES) for _ in range(3)] == [True, True, False]
    cache.take_back(2 * ACCOUNT_BYTES)
    assert cache.promise(2 * ACCOUNT_BYTES)


def test_accounts_that_nobody_asks_for_make_room_the_oldest_first():
    cache = AccountCache()
    put(cache, "a")
    put(cache, "b", "c")
    read_in_a_batch = IDLE_RECORDS // 20
    for _ in range(19):
        cache.make_room(records=read_in_a_batch, channels=1)
        put(cache, "d", "e")
        assert len(cache) == 3
    cache.make_room(records=read_in_a_batch, channels=1)
    put(cache, "d", "e")

    assert kept_by(cache, "a", "b", "c", "d", "e") == ["c", "d", "e"]
    assert cache.bytes_held == 0


def test_large_batches_make_room_for_themselves_the_oldest_accounts_go_first(monkeypatch):
    monkeypatch.setattr(account_cache, "ALL_BYTES_MAX", 100_000)
    cache = AccountCache(lanes=2)
    put(cache, "a")
    put(cache, "b")
    put(cache, "c")
    left = 100_000 - 2 * ACCOUNT_BYTES
    records = (left // 2 - CHANNEL_BYTES) // RECORD_BYTES

    cache.make_room(records=records, channels=1)
    assert not cache.promise(ACCOUNT_BYTES)
    put(cache, "d")
    assert (len(cache), cache.bytes_held) == (2, 2 * ACCOUNT_BYTES)

    # With small ones there is room again; with more than there is room for, none is kept.
    cache.make_room(records=1, channels=1)
    put(cache, "d")
    assert kept_by(cache, "a", "b", "c", "d") == ["b", "c", "d"]
    cache.make_room(records=records, channels=10)
    put(cache, "a")
    assert not cache.promise(0)
    assert len(cache) == 0


def test_batches_of_a_stream_leave_the_accounts_all_their_room():
    assert ALL_BYTES_MAX - 2 * (5_000 * RECORD_BYTES + 1_000 * CHANNEL_BYTES) > BYTES_MAX


def test_an_account_with_more_days_than_most_batches_need_is_not_kept():
    cache, later = AccountCache(), accounts("a", "b")
    later["a"].settled_on = DAY + (DAYS_MAX - 1) * ONE_DAY
    later["b"].settled_on = DAY + DAYS_MAX * ONE_DAY
    cache.put(later, loaded=[])
    assert kept_by(cache, "a", "b") == ["a"]


def test_accounts_can_be_forgotten():
    cache = AccountCache()
    put(cache, "a", "b", "c")
    cache.forget(["a", "x"])
    assert (len(cache), cache.bytes_held) == (2, 2 * ACCOUNT_BYTES)
    cache.clear()
    assert (len(cache), cache.bytes_held) == (0, 0)


def test_an_account_weighs_what_it_holds_also_its_reports():
    """A channel can have any number of seats: what they take is held against the room there is."""
    account = Account("a", "UTC", DAY, DAY, DAY)
    seats = account.books_of("operator_seat").tallies
    gc.collect()
    tracemalloc.start()
    for number in range(2_000):
        report = Report(number, 1)
        seats.report(b"%016d" % number, report, on=DAY, counts_on=DAY, open_from=DAY)
    seats.changed = {}
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert 0.5 < taken / (account.bytes_held - ACCOUNT_BYTES) < 1.1


def test_an_account_is_weighed_again_once_it_was_written():
    account = Account("a", "UTC", DAY, DAY, DAY)
    before, seats = account.bytes_held, account.books_of("operator_seat").tallies
    seats.report(b"somebody", Report(1, 1), on=DAY, counts_on=DAY, open_from=DAY)
    account.note_written()

    assert account.bytes_held > before
