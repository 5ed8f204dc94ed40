"""What is bought, drawn, deducted, renewed, reserved, refunded and gone: sections 5 to 7."""

from decimal import Decimal

from tests.builders import (
    arriving,
    assigned,
    changed,
    contacts,
    message,
    purchased,
    refunded,
    registered,
    renewal_set,
    reservation_cancelled,
    reservation_changed,
    scheduled,
    voided,
    workflow,
)

START = "2024-01-01"


async def test_a_lot_pays_on_its_last_day_and_not_after_it(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100),
        workflow("2024-12-31T23:59:59.999999+09:00", 30),
        workflow("2025-01-01T00:00:00+09:00", 40),
    ]

    books = await simulated(*lines, as_of="2025-01-01")

    assert books.sources("workflow", "2024-12-01") == {"own": "30"}
    assert books.sources("workflow", "2025-01-01") == {"postpaid": "40"}
    assert books.lot()["state"] == "expired"


async def test_a_lot_of_february_29_ends_on_february_27(simulated):
    lines = [registered("2024-02-29", billing_day="end"), purchased("2024-02-29", "pu", 100)]

    books = await simulated(*lines, as_of="2024-03-01")

    assert books.lot()["ends_on"] == "2025-02-27"


async def test_the_price_of_a_recharge_is_that_of_what_was_bought(simulated):
    lines = [registered(START), purchased(START, "pu", 12_345)]

    books = await simulated(*lines, as_of=START)

    assert books.lot()["month_price"] is None
    assert books.lot()["price"] == "12.35"


async def test_what_has_no_price_says_so_also_for_nothing(simulated):
    lines = [
        registered(START, plan="growth"),
        purchased(START, "basic_seat", 10),
        contacts("2024-01-05", 10),
    ]

    books = await simulated(*lines, as_of="2024-01-05")

    assert (books.lot()["month_price"], books.lot()["price"]) == (None, None)
    assert books.product("mu", START)["postpaid_amount"] is None


async def test_half_units_are_deducted_and_drawn_exactly(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 101),
        workflow("2024-03-05", 400),
    ]

    books = await simulated(*lines, as_of="2024-03-31")

    assert books.windows() == [
        {"minimum": "50.5"},
        {"minimum": "50.5"},
        {"own": "101", "carried": "101"},
    ]
    assert books.sources("workflow", "2024-03-01")["postpaid"] == "198"
    assert books.lot()["pool"] == "909"


async def test_the_lot_that_ends_first_pays_first(simulated):
    lines = [
        registered(START),
        purchased("2024-01-05", "workflow", 100, "a-later"),
        purchased("2024-01-04", "workflow", 100, "b-sooner", clock="2024-01-05"),
        workflow("2024-01-10", 40),
    ]

    books = await simulated(*lines, as_of="2024-01-10")

    assert (books.drawn("b-sooner"), books.drawn("a-later")) == (40, 0)


async def test_of_lots_that_end_together_the_one_that_starts_first_pays_first(simulated):
    lines = [
        registered("2023-02-28"),
        # Both end on 2024-02-27: a year after February 29 is February 28.
        purchased("2024-02-29", "workflow", 100, "b"),
        purchased("2024-02-28", "workflow", 100, "c", clock="2024-02-29"),
        workflow("2024-03-10", 40),
    ]

    books = await simulated(*lines, as_of="2024-03-10")

    assert books.lot("b")["ends_on"] == books.lot("c")["ends_on"] == "2025-02-27"
    assert (books.drawn("c"), books.drawn("b")) == (40, 0)


async def test_of_lots_of_the_same_days_the_id_decides(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, "b"),
        purchased(START, "workflow", 100, "a"),
        workflow("2024-01-10", 40),
    ]

    books = await simulated(*lines, as_of="2024-01-10")

    assert (books.drawn("a"), books.drawn("b")) == (40, 0)


async def test_lots_reach_their_minimum_then_their_quota_then_carry_then_borrow(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, "a"),
        purchased(START, "workflow", 100, "b"),
        workflow("2024-02-05", 320),
    ]

    books = await simulated(*lines, as_of="2024-02-29")

    # 50 + 50 to the minimum, 50 + 50 to the quota, 50 + 50 left over by January, 20 borrowed.
    assert books.windows("a")[1] == {"own": "100", "carried": "50", "borrowed": "20"}
    assert books.windows("b")[1] == {"own": "100", "carried": "50"}


