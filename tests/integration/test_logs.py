"""The log of a member has a line for each batch at most, and nothing of what records say."""

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime, timedelta

import orjson

from tests.builders import message, registered, workflow
from tests.running import a_service, books_of, publish, until_read

CANARY = "canary-of-a-message-text"
NOW = datetime.now(UTC)
EVENTS = 300


async def test_a_log_has_a_line_a_batch_and_no_text(broker, fresh_database_url):
    environ = await a_service(broker, fresh_database_url, LOG_LEVEL="debug")
    *_, topic, texts = environ["LOTMETER_USAGE_TOPICS"].split(",")
    commands = environ["LOTMETER_COMMANDS_TOPIC"]
    at = (NOW - timedelta(hours=1)).isoformat()
    text = message(at, "global_sms", country="US", text=CANARY)["event"]
    unpriced = message(at, "global_sms", country="AU", text=CANARY)["event"]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "consumer", "run"),
        env={**os.environ, **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    reading = asyncio.create_task(process.stderr.read())
    async with books_of(environ) as books:
        await publish(broker, [(commands, registered((NOW - timedelta(3)).isoformat())["event"])])
        await publish(broker, [(topic, workflow(at, 1)["event"]) for _ in range(EVENTS)])
        await publish(broker, [(texts, text), (texts, unpriced), (texts, CANARY.encode())])
        await until_read(books, EVENTS + 4)
        batches = await books.fetchval("SELECT count(DISTINCT committed_at) FROM batch")
    process.send_signal(signal.SIGTERM)
    log = await asyncio.wait_for(reading, 60)
    await process.wait()

    assert CANARY.encode() not in log
    lines = [orjson.loads(line) for line in log.splitlines()]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    told = [line["event"] for line in lines].count("batch")
    assert 0 < told <= batches
