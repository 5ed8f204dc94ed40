"""Why a command is refused or a record rejected, and which reason comes first: sections 5 and 9."""

import pytest

from tests.builders import (
    changed,
    contacts,
    limit_set,
    line,
    message,
    purchased,
    refunded,
    registered,
    renewal_set,
    reservation_cancelled,
    reservation_changed,
    scheduled,
    workflow,
)

START = "2024-01-01"
BOUNDS = [
    ("mu", 100, 1_000_000),
    ("basic_seat", 1, 1_000),
    ("operator_seat", 1, 1_000),
    ("workflow", 1, 9_999_999_999),
    ("marketing", 1, 9_999_999_999),
    ("white_label", 1, 1),
    ("security_bundle", 1, 1),
    ("pu", 100, 9_999_999_999),
]


async def refusals_of(simulated, *lines, as_of="2024-01-31"):
    books = await simulated(*lines, as_of=as_of)
    assert books.rejected == {}
    return books.refusals()


async def test_a_channel_is_registered_once(simulated):
    lines = [registered(START), registered("2024-01-05", plan="free")]

    assert await refusals_of(simulated, *lines) == ["already_registered"]


async def test_that_a_channel_is_registered_is_told_before_that_it_is_too_late(simulated):
    lines = [registered(START), registered("2023-06-05", clock="2024-01-05")]

    assert await refusals_of(simulated, *lines) == ["already_registered"]


@pytest.mark.parametrize(
    "build",
    [
        lambda at, clock: purchased(at, "workflow", 100, clock=clock),
        lambda at, clock: scheduled(at, "workflow", 100, clock=clock),
        lambda at, clock: limit_set(at, "workflow", 100, clock=clock),
        lambda at, clock: changed(at, plan="free", clock=clock),
        lambda at, clock: refunded(at, clock=clock),
        lambda at, clock: renewal_set(at, renew=False, clock=clock),
        lambda at, clock: reservation_cancelled(at, clock=clock),
        lambda at, clock: reservation_changed(at, renew=False, clock=clock),
    ],
)
async def test_a_command_of_a_closed_cycle_is_too_late(simulated, build):
    line = build("2024-01-31T23:59:59+09:00", "2024-02-03T15:00:00Z")

    refusals = await refusals_of(simulated, registered(START), line, as_of="2024-02-05")

    assert refusals == ["too_late"]


async def test_a_command_is_not_too_late_until_its_cycle_closes(simulated):
    line = purchased("2024-01-05", "workflow", 100, clock="2024-02-03T14:59:59Z")

    books = await simulated(registered(START), line, as_of="2024-02-05")

    assert books.lot()["starts_on"] == "2024-01-05"


async def test_a_lot_id_is_used_once(simulated):
    lines = [
        registered(START),
        purchased("2024-01-05", "workflow", 100),
        purchased("2024-01-06", "mu", 100),
        scheduled("2024-01-07", "mu", 100),
    ]

    assert await refusals_of(simulated, *lines) == ["lot_exists", "lot_exists"]


async def test_the_id_of_a_waiting_reservation_is_used(simulated):
    lines = [
        registered(START),
        scheduled("2024-01-05", "workflow", 100),
        purchased("2024-01-06", "workflow", 100),
    ]

    assert await refusals_of(simulated, *lines) == ["lot_exists"]


@pytest.mark.parametrize("product", ["workflow", "pu", "white_label"])
async def test_nothing_is_bought_in_a_trial(simulated, product):
    lines = [
        registered(START, plan="trial", trial_ends_on="2024-03-01"),
        purchased("2024-01-05", product, 1),
    ]

    assert await refusals_of(simulated, *lines) == ["in_trial"]


async def test_on_the_free_plan_only_recharges_are_bought(simulated):
    lines = [
        registered(START, plan="free"),
        purchased("2024-01-05", "workflow", 100, "l-1"),
        purchased("2024-01-05", "white_label", 1, "l-2"),
        scheduled("2024-01-05", "workflow", 100, "l-3"),
        purchased("2024-01-05", "pu", 100, "l-4"),
    ]

    books = await simulated(*lines, as_of="2024-01-06")

    assert books.refusals() == ["free_plan"] * 3
    assert books.lots() == ["l-4"]