async def test_what_was_borrowed_is_missing_from_the_window_it_was_taken_from(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100),
        workflow("2024-01-05", 150),
        workflow("2024-02-05", 130),
    ]

    books = await simulated(*lines, as_of="2024-02-29")

    assert books.windows() == [
        {"own": "100", "borrowed": "50"},
        {"own": "50", "borrowed": "80", "lent": "50"},
    ]


async def test_borrowing_goes_on_in_the_window_after_next(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100),
        workflow("2024-01-05", 200),
        workflow("2024-02-05", 150),
    ]

    books = await simulated(*lines, as_of="2024-04-01")

    assert books.windows() == [
        {"own": "100", "borrowed": "100"},
        {"borrowed": "150", "lent": "100"},
        {"lent": "100", "minimum": "50"},
        {"lent": "100"},
    ]


async def test_late_usage_of_a_window_turns_minimum_into_draw(simulated):
    lines = [
        registered(START),
        purchased("2024-01-15", "workflow", 100),
        workflow("2024-02-10", 30, clock="2024-02-20"),
    ]

    before = await simulated(*lines[:2], as_of="2024-02-20")
    after = await simulated(*lines, as_of="2024-02-20")

    assert before.windows()[0] == {"minimum": "50"}
    assert after.windows()[0] == {"own": "30", "minimum": "20"}
    assert before.lot()["pool"] == after.lot()["pool"] == "1150"


async def test_the_minimum_is_deducted_on_the_day_after_the_window(simulated):
    lines = [registered(START), purchased(START, "workflow", 100)]

    last_instant = await simulated(*lines, as_of="2024-01-31T14:59:59.999999Z")
    first_instant = await simulated(*lines, as_of="2024-01-31T15:00:00Z")

    assert last_instant.lot()["pool"] == "1200"
    assert first_instant.lot()["pool"] == "1150"


async def test_a_minimum_is_deducted_only_as_far_as_the_pool_reaches(simulated):
    months = [f"2024-{month:02}-05" for month in range(1, 6)]
    lines = [
        registered(START),
        purchased(START, "workflow", 100),
        *[workflow(month, 200) for month in months],
        workflow("2024-06-05", 180),
    ]

    books = await simulated(*lines, as_of="2024-08-01")

    # 1,180 are drawn; July finds 20 where it should deduct 50.
    assert books.windows()[6] == {"minimum": "20", "lent": "100"}
    assert books.lot()["pool"] == "0"


async def test_a_refund_is_granted_on_the_seventh_day_after_the_purchase(simulated):
    lines = [
        registered(START),
        purchased("2024-01-03", "workflow", 100),
        refunded("2024-01-10T23:59:59.999999+09:00"),
        workflow("2024-01-10", 30, clock="2024-01-11"),
    ]

    books = await simulated(*lines, as_of="2024-02-20")

    assert books.refusals() == []
    assert (books.lot()["state"], books.lot()["pool"], books.lot()["windows"]) == (
        "refunded",
        "0",
        [],
    )
    assert books.sources("workflow", START) == {"postpaid": "30"}
    assert books.notices("lot_refunded") == [("2024-01-10", {"lot": "l-1"})]
    assert books.notices("lot_expiring") == []


async def test_a_refund_is_refused_from_the_eighth_day_on(simulated):
    lines = [
        registered(START),
        purchased("2024-01-03", "workflow", 100),
        refunded("2024-01-11T00:00:00+09:00"),
    ]

    books = await simulated(*lines, as_of="2024-01-12")

    assert books.refusals() == ["refund_window_over"]
    assert books.lot()["state"] == "active"


async def test_usage_that_was_voided_does_not_stand_in_the_way_of_a_refund(simulated):
    used = workflow("2024-01-04", 30)
    lines = [registered(START), purchased("2024-01-03", "workflow", 100), used]

    books = await simulated(
        *lines, voided("2024-01-05", used), refunded("2024-01-06"), as_of="2024-01-07"
    )

    assert books.lot()["state"] == "refunded"


