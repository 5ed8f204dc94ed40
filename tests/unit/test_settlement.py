"""How a day is poured, what is entered for it, and that closed days stay where they are."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.decoding import instant_from
from metering.accounts import (
    UNKNOWN,
    Account,
    DayPour,
    DaysMissing,
    Earlier,
    FillKey,
    PourState,
    Setting,
    Standing,
)
from metering.booked import state_before
from metering.catalog import PRODUCTS, Allowance, shipped_catalog
from metering.intake import Intake, go_on
from metering.lots import Burn, Lot, Window
from metering.notices import look
from metering.periods import ONE_DAY, first_instant
from metering.settlement import (
    Entry,
    book,
    days_to_pour,
    freeze,
    pour_day,
    settle,
    usage_of,
)
from metering.tallies import Readings, Report

CATALOG = shipped_catalog()
START = date(2024, 1, 1)
FEBRUARY = date(2024, 2, 1)
MARCH = date(2024, 3, 1)
ALWAYS = -(2**63)
INCLUDED = FillKey("included")
POSTPAID = FillKey("postpaid")


def day(number, month=1):
    return date(2024, month, number)


def own(window=0, lot="l-1"):
    return FillKey("own", lot, window, window)


def a_lot(units=100, name="l-1", *, product="workflow", starts_on=START):
    return Lot(name, PRODUCTS[product], round(units * 1000), starts_on, None, None)


def an_account(*lots, plan="enterprise"):
    account = Account("c-1", "Asia/Seoul", START, START, open_from=START)
    values = {"plan": plan, "billing_day": 1, "trial_ends_on": None}
    for name, value in values.items():
        account.set_value(name, "", Setting(ALWAYS, 0, date.min, value))
    for lot in lots:
        account.lots[lot.lot] = lot
    account.unsaved.lots = frozenset()
    account.unsaved.windows = frozenset()
    return account


def copied(days):
    return {on: replace(poured, fills=dict(poured.fills)) for on, poured in days.items()}


def use(account, on, units, product="workflow"):
    books = account.books_of(product)
    books.tallies.add(on, "", units * 1000, 0)
    books.touch(on)


def report(account, on, level, product="mu", *, touches=True):
    books = account.books_of(product)
    at = (on - START).days
    books.tallies.report(b"", Report(at, level), on=on, counts_on=on, open_from=account.open_from)
    if touches:
        books.touch(on)


def settled(account, today, product="workflow", **late):
    entries = settle(account, CATALOG, product, today=today, **late)
    book(account, entries)
    return entries


def pour(state, on, units, *lots, included=0, cycle_on=START):
    return pour_day(state, on, cycle_on, round(units * 1000), included, lots).pour


# One day


def test_without_a_lot_all_is_postpaid():
    assert pour(PourState(START), START, 75).fills == {POSTPAID: 75_000}


def test_a_day_without_use_pours_nothing():
    assert pour(PourState(START), START, 0, a_lot()).fills == {}


def test_what_the_plan_includes_comes_first():
    poured = pour(PourState(START), START, 130, a_lot(), included=50_000)

    assert poured.fills == {INCLUDED: 50_000, own(): 80_000}


def test_what_is_included_without_end_takes_all():
    assert pour(PourState(START), START, 130, a_lot(), included=None).fills == {INCLUDED: 130_000}


def test_what_is_included_is_less_by_what_the_cycle_took_already():
    state = PourState(START)
    pour(state, day(1), 40, included=50_000)

    assert pour(state, day(2), 30, included=50_000).fills == {INCLUDED: 10_000, POSTPAID: 20_000}
    assert pour(state, day(3), 30, included=50_000).fills == {POSTPAID: 30_000}
    assert pour(state, day(4), 30, included=20_000).fills == {POSTPAID: 30_000}
    assert state.included == 50_000


def test_a_new_cycle_includes_anew():
    state = PourState(START)
    pour(state, day(1), 60, included=50_000)

    poured = pour(state, FEBRUARY, 30, included=50_000, cycle_on=FEBRUARY)

    assert poured.fills == {INCLUDED: 30_000}
    assert (state.cycle_on, state.usage, state.included) == (FEBRUARY, 30_000, 30_000)


def test_a_lot_gives_its_own_then_what_it_borrows_then_nothing():
    assert pour(PourState(START), START, 450, a_lot()).fills == {
        own(): 100_000,
        FillKey("borrowed", "l-1", 0, 1): 100_000,
        POSTPAID: 250_000,
    }


def test_borrowing_takes_the_nearest_window_first():
    state = PourState(START)
    state.burns["l-1"] = Burn([100_000, 40_000, *[0] * 10], drawn=100_000)

    assert pour(state, START, 90, a_lot()).fills == {
        FillKey("borrowed", "l-1", 0, 1): 60_000,
        FillKey("borrowed", "l-1", 0, 2): 30_000,
    }


def test_what_was_left_over_is_taken_oldest_first_before_anything_is_borrowed():
    state = PourState(START)
    state.burns["l-1"] = Burn([70_000, 60_000, 0, *[0] * 9], window=2)

    assert pour(state, MARCH, 190, a_lot(), cycle_on=MARCH).fills == {
        own(2): 100_000,
        FillKey("carried", "l-1", 2, 0): 30_000,
        FillKey("carried", "l-1", 2, 1): 40_000,
        FillKey("borrowed", "l-1", 2, 3): 20_000,
    }


def test_two_lots_share_up_to_their_minimum_first():
    lots = a_lot(name="a"), a_lot(name="b")

    assert pour(PourState(START), START, 80, *lots).fills == {
        own(lot="a"): 50_000,
        own(lot="b"): 30_000,
    }


def test_two_lots_then_give_their_own_one_after_the_other():
    lots = a_lot(name="a"), a_lot(name="b")

    assert pour(PourState(START), START, 130, *lots).fills == {
        own(lot="a"): 80_000,
        own(lot="b"): 50_000,
    }


def test_what_a_lot_left_over_comes_before_what_another_borrows():
    state = PourState(START)
    state.burns["b"] = Burn([50_000, *[0] * 11], window=1)
    lots = a_lot(name="a", starts_on=FEBRUARY), a_lot(name="b")

    poured = pour(state, FEBRUARY, 260, *lots, cycle_on=FEBRUARY)

    assert poured.fills == {
        own(lot="a"): 100_000,
        FillKey("borrowed", "a", 0, 1): 10_000,
        own(1, lot="b"): 100_000,
        FillKey("carried", "b", 1, 0): 50_000,
    }


def test_a_lot_whose_own_was_lent_reaches_its_minimum_from_other_windows_first():
    state = PourState(START)
    state.burns["a"] = Burn([100_000, 100_000, *[0] * 10], window=1)
    lots = a_lot(name="a"), a_lot(name="b", starts_on=FEBRUARY)

    poured = pour(state, FEBRUARY, 70, *lots, cycle_on=FEBRUARY)

    assert poured.fills == {FillKey("borrowed", "a", 1, 2): 50_000, own(lot="b"): 20_000}


def test_a_lot_never_gives_more_than_twice_its_quota_in_one_window():
    state = PourState(START)
    lot = a_lot()
    pour(state, day(1), 150, lot)

    assert pour(state, day(2), 70, lot).fills == {
        FillKey("borrowed", "l-1", 0, 1): 50_000,
        POSTPAID: 20_000,
    }


def test_a_lot_never_gives_more_than_its_pool():
    state = PourState(START)
    state.burns["l-1"] = Burn([100_000] * 11 + [40_000], window=3)

    poured = pour(state, day(5, 4), 90, a_lot(), cycle_on=day(1, 4))

    assert poured.fills == {FillKey("borrowed", "l-1", 3, 11): 60_000, POSTPAID: 30_000}


def test_the_smallest_step_is_drawn_and_the_smallest_step_is_postpaid():
    recharge = a_lot(0.002, product="pu")
    state = PourState(START)

    assert pour(state, START, 0.001, recharge).fills == {own(): 1}
    assert pour(state, START, 0.002, recharge).fills == {own(): 1, POSTPAID: 1}


def test_the_smallest_step_that_is_missing_is_deducted():
    state = PourState(START)
    pour(state, START, 49.999, a_lot())

    assert pour(state, FEBRUARY, 0, a_lot()).fills == {FillKey("minimum", "l-1", 0, 0): 1}


def test_a_window_that_gave_more_than_its_minimum_gives_only_in_its_turn():
    lots = a_lot(name="a"), a_lot(name="b")
    state = PourState(START)
    pour(state, START, 110, *lots)

    assert pour(state, day(2), 0.003, *lots).fills == {own(lot="a"): 3}


def test_a_recharge_gives_all_it_has_and_the_next_one_the_rest():
    state = PourState(START)
    lots = [a_lot(100, name, product="pu") for name in ("a", "b")]

    assert pour(state, START, 130, *lots).fills == {own(lot="a"): 100_000, own(lot="b"): 30_000}
    assert pour(state, day(2), 130, *lots).fills == {own(lot="b"): 70_000, POSTPAID: 60_000}


def test_only_lots_that_are_valid_on_the_day_pay():
    later, refunded = a_lot(name="a", starts_on=day(2)), a_lot(name="b")
    refunded.is_refunded = True

    assert pour(PourState(START), day(1), 10, later, refunded).fills == {POSTPAID: 10_000}


# What is due as a day begins


def test_at_its_end_a_window_is_taken_to_its_minimum():
    state = PourState(START)
    pour(state, day(5), 30, a_lot())

    poured = pour(state, FEBRUARY, 0, a_lot(), cycle_on=FEBRUARY)

    assert poured.fills == {FillKey("minimum", "l-1", 0, 0): 20_000}
    assert state.burns["l-1"] == Burn([50_000, *[0] * 11], window=1)


def test_a_window_that_gave_its_minimum_is_left_alone():
    state = PourState(START)
    pour(state, day(5), 50, a_lot())

    assert pour(state, FEBRUARY, 0, a_lot(), cycle_on=FEBRUARY).fills == {}


def test_nothing_is_deducted_on_the_last_day_of_a_window():
    state = PourState(START)
    pour(state, START, 0, a_lot())

    assert pour(state, day(31), 0, a_lot()).fills == {}


def test_what_was_deducted_can_no_longer_be_drawn():
    state = PourState(START)
    pour(state, START, 0, a_lot())

    poured = pour(state, FEBRUARY, 160, a_lot(), cycle_on=FEBRUARY)

    assert poured.fills == {
        FillKey("minimum", "l-1", 0, 0): 50_000,
        own(1): 100_000,
        FillKey("carried", "l-1", 1, 0): 50_000,
        FillKey("borrowed", "l-1", 1, 2): 10_000,
    }


def test_a_minimum_comes_from_own_then_carried_then_later_quotas():
    state = PourState(START)
    state.burns["l-1"] = Burn([85_000, 80_000, 0, *[0] * 9], window=1)

    poured = pour(state, MARCH, 0, a_lot(), cycle_on=MARCH)

    assert poured.fills == {
        FillKey("minimum", "l-1", 1, 1): 20_000,
        FillKey("minimum", "l-1", 1, 0): 15_000,
        FillKey("minimum", "l-1", 1, 2): 15_000,
    }


def test_a_minimum_is_taken_as_far_as_the_pool_reaches():
    state = PourState(START)
    state.burns["l-1"] = Burn([100_000] * 11 + [80_000], window=5)

    poured = pour(state, day(1, 7), 0, a_lot(), cycle_on=day(1, 7))

    assert poured.fills == {FillKey("minimum", "l-1", 5, 11): 20_000}


def test_windows_that_ended_in_silence_are_all_taken_to_their_minimum():
    state = PourState(START)
    pour(state, START, 10, a_lot())

    poured = pour(state, day(5, 4), 0, a_lot(), cycle_on=day(1, 4))

    assert poured.fills == {
        FillKey("minimum", "l-1", 0, 0): 40_000,
        FillKey("minimum", "l-1", 1, 1): 50_000,
        FillKey("minimum", "l-1", 2, 2): 50_000,
    }
    assert state.burns["l-1"].window == 3


def test_what_is_left_after_the_last_day_expires_after_the_last_minimum():
    state = PourState(START)
    lot = a_lot()
    state.burns["l-1"] = Burn([50_000] * 11 + [0], window=11, drawn=20_000)

    poured = pour(state, date(2025, 1, 1), 7, lot, cycle_on=date(2025, 1, 1))

    assert poured.fills == {
        FillKey("minimum", "l-1", 11, 11): 30_000,
        FillKey("expired", "l-1"): 620_000,
        POSTPAID: 7_000,
    }
    assert state.burns == {}


def test_an_empty_lot_expires_without_a_line():
    state = PourState(START)
    state.burns["l-1"] = Burn([100_000] * 12, window=11)

    assert pour(state, date(2025, 1, 1), 0, a_lot(), cycle_on=date(2025, 1, 1)).fills == {}
    assert state.burns == {}


def test_a_recharge_has_no_minimum_and_expires_whole():
    state = PourState(START)
    lot = a_lot(product="pu")
    pour(state, START, 30, lot)

    assert pour(state, day(30, 12), 0, lot, cycle_on=day(1, 12)).fills == {}
    poured = pour(state, date(2025, 1, 1), 0, lot, cycle_on=date(2025, 1, 1))
    assert poured.fills == {FillKey("expired", "l-1"): 70_000}


# What thresholds are held against


def test_a_day_tells_how_things_stood_before_and_after_it():
    state = PourState(START)
    lots = a_lot(100, "a"), a_lot(50, "b")
    pour(state, day(1), 60, *lots)

    poured = pour(state, day(2), 40, *lots)

    assert (poured.on, poured.cycle_on) == (day(2), START)
    assert poured.before == Standing(usage=60_000, drawn=60_000, pool=0)
    assert poured.after == Standing(usage=100_000, drawn=100_000, pool=0)
    assert (poured.quota, poured.bought) == (150_000, 1_800_000)


def test_included_and_postpaid_usage_is_usage_and_no_draw():
    poured = pour(PourState(START), day(1), 60, included=10_000)

    assert poured.after == Standing(usage=60_000, drawn=0, pool=0)
    assert (poured.quota, poured.bought) == (0, 0)


def test_recharges_tell_what_they_still_hold():
    state = PourState(START)
    lots = a_lot(100, "a", product="pu"), a_lot(200, "b", product="pu")

    poured = pour(state, day(1), 60, *lots)

    assert poured.before == Standing(0, 0, 300_000)
    assert poured.after == Standing(60_000, 60_000, 240_000)
    assert (poured.quota, poured.bought) == (300_000, 300_000)


def test_a_new_window_begins_with_nothing_drawn():
    state = PourState(START)
    pour(state, day(1), 60, a_lot())

    poured = pour(state, FEBRUARY, 10, a_lot(), cycle_on=FEBRUARY)

    assert poured.before == Standing(0, 0, 0)
    assert poured.after == Standing(10_000, 10_000, 0)


# Which days are poured


def test_only_days_on_which_something_can_happen_are_poured():
    account = an_account(a_lot(starts_on=day(10)))
    use(account, day(5), 1)
    account.set_value("plan", "", Setting(1, 1, day(20), "trial"))
    account.set_value("limit", "workflow", Setting(2, 2, day(21), 5))
    account.set_value("limit", "mu", Setting(3, 3, day(22), 5))
    account.set_value("trial_ends_on", "", Setting(4, 4, day(23), "2024-01-25"))
    books = account.books["workflow"]

    days = days_to_pour(account, books, "workflow", after=START, today=day(11, 2))

    numbers = [(found.month, found.day) for found in days]
    assert numbers == [
        (1, 1), (1, 5), (1, 10), (1, 20), (1, 21), (1, 23), (1, 25), (2, 1), (2, 10)
    ]  # fmt: skip


def test_days_are_poured_from_one_on_up_to_today():
    account = an_account(a_lot(starts_on=day(10)))
    books = account.books_of("workflow")

    assert days_to_pour(account, books, "workflow", after=day(10), today=FEBRUARY) == [
        day(10),
        FEBRUARY,
    ]
    assert days_to_pour(account, books, "workflow", after=day(11), today=day(31)) == []


def test_a_recharge_is_poured_on_its_first_day_and_the_day_after_its_last():
    account = an_account(a_lot(product="pu", starts_on=day(10)))
    books = account.books_of("pu")

    days = days_to_pour(account, books, "pu", after=day(2), today=date(2025, 1, 10))

    assert [found for found in days if found.day != 1] == [day(10), date(2025, 1, 10)]


def test_a_channel_that_never_heard_of_a_trial_is_poured_too():
    account = an_account()
    del account.values["trial_ends_on", ""]
    books = account.books_of("workflow")

    assert days_to_pour(account, books, "workflow", after=day(2), today=FEBRUARY) == [FEBRUARY]


def test_nothing_is_poured_before_the_first_day():
    account = an_account(a_lot())

    assert settled(account, date(2023, 12, 31)) == []
    assert settled(account, date(2023, 12, 31)) == []
    assert account.books["workflow"].days == {}
    assert account.books["workflow"].tip is None


def test_every_window_and_the_end_of_a_lot_is_poured():
    account = an_account(a_lot(starts_on=day(10)))
    books = account.books_of("workflow")

    days = days_to_pour(account, books, "workflow", after=day(2), today=date(2025, 3, 31))

    assert len([found for found in days if found.day == 10]) == 13


def test_levels_are_poured_on_the_days_that_they_raise():
    account = an_account()
    report(account, day(5), 100)
    report(account, day(9), 80)
    books = account.books["mu"]

    assert usage_of(account, books, day(31)) == {day(5): 100_000}
    assert usage_of(account, books, FEBRUARY) == {day(5): 100_000, FEBRUARY: 80_000}


def test_the_usage_of_levels_is_counted_again_only_when_something_changed():
    account = an_account()
    report(account, day(5), 100)
    books = account.books["mu"]

    before = usage_of(account, books, day(31))
    again = usage_of(account, books, day(31))
    report(account, day(9), 130)
    after = usage_of(account, books, day(31))

    assert again is before
    assert after == {day(5): 100_000, day(9): 30_000}


def test_the_usage_of_levels_follows_the_cycles():
    account = an_account()
    report(account, day(5), 100)
    books = account.books["mu"]
    usage_of(account, books, day(5, 3))

    account.set_value("billing_day", "", Setting(1, 1, day(6), 15))

    assert usage_of(account, books, day(5, 3)) == {
        day(5): 100_000,
        FEBRUARY: 100_000,
        day(15, 2): 100_000,
    }


# What is entered


def test_a_use_is_entered_on_its_day():
    account = an_account(a_lot())
    use(account, day(5), 130)

    assert settled(account, day(6)) == [
        Entry("workflow", day(5), FillKey("borrowed", "l-1", 0, 1), 30_000, None),
        Entry("workflow", day(5), own(), 100_000, None),
    ]


def test_what_is_settled_is_not_entered_again():
    account = an_account(a_lot())
    use(account, day(5), 130)
    settled(account, day(6))

    assert settled(account, day(6)) == []
    assert settled(account, day(7)) == []
    account.touch_all(START)
    assert settled(account, day(7)) == []


def test_more_use_of_a_day_enters_the_difference():
    account = an_account()
    use(account, day(5), 30)
    settled(account, day(6))

    use(account, day(5), 12)

    assert settled(account, day(6)) == [Entry("workflow", day(5), POSTPAID, 12_000, None)]


def test_use_that_is_taken_back_enters_less():
    account = an_account()
    use(account, day(5), 30)
    settled(account, day(6))

    use(account, day(5), -30)

    assert settled(account, day(6)) == [Entry("workflow", day(5), POSTPAID, -30_000, None)]
    assert account.books["workflow"].days[day(5)].fills == {}


def test_a_day_on_which_nothing_happened_after_all_is_taken_back():
    account = an_account()
    report(account, day(5), 40)
    settled(account, day(6), "mu")

    account.books["mu"].tallies = Readings()
    account.books["mu"].touch(day(5))

    assert settled(account, day(6), "mu") == [Entry("mu", day(5), POSTPAID, -40_000, None)]
    assert day(5) not in account.books["mu"].days
    assert settled(account, day(6), "mu") == []


def test_use_of_an_earlier_day_moves_what_came_after_it():
    account = an_account(a_lot())
    use(account, day(9), 150)
    settled(account, day(10))

    use(account, day(5), 100)

    borrowed = FillKey("borrowed", "l-1", 0, 1)
    assert settled(account, day(10)) == [
        Entry("workflow", day(5), own(), 100_000, None),
        Entry("workflow", day(9), borrowed, 50_000, None),
        Entry("workflow", day(9), own(), -100_000, None),
        Entry("workflow", day(9), POSTPAID, 50_000, None),
    ]


def test_a_late_use_is_entered_with_its_original_day():
    account = an_account()
    use(account, START, 5)

    entries = settled(account, day(3), original_on=date(2023, 12, 30))

    assert entries == [Entry("workflow", START, POSTPAID, 5_000, date(2023, 12, 30))]


def test_a_day_ahead_is_poured_when_it_comes():
    account = an_account()
    use(account, day(6), 5)

    assert settled(account, day(5)) == []
    assert settled(account, day(6)) == [Entry("workflow", day(6), POSTPAID, 5_000, None)]


def test_what_is_due_by_the_clock_is_entered_in_silence():
    account = an_account(a_lot())
    settled(account, day(5))

    assert settled(account, FEBRUARY) == [
        Entry("workflow", FEBRUARY, FillKey("minimum", "l-1", 0, 0), 50_000, None)
    ]


def test_a_plan_includes_from_its_day_on():
    account = an_account()
    account.set_value("plan", "", Setting(1, 1, day(8), "trial"))
    use(account, day(7), 5)
    use(account, day(8), 6)

    assert [entry.fill for entry in settled(account, day(9))] == [POSTPAID, INCLUDED]


def test_each_cycle_includes_anew():
    account = an_account(plan="growth")
    report(account, day(5), 4000)

    entries = settled(account, FEBRUARY, "mu")

    assert [(entry.on, entry.fill, entry.quantity) for entry in entries] == [
        (day(5), INCLUDED, 3_000_000),
        (day(5), POSTPAID, 1_000_000),
        (FEBRUARY, INCLUDED, 3_000_000),
        (FEBRUARY, POSTPAID, 1_000_000),
    ]


def test_only_lots_of_the_product_pay():
    account = an_account(a_lot(product="marketing"))
    use(account, day(5), 30)

    assert [entry.fill for entry in settled(account, day(5))] == [POSTPAID]


def test_a_refund_moves_nothing_but_lets_others_pay():
    refunded = a_lot(name="a")
    account = an_account(refunded, a_lot(name="b"))
    settled(account, day(5))

    refunded.is_refunded = True
    account.touch_all(day(5))
    use(account, day(5), 30)

    assert [entry.fill for entry in settled(account, day(5))] == [own(lot="b")]


def test_thresholds_are_looked_at_from_the_first_day_that_was_poured():
    account = an_account()
    books = account.books_of("workflow")
    settled(account, day(5))
    assert books.unlooked_from == START

    books.unlooked_from = None
    use(account, day(5), 1)
    settled(account, day(9))
    assert books.unlooked_from == day(5)

    books.unlooked_from = None
    use(account, day(9), 1)
    use(account, day(10), 1)
    settled(account, day(10))
    assert books.unlooked_from == day(9)

    use(account, day(10), 1)
    settled(account, day(10))
    assert books.unlooked_from == day(9)
    use(account, START, 1)
    settled(account, day(10))
    assert books.unlooked_from == START


def test_a_day_that_is_poured_again_is_the_first_to_be_looked_at():
    account = an_account()
    use(account, day(5), 1)
    settled(account, day(5))
    account.books["workflow"].unlooked_from = None

    use(account, day(5), 1)
    settled(account, day(5))

    assert account.books["workflow"].unlooked_from == day(5)


def test_a_use_before_all_that_is_kept_pours_from_the_beginning():
    account = an_account(a_lot())
    for number in range(10, 20):
        use(account, day(number), 5)
    settled(account, day(20))

    use(account, day(2), 60)
    entries = settled(account, day(20))

    assert entries[0] == Entry("workflow", day(2), own(), 60_000, None)
    assert {entry.on for entry in entries} == {day(2), day(18), day(19)}


def test_books_do_not_depend_on_the_steps_in_which_they_were_made():
    uses = [(number, 13 * number % 7) for number in range(1, 29)]
    at_once, stepwise, backwards = (
        an_account(a_lot(50)),
        an_account(a_lot(50)),
        an_account(a_lot(50)),
    )

    for number, units in uses:
        use(at_once, day(number), units)
        use(stepwise, day(number), units)
        settled(stepwise, day(number))
    for number, units in reversed(uses):
        use(backwards, day(number), units)
        settled(backwards, day(28))
    settled(at_once, day(28))

    for account in (stepwise, backwards):
        assert account.books["workflow"].days == at_once.books["workflow"].days
        assert account.lots["l-1"].windows == at_once.lots["l-1"].windows


# The lots move on


def test_a_draw_moves_the_window_that_gives_and_the_one_it_is_taken_from():
    account = an_account(a_lot())

    book(account, [Entry("workflow", day(5), FillKey("borrowed", "l-1", 0, 1), 30_000, None)])

    lot = account.lots["l-1"]
    assert lot.windows[0] == Window(borrowed=30_000)
    assert lot.windows[1] == Window(lent=30_000, taken=30_000)
    assert lot.changed == {0, 1}
    assert account.unsaved.windows == {"l-1"}
    assert lot.pool == 1_170_000


@pytest.mark.parametrize("source", ["own", "minimum"])
def test_what_a_window_gives_of_its_own_is_not_lent(source):
    account = an_account(a_lot())

    book(account, [Entry("workflow", day(5), FillKey(source, "l-1", 3, 3), 30_000, None)])
    book(account, [Entry("workflow", day(5), FillKey(source, "l-1", 3, 3), -10_000, None)])

    assert account.lots["l-1"].windows[3] == Window(**{source: 20_000}, taken=20_000)
    assert account.lots["l-1"].changed == {3}


def test_what_is_carried_is_not_lent():
    account = an_account(a_lot())

    book(account, [Entry("workflow", day(5), FillKey("carried", "l-1", 3, 1), 30_000, None)])

    assert account.lots["l-1"].windows[3] == Window(carried=30_000)
    assert account.lots["l-1"].windows[1] == Window(taken=30_000)
    assert account.lots["l-1"].changed == {1, 3}


def test_a_minimum_from_a_later_window_is_lent():
    account = an_account(a_lot())

    book(account, [Entry("workflow", day(5), FillKey("minimum", "l-1", 0, 2), 30_000, None)])

    assert account.lots["l-1"].windows[0] == Window(minimum=30_000)
    assert account.lots["l-1"].windows[2] == Window(lent=30_000, taken=30_000)


def test_what_expires_leaves_the_windows_alone():
    account = an_account(a_lot())
    entries = [
        Entry("workflow", day(5), FillKey("expired", "l-1"), 30_000, None),
        Entry("workflow", day(5), FillKey("expired", "l-1"), -5_000, None),
        Entry("workflow", day(5), FillKey("minimum", "l-1", 0, 0), 1_000, None),
    ]

    book(account, entries)

    assert account.lots["l-1"].expired == 25_000
    assert account.lots["l-1"].windows[0] == Window(minimum=1_000, taken=1_000)
    assert account.lots["l-1"].changed == {0}
    assert account.unsaved.lots == {"l-1"}


def test_included_and_postpaid_usage_moves_no_lot():
    account = an_account(a_lot())
    entries = [
        Entry("workflow", day(5), INCLUDED, 30_000, None),
        Entry("workflow", day(5), own(), 10_000, None),
    ]

    book(account, entries[:1])
    assert account.unsaved.lots == set()

    book(account, entries)
    assert account.lots["l-1"].windows[0] == Window(own=10_000, taken=10_000)


# Closed days


def frozen(account, until, product="workflow"):
    freeze(account, product, until=until)
    account.open_from = until


def test_closed_days_are_the_new_starting_point():
    account = an_account(a_lot())
    use(account, day(5), 130)
    use(account, day(3, 2), 120)
    settled(account, day(4, 2))

    frozen(account, FEBRUARY)

    books = account.books["workflow"]
    assert set(books.days) == {FEBRUARY, day(3, 2)}
    assert set(books.tallies.by_day) == {day(3, 2)}
    began = state_before(account, "workflow", FEBRUARY)
    assert (began.cycle_on, began.usage, began.included) == (FEBRUARY, 0, 0)
    assert began.burns == {"l-1": Burn([100_000, 30_000, *[0] * 10], drawn=130_000)}
    account.touch_all(START)
    assert settled(account, day(4, 2)) == []


def test_after_closing_everything_can_be_poured_again_from_there():
    lots = a_lot(100, "a"), a_lot(50, "b", starts_on=day(20))
    account = an_account(*lots, plan="growth")
    for number in range(1, 29):
        use(account, day(number), number)
        use(account, day(number, 2), number)
    settled(account, day(28, 2))
    before = copied(account.books["workflow"].days)

    frozen(account, FEBRUARY)
    account.touch_all(START)

    assert settled(account, day(28, 2)) == []
    after = account.books["workflow"].days
    assert after == {on: poured for on, poured in before.items() if on >= FEBRUARY}


def test_levels_carry_over_the_closing():
    account = an_account()
    report(account, day(5), 100)
    settled(account, day(4, 2), "mu")
    assert usage_of(account, account.books["mu"], day(4, 2)) == {day(5): 100_000, FEBRUARY: 100_000}

    frozen(account, FEBRUARY, "mu")

    assert usage_of(account, account.books["mu"], day(4, 2)) == {FEBRUARY: 100_000}
    account.touch_all(START)
    assert settled(account, day(4, 2), "mu") == []


def test_how_a_day_began_holds_all_that_its_cycle_used():
    account = an_account(plan="growth")
    report(account, day(5), 1000)
    report(account, day(5, 2), 1500)
    settled(account, day(10, 2), "mu")

    began = state_before(account, "mu", day(9, 2))

    assert (began.cycle_on, began.usage, began.included) == (FEBRUARY, 1_500_000, 1_500_000)


def test_what_was_deducted_or_expired_is_no_usage_of_the_days_before():
    account = an_account(a_lot(), a_lot(name="l-0", starts_on=date(2023, 2, 5)))
    use(account, day(4, 2), 20)
    use(account, day(6, 2), 30)
    entries = settled(account, day(10, 2))

    assert {entry.fill.source for entry in entries} == {"own", "minimum", "expired"}
    assert state_before(account, "workflow", day(9, 2)).usage == 50_000


def test_how_a_day_began_holds_what_the_cycle_took_of_what_is_included():
    account = an_account(plan="growth")
    report(account, day(5), 2000)
    settled(account, day(4, 2), "mu")

    assert state_before(account, "mu", day(15)).included == 2_000_000


def test_a_lot_is_gone_on_the_day_after_it_expired():
    account = an_account(a_lot(starts_on=date(2023, 1, 10)))
    use(account, day(5), 30)
    settled(account, day(12))
    assert account.lots["l-1"].expired == 1_150_000

    assert state_before(account, "workflow", day(10)).burns == {
        "l-1": Burn([0] * 11 + [30_000], window=11, drawn=30_000)
    }
    assert state_before(account, "workflow", day(11)).burns == {}


def test_a_lot_that_gave_nothing_yet_is_in_how_a_day_began():
    account = an_account(a_lot(starts_on=day(20)), a_lot(name="pu", product="pu"))
    account.lots["on"] = Lot("on", PRODUCTS["white_label"], 1000, START, None, None)
    settled(account, day(4, 2))

    burns = state_before(account, "workflow", day(21)).burns
    assert burns["l-1"] == Burn([0] * 12)
    assert "on" not in burns


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 420), st.integers(0, 300)), min_size=1, max_size=25),
    st.lists(st.tuples(st.integers(-200, 60), st.sampled_from((1, 7, 100))), max_size=4),
    st.integers(1, 12),
    st.sampled_from(("growth", "enterprise", "trial")),
)
def test_closing_any_number_of_cycles_leaves_the_open_days_as_they_are(uses, bought, closed, plan):
    lots = [
        a_lot(units, f"l-{number}", product="mu", starts_on=START + starts * ONE_DAY)
        for number, (starts, units) in enumerate(bought)
    ]
    account = an_account(*lots, plan=plan)
    today = START
    for later, level in sorted(uses):
        today = START + timedelta(days=later)
        report(account, today, level)
        settled(account, today, "mu")
    before = copied(account.books_of("mu").days)

    for until in account.cycle_starts(today)[1 : closed + 1]:
        if until <= today:
            frozen(account, until, "mu")
            account.touch_all(START)
            assert settled(account, today, "mu") == []

    after = account.books["mu"].days
    assert after == {on: poured for on, poured in before.items() if on >= account.open_from}


# On top of the newest day


def grow(account, on, units, product="workflow"):
    books = account.books_of(product)
    books.tallies.add(on, "", units * 1000, 0)
    books.grow(on, units * 1000)


def raise_level(account, on, level):
    books = account.books_of("mu")
    raised = books.tallies.raised(b"", level, on, account.cycle_on(on))
    report(account, on, level, touches=False)
    books.grow(on, raised * 1000)


def test_more_use_of_the_newest_day_is_entered_alone():
    account = an_account(a_lot())
    grow(account, day(5), 60)
    settled(account, day(5))

    grow(account, day(5), 50)

    assert account.books["workflow"].growth == 50_000
    assert settled(account, day(5), original_on=day(4)) == [
        Entry("workflow", day(5), FillKey("borrowed", "l-1", 0, 1), 10_000, day(4)),
        Entry("workflow", day(5), own(), 40_000, day(4)),
    ]
    assert settled(account, day(5)) == []


def test_use_on_top_counts_up_from_what_its_bucket_holds():
    account = an_account()
    grow(account, day(5), 30)
    settled(account, day(6))

    grow(account, day(5), 12)
    grow(account, day(5), 3)

    assert settled(account, day(6)) == [Entry("workflow", day(5), POSTPAID, 15_000, None)]
    assert account.books["workflow"].days[day(5)].fills == {POSTPAID: 45_000}


def test_use_on_top_is_told_in_how_things_stand_after_the_day():
    account = an_account(a_lot())
    grow(account, day(4), 10)
    grow(account, day(5), 20)
    settled(account, day(5))

    grow(account, day(5), 30)
    settled(account, day(5))

    poured = account.books["workflow"].days[day(5)]
    assert poured.before == Standing(10_000, 10_000, 0)
    assert poured.after == Standing(60_000, 60_000, 0)


def test_use_on_top_keeps_its_buckets_in_the_order_of_pouring():
    account = an_account(a_lot(name="b"), a_lot(name="a", starts_on=day(2)))
    grow(account, day(5), 10)
    settled(account, day(5))

    grow(account, day(5), 390)
    settled(account, day(5))

    assert list(account.books["workflow"].days[day(5)].fills) == [
        own(lot="b"),
        own(lot="a"),
        FillKey("borrowed", "b", 0, 1),
        FillKey("borrowed", "a", 0, 1),
    ]


def test_use_that_comes_before_the_day_is_over_is_poured_once_when_it_is():
    account = an_account(a_lot())
    grow(account, day(5), 20)
    settled(account, day(5))
    grow(account, day(5), 30)

    settled(account, FEBRUARY)

    fills = {on: poured.fills for on, poured in account.books["workflow"].days.items()}
    assert fills[day(5)] == {own(): 50_000}
    assert fills[FEBRUARY] == {}
    assert settled(account, FEBRUARY) == []


def test_use_on_top_and_use_of_an_earlier_day_are_poured_together():
    account = an_account(a_lot())
    grow(account, day(5), 90)
    settled(account, day(5))

    grow(account, day(5), 20)
    grow(account, day(3), 15)
    grow(account, day(5), 1)

    assert account.books["workflow"].dirty_from == day(3)
    settled(account, day(5))
    fills = {on: poured.fills for on, poured in account.books["workflow"].days.items()}
    assert fills[day(3)] == {own(): 15_000}
    assert fills[day(5)] == {own(): 85_000, FillKey("borrowed", "l-1", 0, 1): 26_000}


def test_a_change_on_a_later_day_pours_the_grown_day_again():
    account = an_account()
    grow(account, day(5), 10)
    settled(account, day(9))

    grow(account, day(5), 20)
    account.books["workflow"].touch(day(8))

    assert account.books["workflow"].dirty_from == day(5)
    assert settled(account, day(9)) == [Entry("workflow", day(5), POSTPAID, 20_000, None)]


def test_what_is_not_the_newest_day_is_poured_again():
    account = an_account()
    grow(account, day(5), 10)
    assert account.books["workflow"].growth == 0
    settled(account, FEBRUARY)

    grow(account, day(5), 20)

    assert account.books["workflow"].growth == 0
    assert account.books["workflow"].dirty_from == day(5)


def test_use_on_top_of_a_day_that_closed_since_is_not_taken():
    account = an_account()
    grow(account, day(5), 10)
    settled(account, day(5))

    frozen(account, FEBRUARY)

    assert account.books["workflow"].tip is None


def test_closing_earlier_days_leaves_the_newest_one_ready():
    account = an_account(a_lot())
    grow(account, FEBRUARY, 10)
    settled(account, FEBRUARY)

    frozen(account, FEBRUARY)
    grow(account, FEBRUARY, 20)

    assert account.books["workflow"].growth == 20_000
    assert settled(account, FEBRUARY) == [
        Entry("workflow", FEBRUARY, own(1), 20_000, None),
    ]


def test_levels_are_raised_on_top_of_the_newest_day():
    account = an_account(plan="growth")
    raise_level(account, day(5), 2900)
    settled(account, day(5), "mu")

    raise_level(account, day(5), 3100)
    raise_level(account, day(5), 3050)

    assert account.books["mu"].growth == 200_000
    assert settled(account, day(5), "mu") == [
        Entry("mu", day(5), INCLUDED, 100_000, None),
        Entry("mu", day(5), POSTPAID, 100_000, None),
    ]
    assert usage_of(account, account.books["mu"], day(5)) == {day(5): 3_100_000}


@pytest.mark.parametrize(
    ("quiet", "units", "looks"),
    [(30_000, 29, False), (30_000, 30, False), (30_000, 31, True)],
)
def test_thresholds_are_looked_at_when_use_on_top_may_reach_one(quiet, units, looks):
    account = an_account(a_lot())
    grow(account, day(5), 10)
    settled(account, day(5))
    books = account.books["workflow"]
    books.unlooked_from, books.quiet = None, quiet

    grow(account, day(5), units)
    settled(account, day(5))

    assert books.unlooked_from == (day(5) if looks else None)
    assert books.quiet == quiet - units * 1000


@pytest.mark.parametrize(("first", "looks"), [(90, True), (101, False), (199, True), (201, False)])
def test_the_first_borrowed_and_the_first_postpaid_unit_are_looked_at(first, looks):
    account = an_account(a_lot())
    grow(account, day(5), first)
    settled(account, day(5))
    books = account.books["workflow"]
    books.unlooked_from, books.quiet = None, 10**9

    grow(account, day(5), 11)
    settled(account, day(5))

    assert books.unlooked_from == (day(5) if looks else None)


def test_a_day_that_waits_for_its_look_is_not_passed_over_by_a_later_one():
    account = an_account()
    grow(account, day(4), 10)
    grow(account, day(5), 10)
    settled(account, day(5))
    books = account.books["workflow"]
    books.unlooked_from, books.quiet = day(4), 0

    grow(account, day(5), 5)
    settled(account, day(5))

    assert books.unlooked_from == day(4)


USES_ON_TOP = st.lists(
    st.tuples(st.sampled_from((0, 0, 0, 0, 1, 9, 31)), st.integers(0, 250)),
    min_size=1,
    max_size=25,
)
LOTS_BOUGHT = st.lists(
    st.tuples(st.integers(-400, 60), st.sampled_from((1, 7, 100, 101.001))), max_size=4
)
SHARED = replace(
    CATALOG,
    plans=CATALOG.plans
    | {"growth": {"workflow": Allowance(70_000, 300_000), "pu": Allowance(70_000)}},
)


@settings(max_examples=60, deadline=None)
@given(
    USES_ON_TOP,
    LOTS_BOUGHT,
    st.sampled_from(("workflow", "pu", "mu")),
    st.sampled_from(("growth", "enterprise", "early_stage", "trial")),
)
def test_use_on_top_and_of_days_that_follow_fills_the_same(uses, bought, product, plan):
    def made():
        lots = [
            a_lot(units, f"l-{number}", product=product, starts_on=START + starts * ONE_DAY)
            for number, (starts, units) in enumerate(bought)
        ]
        return an_account(*lots, plan=plan)

    def grown(account):
        if product == "mu":
            raise_level(account, today, level)
        else:
            grow(account, today, units, product)

    on_top, again, today, level = made(), made(), START, 0
    for later, units in uses:
        today, level = today + timedelta(days=later), level + units
        outcomes = []
        for account in (on_top, again):
            grown(account)
            books = account.books[product]
            if account is again:
                books.touch(START)
                books.tip = None
            entries = settle(account, SHARED, product, today=today)
            book(account, entries)
            news = look(account, SHARED, product, today=today)
            outcomes.append((entries, news, books.days, books.tip.state.burns, account.told))
        assert outcomes[0] == outcomes[1]
    assert [lot.windows for lot in on_top.lots.values()] == [
        lot.windows for lot in again.lots.values()
    ]


# Books that were loaded


def as_loaded(account, product):
    """Let go of all that is not in the database."""
    books = account.books[product]
    books.tip, books.quiet, books.usage_cache = None, 0, None
    books.days = {
        on: DayPour(on, poured.cycle_on, dict(poured.fills), UNKNOWN, UNKNOWN, 0, 0)
        for on, poured in books.days.items()
        if poured.fills
    }


@settings(max_examples=150, deadline=None)
@given(
    USES_ON_TOP,
    LOTS_BOUGHT,
    st.dictionaries(st.integers(0, 90), st.sampled_from((None, 10, 300)), max_size=4),
    st.sampled_from(("workflow", "pu", "mu")),
    st.sampled_from(("growth", "enterprise", "early_stage", "trial")),
)
def test_books_that_were_loaded_go_on_as_if_they_had_stayed(uses, bought, limits, product, plan):
    def made():
        lots = [
            a_lot(units, f"l-{number}", product=product, starts_on=START + starts * ONE_DAY)
            for number, (starts, units) in enumerate(bought)
        ]
        account = an_account(*lots, plan=plan)
        for number, limit in sorted(limits.items()):
            on = START + number * ONE_DAY
            account.set_value("limit", product, Setting(number, number, on, limit))
        return account

    def settled_and_told(account, today):
        entries = settle(account, SHARED, product, today=today)
        book(account, entries)
        return entries, look(account, SHARED, product, today=today)

    stayed, loaded, today, level = made(), made(), START, 0
    for later, units in uses:
        today, level = today + timedelta(days=later), level + units
        outcomes = []
        for account in (stayed, loaded):
            before = settled_and_told(account, today)
            account.settled_on = today
            if account is loaded:
                as_loaded(account, product)
                go_on(account, SHARED, product)
            if product == "mu":
                raise_level(account, today, level)
            else:
                grow(account, today, units, product)
            outcomes.append((before, settled_and_told(account, today), account.told))
        assert outcomes[0] == outcomes[1]
        assert [lot.windows for lot in stayed.lots.values()] == [
            lot.windows for lot in loaded.lots.values()
        ]


def test_the_open_days_are_not_poured_again_after_loading():
    account = an_account(a_lot())
    use(account, day(5), 30)
    settled(account, day(6))
    account.settled_on = day(6)
    as_loaded(account, "workflow")

    go_on(account, CATALOG, "workflow")
    grow(account, day(6), 50)

    assert account.books["workflow"].growth == 50_000
    assert [entry.fill for entry in settled(account, day(6))] == [own()]


@pytest.mark.parametrize("left", ["to pour", "a day behind"])
def test_where_there_is_something_to_pour_first_nothing_is_poured_on_top(left):
    account = an_account(a_lot())
    use(account, day(5), 30)
    settled(account, day(6))
    account.settled_on = day(7) if left == "a day behind" else day(6)
    as_loaded(account, "workflow")
    if left == "to pour":
        use(account, day(5), 30)

    go_on(account, CATALOG, "workflow")

    assert account.books["workflow"].tip is None


# Days that are not held


def an_account_held_from(held_from, *lots):
    account = an_account(*lots)
    account.hold_from(held_from)
    account.settled_on = held_from
    return account


def test_no_day_that_is_not_held_is_poured():
    account = an_account_held_from(day(10), a_lot())
    use(account, day(9), 1)
    with pytest.raises(DaysMissing):
        settle(account, CATALOG, "workflow", today=day(10))


def test_nothing_changes_on_days_that_are_not_held():
    # Of a product without books nothing is poured that could tell.
    account = an_account_held_from(day(10))
    account.touch_all(day(10))
    with pytest.raises(DaysMissing):
        account.touch_all(day(9))


def test_a_product_that_is_used_for_the_first_time_needs_no_earlier_days():
    account = an_account_held_from(day(10), a_lot())
    use(account, day(10), 1)
    [entry] = settle(account, CATALOG, "workflow", today=day(10))
    assert (entry.on, entry.quantity) == (day(10), 1_000)


def test_what_the_earlier_days_took_of_what_is_included_is_gone():
    account = an_account_held_from(day(10))
    account.books_of("workflow").earlier = Earlier(usage=1_000_000_000, included=1_000_000_000)
    assert state_before(account, "workflow", day(10)).usage == 1_000_000_000
    assert state_before(account, "workflow", day(11)).included == 1_000_000_000
    # A cycle that begins with the days that are held has taken nothing yet.
    february = an_account_held_from(FEBRUARY)
    february.books_of("workflow").earlier = Earlier(usage=1, included=1)
    assert state_before(february, "workflow", day(2, 2)).usage == 0


def test_a_cycle_closes_with_all_its_days():
    account = an_account_held_from(day(10))
    closing = first_instant(FEBRUARY, "Asia/Seoul") + CATALOG.rules.closing
    taking = Intake(CATALOG, due_clock=closing, closing_clock=closing)
    taking.accounts["c-1"] = account
    assert taking.needed_from(account, None) == account.open_from
    with pytest.raises(DaysMissing):
        taking.catch_up("c-1", 0)


@pytest.mark.parametrize(
    ("about", "wanted"),
    [
        (None, day(20)),
        ("2024-01-20T01:59:00+09:00", day(19)),  # Who comes an hour late finds the day before.
        ("2024-01-20T02:00:00+09:00", day(20)),
        ("2024-01-18T12:00:00+09:00", day(18)),
        ("2024-01-25T12:00:00+09:00", day(20)),
        ("2023-12-25T12:00:00+09:00", START),
    ],
)
def test_an_account_is_needed_from_the_day_that_the_earliest_record_is_about(about, wanted):
    account = an_account_held_from(day(20))
    now = instant_from("2024-01-20T12:00:00+09:00")
    taking = Intake(CATALOG, due_clock=now, closing_clock=now)
    assert taking.needed_from(account, None if about is None else instant_from(about)) == wanted
    assert Intake(CATALOG).needed_from(account, now) == START
