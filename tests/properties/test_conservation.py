"""Nothing is made and nothing is lost: not in a lot, not in a day, not on the way."""

import json
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from metering.accounts import FillKey
from metering.catalog import PRODUCTS
from metering.lots import Window
from metering.settlement import settle, usage_of
from metering.storage.daybook import row_of
from metering.tallies import Counts
from tests.fakes import MemoryMeter
from tests.properties.effort import examples
from tests.properties.narrow import narrow_scenarios
from tests.random_scenarios import scenario

WITH_NO_USE_BEHIND = ("minimum", "expired")
DRAWN = ("own", "carried", "borrowed")

SCENARIOS = st.one_of(
    narrow_scenarios(),
    st.builds(
        lambda seed, lines: scenario(seed, lines=lines), st.integers(0, 2**32), st.integers(15, 80)
    ),
)


def meter_after(told):
    lines, as_of = told
    meter = MemoryMeter()
    meter.take(lines)
    meter.wait_until(as_of)
    meter.document()
    return meter


def lots_of(meter):
    return [
        (account, lot)
        for account in meter.accounts.values()
        for lot in account.lots.values()
        if lot.product.is_metered and not lot.is_refunded
    ]


def entered(meter):
    """Sum the ledger: channel, product, day and fill to quantity."""
    sums = Counter()
    for channel, entry, _ in meter.effects.entries:
        sums[channel, entry.product, entry.on, entry.fill] += entry.quantity
    return sums


@examples(100)
@given(SCENARIOS)
def test_what_was_bought_is_drawn_deducted_expired_or_still_there(told):
    meter = meter_after(told)

    given_up = Counter()
    for (channel, _, _, fill), quantity in entered(meter).items():
        given_up[channel, fill.lot] += quantity
    for account, lot in lots_of(meter):
        assert lot.pool >= 0
        assert lot.bought == given_up[account.channel, lot.lot] + lot.pool


@examples(100)
@given(SCENARIOS)
def test_the_usage_of_every_open_day_is_poured_somewhere(told):
    meter = meter_after(told)

    for account in meter.accounts.values():
        for books in account.books.values():
            today = account.day_of(meter.clock)
            poured = Counter()
            for on, pour in books.days.items():
                for fill, quantity in pour.fills.items():
                    assert quantity > 0
                    if fill.source not in WITH_NO_USE_BEHIND:
                        poured[on] += quantity
            usage = Counter(
                {
                    on: quantity
                    for on, quantity in usage_of(account, books, today).items()
                    if account.open_from <= on <= today
                }
            )
            assert +poured == +usage


@examples(60)
@given(SCENARIOS)
def test_the_sums_of_the_open_days_are_those_of_the_events_that_stand(told):
    meter = meter_after(told)

    for account in meter.accounts.values():
        sums = Counter()
        for (channel, _), identity in meter.taking.identities.items():
            if channel == account.channel and identity.is_countable and identity.state == "applied":
                sums[identity.product, identity.counts_on] += identity.quantity
        for product, books in account.books.items():
            if isinstance(books.tallies, Counts):
                open_sums = {
                    on: quantity
                    for (of, on), quantity in sums.items()
                    if of == product and on >= account.open_from
                }
                assert +Counter(books.tallies.totals) == +Counter(open_sums)


@examples(100)
@given(SCENARIOS)
def test_a_window_gives_at_most_twice_its_quota_and_what_it_lends_is_missing_in_it(told):
    meter = meter_after(told)

    for _, lot in lots_of(meter):
        for window in lot.windows:
            drawn = window.own + window.carried + window.borrowed
            assert 0 <= drawn <= lot.maximum
            assert 0 <= window.taken <= lot.quota
            assert 0 <= window.lent <= window.taken - window.own
            assert window.minimum == 0 or drawn + window.minimum <= lot.minimum


@examples(100)
@given(SCENARIOS)
def test_an_ended_window_gave_its_minimum_or_all_that_was_left(told):
    meter = meter_after(told)

    for account, lot in lots_of(meter):
        today = account.day_of(meter.clock)
        left = lot.bought
        for number, window in enumerate(lot.windows if lot.product.is_windowed else ()):
            given_up = window.own + window.carried + window.borrowed + window.minimum
            left -= given_up
            if lot.starts[number + 1] <= today:
                assert given_up >= lot.minimum or left == 0


@examples(60)
@given(SCENARIOS)
def test_the_windows_of_the_lots_add_up_to_what_the_cycles_were_given(told):
    meter = meter_after(told)

    for channel in meter.document()["channels"].values():
        for product in ("mu", "basic_seat", "operator_seat", "workflow", "marketing"):
            by_cycles = sum(
                Decimal(cycle["products"][product][source])
                for cycle in channel["cycles"]
                if product in cycle["products"]
                for source in DRAWN
            )
            by_windows = sum(
                Decimal(window[source])
                for lot in channel["lots"]
                if lot["product"] == product
                for window in lot["windows"]
                for source in DRAWN
            )
            assert by_cycles == by_windows


