"""What somebody should hear about, when, and how often: section 8."""

from tests.builders import (
    arriving,
    changed,
    contacts,
    limit_set,
    message,
    purchased,
    registered,
    renewal_set,
    scheduled,
    voided,
    workflow,
)

START = "2024-01-01"


async def test_the_quota_of_all_lots_together_is_watched(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, "l-1"),
        purchased(START, "workflow", 300, "l-2"),
        workflow("2024-01-05", 319),
        workflow("2024-01-06", 1),
        workflow("2024-01-07", 80),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.crossed("quota_used") == [("2024-01-06", 80), ("2024-01-07", 100)]


async def test_a_new_window_arms_the_threshold_of_the_quota_again(simulated):
    lines = [
        registered(START),
        purchased("2024-01-15", "workflow", 100),
        workflow("2024-01-16", 80),
        workflow("2024-02-14", 5),
        workflow("2024-02-15", 80),
    ]

    books = await simulated(*lines, as_of="2024-02-29")

    assert books.crossed("quota_used") == [("2024-01-16", 80), ("2024-02-15", 80)]


async def test_another_lot_arms_the_threshold_of_the_quota_again(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100, "l-1"),
        workflow("2024-01-05", 80),
        purchased("2024-01-10", "workflow", 100, "l-2"),
        workflow("2024-01-11", 80),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.crossed("quota_used") == [("2024-01-05", 80), ("2024-01-11", 80)]


async def test_borrowing_is_told_once_a_window(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100),
        workflow("2024-01-05", 100),
        workflow("2024-01-06", 1),
        workflow("2024-01-07", 1),
        workflow("2024-02-05", 150),
    ]

    books = await simulated(*lines, as_of="2024-02-29")

    assert books.notices("borrowing") == [
        ("2024-01-06", {"lot": "l-1", "window": "2024-01-01"}),
        ("2024-02-05", {"lot": "l-1", "window": "2024-02-01"}),
    ]


