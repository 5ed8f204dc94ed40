"""A wire that can be cut: a TCP proxy that holds, delays, drops or resets what goes through it."""

import asyncio
import contextlib
import re
import socket
import struct

from tests.faults.programs import HOST, free_port

# How PostgreSQL's protocol says COMMIT; the driver sends it as a simple query.
COMMIT = b"COMMIT;\0"

# A statement that moves positions, as it is prepared under a name; later only the name is said.
MOVES = re.compile(rb"P[\s\S]{4}(__asyncpg_[^\0]*)\0[^\0]*UPDATE position SET[^\0]*next_offset")


class Proxy:
    """One port in front of another. Both ways are on until they are told otherwise."""

    def __init__(self, target_port=None, *, port=None):
        self.port = port or free_port()
        self.target_port = target_port
        self.delay_seconds = 0.0
        self.bytes_per_second = None
        self.up, self.down = asyncio.Event(), asyncio.Event()
        self.heal()
        # What to do with the next COMMITs of batches: "reply" loses the answer, "request" the
        # question.
        self.lose_next = []
        self.lost = {"reply": 0, "request": 0}
        self.held = 0  # Pieces that had to wait.
        self.connections = 0
        self._server = None
        self._writers = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, HOST, self.port)
        return self

    async def __aexit__(self, *_):
        self._server.close()
        self.heal()
        self.reset()

    def heal(self):
        """Let everything through again."""
        self.up.set()
        self.down.set()
        self.delay_seconds, self.bytes_per_second = 0.0, None

    def black_hole(self, *, up=True, down=True):
        """Swallow what is said, without a word to either side: up is to the server."""
        if up:
            self.up.clear()
        if down:
            self.down.clear()

    def reset(self):
        """Cut every connection at once."""
        for writer in list(self._writers):
            _abort(writer)

    async def _serve(self, reader, writer):
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self.target_port)
        except OSError:
            _abort(writer)
            return
        self.connections += 1
        pair = {writer, server_writer}
        self._writers |= pair
        ways = [
            asyncio.create_task(self._way(reader, server_writer, self.up, pair, is_up=True)),
            asyncio.create_task(self._way(server_reader, writer, self.down, pair, is_up=False)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for each in pair:
            each.close()
        self._writers -= pair

    async def _way(self, reader, writer, is_open, pair, *, is_up):
        movers, moves = [], False
        with contextlib.suppress(OSError):
            while piece := await reader.read(65_536):
                if not is_open.is_set():
                    self.held += 1
                    await is_open.wait()
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                if self.bytes_per_second:
                    await asyncio.sleep(len(piece) / self.bytes_per_second)
                if is_up:
                    movers += [found[1] for found in MOVES.finditer(piece)]
                    moves = moves or any(name in piece for name in movers)
                    if COMMIT in piece:
                        if moves and self.lose_next:
                            await self._lose(piece, writer, pair)
                            return
                        moves = False
                writer.write(piece)
                await writer.drain()

    async def _lose(self, piece, writer, pair):
        what = self.lose_next.pop(0)
        self.lost[what] += 1
        if what == "reply":
            writer.write(piece)
            await writer.drain()
            # Long enough for the server to commit; the other way is closed before it answers.
            self._abort_client(writer, pair)
            await asyncio.sleep(0.5)
            return
        for each in pair:
            _abort(each)

    @staticmethod
    def _abort_client(server_writer, pair):
        for each in pair - {server_writer}:
            _abort(each)


def _abort(writer):
    """Reset: whoever waits on the other side hears of it at once."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