async def test_a_refund_is_decided_by_the_books_when_it_is_read(simulated):
    lines = [
        registered(START),
        purchased("2024-01-28", "workflow", 100),
        refunded("2024-01-30", clock="2024-03-01"),
    ]

    # By then a window has ended, and its minimum is deducted.
    too_late = await simulated(*lines, as_of="2024-03-01")
    in_time = await simulated(
        *lines[:2], refunded("2024-01-30", clock="2024-02-03T14:59:59Z"), as_of="2024-02-04"
    )

    assert too_late.refusals() == ["too_late"]
    assert in_time.lot()["state"] == "refunded"


async def test_the_id_of_a_refused_purchase_is_free_again_but_never_that_of_a_refunded_lot(
    simulated,
):
    lines = [
        registered(START),
        purchased("2024-01-02", "workflow", 0),
        purchased("2024-01-03", "workflow", 100),
        refunded("2024-01-04"),
        purchased("2024-01-05", "workflow", 100),
    ]

    books = await simulated(*lines, as_of="2024-01-06")

    assert books.refusals() == ["quantity_out_of_bounds", "lot_exists"]
    assert books.lots() == ["l-1"]


async def test_a_lot_is_renewed_on_the_day_after_its_last_with_the_same_quantity_and_flag(
    simulated,
):
    lines = [registered(START), purchased(START, "workflow", 1000, renew=True)]

    books = await simulated(*lines, as_of="2026-01-01")

    assert books.lots() == ["l-1", "l-1~2", "l-1~3"]
    renewed = books.lot("l-1~2")
    assert (renewed["starts_on"], renewed["ends_on"]) == ("2025-01-01", "2025-12-31")
    assert (renewed["quantity"], renewed["renew"], renewed["price"]) == ("1000", True, "855.00")
    assert books.notices("lot_renewed") == [
        ("2025-01-01", {"lot": "l-1~2"}),
        ("2026-01-01", {"lot": "l-1~3"}),
    ]


async def test_a_lot_whose_flag_is_off_on_its_last_day_is_not_renewed(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, renew=True),
        renewal_set("2024-12-31T23:59:00+09:00", renew=False),
    ]

    books = await simulated(*lines, as_of="2025-01-05")

    assert books.lots() == ["l-1"]
    assert books.notices("renewal_refused") == []


async def test_the_flag_of_a_renewed_lot_is_its_own(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, renew=True),
        renewal_set("2025-02-01", "l-1~2", renew=False),
    ]

    books = await simulated(*lines, as_of="2026-01-05")

    assert books.refusals() == []
    assert books.lots() == ["l-1", "l-1~2"]
    assert books.lot("l-1~2")["renew"] is False


async def test_after_the_last_day_the_flag_can_no_longer_be_switched(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, renew=True),
        renewal_set("2025-01-01T00:00:00+09:00", renew=False),
        renewal_set("2024-12-31", renew=False, clock="2025-01-01"),
    ]

    books = await simulated(*lines, as_of="2025-01-05")

    assert books.refusals() == ["unknown_lot", "unknown_lot"]
    assert books.lots() == ["l-1", "l-1~2"]


async def test_a_renewal_that_the_plan_forbids_is_refused(simulated):
    lines = [
        registered(START),
        purchased(START, "basic_seat", 11, renew=True),
        changed("2024-12-05", plan="early_stage"),
    ]

    books = await simulated(*lines, as_of="2025-01-05")

    refused = {"lot": "l-1~2", "reason": "over_plan_limit"}
    assert books.notices("renewal_refused") == [("2025-01-01", refused)]
    assert books.lots() == ["l-1"]


async def test_a_lot_that_ended_does_not_count_against_the_limit_of_its_own_renewal(simulated):
    lines = [
        registered(START, plan="early_stage"),
        purchased(START, "basic_seat", 5, renew=True),
    ]

    books = await simulated(*lines, as_of="2025-01-05")

    assert books.lots() == ["l-1", "l-1~2"]


async def test_a_renewal_in_a_trial_is_refused(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, renew=True),
        changed("2024-12-31", plan="trial"),
    ]

    books = await simulated(*lines, as_of="2025-01-05")

    assert [detail["reason"] for _, detail in books.notices("renewal_refused")] == ["in_trial"]


