"""Members of a group, in the process of a test or their own; and how to wait for what they do."""

import asyncio
import os
import sys
from contextlib import asynccontextmanager

import orjson
import pytest
from aiokafka import AIOKafkaConsumer

from consumer.service import serve
from consumer.settings import Settings

PATIENCE_SECONDS = 60


@asynccontextmanager
async def a_member(environ, **changes):
    stop = asyncio.Event()
    settings = Settings.from_environ({**environ, **changes})
    serving = asyncio.create_task(serve(settings, stop=stop))
    try:
        yield serving
    finally:
        stop.set()
        await serving


@asynccontextmanager
async def a_process(environ):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "consumer", "run"),
        env={**os.environ, **environ},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line_with(process, event):
    while line := await process.stderr.readline():
        entry = orjson.loads(line)
        if entry["event"] == event:
            return entry
    pytest.fail(f"the process ended without {event}")


async def ask(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer


async def becomes_true(claim):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await claim():  # Claims are about the database.
            await asyncio.sleep(0.05)


async def read_all(broker, topic, number):
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=broker, auto_offset_reset="earliest"
    ) as reader:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return [await reader.getone() for _ in range(number)]
