"""Days, cycles and what an instant decides: rules, sections 2 (values), 3 and 9."""

import pytest

from tests.builders import (
    arriving,
    changed,
    contacts,
    limit_set,
    message,
    purchased,
    registered,
    reservation_changed,
    scheduled,
    workflow,
)

START = "2024-01-01"


@pytest.mark.parametrize(
    ("time_zone", "last_instant", "first_instant"),
    [
        ("Asia/Seoul", "2024-01-31T14:59:59.999999Z", "2024-01-31T15:00:00Z"),
        ("UTC", "2024-01-31T23:59:59.999999Z", "2024-02-01T00:00:00Z"),
        ("Asia/Kathmandu", "2024-01-31T18:14:59.999999Z", "2024-01-31T18:15:00Z"),
        ("America/St_Johns", "2024-02-01T03:29:59.999999Z", "2024-02-01T03:30:00Z"),
        ("Pacific/Kiritimati", "2024-01-31T09:59:59.999999Z", "2024-01-31T10:00:00Z"),
    ],
)
async def test_an_instant_falls_on_the_day_of_the_channels_zone(
    simulated, time_zone, last_instant, first_instant
):
    lines = [
        registered("2024-01-15", time_zone=time_zone),
        workflow(last_instant, 1),
        workflow(first_instant, 10),
    ]

    books = await simulated(*lines, as_of=first_instant)

    assert books.usage("workflow", "2024-01-01") == "1"
    assert books.usage("workflow", "2024-02-01") == "10"


@pytest.mark.parametrize(
    ("time_zone", "first_day", "last_instant", "first_instant"),
    [
        # The day before has 23 hours, so this one begins an hour early by Greenwich.
        (
            "America/New_York",
            "2024-03-11",
            "2024-03-11T03:59:59.999999Z",
            "2024-03-11T04:00:00Z",
        ),
        # The day before has 25 hours.
        (
            "America/New_York",
            "2024-11-04",
            "2024-11-04T04:59:59.999999Z",
            "2024-11-04T05:00:00Z",
        ),
        # The day begins at one o'clock: there is no midnight.
        ("Africa/Cairo", "2024-04-26", "2024-04-25T21:59:59.999999Z", "2024-04-25T22:00:00Z"),
        # The hour before this day is there twice, and belongs to the day before both times.
        ("Africa/Cairo", "2024-11-01", "2024-10-31T21:59:59.999999Z", "2024-10-31T22:00:00Z"),
    ],
)
async def test_a_day_begins_at_its_first_instant_also_when_the_clocks_change(
    simulated, time_zone, first_day, last_instant, first_instant
):
    billing_day = int(first_day[-2:])
    lines = [
        registered(last_instant, time_zone=time_zone, billing_day=billing_day),
        workflow(last_instant, 1),
        workflow(first_instant, 10),
    ]

    books = await simulated(*lines, as_of=first_instant)

    assert books.usage("workflow", first_day) == "10"
    assert books.usage("workflow", books.periods()[0][0]) == "1"


async def test_cycles_of_a_month_end_begin_on_the_last_day_of_each_month(simulated):
    books = await simulated(registered("2024-02-10", billing_day="end"), as_of="2024-05-01")

    assert books.periods() == [
        ("2024-01-31", "2024-02-28"),
        ("2024-02-29", "2024-03-30"),
        ("2024-03-31", "2024-04-29"),
        ("2024-04-30", "2024-05-30"),
    ]


async def test_the_first_cycle_holds_the_day_of_the_registration(simulated):
    books = await simulated(registered("2024-01-14", billing_day=15), as_of="2024-01-15")

    assert books.periods() == [("2023-12-15", "2024-01-14"), ("2024-01-15", "2024-02-14")]


async def test_after_a_new_billing_day_the_running_cycle_ends_as_planned_and_a_short_one_follows(
    simulated,
):
    lines = [registered(START), changed("2024-01-10", billing_day=15)]

    books = await simulated(*lines, as_of="2024-03-15")

    assert books.periods() == [
        ("2024-01-01", "2024-01-31"),
        ("2024-02-01", "2024-02-14"),
        ("2024-02-15", "2024-03-14"),
        ("2024-03-15", "2024-04-14"),
    ]