@examples(100)
@given(SCENARIOS)
def test_books_made_anew_are_the_books_made_step_by_step(told):
    meter = meter_after(told)

    for account in meter.accounts.values():
        today = account.day_of(meter.clock)
        for product, books in account.books.items():
            made = {on: replace(day, fills=dict(day.fills)) for on, day in books.days.items()}
            # From any day on, as from the first: what is booked says how it began.
            for first in {account.open_from, *sorted(made)[::3]}:
                books.usage_cache = None
                books.touch(first)
                assert settle(account, meter.catalog, product, today=today) == []
                assert books.days == made


@examples(100)
@given(SCENARIOS)
def test_the_ledger_adds_up_to_the_open_days_and_to_the_windows(told):
    meter = meter_after(told)
    ledger = {key: quantity for key, quantity in entered(meter).items() if quantity}

    booked, windows = {}, {}
    for channel, account in meter.accounts.items():
        for product, books in account.books.items():
            for on, pour in books.days.items():
                for fill, quantity in pour.fills.items():
                    booked[channel, product, on, fill] = quantity
    for (channel, _, _, fill), quantity in ledger.items():
        if fill.lot and fill.source != "expired":
            given_by = windows.setdefault((channel, fill.lot, fill.window), Window())
            taken_from = windows.setdefault((channel, fill.lot, fill.quota), Window())
            setattr(given_by, fill.source, getattr(given_by, fill.source) + quantity)
            taken_from.taken += quantity
            taken_from.lent += quantity if fill.quota > fill.window else 0

    opened = {channel: account.open_from for channel, account in meter.accounts.items()}
    assert {key: ledger[key] for key in ledger if key[2] >= opened[key[0]]} == booked
    for account, lot in lots_of(meter):
        for number, window in enumerate(lot.windows):
            assert window == windows.get((account.channel, lot.lot, number), Window())


@examples(60)
@given(SCENARIOS)
def test_no_entry_takes_back_more_than_is_booked(told):
    meter = meter_after(told)

    sums = Counter()
    for channel, entry, _ in meter.effects.entries:
        sums[channel, entry.product, entry.on, entry.fill] += entry.quantity
        assert entry.quantity != 0
        assert sums[channel, entry.product, entry.on, entry.fill] >= 0


@examples(100)
@given(SCENARIOS, st.integers(0, 100))
def test_the_rows_of_days_hold_what_was_entered_and_counted_also_of_days_that_close(told, percent):
    lines, as_of = told
    place = len(lines) * percent // 100
    meter, rows = MemoryMeter(), {}

    def write():
        for channel, account in meter.accounts.items():
            for day, sheet in account.take_changed():
                rows[channel, day] = [*map(json.loads, row_of(channel, day, sheet)[2:])]

    meter.take(lines[:place])
    write()
    meter.take(lines[place:])
    meter.wait_until(as_of)
    write()

    filled, tallied, used = {}, Counter(), Counter()
    for (channel, day), (tallies, sums, fills, quantities) in rows.items():
        for (product, _), (quantity, _) in zip(tallies, sums, strict=True):
            tallied[channel, product, day] += quantity
        for (product, *fill), quantity in zip(fills, quantities, strict=True):
            filled[channel, product, day, FillKey(*fill)] = quantity
            if fill[0] not in WITH_NO_USE_BEHIND and PRODUCTS[product].adds_up in ("count", "cost"):
                used[channel, product, day] += quantity
    meter.document()
    assert filled == {key: quantity for key, quantity in entered(meter).items() if quantity}
    assert +tallied == used


@examples(60)
@given(SCENARIOS)
def test_every_line_ends_in_one_outcome(told):
    outcomes = meter_after(told).document()["outcomes"]

    ended = sum(outcomes[kind] for kind in ("applied", "duplicate", "parked"))
    assert ended + sum(outcomes["rejected"].values()) == len(told[0])


@examples(60)
@given(SCENARIOS, st.integers(0, 100))
def test_the_books_of_a_closed_cycle_never_change(told, percent):
    lines, as_of = told
    place = len(lines) * percent // 100
    meter = MemoryMeter()

    meter.take(lines[:place])
    before = deepcopy(meter.document()["channels"])
    meter.take(lines[place:])
    meter.wait_until(as_of)
    after = meter.document()["channels"]

    for channel, books in before.items():
        closed = [cycle for cycle in books["cycles"] if cycle["closed"]]
        assert after[channel]["cycles"][: len(closed)] == closed


@examples(60)
@given(SCENARIOS, st.integers(0, 100))
def test_a_notice_is_never_taken_back_or_told_twice(told, percent):
    lines, as_of = told
    place = len(lines) * percent // 100
    meter = MemoryMeter()

    meter.take(lines[:place])
    before = deepcopy(meter.document()["channels"])
    meter.take(lines[place:])
    meter.wait_until(as_of)
    after = meter.document()["channels"]

    for channel, books in after.items():
        told_before = before[channel]["notices"] if channel in before else []
        assert all(notice in books["notices"] for notice in told_before)
        once = [
            (notice["kind"], notice["product"], notice["on"], str(notice["detail"]))
            for notice in books["notices"]
            # A reservation may be changed twice on one day, and each change is answered.
            if notice["kind"] != "reservation_changed"
        ]
        assert len(set(once)) == len(once)
