"""A lot: what it holds, must and may give, when, and what its renewal is called."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from metering.catalog import PRODUCTS
from metering.lots import Burn, Lot, Window, base_name, burn_order, renewed_name

START = date(2024, 1, 31)
ONE_DAY = timedelta(days=1)


def a_lot(product="workflow", units=100, starts_on=START, name="l-1", **values):
    return Lot(name, PRODUCTS[product], units * 1000, starts_on, None, None, **values)


def test_a_windowed_lot_holds_twelve_quotas():
    lot = a_lot(units=2000)

    assert (lot.quotas, lot.bought, lot.pool) == (12, 24_000_000, 24_000_000)
    assert lot.windows == [Window()] * 12


def test_a_recharge_holds_what_was_bought():
    lot = a_lot("pu", units=12_345)

    assert (lot.quotas, lot.bought, lot.pool) == (1, 12_345_000, 12_345_000)
    assert lot.windows == [Window()]


def test_an_entitlement_holds_nothing():
    lot = a_lot("white_label", units=1)

    assert (lot.quotas, lot.bought, lot.pool, lot.windows) == (0, 0, 0, [])


def test_nothing_is_booked_on_the_windows_of_a_new_lot():
    assert a_lot().changed == set()
    assert a_lot("pu").changed == set()


def test_a_lot_that_was_loaded_has_nothing_to_be_written():
    windows = [Window(own=number) for number in range(12)]

    lot = a_lot(windows=windows)

    assert lot.windows is windows
    assert lot.changed == set()


def test_a_lot_ends_on_the_day_before_its_twelfth_month():
    lot = a_lot()

    assert lot.ends_on == date(2025, 1, 30)
    assert lot.expires_on == date(2025, 1, 31)
    assert lot.starts[:3] == (START, date(2024, 2, 29), date(2024, 3, 31))
    assert len(lot.starts) == 13


def test_a_lot_is_valid_from_its_first_to_its_last_day():
    lot = a_lot()

    days = [START - ONE_DAY, START, lot.ends_on, lot.expires_on]

    assert [lot.is_valid(day) for day in days] == [False, True, True, False]


def test_a_refunded_lot_is_never_valid_and_holds_nothing():
    lot = a_lot(is_refunded=True)

    assert not lot.is_valid(START)
    assert lot.pool == 0


def test_what_was_taken_and_what_expired_is_missing_from_the_pool():
    lot = a_lot()
    lot.window_to_book(0).taken = 70_000
    lot.window_to_book(11).taken = 5_000
    lot.expired = 25_000

    assert lot.pool == 1_100_000


@pytest.mark.parametrize(
    ("product", "units", "least", "most"),
    [
        ("mu", 2000, 1_000_000, 4_000_000),
        ("workflow", 101, 50_500, 202_000),
        ("basic_seat", 1, 500, 2_000),
        ("pu", 12_000, 0, 12_000_000),
    ],
)
def test_a_window_must_give_half_and_may_give_twice_its_quota(product, units, least, most):
    lot = a_lot(product, units)

    assert (lot.minimum, lot.maximum) == (least, most)
    assert type(lot.minimum) is int


@pytest.mark.parametrize(
    ("day", "window"),
    [
        (date(2024, 1, 31), 0),
        (date(2024, 2, 28), 0),
        (date(2024, 2, 29), 1),
        (date(2024, 3, 30), 1),
        (date(2024, 3, 31), 2),
        (date(2024, 12, 31), 11),
        (date(2025, 1, 30), 11),
    ],
)
def test_a_day_falls_in_one_window(day, window):
    assert a_lot().window_of(day) == window


def test_a_recharge_has_one_window():
    assert a_lot("pu").window_of(date(2024, 12, 31)) == 0


def test_lots_burn_by_their_end_then_their_start_then_their_name():
    ends_first = a_lot(starts_on=date(2024, 1, 5), name="z")
    # Both end on the same day: a year after February 29 is February 28.
    starts_first = a_lot(starts_on=date(2024, 2, 28), name="y")
    named_first = a_lot(starts_on=date(2024, 2, 29), name="a")
    named_last = a_lot(starts_on=date(2024, 2, 29), name="b")

    lots = [named_last, named_first, starts_first, ends_first]

    assert sorted(lots, key=burn_order) == [ends_first, starts_first, named_first, named_last]


def test_a_renewed_lot_is_numbered():
    assert renewed_name("l-1") == "l-1~2"
    assert renewed_name("l-1~2") == "l-1~3"
    assert renewed_name("l-1~9") == "l-1~10"


def test_a_renewed_lot_goes_back_to_a_purchase():
    assert base_name("l-1~12") == "l-1"
    assert base_name("l-1") == "l-1"
    assert base_name("a~2~3") == "a"


def test_a_burn_knows_what_its_lot_still_holds():
    assert Burn([100_000, 50_000, *[0] * 10]).pool(a_lot()) == 1_050_000


def test_a_new_lot_has_told_nothing_and_keeps_its_prices():
    lot = Lot("l-1", PRODUCTS["workflow"], 1000, START, Decimal(1), Decimal(2))

    assert (lot.has_started, lot.has_ended, lot.expiring_told, lot.expired) == (False, False, 0, 0)
    assert (lot.month_price, lot.price) == (1, 2)


def test_what_is_booked_on_one_window_is_on_no_other():
    booked, other = a_lot(), a_lot()

    booked.window_to_book(3).own += 5
    booked.window_to_book(3).taken += 5

    assert [window.own for window in booked.windows] == [0, 0, 0, 5] + [0] * 8
    assert other.windows == [Window()] * 12