async def test_a_new_billing_day_at_the_month_end_makes_no_cycle_of_no_days(simulated):
    lines = [registered(START), changed("2024-01-10", billing_day="end")]

    books = await simulated(*lines, as_of="2024-02-29")

    assert books.periods() == [
        ("2024-01-01", "2024-01-31"),
        ("2024-02-01", "2024-02-28"),
        ("2024-02-29", "2024-03-30"),
    ]


async def test_of_several_new_billing_days_in_a_cycle_the_one_of_the_latest_time_counts(simulated):
    lines = [
        registered(START),
        changed("2024-01-12", billing_day=20),
        changed("2024-01-11", billing_day=25, clock="2024-01-12"),
    ]

    books = await simulated(*lines, as_of="2024-02-20")

    assert books.periods()[1:] == [("2024-02-01", "2024-02-19"), ("2024-02-20", "2024-03-19")]


async def test_of_two_values_set_at_one_instant_the_one_read_last_counts(simulated):
    lines = [
        registered(START),
        changed("2024-01-10", billing_day=20),
        changed("2024-01-10", billing_day=25),
    ]

    books = await simulated(*lines, as_of="2024-02-10")

    assert books.periods()[1:] == [("2024-02-01", "2024-02-24")]


async def test_the_values_of_the_registration_hold_from_the_first_day_of_the_first_cycle(simulated):
    lines = [
        registered("2024-01-20", plan="growth"),
        contacts("2024-01-05", 100, clock="2024-01-20"),
    ]

    books = await simulated(*lines, as_of="2024-01-20")

    assert books.sources("mu", START) == {"included": "100"}
    assert books.outcomes["late"] == 0


async def test_a_value_set_for_a_day_before_the_registration_counts_also_after_it(simulated):
    lines = [
        registered("2024-01-20", plan="enterprise"),
        changed("2024-01-10", plan="growth", clock="2024-01-20"),
        contacts("2024-01-09", 100, clock="2024-01-20"),
        contacts("2024-01-21", 130),
    ]

    books = await simulated(*lines, as_of="2024-01-21")

    assert books.sources("mu", START) == {"included": "30", "postpaid": "100"}


async def test_a_plan_counts_for_the_whole_day_on_which_it_was_set(simulated):
    lines = [
        registered(START),
        contacts("2024-01-10T09:00:00+09:00", 100),
        changed("2024-01-10T21:00:00+09:00", plan="growth"),
    ]

    books = await simulated(*lines, as_of="2024-01-11")

    assert books.sources("mu", START) == {"included": "100"}


async def test_usage_of_days_before_the_first_cycle_is_late(simulated):
    lines = [
        registered("2024-01-20", billing_day=15),
        workflow("2024-01-14", 3, clock="2024-01-20"),
        workflow("2024-01-15", 4, clock="2024-01-20"),
    ]

    books = await simulated(*lines, as_of="2024-01-20")

    assert books.outcomes["late"] == 1
    assert books.usage("workflow", "2024-01-15") == "7"


@pytest.mark.parametrize(
    ("clock", "late", "january"),
    [("2024-02-03T14:59:59.999999Z", 0, "5"), ("2024-02-03T15:00:00Z", 1, "0")],
)
async def test_a_cycle_is_closed_at_exactly_72_hours_after_its_last_day(
    simulated, clock, late, january
):
    lines = [registered(START), workflow("2024-01-31", 5, clock=clock)]

    books = await simulated(*lines, as_of=clock)

    assert books.outcomes["late"] == late
    assert books.cycle(START)["closed"] is bool(late)
    assert books.usage("workflow", START) == january
    assert books.usage("workflow", "2024-02-01") == str(5 - int(january))


