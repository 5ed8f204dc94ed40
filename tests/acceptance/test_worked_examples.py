"""The worked examples of the rules, one by one.

Unless a test says otherwise: nothing is included, in Seoul, and the cycles begin when the lot does.
"""

from decimal import Decimal

import pytest

from tests.builders import (
    assigned,
    contacts,
    marketing,
    message,
    purchased,
    registered,
    released,
    scheduled,
    workflow,
)

START = "2024-01-01"
LAST_DAY = "2024-12-31"
AFTER_THE_END = "2025-01-01"
MONTHS = [f"2024-{month:02}" for month in range(1, 13)]


async def test_e1_a_lot_of_2000_contacts_must_give_1000_in_a_window_without_use(simulated):
    lines = [registered(START), purchased(START, "mu", 2000)]

    books = await simulated(*lines, as_of="2024-02-01")

    assert books.windows() == [{"minimum": "1000"}, {}]


async def test_e1_a_lot_of_2000_contacts_may_give_4000_in_a_window(simulated):
    lines = [registered(START), purchased(START, "mu", 2000), contacts("2024-01-09", 100_000)]

    books = await simulated(*lines, as_of="2024-01-09")

    assert books.drawn() == 4000


async def test_e2_what_exceeds_twice_the_quota_is_postpaid(simulated):
    lines = [registered(START), purchased(START, "mu", 2000), contacts("2024-01-09", 4500)]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.sources("mu", START) == {"own": "2000", "borrowed": "2000", "postpaid": "500"}
    assert books.windows() == [{"own": "2000", "borrowed": "2000"}]


async def test_e2_what_is_borrowed_is_taken_from_the_next_window(simulated):
    lines = [
        registered(START),
        purchased(START, "mu", 2000),
        contacts("2024-01-09", 4500),
        contacts("2024-01-31", 0),
    ]

    books = await simulated(*lines, as_of="2024-02-01")

    assert books.windows() == [{"own": "2000", "borrowed": "2000"}, {"lent": "2000"}]


async def test_e3_each_purchase_is_priced_alone_from_the_first_range(simulated):
    lots = [f"l-{number}" for number in range(1, 6)]
    lines = [registered(START), *[purchased(START, "workflow", 1000, lot) for lot in lots]]

    books = await simulated(*lines, as_of=START)

    assert [books.lot(lot)["month_price"] for lot in lots] == ["95.00"] * 5
    assert sum(Decimal(books.lot(lot)["price"]) for lot in lots) == Decimal("4275.00")


async def test_e4_one_large_purchase_reaches_the_cheaper_range(simulated):
    lines = [registered(START), purchased(START, "workflow", 5000)]

    books = await simulated(*lines, as_of=START)

    assert books.lot()["month_price"] == "395.00"
    assert books.lot()["price"] == "3555.00"


@pytest.mark.parametrize(
    ("day", "monthly", "maximum"),
    [
        ("2024-01-01", 100, 200),
        ("2024-06-14", 100, 200),
        ("2024-06-15", 200, 400),
        ("2024-12-31", 200, 400),
        ("2025-01-01", 100, 200),
        ("2025-06-14", 100, 200),
        ("2025-06-15", 0, 0),
    ],
)
async def test_e5_lots_that_overlap_add_up(simulated, day, monthly, maximum):
    lines = [
        registered(START),
        purchased(START, "mu", 100, "l-1"),
        purchased("2024-06-15", "mu", 100, "l-2"),
        contacts(day, 1000),
    ]
    in_order = sorted(lines, key=lambda line: line["event"]["time"])

    books = await simulated(*in_order, as_of=max(day, "2024-06-15"))

    used = books.product("mu", f"{day[:7]}-01")
    assert Decimal(used["own"]) == monthly
    assert sum(Decimal(used[source]) for source in ("own", "carried", "borrowed")) == maximum


async def test_e5_each_lot_that_overlaps_has_its_own_minimum(simulated):
    lines = [
        registered(START),
        purchased(START, "mu", 100, "l-1"),
        purchased("2024-06-15", "mu", 100, "l-2"),
    ]

    books = await simulated(*lines, as_of="2025-06-15")

    assert [books.lot(lot)["ends_on"] for lot in ("l-1", "l-2")] == ["2024-12-31", "2025-06-14"]
    assert books.windows("l-1") == [{"minimum": "50"}] * 12
    assert books.windows("l-2") == [{"minimum": "50"}] * 12


async def test_e6_a_reservation_buys_on_the_next_billing_date(simulated):
    lines = [registered("2024-11-01", billing_day=1), scheduled("2024-11-11", "workflow", 100)]

    before = await simulated(*lines, as_of="2024-11-30")
    after = await simulated(*lines, as_of="2024-12-01")

    assert [waiting["executes_on"] for waiting in before.reservations()] == ["2024-12-01"]
    assert before.lots() == []
    assert after.reservations() == []
    assert after.lot()["starts_on"] == "2024-12-01"