async def test_an_entitlement_is_bought_renewed_and_expires_like_any_lot(simulated):
    lines = [registered(START), purchased(START, "white_label", 1, renew=True)]

    books = await simulated(*lines, as_of="2025-01-05")

    assert books.lots() == ["l-1", "l-1~2"]
    lot = books.lot()
    assert (lot["state"], lot["pool"], lot["windows"]) == ("expired", "0", [])
    assert books.lot("l-1~2")["state"] == "active"


async def test_a_reservation_of_a_billing_date_buys_on_the_next_one(simulated):
    lines = [registered(START), scheduled("2024-02-01", "workflow", 100)]

    books = await simulated(*lines, as_of="2024-02-20")

    assert books.reservations() == [
        {
            "lot": "l-1",
            "product": "workflow",
            "quantity": "100",
            "executes_on": "2024-03-01",
            "renew": False,
        }
    ]


async def test_the_date_of_a_reservation_stays_when_the_billing_day_changes(simulated):
    lines = [
        registered(START),
        scheduled("2024-02-05", "workflow", 100),
        changed("2024-02-06", billing_day=15),
    ]

    books = await simulated(*lines, as_of="2024-03-20")

    assert books.lot()["starts_on"] == "2024-03-01"


async def test_a_reservation_after_a_new_billing_day_buys_on_the_first_boundary_that_is_left(
    simulated,
):
    lines = [
        registered(START),
        changed("2024-02-06", billing_day=15),
        scheduled("2024-02-07", "workflow", 100, "l-1"),
        scheduled("2024-03-07", "workflow", 100, "l-2"),
    ]

    books = await simulated(*lines, as_of="2024-03-20")

    assert books.lot("l-1")["starts_on"] == "2024-03-01"
    assert books.lot("l-2")["starts_on"] == "2024-03-15"


async def test_with_renewal_off_a_reservation_buys_once(simulated):
    lines = [registered(START), scheduled("2024-01-05", "workflow", 100, renew=False)]

    books = await simulated(*lines, as_of="2025-03-01")

    assert books.lots() == ["l-1"]
    assert books.notices("reservation_executed") == [("2024-02-01", {"lot": "l-1"})]
    assert books.notices("lot_started") == [("2024-02-01", {"lot": "l-1"})]


async def test_a_reservation_buys_with_the_quantity_and_flag_of_the_day_before(simulated):
    lines = [
        registered(START),
        scheduled("2024-01-05", "workflow", 100),
        reservation_changed("2024-01-31", quantity=300, renew=True),
    ]

    books = await simulated(*lines, as_of="2024-02-01")

    assert (books.lot()["quantity"], books.lot()["renew"]) == ("300", True)
    assert books.notices("reservation_changed") == [("2024-01-31", {"lot": "l-1"})]


async def test_on_the_day_it_buys_a_reservation_can_no_longer_be_changed_or_cancelled(simulated):
    lines = [
        registered(START),
        scheduled("2024-01-05", "workflow", 100),
        reservation_changed("2024-02-01", quantity=300),
        reservation_cancelled("2024-02-01"),
    ]

    books = await simulated(*lines, as_of="2024-02-02")

    assert books.refusals() == ["unknown_reservation", "unknown_reservation"]
    assert books.lot()["quantity"] == "100"


async def test_a_cancelled_reservation_buys_nothing_and_keeps_its_id(simulated):
    lines = [
        registered(START),
        scheduled("2024-01-05", "workflow", 100),
        reservation_cancelled("2024-01-31"),
        purchased("2024-02-05", "workflow", 100),
    ]

    books = await simulated(*lines, as_of="2024-02-05")

    assert books.lots() == []
    assert books.refusals() == ["lot_exists"]
    assert books.notices("reservation_cancelled") == [("2024-01-31", {"lot": "l-1"})]


async def test_a_refused_new_quantity_leaves_the_reservation_as_it_was(simulated):
    lines = [
        registered(START, plan="early_stage"),
        scheduled("2024-01-05", "basic_seat", 3),
        reservation_changed("2024-01-06", quantity=6, renew=True),
    ]

    books = await simulated(*lines, as_of="2024-01-07")

    assert books.refusals() == ["over_plan_limit"]
    [waiting] = books.reservations()
    assert (waiting["quantity"], waiting["renew"]) == ("3", False)