@pytest.mark.parametrize(
    ("as_of", "closed"),
    [
        ("2024-03-13T04:00:00Z", False),
        ("2024-03-13T04:59:59Z", False),
        ("2024-03-13T05:00:00Z", True),
    ],
)
async def test_the_hours_until_closing_elapse_also_when_the_clocks_change(simulated, as_of, closed):
    line = registered("2024-03-01", time_zone="America/New_York", billing_day=10)

    books = await simulated(line, as_of=as_of)

    # The last day is March 9; the clocks change on the day after.
    assert books.cycle("2024-02-10")["closed"] is closed


async def test_a_late_event_counts_on_the_first_day_of_the_earliest_open_cycle(simulated):
    lines = [
        registered(START),
        purchased("2024-02-02", "workflow", 100),
        workflow("2024-01-31", 5, clock="2024-02-10"),
    ]

    books = await simulated(*lines, as_of="2024-02-10")

    # The lot is not valid yet on February 1.
    assert books.sources("workflow", "2024-02-01") == {"postpaid": "5"}


@pytest.mark.parametrize(
    ("clock", "outcome"),
    [("2024-02-09T03:00:00Z", "applied"), ("2024-02-09T03:00:00.000001Z", "too_old")],
)
async def test_exactly_35_days_is_not_too_old(simulated, clock, outcome):
    lines = [registered(START), workflow("2024-01-05T03:00:00Z", 5, clock=clock)]

    books = await simulated(*lines, as_of=clock)

    assert books.rejected.get("too_old", 0) == (outcome == "too_old")
    assert books.outcomes["applied"] == 1 + (outcome == "applied")


@pytest.mark.parametrize(
    ("time", "outcome"),
    [("2024-01-05T03:10:00Z", "applied"), ("2024-01-05T03:10:00.000001Z", "in_future")],
)
async def test_exactly_10_minutes_ahead_is_not_in_the_future(simulated, time, outcome):
    lines = [registered(START), workflow(time, 5, clock="2024-01-05T03:00:00Z")]

    books = await simulated(*lines, as_of="2024-01-06")

    assert books.rejected.get("in_future", 0) == (outcome == "in_future")
    assert books.usage("workflow", START) == ("5" if outcome == "applied" else "0")


async def test_a_command_is_never_too_old(simulated):
    lines = [registered(START), purchased("2024-01-10", "pu", 100, clock="2024-02-03")]
    old = registered("2023-06-10", channel="c-2", clock="2024-02-03")

    books = await simulated(*lines, old, as_of="2024-02-03")

    assert books.rejected == {}
    assert books.lots() == ["l-1"]


async def test_the_closed_cycles_of_a_registration_of_long_ago_are_empty(simulated):
    late_use = workflow("2024-05-20", 7)
    lines = [registered("2024-04-10", clock="2024-06-10"), arriving(late_use, "2024-06-10")]

    books = await simulated(*lines, as_of="2024-06-10")

    assert [cycle["closed"] for cycle in books.channel()["cycles"]] == [True, True, False]
    assert books.usage("workflow", "2024-05-01") == "0"
    assert books.usage("workflow", "2024-06-01") == "7"


async def test_on_the_day_a_trial_ends_the_channel_is_on_the_free_plan(simulated):
    lines = [
        registered(START, plan="trial", trial_ends_on="2024-01-10"),
        purchased("2024-01-09", "workflow", 100, "l-1"),
        purchased("2024-01-10", "workflow", 100, "l-2"),
        purchased("2024-01-10", "pu", 100, "l-3"),
    ]

    books = await simulated(*lines, as_of="2024-01-10")

    assert books.refusals() == ["in_trial", "free_plan"]
    assert books.lots() == ["l-3"]


async def test_a_trial_whose_end_is_moved_runs_again_from_the_day_of_that_command(simulated):
    lines = [
        registered(START, plan="trial", trial_ends_on="2024-01-10"),
        purchased("2024-01-11", "pu", 100, "l-1"),
        changed("2024-01-12", trial_ends_on="2024-01-20"),
        purchased("2024-01-12", "pu", 100, "l-2"),
        purchased("2024-01-20", "pu", 100, "l-3"),
    ]

    books = await simulated(*lines, as_of="2024-01-20")

    assert books.refusals() == ["in_trial"]
    assert books.lots() == ["l-1", "l-3"]