@pytest.mark.parametrize(
    ("country", "segments", "units", "dollars"),
    [
        ("US", 1, "28.5", "0.03"),
        ("JP", 1, "123", "0.12"),
        ("US", 2, "43", "0.04"),
        ("US", 3, "57.5", "0.06"),
        ("JP", 2, "232", "0.23"),
        ("JP", 3, "341", "0.34"),
    ],
)
async def test_e7_to_e9_a_message_abroad_costs_by_its_segments(
    simulated, country, segments, units, dollars
):
    sent = message("2024-01-09", "global_sms", country=country, segments=segments)

    books = await simulated(registered(START), sent, as_of="2024-01-09")

    used = books.product("pu", START)
    assert used["usage"] == units
    assert used["postpaid_amount"] == dollars
    assert used["kinds"] == {"global_sms": {"messages": "1", "pu": units}}


@pytest.mark.parametrize(("country", "dollars"), [("US", "28.50"), ("JP", "123.00")])
async def test_e7_and_e8_a_thousand_messages_show_the_exact_price_of_one(
    simulated, country, dollars
):
    sent = message("2024-01-09", "global_sms", 1000, country=country, segments=1)

    books = await simulated(registered(START), sent, as_of="2024-01-09")

    assert books.product("pu", START)["postpaid_amount"] == dollars


async def test_e12_a_seat_that_is_off_and_on_again_counts_once(simulated):
    lines = [
        registered(START),
        assigned("2024-01-05"),
        released("2024-01-06"),
        assigned("2024-01-09"),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.usage("operator_seat", START) == "1"


async def test_e12_a_seat_that_passes_to_another_person_counts_twice(simulated):
    lines = [
        registered(START),
        assigned("2024-01-05", "m-a"),
        released("2024-01-09", "m-a"),
        assigned("2024-01-09", "m-b"),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.usage("operator_seat", START) == "2"


async def test_e13_marketing_messages_are_counted_exactly(simulated):
    books = await simulated(registered(START), marketing("2024-01-09", 250_000), as_of="2024-01-09")

    assert books.usage("marketing", START) == "250000"


async def test_e14_the_limit_of_contacts_is_reached_at_3000_and_all_are_metered(simulated):
    lines = [
        registered(START, plan="early_stage"),
        contacts("2024-01-05", 2999),
        contacts("2024-01-09", 3000),
        contacts("2024-01-10", 3001),
    ]

    books = await simulated(*lines, as_of="2024-01-10")

    assert books.crossed("limit_reached") == [("2024-01-05", 80), ("2024-01-09", 100)]
    assert books.notices("limit_reached")[1][1]["limit"] == "3000"
    assert books.usage("mu", START) == "3001"
    assert books.product("mu", START)["over_limit"] == "1"


@pytest.mark.parametrize(("seat", "limit"), [("basic", 10), ("operator", 5)])
async def test_e14_the_limit_of_seats_is_reached_with_the_last_one_and_all_are_metered(
    simulated, seat, limit
):
    lines = [
        registered(START, plan="early_stage"),
        *[assigned(f"2024-01-{day:02}", f"m-{day}", seat=seat) for day in range(1, limit + 2)],
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    reached = [on for on, percent in books.crossed("limit_reached") if percent == 100]
    assert reached == [f"2024-01-{limit:02}"]
    assert books.usage(f"{seat}_seat", START) == str(limit + 1)
    assert books.product(f"{seat}_seat", START)["over_limit"] == "1"


async def test_f1_without_use_the_minimum_is_deducted_every_month(simulated):
    lines = [registered(START), purchased(START, "workflow", 2000)]

    books = await simulated(*lines, as_of=AFTER_THE_END)

    assert books.windows() == [{"minimum": "1000"}] * 12
    assert books.expired() == 12_000


async def test_f2_twice_the_quota_every_month_empties_the_pool_in_half_the_time(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 2000),
        *[workflow(f"{month}-09", 4000) for month in MONTHS],
    ]

    books = await simulated(*lines, as_of=AFTER_THE_END)

    windows = books.windows()
    assert windows[0] == {"own": "2000", "borrowed": "2000"}
    assert all("minimum" not in window for window in windows)
    assert books.drawn() == 24_000
    postpaid = [books.product("workflow", f"{month}-01")["postpaid"] for month in MONTHS]
    assert postpaid == ["0"] * 6 + ["4000"] * 6


async def test_f2_the_pool_is_empty_after_the_sixth_window(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 2000),
        *[workflow(f"{month}-09", 4000) for month in MONTHS[:6]],
    ]

    books = await simulated(*lines, as_of="2024-07-01")

    assert books.lot()["pool"] == "0"


async def test_f3_the_last_window_has_nothing_left_to_borrow(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 2000),
        *[workflow(f"{month}-09", 2000) for month in MONTHS[:11]],
        workflow("2024-12-09", 4000),
    ]

    books = await simulated(*lines, as_of=LAST_DAY)

    assert books.windows()[11] == {"own": "2000"}
    assert books.sources("workflow", "2024-12-01") == {"own": "2000", "postpaid": "2000"}