async def test_reservations_do_not_count_against_each_others_limit_until_they_buy(simulated):
    lines = [
        registered(START, plan="early_stage"),
        scheduled("2024-01-05", "basic_seat", 3, "l-1"),
        scheduled("2024-01-06", "basic_seat", 3, "l-2"),
    ]

    books = await simulated(*lines, as_of="2024-02-02")

    assert books.lots() == ["l-1"]
    refused = {"lot": "l-2", "reason": "over_plan_limit"}
    assert books.notices("reservation_refused") == [("2024-02-01", refused)]
    assert books.reservations() == []


async def test_a_lot_that_ends_before_a_reservation_buys_does_not_count_against_it(simulated):
    lines = [
        registered(START, plan="early_stage"),
        purchased(START, "basic_seat", 5, "l-1"),
        scheduled("2024-12-05", "basic_seat", 5, "l-2"),
    ]

    books = await simulated(*lines, as_of="2025-01-05")

    assert books.refusals() == []
    assert books.lots() == ["l-1", "l-2"]


async def test_renewals_come_before_reservations_of_the_same_day(simulated):
    lines = [
        registered(START, plan="early_stage"),
        purchased(START, "basic_seat", 3, "l-1", renew=True),
        scheduled("2024-12-05", "basic_seat", 5, "l-2"),
    ]

    books = await simulated(*lines, as_of="2025-01-05")

    assert books.lots() == ["l-1", "l-1~2"]
    refused = {"lot": "l-2", "reason": "over_plan_limit"}
    assert books.notices("reservation_refused") == [("2025-01-01", refused)]


async def test_a_reservation_of_a_trial_buys_on_the_first_day_on_a_paid_plan(simulated):
    lines = [
        registered(START, plan="trial", trial_ends_on="2024-01-20"),
        scheduled("2024-01-05", "workflow", 100, "l-1"),
        scheduled("2024-01-05", "pu", 100, "l-2"),
        changed("2024-02-10", plan="growth"),
    ]

    in_trial = await simulated(*lines[:3], as_of="2024-01-19")
    on_free = await simulated(*lines[:3], as_of="2024-01-20")
    on_growth = await simulated(*lines, as_of="2024-02-10")

    assert [each["executes_on"] for each in in_trial.reservations()] == ["2024-01-20"] * 2
    assert [(each["lot"], each["executes_on"]) for each in on_free.reservations()] == [
        ("l-1", None)
    ]
    assert on_free.lot("l-2")["starts_on"] == "2024-01-20"
    assert on_growth.lot("l-1")["starts_on"] == "2024-02-10"


async def test_a_reservation_of_a_trial_can_be_changed_as_long_as_it_waits(simulated):
    lines = [
        registered(START, plan="trial", trial_ends_on="2024-01-20"),
        scheduled("2024-01-05", "workflow", 100),
        reservation_changed("2024-03-05", quantity=200),
        changed("2024-03-10", plan="growth"),
    ]

    books = await simulated(*lines, as_of="2024-03-10")

    assert (books.lot()["starts_on"], books.lot()["quantity"]) == ("2024-03-10", "200")


async def test_a_reservation_of_a_trial_that_ends_on_the_same_day_buys_on_that_day(simulated):
    lines = [
        registered(START, plan="trial", trial_ends_on="2024-03-20"),
        scheduled("2024-01-05T09:00:00+09:00", "workflow", 100),
        changed("2024-01-05T15:00:00+09:00", plan="growth"),
    ]

    books = await simulated(*lines, as_of="2024-01-05T16:00:00+09:00")

    assert books.lot()["starts_on"] == "2024-01-05"


async def test_a_reservation_of_a_trial_is_checked_without_regard_to_the_plan_until_it_buys(
    simulated,
):
    lines = [
        registered(START, plan="trial", trial_ends_on="2024-01-20"),
        scheduled("2024-01-05", "basic_seat", 6, "l-1"),
        scheduled("2024-01-05", "basic_seat", 1001, "l-2"),
        changed("2024-01-20", plan="early_stage"),
    ]

    books = await simulated(*lines, as_of="2024-01-20")

    assert books.refusals() == ["quantity_out_of_bounds"]
    refused = {"lot": "l-1", "reason": "over_plan_limit"}
    assert books.notices("reservation_refused") == [("2024-01-20", refused)]


