"""From events to tallies, and events that come twice, late or are taken back: sections 4 and 9."""

from itertools import permutations

import pytest

from tests.builders import (
    arriving,
    assigned,
    contacts,
    limit_set,
    line,
    marketing,
    message,
    purchased,
    registered,
    released,
    voided,
    with_attributes,
    with_data,
    workflow,
)

START = "2024-01-01"


async def test_the_usage_of_a_cycle_is_its_highest_level(simulated):
    lines = [
        registered(START),
        contacts("2024-01-05", 100),
        contacts("2024-01-10", 40),
        contacts("2024-01-20", 120),
        contacts("2024-01-30", 70),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.usage("mu", START) == "120"


async def test_a_day_uses_as_much_as_it_raised_the_highest_level(simulated):
    lines = [
        registered(START),
        contacts("2024-01-05", 100),
        contacts("2024-01-06", 40),
        purchased("2024-01-20", "mu", 100),
        contacts("2024-01-20", 130),
    ]

    books = await simulated(*lines, as_of="2024-01-31")

    assert books.sources("mu", START) == {"own": "30", "postpaid": "100"}


async def test_the_level_in_force_counts_on_the_first_day_of_a_cycle_in_silence(simulated):
    lines = [registered(START), contacts("2024-01-05", 100), contacts("2024-01-20", 60)]

    books = await simulated(*lines, as_of="2024-03-01")

    assert [books.usage("mu", day) for day in ("2024-02-01", "2024-03-01")] == ["60", "60"]


async def test_a_lower_level_on_the_first_day_leaves_what_was_in_force(simulated):
    lines = [
        registered(START),
        contacts("2024-01-20", 60),
        contacts("2024-02-01T00:00:00+09:00", 10),
    ]

    books = await simulated(*lines, as_of="2024-03-01")

    assert [books.usage("mu", day) for day in ("2024-02-01", "2024-03-01")] == ["60", "10"]


@pytest.mark.parametrize("levels", [(60, 90), (90, 60)])
async def test_of_two_levels_at_one_instant_the_higher_is_in_force(simulated, levels):
    lines = [registered(START), *[contacts("2024-01-20", level) for level in levels]]

    books = await simulated(*lines, as_of="2024-02-01")

    assert books.usage("mu", "2024-02-01") == "90"


async def test_a_late_level_counts_once_and_is_in_force_by_its_own_time(simulated):
    lines = [
        registered(START),
        contacts("2024-01-20", 100),
        contacts("2024-01-15", 500, clock="2024-02-10"),
    ]

    books = await simulated(*lines, as_of="2024-03-01")

    assert books.outcomes["late"] == 1
    assert books.usage("mu", "2024-01-01") == "100"
    assert books.usage("mu", "2024-02-01") == "500"
    assert books.usage("mu", "2024-03-01") == "100"


async def test_a_late_level_that_is_the_latest_is_in_force_later(simulated):
    lines = [
        registered(START),
        contacts("2024-01-15", 100),
        contacts("2024-01-20", 30, clock="2024-02-10"),
    ]

    books = await simulated(*lines, as_of="2024-03-01")

    # February began, by event time, with 30; the late report adds nothing to that.
    assert books.usage("mu", "2024-02-01") == "30"
    assert books.usage("mu", "2024-03-01") == "30"


async def test_whoever_holds_a_seat_when_a_cycle_begins_counts(simulated):
    lines = [
        registered(START),
        assigned("2024-01-05", "m-1"),
        assigned("2024-01-06", "m-2"),
        released("2024-01-07", "m-1"),
        released("2024-02-01T00:00:00+09:00", "m-2"),
    ]

    books = await simulated(*lines, as_of="2024-03-01")

    months = ("2024-01-01", "2024-02-01", "2024-03-01")
    assert [books.usage("operator_seat", month) for month in months] == ["2", "1", "0"]


@pytest.mark.parametrize("order", [(assigned, released), (released, assigned)])
async def test_assigned_beats_released_at_one_instant(simulated, order):
    lines = [registered(START), *[report("2024-01-05") for report in order]]

    books = await simulated(*lines, as_of="2024-02-01")

    assert books.usage("operator_seat", "2024-02-01") == "1"


async def test_seats_of_the_two_kinds_are_separate(simulated):
    lines = [
        registered(START),
        assigned("2024-01-05", seat="basic"),
        assigned("2024-01-05", seat="operator"),
        released("2024-01-06", seat="operator"),
    ]

    books = await simulated(*lines, as_of="2024-02-01")

    assert books.usage("basic_seat", "2024-02-01") == "1"
    assert books.usage("operator_seat", "2024-02-01") == "0"


async def test_a_late_assignment_counts_once_and_holds_by_its_own_time(simulated):
    lines = [
        registered(START),
        released("2024-01-20"),
        assigned("2024-01-15", clock="2024-02-10"),
    ]

    books = await simulated(*lines, as_of="2024-03-01")

    months = ("2024-01-01", "2024-02-01", "2024-03-01")
    assert [books.usage("operator_seat", month) for month in months] == ["0", "1", "0"]


async def test_a_message_by_the_channels_own_twilio_is_counted_and_free(simulated):
    sent = message("2024-01-05", "global_sms", 3, country="AU", segments=2, provider="twilio")

    books = await simulated(registered(START), sent, as_of="2024-01-05")

    used = books.product("pu", START)
    assert used["usage"] == "0"
    assert used["kinds"] == {"global_sms": {"messages": "3", "pu": "0"}}


async def test_a_message_by_another_provider_is_charged(simulated):
    sent = message("2024-01-05", "sms", 3, provider="another")

    books = await simulated(registered(START), sent, as_of="2024-01-05")

    assert books.usage("pu", START) == "30"


async def test_units_are_kept_per_kind(simulated):
    lines = [
        registered(START),
        message("2024-01-05", "sms", 3),
        message("2024-01-06", "kakao_infotalk"),
        message("2024-01-06", "kakao_cstalk"),
        message("2024-01-07", "sms"),
    ]

    books = await simulated(*lines, as_of="2024-01-07")

    assert books.product("pu", START)["kinds"] == {
        "kakao_cstalk": {"messages": "1", "pu": "80"},
        "kakao_infotalk": {"messages": "1", "pu": "7"},
        "sms": {"messages": "4", "pu": "40"},
    }


async def test_the_order_in_which_events_arrive_never_matters(simulated):
    used = [workflow("2024-01-05", 60), workflow("2024-01-20", 90), workflow("2024-01-28", 70)]
    lines = [registered(START), purchased("2024-01-15", "workflow", 50)]

    books = [
        await simulated(
            *lines, *[arriving(each, "2024-01-29") for each in order], as_of="2024-01-31"
        )
        for order in permutations(used)
    ]

    assert all(each.channel()["cycles"] == books[0].channel()["cycles"] for each in books)
    assert all(each.windows() == [{"own": "50", "borrowed": "50"}] for each in books)
    assert all(each.sources("workflow", START)["postpaid"] == "120" for each in books)


async def test_usage_before_a_purchase_on_the_same_day_is_paid_by_the_lot(simulated):
    lines = [
        registered(START),
        workflow("2024-01-10T09:00:00+09:00", 30),
        purchased("2024-01-10T15:00:00+09:00", "workflow", 100),
    ]

    books = await simulated(*lines, as_of="2024-01-10T16:00:00+09:00")

    assert books.sources("workflow", START) == {"own": "30"}


async def test_a_purchase_that_is_read_later_pays_usage_that_was_settled_already(simulated):
    lines = [
        registered(START),
        workflow("2024-01-10", 30),
        purchased("2024-01-10", "workflow", 100, clock="2024-01-25"),
    ]

    books = await simulated(*lines, as_of="2024-01-25")

    assert books.sources("workflow", START) == {"own": "30"}
    # Told when it was first so, and never taken back.
    assert books.notices("postpaid") == [("2024-01-10", {})]


async def test_the_same_event_again_has_no_effect(simulated):
    used = workflow("2024-01-05", 3)
    same_words_otherwise = with_attributes(
        used, time="2024-01-05T03:00:00Z", extra="new", datacontenttype="application/json"
    )

    books = await simulated(
        registered(START),
        used,
        used,
        with_data(used, more=1),
        same_words_otherwise,
        used | {"topic": "usage.mu"},
        as_of="2024-01-06",
    )

    assert books.outcomes["duplicate"] == 4
    assert books.usage("workflow", START) == "3"


@pytest.mark.parametrize(
    "other",
    [
        {"data": {"actions": 4}},
        {"time": "2024-01-05T12:00:00.000001+09:00"},
        {"type": "marketing.sent", "data": {"messages": 3}},
    ],
)
async def test_the_same_identity_with_another_content_is_a_conflict(simulated, other):
    used = workflow("2024-01-05", 3)

    books = await simulated(
        registered(START), used, with_attributes(used, **other), as_of="2024-01-06"
    )

    assert books.rejected == {"conflict": 1}
    assert books.usage("workflow", START) == "3"


async def test_a_text_counts_as_its_segments(simulated):
    sent = message("2024-01-05", "global_sms", country="US", text="a" * 161)
    data = sent["event"]["data"]
    counted = with_attributes(sent, data={**data, "segments": 2})
    other = with_attributes(sent, data={**data, "segments": 3})

    books = await simulated(registered(START), sent, counted, other, as_of="2024-01-06")

    assert books.outcomes["duplicate"] == 1
    assert books.rejected == {"conflict": 1}


async def test_an_identity_is_of_one_channel_and_one_source(simulated):
    lines = [
        registered(START),
        registered(START, channel="c-2"),
        workflow("2024-01-05", 3, event_id="same"),
        workflow("2024-01-05", 4, event_id="same", source="/other"),
        workflow("2024-01-05", 5, event_id="same", channel="c-2"),
    ]

    books = await simulated(*lines, as_of="2024-01-06")

    assert books.usage("workflow", START) == "7"
    assert books.outcomes["applied"] == 5


async def test_a_usage_event_and_a_command_of_one_identity_are_a_conflict(simulated):
    lines = [registered(START, event_id="same"), workflow("2024-01-05", 3, event_id="same")]

    books = await simulated(*lines, as_of="2024-01-06")

    assert books.rejected == {"conflict": 1}


async def test_the_identity_of_a_command_is_known_for_ever(simulated):
    bought = purchased("2024-01-05", "pu", 100)

    books = await simulated(
        registered(START), bought, arriving(bought, "2024-11-05"), as_of="2024-11-05"
    )

    assert books.outcomes["duplicate"] == 1
    assert books.refusals() == []


async def test_a_copy_is_known_up_to_the_horizon_and_too_old_beyond_it(simulated):
    used = workflow("2024-01-05T03:00:00Z", 3)
    lines = [
        registered(START),
        used,
        arriving(used, "2024-02-09T03:00:00Z"),
        arriving(used, "2024-02-09T03:00:00.000001Z"),
    ]

    books = await simulated(*lines, as_of="2024-02-10")

    assert books.outcomes["duplicate"] == 1
    assert books.rejected == {"too_old": 1}


async def test_a_rejected_record_leaves_its_identity_to_the_corrected_one(simulated):
    wrong = message("2024-01-05", "sms", 0)

    books = await simulated(registered(START), wrong, with_data(wrong, count=2), as_of="2024-01-06")

    assert books.rejected == {"malformed": 1}
    assert books.usage("pu", START) == "20"


async def test_a_refused_command_is_applied_and_its_copy_a_duplicate(simulated):
    refused = purchased("2024-01-05", "mu", 1)

    books = await simulated(registered(START), refused, refused, as_of="2024-01-06")

    assert books.outcomes["applied"] == 2
    assert books.outcomes["duplicate"] == 1
    assert books.refusals() == ["quantity_out_of_bounds"]


async def test_a_void_makes_the_books_what_they_were_without_the_event(simulated):
    kept = workflow("2024-01-05", 30)
    taken_back = workflow("2024-01-06", 200)
    lines = [registered(START), purchased(START, "workflow", 100), kept, taken_back]

    books = await simulated(*lines, voided("2024-01-07", taken_back), as_of="2024-01-31")

    assert books.sources("workflow", START) == {"own": "30"}
    assert books.windows() == [{"own": "30"}]


@pytest.mark.parametrize("build", [marketing, message])
async def test_counted_and_charged_events_can_be_voided(simulated, build):
    sent = message("2024-01-05") if build is message else marketing("2024-01-05", 5)

    books = await simulated(registered(START), sent, voided("2024-01-06", sent), as_of="2024-01-31")

    assert books.cycle(START)["products"] == {}
    assert books.rejected == {}


async def test_a_copy_of_a_voided_event_stays_a_duplicate(simulated):
    used = workflow("2024-01-05", 3)

    books = await simulated(
        registered(START), used, voided("2024-01-06", used), used, as_of="2024-01-31"
    )

    assert books.outcomes["duplicate"] == 1
    assert books.usage("workflow", START) == "0"


async def test_only_an_event_that_is_counted_or_charged_can_be_voided(simulated):
    registration = registered(START)
    level, seat, used = contacts("2024-01-05", 3), assigned("2024-01-05"), workflow("2024-01-05", 3)
    void = voided("2024-01-06", used)
    of_itself = voided("2024-01-06", void, event_id="itself")
    of_itself = with_data(of_itself, id="itself")
    others = [voided("2024-01-07", each) for each in (registration, level, seat, void)]

    books = await simulated(
        registration, level, seat, used, void, of_itself, *others, as_of="2024-01-31"
    )

    assert books.rejected == {"not_voidable": 5}
    assert books.usage("mu", START) == "3"


async def test_an_event_is_voided_once(simulated):
    used = workflow("2024-01-05", 3)
    voids = [voided("2024-01-06", used), voided("2024-01-07", used)]

    books = await simulated(registered(START), used, *voids, as_of="2024-01-31")

    assert books.rejected == {"already_voided": 1}


@pytest.mark.parametrize(
    ("clock", "rejected", "usage"),
    [
        ("2024-02-03T14:59:59.999999Z", {}, "0"),
        ("2024-02-03T15:00:00Z", {"cycle_closed": 1}, "3"),
    ],
)
async def test_an_event_is_voided_only_while_its_cycle_is_open(simulated, clock, rejected, usage):
    used = workflow("2024-01-31", 3)
    lines = [registered(START), used, voided("2024-02-01", used, clock=clock)]

    books = await simulated(*lines, as_of=clock)

    assert books.rejected == rejected
    assert books.usage("workflow", START) == usage


async def test_a_late_event_is_voided_in_the_cycle_that_it_counts_in(simulated):
    used = workflow("2024-01-31", 3, clock="2024-02-10")

    books = await simulated(registered(START), used, voided("2024-02-20", used), as_of="2024-02-20")

    assert books.rejected == {}
    assert books.usage("workflow", "2024-02-01") == "0"


async def test_that_a_void_came_twice_is_told_before_that_its_cycle_is_closed(simulated):
    used = workflow("2024-01-31", 3)
    voids = [voided("2024-02-01", used), voided("2024-02-10", used)]

    books = await simulated(registered(START), used, *voids, as_of="2024-02-10")

    assert books.rejected == {"already_voided": 1}


async def test_a_void_waits_for_its_event(simulated):
    used = workflow("2024-01-05", 3)
    void = voided("2024-01-06", used)

    waiting = await simulated(registered(START), void, void, as_of="2024-01-07")
    both = await simulated(
        registered(START), void, arriving(used, "2024-01-08"), as_of="2024-01-09"
    )

    assert (waiting.outcomes["parked"], waiting.outcomes["duplicate"]) == (1, 1)
    assert both.outcomes["applied"] == 3
    assert both.usage("workflow", START) == "0"


@pytest.mark.parametrize(
    ("as_of", "parked"), [("2024-02-10T02:59:59Z", 1), ("2024-02-10T03:00:01Z", 0)]
)
async def test_a_void_whose_event_never_comes_is_rejected_at_the_horizon(simulated, as_of, parked):
    lines = [registered(START), voided("2024-01-06T03:00:00Z", workflow("2024-01-05", 3))]

    books = await simulated(*lines, as_of=as_of)

    assert books.outcomes["parked"] == parked
    assert books.rejected == ({} if parked else {"unknown_event": 1})


async def test_events_of_a_channel_wait_for_its_registration(simulated):
    used = workflow("2024-01-05", 3)
    lines = [used, used, with_data(used, actions=4), registered(START, clock="2024-01-06")]

    waiting = await simulated(*lines[:3], as_of="2024-01-06")
    taken_up = await simulated(*lines, as_of="2024-01-06")

    assert waiting.outcomes == {
        "applied": 0,
        "duplicate": 1,
        "late": 0,
        "parked": 1,
        "rejected": {"conflict": 1},
    }
    assert waiting.document["channels"] == {}
    assert taken_up.outcomes["parked"] == 0
    assert taken_up.usage("workflow", START) == "3"


async def test_whether_a_parked_event_is_late_is_decided_when_it_is_taken_up(simulated):
    used = workflow("2024-01-20", 3)
    lines = [used, registered("2024-01-15", clock="2024-02-10")]

    books = await simulated(*lines, as_of="2024-02-10")

    assert books.outcomes["late"] == 1
    assert books.usage("workflow", "2024-02-01") == "3"


async def test_parked_records_are_taken_up_in_the_order_in_which_they_came(simulated):
    lines = [
        purchased("2024-01-06", "workflow", 100, "l-1"),
        purchased("2024-01-05", "mu", 100, "l-1", clock="2024-01-06"),
        limit_set("2024-01-06", "workflow", 0),
        registered(START, clock="2024-01-07"),
    ]

    books = await simulated(*lines, as_of="2024-01-07")

    assert books.lot("l-1")["product"] == "workflow"
    assert books.refusals() == ["lot_exists"]


@pytest.mark.parametrize(
    ("as_of", "parked"), [("2024-02-09T02:59:59Z", 2), ("2024-02-09T03:00:01Z", 0)]
)
async def test_records_of_a_channel_that_never_comes_are_rejected_at_the_horizon(
    simulated, as_of, parked
):
    lines = [workflow("2024-01-05T03:00:00Z", 3), purchased("2024-01-05T03:00:00Z", "pu", 100)]

    books = await simulated(*lines, as_of=as_of)

    assert books.outcomes["parked"] == parked
    assert books.rejected == ({} if parked else {"unknown_channel": 2})


async def test_a_record_rejected_at_the_horizon_may_come_again_with_another_content(simulated):
    lines = [
        workflow("2024-01-05", 3, event_id="same"),
        workflow("2024-02-20", 4, event_id="same"),
        registered("2024-02-20"),
    ]

    books = await simulated(*lines, as_of="2024-02-20")

    assert books.rejected == {"unknown_channel": 1}
    assert books.usage("workflow", "2024-02-01") == "4"


async def test_every_record_is_counted_once_in_the_outcomes(simulated):
    used = workflow("2024-01-05", 3)
    lines = [
        registered(START),
        used,
        used,
        workflow("2024-01-05", 3, channel="c-9"),
        with_data(used, actions=4),
        line("usage.workflow", "weather.changed", "2024-01-05", {}),
        {"topic": "usage.workflow", "raw": "no JSON", "clock": "2024-01-05T12:00:00Z"},
    ]

    books = await simulated(*lines, as_of="2024-01-06")

    assert books.outcomes == {
        "applied": 2,
        "duplicate": 1,
        "late": 0,
        "parked": 1,
        "rejected": {"conflict": 1, "malformed": 1, "unknown_type": 1},
    }
