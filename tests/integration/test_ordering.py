"""Commands from the shell, decided by a member that runs: granted, refused, or not read in time."""

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime, timedelta

import pytest

from consumer.answers import REFUSALS
from tests.members import a_process, becomes_true
from tests.shell import Shell

NOW = datetime.now(UTC)
REGISTRATION = ("--time-zone", "UTC", "--billing-day")


@pytest.fixture
def lotmeter(environ, monkeypatch, capsys):
    return Shell(monkeypatch, capsys, environ)


def quiet(environ):
    return environ | {"LOTMETER_LOG_LEVEL": "error"}


def ago(**spans):
    return (NOW - timedelta(**spans)).isoformat()


def billing_day(days_ago):
    """Choose a billing day so that the running cycle began about so many days ago."""
    return str(min(27, (NOW - timedelta(days=days_ago)).day))


async def granted(lotmeter, *arguments):
    said = await lotmeter(*arguments, "--wait")
    assert (said.status, said.err) == (0, ""), said
    return said


async def test_every_command_is_carried_out(lotmeter, environ, books):
    assert books
    async with a_process(quiet(environ)):
        register = ("channel", "register", "acme", "--plan", "enterprise")
        await granted(lotmeter, *register, *REGISTRATION, billing_day(10), "--at", ago(days=2))
        cart = ("l-1=workflow:1000", "l-2=pu:12000", "l-3=white_label:1")
        bought = await granted(lotmeter, "lot", "purchase", "acme", *cart, "--yes")
        reserved = ("r-1=mu:100", "r-2=mu:200")
        await granted(lotmeter, "lot", "schedule", "acme", *reserved, "--no-renew", "--yes")
        change = ("lot", "reserve-change", "acme", "r-1", "--quantity", "300", "--renew")
        await granted(lotmeter, *change)
        await granted(lotmeter, "lot", "cancel", "acme", "r-2")
        await granted(lotmeter, "lot", "renewal", "acme", "l-1", "off")
        await granted(lotmeter, "lot", "refund", "acme", "l-2")
        await granted(lotmeter, "limit", "acme", "workflow", "0")
        await granted(lotmeter, "channel", "change", "acme", "--billing-day", "end")
        document = (await lotmeter("lots", "acme", "--json")).document
        cycles = (await lotmeter("statement", "acme", "--json")).document["cycles"]
        shown = await lotmeter("lots", "acme")

    assert [line.split(", ")[0] for line in bought.out.splitlines()[-3:]] == [
        "l-1 granted",
        "l-2 granted",
        "l-3 granted",
    ]
    assert [(lot["lot"], lot["state"], lot["renew"]) for lot in document["lots"]] == [
        ("l-1", "active", False),
        ("l-2", "refunded", True),
        ("l-3", "active", True),
    ]
    [reservation] = document["reservations"]
    assert (reservation["lot"], reservation["quantity"], reservation["renew"]) == (
        "r-1",
        "300",
        True,
    )
    assert [period["monthly"] for period in document["ranges"]] == ["1000"]
    assert len(cycles) == 1
    assert "reserved: r-1" in shown.out
    assert await books.fetchval("SELECT count(*) FROM setting WHERE name = 'limit'") == 1
    assert await books.fetchval("SELECT value FROM setting WHERE name = 'billing_day' AND at > 0")


async def test_each_refusal_is_told_in_words_with_status_1(lotmeter, environ, books, send):
    usage = environ["LOTMETER_USAGE_TOPICS"].split(",")[0]
    used = {
        "id": "e-1",
        "source": "/test",
        "type": "workflow.executed",
        "subject": "old",
        "time": ago(hours=1),
        "data": {"actions": 1},
    }
    buy = ("lot", "purchase")
    refused = [
        ("already_registered", ("channel", "register", "old", "--plan", "free")),
        ("too_late", (*buy, "old", "l-9=mu:100", "--yes", "--at", ago(days=80))),
        ("lot_exists", (*buy, "old", "l-1=mu:100", "--yes")),
        ("in_trial", (*buy, "trial", "l-1=mu:100", "--yes")),
        ("free_plan", (*buy, "free", "l-1=mu:100", "--yes")),
        ("quantity_out_of_bounds", (*buy, "old", "l-9=mu:99", "--yes")),
        ("over_plan_limit", (*buy, "early", "l-1=basic_seat:6", "--yes")),
        ("unknown_lot", ("lot", "renewal", "old", "l-9", "off")),
        ("unknown_reservation", ("lot", "cancel", "old", "l-9")),
        ("refund_window_over", ("lot", "refund", "old", "l-1")),
        ("already_deducted", ("lot", "refund", "old", "l-2")),
    ]
    async with a_process(quiet(environ)):
        for channel, plan in (
            ("old", "enterprise"),
            ("early", "early_stage"),
            ("free", "free"),
            ("trial", "trial"),
        ):
            register = ("channel", "register", channel, "--plan", plan, "--at", ago(days=12))
            ends = ("--trial-ends-on", (NOW + timedelta(days=30)).date().isoformat())
            await granted(lotmeter, *register, *REGISTRATION, billing_day(20), *ends)
        await granted(lotmeter, *buy, "old", "l-1=workflow:1", "--yes", "--at", ago(days=9))
        await granted(lotmeter, *buy, "old", "l-2=workflow:100", "--yes", "--at", ago(days=1))
        await send(usage, [used, used | {"id": "e-2", "data": {"actions": 50}}])

        async def is_drawn():
            return await books.fetchval("SELECT sum(own) > 2000 FROM lot_window")

        await becomes_true(is_drawn)

        answers = {}
        for reason, arguments in refused:
            ending = (*REGISTRATION, "1") if reason == "already_registered" else ()
            answers[reason] = await lotmeter(*arguments, *ending, "--wait")

    for reason, said in answers.items():
        assert said.status == 1, said
        last = said.out.splitlines()[-1]
        assert f" refused: {REFUSALS[reason]} ({reason}), cli-" in last, last
        assert said.err == ""


