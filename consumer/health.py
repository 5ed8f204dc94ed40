"""What operators ask over HTTP: /metrics, /livez and /readyz, on one port and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

# Whoever may reach the port may be hostile: nothing that is asked can grow.
HEADER_BYTES_MAX = 8_192
CONNECTIONS_MAX = 64
REQUEST_SECONDS_MAX = 5
ANSWER_SECONDS_MAX = 10


class Answer(NamedTuple):
    """What is said to a question."""

    status: HTTPStatus
    body: bytes
    kind: str = "text/plain; charset=utf-8"


class Health:
    """Answers each question once and closes."""

    def __init__(self, why_not_ready: Callable[[], Sequence[str]]) -> None:
        self._why_not_ready = why_not_ready
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._rendering: asyncio.Task[bytes] | None = None

    @asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[int]:
        """Serve while the block runs; yields the port, as 0 means any."""
        server = await asyncio.start_server(self._serve, host, port, limit=HEADER_BYTES_MAX)
        try:
            async with server:
                yield int(server.sockets[0].getsockname()[1])
        finally:
            for writer in self._connections.values():
                writer.transport.abort()
            await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = writer
        try:
            if len(self._connections) > CONNECTIONS_MAX:
                # What is not read would make the closing look like an error, and hide the answer.
                async with asyncio.timeout(REQUEST_SECONDS_MAX):
                    await reader.read(HEADER_BYTES_MAX)
                answer = Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"too many at once\n")
            else:
                answer = await self._answer(reader)
            head = (
                f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
                f"Content-Type: {answer.kind}\r\n"
                f"Content-Length: {len(answer.body)}\r\n"
                "Cache-Control: no-store\r\n"
                "X-Content-Type-Options: nosniff\r\n"
                "Connection: close\r\n\r\n"
            )
            writer.write(head.encode() + answer.body)
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                await writer.drain()
        except (OSError, TimeoutError):
            # Whoever asked has gone, or takes nothing.
            writer.transport.abort()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            del self._connections[task]

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                request = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = request.split(b"\r\n", 1)[0].split(b" ")
        except (asyncio.IncompleteReadError, ValueError, TimeoutError):
            return Answer(HTTPStatus.BAD_REQUEST, b"not a request\n")
        except asyncio.LimitOverrunError:
            return Answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"too long\n")
        if method != b"GET":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET\n")
        return await self._look_up(target.partition(b"?")[0])

    async def _look_up(self, path: bytes) -> Answer:
        if path == b"/metrics":
            return Answer(HTTPStatus.OK, await self._metrics(), CONTENT_TYPE_LATEST)
        if path == b"/livez":
            # That it is answered says that the event loop turns; watchdogs see to the rest.
            return Answer(HTTPStatus.OK, b"alive\n")
        if path == b"/readyz":
            if reasons := self._why_not_ready():
                lines = "".join(f"{reason}\n" for reason in reasons)
                return Answer(HTTPStatus.SERVICE_UNAVAILABLE, lines.encode())
            return Answer(HTTPStatus.OK, b"ready\n")
        return Answer(HTTPStatus.NOT_FOUND, b"there are /metrics, /livez and /readyz\n")

    async def _metrics(self) -> bytes:
        """Render once for all who ask at the same time, off the loop: it can take a second."""
        if self._rendering is None or self._rendering.done():
            self._rendering = asyncio.create_task(asyncio.to_thread(generate_latest, REGISTRY))
        return await asyncio.shield(self._rendering)