@pytest.mark.parametrize(("product", "least", "most"), BOUNDS)
async def test_a_quantity_outside_the_bounds_is_refused_and_at_the_bounds_granted(
    simulated, product, least, most
):
    quantities = [least - 1, least, most, most + 1]
    lines = [
        purchased("2024-01-05", product, quantity, f"l-{number}")
        for number, quantity in enumerate(quantities)
    ]

    books = await simulated(registered(START), *lines, as_of="2024-01-06")

    assert books.refusals() == ["quantity_out_of_bounds"] * 2
    assert books.lots() == ["l-1", "l-2"]


@pytest.mark.parametrize(
    ("quantities", "refused"),
    [([5], []), ([6], ["over_plan_limit"]), ([3, 3, 2], ["over_plan_limit"])],
)
async def test_what_is_included_and_bought_stays_within_the_limit_of_the_plan(
    simulated, quantities, refused
):
    lines = [
        purchased("2024-01-05", "basic_seat", quantity, f"l-{number}")
        for number, quantity in enumerate(quantities)
    ]

    found = await refusals_of(simulated, registered(START, plan="early_stage"), *lines)

    assert found == refused


async def test_a_refunded_lot_does_not_count_against_the_limit(simulated):
    lines = [
        registered(START, plan="early_stage"),
        purchased("2024-01-05", "basic_seat", 5, "l-1"),
        refunded("2024-01-06", "l-1"),
        purchased("2024-01-07", "basic_seat", 5, "l-2"),
    ]

    assert await refusals_of(simulated, *lines) == []


async def test_a_manual_limit_does_not_stand_in_the_way_of_a_purchase(simulated):
    lines = [
        registered(START),
        limit_set("2024-01-02", "workflow", 0),
        purchased("2024-01-05", "workflow", 100),
    ]

    assert await refusals_of(simulated, *lines) == []


async def test_a_lot_that_is_not_there_is_unknown(simulated):
    lines = [
        registered(START),
        scheduled("2024-01-02", "workflow", 100, "reserved"),
        renewal_set("2024-01-05", "nowhere", renew=True),
        renewal_set("2024-01-05", "reserved", renew=True),
        refunded("2024-01-05", "nowhere"),
        refunded("2024-01-05", "reserved"),
    ]

    assert await refusals_of(simulated, *lines) == ["unknown_lot"] * 4


async def test_a_refunded_lot_is_unknown(simulated):
    lines = [
        registered(START),
        purchased("2024-01-02", "workflow", 100),
        refunded("2024-01-03"),
        refunded("2024-01-04"),
        renewal_set("2024-01-05", renew=True),
    ]

    assert await refusals_of(simulated, *lines) == ["unknown_lot", "unknown_lot"]


async def test_a_reservation_that_is_not_there_is_unknown(simulated):
    lines = [
        registered(START),
        purchased("2024-01-02", "workflow", 100, "bought"),
        reservation_changed("2024-01-05", "nowhere", renew=True),
        reservation_cancelled("2024-01-05", "nowhere"),
        reservation_changed("2024-01-05", "bought", quantity=5),
        reservation_cancelled("2024-01-05", "bought"),
    ]

    assert await refusals_of(simulated, *lines) == ["unknown_reservation"] * 4


async def test_a_cancelled_reservation_is_unknown(simulated):
    lines = [
        registered(START),
        scheduled("2024-01-02", "workflow", 100),
        reservation_cancelled("2024-01-03"),
        reservation_cancelled("2024-01-04"),
        reservation_changed("2024-01-04", renew=True),
    ]

    assert await refusals_of(simulated, *lines) == ["unknown_reservation", "unknown_reservation"]


async def test_after_a_week_there_is_no_refund(simulated):
    lines = [
        registered(START),
        purchased("2024-01-02", "workflow", 100),
        workflow("2024-01-03", 1),
        refunded("2024-01-10"),
    ]

    assert await refusals_of(simulated, *lines) == ["refund_window_over"]