async def test_f4_the_last_window_takes_what_earlier_ones_left_over(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 2000),
        *[workflow(f"{month}-09", 1000) for month in MONTHS[:11]],
        workflow("2024-12-09", 4500),
    ]

    books = await simulated(*lines, as_of=AFTER_THE_END)

    december = {"own": "2000", "carried": "2000", "postpaid": "500"}
    assert books.sources("workflow", "2024-12-01") == december
    assert books.expired() == 9000


async def test_f5_after_a_borrowed_window_the_minimum_still_comes_every_month(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 2000),
        workflow("2024-01-09", 4500),
    ]

    early = await simulated(*lines, as_of="2024-02-01")
    late = await simulated(*lines, as_of=AFTER_THE_END)

    assert early.lot()["pool"] == "20000"
    assert late.expired() == 9000


async def test_f6_two_lots_share_the_usage_before_a_minimum_is_deducted(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, "l-1"),
        purchased(START, "workflow", 100, "l-2"),
        workflow("2024-01-09", 80),
    ]

    books = await simulated(*lines, as_of="2024-02-01")

    assert books.windows("l-1")[0] == {"own": "50"}
    assert books.windows("l-2")[0] == {"own": "30", "minimum": "20"}


async def test_f7_two_lots_give_their_quotas_before_either_borrows(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, "l-1"),
        purchased(START, "workflow", 100, "l-2"),
        workflow("2024-01-09", 450),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.sources("workflow", START) == {"own": "200", "borrowed": "200", "postpaid": "50"}


async def test_f8_a_recharge_is_drawn_until_it_is_empty_and_has_no_minimum(simulated):
    lines = [
        registered(START),
        purchased(START, "pu", 12_000),
        message("2024-01-05", "sms", 1198),
        message("2024-01-09", "kakao_infotalk", 3),
    ]

    books = await simulated(*lines, as_of=AFTER_THE_END)

    assert books.sources("pu", START) == {"own": "12000", "postpaid": "1"}
    assert books.lot()["windows"] == []
    assert books.lot()["pool"] == "0"


async def test_f8_an_unused_recharge_keeps_its_units(simulated):
    lines = [registered(START), purchased(START, "pu", 12_000)]

    books = await simulated(*lines, as_of=LAST_DAY)

    assert books.lot()["pool"] == "12000"


async def test_f9_what_the_plan_includes_is_taken_before_the_lot(simulated):
    lines = [
        registered(START, plan="growth"),
        purchased(START, "mu", 2000),
        contacts("2024-01-09", 7500),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    january = {"included": "3000", "own": "2000", "borrowed": "2000", "postpaid": "500"}
    assert books.sources("mu", START) == january


async def test_f10_the_windows_of_a_lot_of_a_month_end_stay_at_the_month_end(simulated):
    lines = [registered("2024-01-31"), purchased("2024-01-31", "workflow", 100)]

    books = await simulated(*lines, as_of="2025-01-30")

    assert [window["starts_on"] for window in books.lot()["windows"]] == [
        "2024-01-31",
        "2024-02-29",
        "2024-03-31",
        "2024-04-30",
        "2024-05-31",
        "2024-06-30",
        "2024-07-31",
        "2024-08-31",
        "2024-09-30",
        "2024-10-31",
        "2024-11-30",
        "2024-12-31",
    ]
    assert books.lot()["ends_on"] == "2025-01-30"
    assert books.lot()["state"] == "active"


async def test_f11_postpaid_units_are_priced_by_their_position_in_the_cycle(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 1000),
        workflow("2024-01-09", 2100),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    sources = {"own": "1000", "borrowed": "1000", "postpaid": "100"}
    assert books.sources("workflow", START) == sources
    assert books.product("workflow", START)["postpaid_amount"] == "10.00"


async def test_f12_the_first_50_actions_cost_nothing(simulated):
    books = await simulated(registered(START), workflow("2024-01-09", 75), as_of="2024-01-31")

    assert books.sources("workflow", START) == {"postpaid": "75"}
    assert books.product("workflow", START)["postpaid_amount"] == "2.50"


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("가" * 70, 1),
        ("가" * 71, 2),
        ("가" * 134, 2),
        ("가" * 135, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("a" * 152 + "€" + "a" * 152, 3),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
        ("가" * 66 + "😀" + "가" * 66, 3),
    ],
)
async def test_f13_a_text_costs_by_the_segments_that_it_has(simulated, text, segments):
    sent = message("2024-01-09", "global_sms", country="US", text=text)

    books = await simulated(registered(START), sent, as_of="2024-01-09")

    assert Decimal(books.usage("pu", START)) == 14 + segments * Decimal("14.5")