async def test_of_a_cart_each_purchase_is_answered_also_as_json(lotmeter, environ, books):
    assert books
    async with a_process(quiet(environ)):
        register = ("channel", "register", "acme", "--plan", "enterprise", *REGISTRATION, "1")
        await granted(lotmeter, *register)
        cart = ("l-1=workflow:1000", "l-2=workflow:0", "l-3=pu:100")
        said = await lotmeter("lot", "purchase", "acme", *cart, "--yes", "--wait", "--json")

    assert said.status == 1
    assert said.err == ""
    assert said.document["cart"]["total"] == "855.10"
    assert [
        (answer["about"], answer["outcome"], answer.get("reason"))
        for answer in said.document["commands"]
    ] == [
        ("l-1", "granted", None),
        ("l-2", "refused", "quantity_out_of_bounds"),
        ("l-3", "granted", None),
    ]


async def test_what_is_not_decided_is_told_too(lotmeter, environ, books):
    again = ("limit", "acme", "mu", "5", "--id", "op-1")
    async with a_process(quiet(environ)):
        waiting = await lotmeter("lot", "refund", "acme", "l-1", "--wait")
        register = ("channel", "register", "acme", "--plan", "enterprise", *REGISTRATION, "1")
        await granted(lotmeter, *register)
        at = ("--at", ago(seconds=1))
        await granted(lotmeter, *again, *at)
        await granted(lotmeter, *again, *at)
        conflict = await lotmeter(*again, "--wait")
        ahead = (NOW + timedelta(hours=1)).isoformat()
        in_future = await lotmeter("limit", "acme", "mu", "5", "--wait", "--at", ahead)

    assert waiting.status == 1
    assert "l-1 waiting: acme is not registered yet" in waiting.out
    assert conflict.status == 1
    assert "mu rejected: this id came before with another content (conflict), op-1" in conflict.out
    assert in_future.status == 1
    assert "(in_future)" in in_future.out
    # The same again did nothing.
    assert await books.fetchval("SELECT count(*) FROM setting WHERE name = 'limit'") == 1


async def test_a_consumer_that_is_down_is_told_and_decides_later(lotmeter, environ, books):
    register = ("channel", "register", "acme", "--plan", "growth", *REGISTRATION, "1")
    at = ("--id", "op-1", "--at", ago(seconds=1))

    said = await lotmeter(*register, *at, "--wait", "--within", "0.5")

    assert said.status == 1
    assert "not read within 0.5 seconds" in said.err
    assert "acme" in said.err
    assert said.err.count("\n") == 1
    async with a_process(quiet(environ)):
        await granted(lotmeter, *register, *at)
    assert await books.fetchval("SELECT count(*) FROM command") == 1


async def test_a_partition_that_is_halted_is_named(lotmeter, environ, books):
    register = ("channel", "register", "acme", "--plan", "growth", *REGISTRATION, "1")
    async with a_process(quiet(environ)):
        await granted(lotmeter, *register)
    await books.execute("UPDATE position SET halted = 'for a reason'")

    said = await lotmeter("limit", "acme", "mu", "5", "--wait")

    assert said.status == 1
    assert "is halted: for a reason" in said.err


async def test_a_reject_of_a_log_that_is_gone_answers_nothing(lotmeter, environ, books):
    register = ("channel", "register", "acme", "--plan", "growth", *REGISTRATION, "1")
    async with a_process(quiet(environ)):
        await granted(lotmeter, *register)
        await books.execute(
            "INSERT INTO reject (position, read_at_offset, reason, detail, was_parked, rejected_at)"
            " SELECT number, next_offset, 'malformed', '', false, now() - interval '1 day'"
            " FROM position"
        )

        await granted(lotmeter, "limit", "acme", "mu", "5")


async def test_whoever_waits_can_leave(environ, books):
    assert books
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "consumer", "lot", "refund", "acme", "l-1", "--wait"),
        env={**os.environ, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )

    asked_at = set()

    async def is_waiting():
        asked_at.add(
            await books.fetchval(
                "SELECT max(query_start) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        # It asks again and again only once its command is sent.
        return len(asked_at) > 8

    await becomes_true(is_waiting)

    process.send_signal(signal.SIGINT)

    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 130
    assert out == b""
    assert err == b"lotmeter: interrupted: what was sent is decided all the same\n"