async def test_after_the_first_unit_there_is_no_refund(simulated):
    lines = [
        registered(START),
        purchased("2024-01-02", "workflow", 100),
        workflow("2024-01-03", 1),
        refunded("2024-01-04"),
    ]

    assert await refusals_of(simulated, *lines) == ["already_deducted"]


async def test_a_minimum_stands_in_the_way_of_a_refund(simulated):
    lines = [
        registered(START, billing_day="end"),
        purchased("2024-01-31", "workflow", 100),
        refunded("2024-02-05", clock="2024-03-01"),
    ]

    found = await refusals_of(simulated, *lines, as_of="2024-03-02")

    assert found == ["already_deducted"]


@pytest.mark.parametrize(
    ("earlier", "reasons"),
    [
        # Each line would be refused for all that follow in the list, too.
        (["lot_exists"], ["lot_exists"]),
        ([], ["free_plan"]),
    ],
)
async def test_of_several_reasons_the_first_of_the_list_is_told(simulated, earlier, reasons):
    first = [purchased("2024-01-02", "pu", 100)] if earlier else []
    lines = [
        registered(START, plan="early_stage"),
        *first,
        changed("2024-01-05", plan="free"),
        purchased("2024-01-05", "basic_seat", 1_000_000),
    ]

    assert await refusals_of(simulated, *lines) == reasons


async def test_the_bounds_are_told_before_the_limit_of_the_plan(simulated):
    lines = [
        registered(START, plan="early_stage"),
        purchased("2024-01-05", "basic_seat", 1_001),
    ]

    assert await refusals_of(simulated, *lines) == ["quantity_out_of_bounds"]


async def test_the_trial_is_told_before_the_bounds(simulated):
    lines = [
        registered(START, plan="trial", trial_ends_on="2024-03-01"),
        purchased("2024-01-05", "basic_seat", 1_001),
    ]

    assert await refusals_of(simulated, *lines) == ["in_trial"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (workflow("2024-01-05", 1) | {"topic": "billing.commands"}, "wrong_topic"),
        (limit_set("2024-01-05", "mu", 1) | {"topic": "usage.mu"}, "wrong_topic"),
        (line("usage.mu", "mu.counted.twice", "2024-01-05", {}), "unknown_type"),
        (line("usage.mu", "mu.counted", "2024-01-05", {"count": "5"}), "malformed"),
        (line("usage.mu", "mu.counted", "2024-01-05", {"count": 5.0}), "malformed"),
        (line("usage.mu", "mu.counted", "2024-01-05", {"count": True}), "malformed"),
        (contacts("2024-01-05", 5, channel="x" * 256), "malformed"),
        (contacts("2024-01-05T12:00:00", 5), "malformed"),
        (contacts("2024-01-05T12:00:60Z", 5), "malformed"),
        (workflow("2024-01-05", 0), "malformed"),
        (workflow("2024-01-05", 10**9 + 1), "malformed"),
        (message("2024-01-05", "sms", 10**6 + 1), "malformed"),
        (purchased("2024-01-05", "mu", 100, "l~2"), "malformed"),
        (purchased("2024-01-05", "mu", 10**30), "malformed"),
        (contacts("2024-01-05", 5, source="\0"), "malformed"),
        (contacts("2024-01-05", 5, source="x" * 65_536), "too_large"),
        (message("2024-01-05", "global_sms", country="US", text=""), "empty_text"),
        (message("2024-01-05", "global_sms", country="DE", segments=1), "no_price"),
        (message("2024-01-05", "pigeon"), "no_price"),
    ],
)
async def test_a_record_that_cannot_be_counted_is_rejected_with_the_reason(simulated, line, reason):
    books = await simulated(
        registered(START), line | {"clock": "2024-01-05T03:00:00Z"}, as_of="2024-01-06"
    )

    assert books.rejected == {reason: 1}
    assert books.cycle(START)["products"] == {}
