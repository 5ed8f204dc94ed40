"""A channel uses up what it has: people are told its name; what dashboards ask is answered, and as
the statement says.
"""

import asyncio
import json
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from tests.acceptance.watched import (
    ALERTMANAGER,
    PATIENCE_SECONDS,
    PROMETHEUS,
    becomes_true,
    free_port,
    lotmeter,
    query,
    watched_system,
)
from tests.builders import limit_set, line, purchased, registered
from tests.compose import ROOT, SERVICES

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        PROMETHEUS is None or ALERTMANAGER is None,
        reason="Prometheus and Alertmanager are not installed",
    ),
]

NOW = datetime.now(UTC)

# No cycle begins while the test runs.
BILLING_DAY = min(27, (NOW + timedelta(days=10)).day)

# Names may hold anything; what people are told must still name the right one.
LIMITED, DRAINED, BUSY, ENDING = 'ACME "Söhne" & Co.', "drained\\{pu}", "busy, very", "ending"
EXHAUSTED = {
    "LotmeterLimitExhausted": (LIMITED, "workflow"),
    "LotmeterLotExhausted": (DRAINED, "pu"),
    "LotmeterQuotaExhausted": (BUSY, "workflow"),
    "LotmeterLotExpiring": (ENDING, "marketing"),
}


def at(**ago):
    return (NOW - timedelta(**ago)).isoformat()


def used(channel, actions):
    return line(
        "usage.workflow", "workflow.executed", at(minutes=5), {"actions": actions}, channel=channel
    )


def scenario():
    """Write what four channels do today: a limit, a lot and a quota are used up."""
    message = {"kind": "sms", "count": 10}
    lots = {"channel": DRAINED}
    return [
        *[
            registered(at(hours=2), billing_day=BILLING_DAY, channel=name)
            for name in (LIMITED, DRAINED, BUSY)
        ],
        limit_set(at(hours=1), "workflow", 40, channel=LIMITED),
        purchased(at(hours=1), "pu", 100, "l-pu", renew=True, **lots),
        purchased(at(hours=1), "workflow", 100, "l-1", renew=True, channel=BUSY),
        purchased(at(hours=1), "workflow", 20, "l-2", renew=True, channel=BUSY),
        used(LIMITED, 50),
        line("usage.message", "message.sent", at(minutes=5), message, **lots),
        line("usage.message", "message.sent", at(minutes=4), message, **lots),
        used(BUSY, 170),
    ]  # fmt: skip


def an_old_lot():
    """Write a lot that was bought nearly a year ago and is not renewed."""
    return [
        registered(at(days=362), channel=ENDING, clock=at(days=362)),
        purchased(at(days=362), "marketing", 10, "l-old", channel=ENDING, clock=at(days=362)),
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory):
    folder = tmp_path_factory.mktemp("system")
    async with watched_system(folder, past=an_old_lot(), today=scenario()) as running:
        yield running


@pytest.mark.parametrize("alert", EXHAUSTED)
async def test_people_are_told_which_channel_has_used_up_what(system, alert):
    channel, product = EXHAUSTED[alert]

    async def is_told():
        return system.receiver.has_told(alert, channel=channel, product=product)

    await becomes_true(is_told)
    for told in system.receiver.alerts:
        if told["labels"]["alertname"] == alert and told["labels"]["channel"] == channel:
            assert channel in told["annotations"]["description"]
            assert product in told["annotations"]["description"]


async def test_nobody_is_woken_by_what_is_well(system):
    await becomes_true(lambda: asyncio.to_thread(is_watched, system))

    told = {alert["labels"]["alertname"] for alert in system.receiver.alerts}

    assert "LotmeterAbsent" not in told
    assert "LotmeterBooksWrong" not in told
    assert "LotmeterPartitionHalted" not in told


def is_watched(system):
    return bool(query(system, 'up{job="lotmeter"} == 1'))