async def test_what_is_due_on_a_day_that_the_zone_left_out_happens_on_it(simulated):
    lines = [
        registered(
            "2011-12-20T12:00:00Z",
            plan="trial",
            time_zone="Pacific/Apia",
            billing_day=20,
            trial_ends_on="2011-12-30",
        ),
        scheduled("2011-12-21T12:00:00Z", "pu", 100),
    ]

    books = await simulated(*lines, as_of="2011-12-30T10:00:00Z")

    assert books.lot("l-1")["starts_on"] == "2011-12-30"


async def test_the_end_of_a_trial_counts_only_while_the_plan_is_trial(simulated):
    lines = [
        registered(START, plan="enterprise", trial_ends_on="2024-01-10"),
        purchased("2024-01-05", "workflow", 100, "l-1"),
        purchased("2024-01-15", "workflow", 100, "l-2"),
    ]

    books = await simulated(*lines, as_of="2024-01-15")

    assert books.lots() == ["l-1", "l-2"]


async def test_a_trial_without_an_end_goes_on(simulated):
    lines = [
        registered(START),
        changed("2024-01-10", plan="trial"),
        purchased("2024-03-10", "pu", 100),
    ]

    books = await simulated(*lines, as_of="2024-03-10")

    assert books.refusals() == ["in_trial"]


async def test_what_a_command_of_the_next_day_grants_waits_for_its_day(simulated):
    lines = [
        registered(START),
        workflow("2024-01-09T12:00:00Z", 30),
        purchased("2024-01-10T00:05:00+09:00", "workflow", 100, clock="2024-01-09T14:55:00Z"),
    ]

    before = await simulated(*lines, as_of="2024-01-09T14:59:59Z")
    after = await simulated(
        *lines, workflow("2024-01-10T00:06:00+09:00", 2), as_of="2024-01-10T12:00:00Z"
    )

    assert (before.lot()["state"], before.lot()["windows"]) == ("active", [])
    assert before.notices("lot_started") == []
    assert after.sources("workflow", START) == {"own": "2", "postpaid": "30"}
    assert after.notices("lot_started") == [("2024-01-10", {"lot": "l-1"})]


async def test_a_limit_of_the_next_day_waits_for_its_day(simulated):
    lines = [
        registered(START),
        workflow("2024-01-09", 30),
        limit_set("2024-01-10T00:05:00+09:00", "workflow", 10, clock="2024-01-09T14:55:00Z"),
    ]

    before = await simulated(*lines, as_of="2024-01-09T14:59:59Z")
    after = await simulated(*lines, as_of="2024-01-09T15:00:00Z")

    assert before.product("workflow", START)["over_limit"] == "0"
    assert after.product("workflow", START)["over_limit"] == "20"
    assert before.notices("limit_reached") == []
    assert after.crossed("limit_reached") == [("2024-01-10", 80), ("2024-01-10", 100)]


async def test_the_price_of_a_message_is_decided_by_its_day_however_late_it_comes(simulated):
    lines = [registered(START), message("2024-01-30", "lms", clock="2024-02-20")]

    books = await simulated(*lines, as_of="2024-02-20")

    assert books.usage("pu", "2024-02-01") == "28"


async def test_what_is_due_happens_with_no_event_even_after_months(simulated):
    lines = [
        registered(START),
        contacts("2024-01-20", 80),
        purchased("2024-01-20", "mu", 100, "l-1", renew=True),
        scheduled("2024-01-21", "mu", 200, "l-2"),
        reservation_changed("2024-01-22", "l-2", quantity=150),
    ]

    books = await simulated(*lines, as_of="2025-03-01")

    assert books.lots() == ["l-1", "l-2", "l-1~2"]
    assert books.lot("l-2")["starts_on"] == "2024-02-01"
    assert books.lot("l-1~2")["starts_on"] == "2025-01-20"
    assert len(books.periods()) == 15
    assert {books.usage("mu", starts_on) for starts_on, _ in books.periods()} == {"80"}
