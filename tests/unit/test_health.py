"""Operators get their answers over HTTP, and whoever is hostile gets nothing that grows."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from consumer import health as serving
from consumer.health import CONNECTIONS_MAX, HEADER_BYTES_MAX, Health


@asynccontextmanager
async def a_server(reasons=()):
    async with Health(lambda: reasons).serving("127.0.0.1", 0) as port:
        yield port


async def ask(port, request):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head, body


def get(path):
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_metrics_are_those_of_this_process():
    async with a_server() as port:
        status, head, body = await ask(port, get("/metrics"))

    assert status == 200
    assert b"Content-Type: text/plain; version=" in head
    assert b"# TYPE lotmeter_records_total counter" in body
    assert f"Content-Length: {len(body)}".encode() in head


async def test_whoever_is_not_ready_says_why():
    async with a_server(["3 partitions are not claimed in the books yet"]) as port:
        assert (await ask(port, get("/readyz")))[::2] == (
            503,
            b"3 partitions are not claimed in the books yet\n",
        )
        assert (await ask(port, get("/livez")))[0] == 200


async def test_whoever_is_ready_says_so():
    async with a_server() as port:
        assert (await ask(port, get("/readyz?verbose")))[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/"), 404),
        (b"POST /metrics HTTP/1.1\r\n\r\n", 405),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET /" + b"a" * (HEADER_BYTES_MAX + 10) + b"\r\n\r\n", 431),
    ],
)
async def test_other_questions_are_refused(request_bytes, status):
    async with a_server() as port:
        assert (await ask(port, request_bytes))[0] == status


async def test_whoever_says_nothing_is_let_go(monkeypatch):
    monkeypatch.setattr(serving, "REQUEST_SECONDS_MAX", 0.05)
    async with a_server() as port:
        assert (await ask(port, b"GET /metr"))[0] == 400


async def test_many_who_ask_at_once_share_one_answer(monkeypatch):
    rendered = []
    monkeypatch.setattr(
        serving, "generate_latest", lambda registry: rendered.append(registry) or b""
    )
    async with a_server() as port:
        answers = await asyncio.gather(
            *[ask(port, get("/metrics")) for _ in range(CONNECTIONS_MAX)]
        )

    assert {status for status, _, _ in answers} == {200}
    assert len(rendered) < CONNECTIONS_MAX


async def test_connections_beyond_the_bound_are_turned_away():
    async with a_server() as port:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        await asyncio.sleep(0.05)

        status, _, _ = await ask(port, get("/livez"))

        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
    assert status == 503
