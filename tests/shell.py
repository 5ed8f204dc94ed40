"""The command line as people use it, in the process of a test."""

import asyncio
import sys
from typing import NamedTuple

import orjson

from consumer import cli


class Said(NamedTuple):
    """What a command said, and the status that it ended with."""

    status: int
    out: str
    err: str

    @property
    def document(self):
        return orjson.loads(self.out)


class Shell:
    """Runs `lotmeter …` with an environment of its own."""

    def __init__(self, monkeypatch, capsys, environ=None):
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)

    async def __call__(self, *arguments):
        # In a thread: it has an event loop of its own.
        return await asyncio.to_thread(self.run, *arguments)

    def run(self, *arguments):
        self._monkeypatch.setattr(sys, "argv", ["lotmeter", *arguments])
        self._capsys.readouterr()
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code
        return Said(status, *self._capsys.readouterr())
