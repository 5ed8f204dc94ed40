"""Each refusal by topic: a command that may not be is answered once, and a customer's service hears
why.
"""

from datetime import UTC, datetime, timedelta
from functools import partial

import orjson

from metering.errors import REFUSAL_REASONS
from tests.members import a_process, becomes_true, read_all

NOW = datetime.now(UTC)
# The running cycle began some 20 days ago, whatever today is.
BILLING_DAY = min(27, (NOW - timedelta(days=20)).day)
PLANS = {"c-1": "enterprise", "c-early": "early_stage", "c-free": "free", "c-trial": "trial"}
LATE, REFUNDED_LATE = timedelta(days=80), timedelta(days=9)


def told(kind, channel, name, data, ago=timedelta(0)):
    return {
        "specversion": "1.0",
        "id": name,
        "source": "/billing",
        "type": kind,
        "subject": channel,
        "time": (NOW - ago).isoformat(),
        "data": data,
    }


def registered(channel, plan, name, ago=timedelta(days=12)):
    data = {
        "plan": plan,
        "time_zone": "UTC",
        "billing_day": BILLING_DAY,
        "trial_ends_on": (NOW + timedelta(days=30)).date().isoformat(),
    }
    return told("channel.registered", channel, name, data, ago)


def bought(channel, name, lot, product, quantity, ago=timedelta(0)):
    data = {"lot": lot, "product": product, "quantity": quantity, "renew": False}
    return told("lot.purchased", channel, name, data, ago)


GRANTED = [
    *(registered(channel, plan, f"r-{channel}") for channel, plan in PLANS.items()),
    bought("c-1", "b-1", "l-1", "pu", 100, REFUNDED_LATE),
    bought("c-1", "b-2", "l-2", "workflow", 100),
]
# What the answer says besides the reason and the id of the command: product, lot.
REFUSED = {
    "already_registered": (registered("c-1", "free", "already_registered"), None, None),
    "too_late": (bought("c-1", "too_late", "l-9", "mu", 100, LATE), "mu", "l-9"),
    "lot_exists": (bought("c-1", "lot_exists", "l-1", "mu", 100), "mu", "l-1"),
    "in_trial": (bought("c-trial", "in_trial", "l-1", "mu", 100), "mu", "l-1"),
    "free_plan": (bought("c-free", "free_plan", "l-1", "mu", 100), "mu", "l-1"),
    "quantity_out_of_bounds": (
        bought("c-1", "quantity_out_of_bounds", "l-9", "mu", 99),
        "mu",
        "l-9",
    ),
    "over_plan_limit": (
        bought("c-early", "over_plan_limit", "l-1", "basic_seat", 6),
        "basic_seat",
        "l-1",
    ),
    "unknown_lot": (
        told("lot.renewal_set", "c-1", "unknown_lot", {"lot": "l-9", "renew": True}),
        None,
        "l-9",
    ),
    "unknown_reservation": (
        told("reservation.cancelled", "c-1", "unknown_reservation", {"lot": "l-2"}),
        "workflow",
        "l-2",
    ),
    "refund_window_over": (
        told("lot.refunded", "c-1", "refund_window_over", {"lot": "l-1"}),
        "pu",
        "l-1",
    ),
    "already_deducted": (
        told("lot.refunded", "c-1", "already_deducted", {"lot": "l-2"}),
        "workflow",
        "l-2",
    ),
}


async def test_each_refusal_is_answered_once(environ, books, send, broker):
    commands, notices = environ["LOTMETER_COMMANDS_TOPIC"], environ["LOTMETER_NOTICES_TOPIC"]
    used = told("workflow.executed", "c-1", "e-1", {"actions": 3})
    refused = [event for event, _, _ in REFUSED.values()]
    quiet = environ | {"LOTMETER_LOG_LEVEL": "error"}

    async def is_drawn():
        return await books.fetchval("SELECT sum(own) = 3000 FROM lot_window")

    async def is_read(records):
        read = await books.fetchval("SELECT sum(next_offset - start_offset) FROM position")
        return read == records

    async def is_all_sent():
        return not await books.fetchval("SELECT count(*) FROM outbox")

    async with a_process(quiet), a_process(quiet):
        await send(commands, GRANTED)
        # What is used before its lot is bought is postpaid for a moment, and that is told.
        await becomes_true(partial(is_read, len(GRANTED)))
        await send(environ["LOTMETER_USAGE_TOPICS"].split(",")[0], [used])
        await becomes_true(is_drawn)
        # Each comes three times: the same again does nothing.
        await send(commands, [*refused, *refused, *refused])
        await becomes_true(partial(is_read, len(GRANTED) + 1 + 3 * len(refused)))
        await becomes_true(is_all_sent)
        number = await books.fetchval("SELECT count(*) FROM notice")
        messages = [orjson.loads(each.value) for each in await read_all(broker, notices, number)]

    assert set(REFUSED) == set(REFUSAL_REASONS)
    answers = {
        event["data"]["detail"]["id"]: event
        for event in messages
        if event["type"] == "lotmeter.notice.command_refused"
    }
    assert len(answers) == sum(event["data"]["kind"] == "command_refused" for event in messages)
    assert set(answers) == set(REFUSED)
    for reason, (command, product, lot) in REFUSED.items():
        answer = answers[reason]
        detail = {"reason": reason, "id": reason} | ({} if lot is None else {"lot": lot})
        assert answer["subject"] == command["subject"]
        assert answer["data"] == {
            "kind": "command_refused",
            "product": product,
            "on": command["time"][:10],
            "detail": detail,
        }
    assert {event["data"]["kind"] for event in messages} == {"command_refused", "lot_started"}
    outcomes = await books.fetchrow("SELECT sum(applied), sum(duplicate), sum(rejected) FROM batch")
    assert tuple(outcomes) == (len(GRANTED) + 1 + len(refused), 2 * len(refused), 0)