def panels_of(name):
    path = ROOT / "deploy/grafana/dashboards" / name
    return [
        (panel["title"], target)
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


def filled_in(expression):
    """Put in what Grafana puts in for variables: all members and products, and the interval."""
    for variable, value in (
        ("$job", ".+"), ("$instance", ".+"), ("$product", ".+"), ("$__rate_interval", "30s"),
    ):  # fmt: skip
        expression = expression.replace(variable, value)
    assert "$" not in expression
    return expression


@pytest.mark.parametrize("name", ["operations.json", "prepaid.json"])
async def test_every_query_to_prometheus_is_answered(system, name):
    asked = {
        f"{title}: {target['legendFormat']}": filled_in(target["expr"])
        for title, target in panels_of(name)
        if "expr" in target
    }

    async def unanswered():
        return {
            title
            for title, expression in asked.items()
            if not await asyncio.to_thread(query, system, expression)
        }

    assert asked
    async with asyncio.timeout(PATIENCE_SECONDS):
        while missing := await unanswered():
            await asyncio.sleep(1)
    assert not missing


def shown(title):
    """Find the query of a panel of the dashboard Prepaid."""
    [target] = [target for name, target in panels_of("prepaid.json") if name == title]
    return target.get("rawSql") or filled_in(target["expr"])


async def rows_of(system, title, channel):
    literal = "'" + channel.replace("'", "''") + "'"
    sql = shown(title).replace("${channel:sqlstring}", literal)
    sql = sql.replace(
        "$__timeFilter(on_day)", f"on_day BETWEEN '{at(days=400)}' AND '{at(days=-1)}'"
    )
    assert "$" not in sql
    connection = await asyncpg.connect(system.reader)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


async def test_the_tables_of_a_channel_are_those_of_statement_and_lots(system):
    for channel in (LIMITED, DRAINED, BUSY):
        [cycle] = json.loads(await lotmeter("statement", channel, "--json", env=system.member))[
            "cycles"
        ][-1:]
        columns = ("usage", "included", "own", "carried", "borrowed", "postpaid")
        expected = {
            product: [float(sums[column]) for column in columns]
            for product, sums in cycle["products"].items()
        }
        assert expected
        rows = await rows_of(system, "Cycles", channel)
        assert {
            row["product"]: [float(row[column]) for column in columns] for row in rows
        } == expected
        assert {(str(row["starts_on"]), str(row["ends_on"])) for row in rows} == {
            (cycle["starts_on"], cycle["ends_on"])
        }
        by_day = Counter()
        for row in await rows_of(system, "Usage by day and source", channel):
            by_day[row["metric"]] += float(row["units"])
        for product, (_, *sums) in expected.items():
            for source, units in zip(columns[1:], sums, strict=True):
                assert by_day[f"{product} {source}"] == units


async def test_the_months_of_a_channel_are_those_of_lots(system):
    lots = json.loads(await lotmeter("lots", BUSY, "--json", env=system.member))["lots"]

    rows = {row["lot"]: row for row in await rows_of(system, "Lots", BUSY)}

    assert {name: (float(row["quantity"]), float(row["pool"])) for name, row in rows.items()} == {
        lot["lot"]: (float(lot["quantity"]), float(lot["pool"])) for lot in lots
    }
    columns = ("own", "carried", "borrowed", "minimum", "lent")
    windows = {
        (lot["lot"], window["starts_on"]): [float(window[column]) for column in columns]
        for lot in lots
        for window in lot["windows"]
    }
    assert windows
    for title in ("Windows", "Months of the lots"):
        assert len(await rows_of(system, title, BUSY)) == 12 * len(lots)
    found = {
        (row["lot"], str(row["starts_on"])): [float(row[column]) for column in columns]
        for row in await rows_of(system, "Windows", BUSY)
    }
    assert found.items() >= windows.items()


async def test_the_worst_channels_are_as_bad_as_their_statements_say(system):
    worst = {
        (row["metric"]["channel"], row["metric"]["product"], row["metric"]["what"]): float(
            row["value"][1]
        )
        for row in await asyncio.to_thread(query, system, shown("Worst channels"))
    }

    assert worst[LIMITED, "workflow", "limit"] == 50 / 40
    assert worst[DRAINED, "pu", "lot"] == 1
    assert worst[BUSY, "workflow", "quota"] == pytest.approx(170 / 120)
    assert worst[BUSY, "workflow", "maximum"] == pytest.approx(170 / 240)
    exhausted = {
        (row["metric"]["product"], row["metric"]["what"]): float(row["value"][1])
        for row in await asyncio.to_thread(
            query, system, shown("Channels that have used something up")
        )
    }
    for key, channels in Counter(key[1:] for key, ratio in worst.items() if ratio >= 1).items():
        assert exhausted[key] == channels


async def test_the_health_check_of_the_image_asks_what_answers(system):
    dockerfile = (ROOT / "Dockerfile").read_text()
    command = json.loads(dockerfile.split("\n    CMD ")[1].split("\n")[0])
    assert SERVICES["consumer"].get("healthcheck") is None

    async def status(port):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *(word.replace("9464", str(port)) for word in command[1:]),
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return await process.wait()

    assert command[0] == "python"
    assert await status(system.port) == 0
    assert await status(free_port()) != 0