async def test_borrowing_is_told_once_a_window_whatever_is_voided_in_between(simulated):
    used = workflow("2024-01-05", 120)
    lines = [
        registered(START),
        purchased(START, "workflow", 100),
        used,
        voided("2024-01-06", used),
        workflow("2024-01-07", 130),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.notices("borrowing") == [("2024-01-05", {"lot": "l-1", "window": "2024-01-01"})]


async def test_the_first_postpaid_unit_is_told_once_a_cycle(simulated):
    used = workflow("2024-01-05", 3)
    lines = [
        registered(START),
        used,
        voided("2024-01-06", used),
        workflow("2024-01-07", 3),
        workflow("2024-02-07", 3),
    ]

    books = await simulated(*lines, as_of="2024-02-29")

    assert books.notices("postpaid") == [("2024-01-05", {}), ("2024-02-07", {})]


async def test_a_manual_limit_is_watched_at_80_and_100_percent(simulated):
    lines = [
        registered(START),
        limit_set("2024-01-02", "workflow", 10),
        workflow("2024-01-05", 7),
        workflow("2024-01-06", 1),
        workflow("2024-01-07", 5),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.notices("limit_reached") == [
        ("2024-01-06", {"percent": 80, "limit": "10"}),
        ("2024-01-07", {"percent": 100, "limit": "10"}),
    ]
    assert books.product("workflow", START)["over_limit"] == "3"


async def test_the_lower_of_the_two_limits_counts(simulated):
    lines = [
        registered(START, plan="early_stage"),
        limit_set("2024-01-02", "mu", 5000),
        contacts("2024-01-05", 2400),
        limit_set("2024-01-06", "mu", 2000),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.notices("limit_reached") == [
        ("2024-01-05", {"percent": 80, "limit": "3000"}),
        ("2024-01-06", {"percent": 100, "limit": "2000"}),
    ]
    assert books.product("mu", START)["over_limit"] == "400"


async def test_a_limit_of_0_is_reached_with_the_first_unit(simulated):
    lines = [
        registered(START),
        limit_set("2024-01-02", "workflow", 0),
        workflow("2024-01-05", 1),
    ]

    before = await simulated(*lines[:2], as_of="2024-01-04")
    after = await simulated(*lines, as_of="2024-01-31")

    assert before.notices("limit_reached") == []
    assert after.crossed("limit_reached") == [("2024-01-05", 80), ("2024-01-05", 100)]


async def test_a_limit_lowered_below_the_usage_is_a_crossing(simulated):
    lines = [
        registered(START),
        workflow("2024-01-05", 50),
        limit_set("2024-01-08", "workflow", 60),
        limit_set("2024-01-10", "workflow", 40),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.notices("limit_reached") == [
        ("2024-01-08", {"percent": 80, "limit": "60"}),
        ("2024-01-10", {"percent": 100, "limit": "40"}),
    ]


async def test_a_limit_raised_to_less_than_the_usage_is_no_crossing(simulated):
    lines = [
        registered(START),
        limit_set("2024-01-02", "workflow", 10),
        workflow("2024-01-05", 50),
        limit_set("2024-01-10", "workflow", 40),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert [on for on, _ in books.notices("limit_reached")] == ["2024-01-05", "2024-01-05"]


async def test_a_limit_raised_above_the_usage_arms_the_threshold_again(simulated):
    lines = [
        registered(START),
        limit_set("2024-01-02", "workflow", 10),
        workflow("2024-01-05", 10),
        limit_set("2024-01-10", "workflow", 100),
        workflow("2024-01-11", 90),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    reached = [on for on, percent in books.crossed("limit_reached") if percent == 100]
    assert reached == ["2024-01-05", "2024-01-11"]


async def test_a_removed_limit_is_none(simulated):
    lines = [
        registered(START),
        limit_set("2024-01-02", "workflow", 10),
        limit_set("2024-01-03", "workflow", None),
        workflow("2024-01-05", 50),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.notices("limit_reached") == []
    assert books.product("workflow", START)["over_limit"] == "0"


async def test_a_new_cycle_that_begins_above_the_limit_reaches_it_on_its_first_day(simulated):
    lines = [registered(START, plan="early_stage"), contacts("2024-01-05", 3100)]

    books = await simulated(*lines, as_of="2024-02-02")

    reached = [on for on, percent in books.crossed("limit_reached") if percent == 100]
    assert reached == ["2024-01-05", "2024-02-01"]


async def test_the_limit_of_the_last_day_decides_what_a_cycle_was_over(simulated):
    lines = [
        registered(START),
        workflow("2024-01-05", 50),
        limit_set("2024-01-31", "workflow", 20),
        limit_set("2024-02-01", "workflow", 10),
    ]

    books = await simulated(*lines, as_of="2024-02-20")

    assert books.product("workflow", START)["over_limit"] == "30"


async def test_a_recharge_that_runs_low_is_told_at_20_10_and_0_percent(simulated):
    lines = [
        registered(START),
        purchased("2024-01-02", "pu", 100, "l-1"),
        purchased("2024-01-02", "pu", 100, "l-2"),
        message("2024-01-05", "sms", 15),
        message("2024-01-06", "sms", 1),
        message("2024-01-07", "sms", 2),
        message("2024-01-08", "sms", 2),
        message("2024-01-09", "sms", 2),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    low = [("2024-01-06", 20), ("2024-01-07", 10), ("2024-01-08", 0)]
    assert books.crossed("lot_low") == low
    assert books.notices("quota_used") == []


async def test_another_recharge_arms_its_thresholds_again(simulated):
    lines = [
        registered(START),
        purchased("2024-01-02", "pu", 100, "l-1"),
        message("2024-01-05", "sms", 8),
        purchased("2024-01-06", "pu", 100, "l-2"),
        message("2024-01-07", "sms", 8),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.crossed("lot_low") == [("2024-01-05", 20), ("2024-01-07", 20)]


async def test_the_end_of_a_lot_is_told_30_and_7_days_before_and_on_the_day_after(simulated):
    lines = [registered(START), purchased(START, "white_label", 1)]

    books = await simulated(*lines, as_of="2025-01-02")

    assert books.notices("lot_started") == [("2024-01-01", {"lot": "l-1"})]
    assert books.notices("lot_expiring") == [
        ("2024-12-01", {"lot": "l-1", "days": 30}),
        ("2024-12-24", {"lot": "l-1", "days": 7}),
    ]
    assert books.notices("lot_expired") == [("2025-01-01", {"lot": "l-1"})]


async def test_the_notices_of_a_reservation_carry_its_lot(simulated):
    lines = [registered(START), scheduled("2024-01-05", "workflow", 100)]

    books = await simulated(*lines, as_of="2024-02-01")

    assert books.notices("reservation_made", "workflow") == [("2024-01-05", {"lot": "l-1"})]
    assert books.notices("reservation_executed", "workflow") == [("2024-02-01", {"lot": "l-1"})]


async def test_a_notice_is_never_taken_back(simulated):
    used = workflow("2024-01-05", 100)
    lines = [registered(START), purchased(START, "workflow", 100), used]

    books = await simulated(*lines, voided("2024-01-06", used), as_of="2024-01-31")

    assert books.crossed("quota_used") == [("2024-01-05", 80), ("2024-01-05", 100)]
    assert books.windows() == [{}]


async def test_a_crossing_that_late_usage_moves_to_an_earlier_day_is_told_once(simulated):
    lines = [
        registered(START),
        purchased(START, "workflow", 100),
        workflow("2024-01-10", 85),
        workflow("2024-01-05", 90, clock="2024-01-11"),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.crossed("quota_used") == [("2024-01-10", 80), ("2024-01-10", 100)]


async def test_the_answer_to_a_refused_command_names_it_and_what_it_was_about(simulated):
    lines = [
        registered(START),
        purchased("2024-01-05", "mu", 100, "l-1"),
        renewal_set("2024-01-06", "l-9", renew=True, event_id="first"),
        purchased("2024-01-07", "workflow", 5, "l-1", event_id="second"),
        changed("2023-12-31", plan="free", clock="2024-01-08"),
        registered("2024-01-09", event_id="third"),
    ]

    books = await simulated(*lines, as_of="2024-01-10")

    answers = [each for each in books.channel()["notices"] if each["kind"] == "command_refused"]
    assert answers == [
        {
            "kind": "command_refused",
            "product": None,
            "on": "2023-12-31",
            "detail": {"id": lines[4]["event"]["id"], "reason": "too_late"},
        },
        {
            "kind": "command_refused",
            "product": None,
            "on": "2024-01-06",
            "detail": {"id": "first", "reason": "unknown_lot", "lot": "l-9"},
        },
        {
            "kind": "command_refused",
            "product": "workflow",
            "on": "2024-01-07",
            "detail": {"id": "second", "reason": "lot_exists", "lot": "l-1"},
        },
        {
            "kind": "command_refused",
            "product": None,
            "on": "2024-01-09",
            "detail": {"id": "third", "reason": "already_registered"},
        },
    ]


async def test_notices_are_in_order_of_day_kind_product_and_detail(simulated):
    lines = [
        registered(START),
        purchased("2024-01-05", "workflow", 10, "b"),
        purchased("2024-01-05", "workflow", 10, "a"),
        purchased("2024-01-05", "pu", 100, "c"),
        arriving(workflow("2024-01-04", 1), "2024-01-05"),
    ]

    books = await simulated(*lines, as_of="2024-01-06")

    found = [
        (each["on"], each["kind"], each["product"], each["detail"].get("lot"))
        for each in books.channel()["notices"]
    ]
    assert found == [
        ("2024-01-04", "postpaid", "workflow", None),
        ("2024-01-05", "lot_started", "pu", "c"),
        ("2024-01-05", "lot_started", "workflow", "a"),
        ("2024-01-05", "lot_started", "workflow", "b"),
    ]