async def test_the_order_of_lots_and_reservations_is_by_start_then_id(simulated):
    lines = [
        registered(START),
        purchased("2024-01-05", "workflow", 100, "b"),
        purchased("2024-01-05", "pu", 100, "a"),
        purchased("2024-01-04", "pu", 100, "c", clock="2024-01-05"),
        scheduled("2024-01-06", "pu", 100, "z"),
        scheduled("2024-01-06", "pu", 100, "y"),
    ]

    books = await simulated(*lines, as_of="2024-01-07")

    assert books.lots() == ["c", "a", "b"]
    assert [each["lot"] for each in books.reservations()] == ["y", "z"]


async def test_recharges_are_drawn_in_burn_order_until_they_are_empty(simulated):
    lines = [
        registered(START),
        purchased("2024-01-02", "pu", 100, "l-1"),
        purchased("2024-01-03", "pu", 100, "l-2"),
        message("2024-01-05", "sms", 13),
    ]

    books = await simulated(*lines, as_of="2024-12-31")

    assert (books.lot("l-1")["pool"], books.lot("l-2")["pool"]) == ("0", "70")
    assert books.sources("pu", START) == {"own": "130"}


async def test_postpaid_units_of_a_day_are_the_last_of_that_day_and_before_those_of_the_next(
    simulated,
):
    lines = [
        registered(START),
        workflow("2024-01-05", 60),
        purchased("2024-01-10", "workflow", 1000),
        workflow("2024-01-10", 2950),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    # Of the first day 60: 10 beyond the free range. Of the tenth the last 950, from 2,061 to 3,010:
    # 940 at 0.10 and 10 at 0.05.
    sources = {"own": "1000", "borrowed": "1000", "postpaid": "1010"}
    assert books.sources("workflow", START) == sources
    amount = Decimal(books.product("workflow", START)["postpaid_amount"])
    assert amount == Decimal("1.00") + Decimal("94.00") + Decimal("0.50")


async def test_an_amount_is_rounded_half_up_once(simulated):
    lines = [
        registered(START),
        *[message(f"2024-01-{day:02}", "kakao_infotalk") for day in range(1, 6)],
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    # 35 units are 0.035; five times 0.007 rounded would be 0.05.
    assert books.product("pu", START)["postpaid_amount"] == "0.04"


async def test_usage_beyond_a_limit_is_drawn_and_billed_like_any_other(simulated):
    lines = [
        registered(START, plan="early_stage"),
        purchased(START, "operator_seat", 3),
        *[assigned(f"2024-01-{day:02}", f"m-{day}") for day in range(1, 13)],
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    sources = {"included": "2", "own": "3", "borrowed": "3", "postpaid": "4"}
    assert books.sources("operator_seat", START) == sources
    assert books.product("operator_seat", START)["over_limit"] == "7"


async def test_what_a_lower_plan_includes_is_counted_with_what_the_cycle_already_took(simulated):
    lines = [
        registered(START, plan="growth"),
        contacts("2024-01-05", 1500),
        changed("2024-01-06", plan="early_stage"),
        contacts("2024-01-07", 1600),
        changed("2024-01-08", plan="growth"),
        contacts("2024-01-09", 1700),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.sources("mu", START) == {"included": "1600", "postpaid": "100"}


async def test_every_new_lot_is_told_of_also_one_that_never_paid(simulated):
    # It begins tomorrow, ten minutes from now, and is refunded today.
    ahead = arriving(
        purchased("2024-01-06T00:05:00+09:00", "workflow", 10, "l-1"), "2024-01-05T23:58:00+09:00"
    )
    lines = [registered("2024-01-01"), ahead, refunded("2024-01-05T23:59:00+09:00", "l-1")]

    books = await simulated(*lines, as_of="2024-01-08")

    assert books.notices("lot_refunded") == [("2024-01-05", {"lot": "l-1"})]
    assert books.notices("lot_started") == [("2024-01-06", {"lot": "l-1"})]
