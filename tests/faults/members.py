"""Members of the group as processes, and the supervisor that starts again what ended."""

import asyncio
import json
import os
import signal
import sys
import urllib.request
from collections import Counter
from pathlib import Path

from tests.faults.failpoints import DAYS_AHEAD, POINTS, VARIABLE
from tests.faults.programs import HOST, Program, until

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60

__all__ = ["POINTS", "Member", "command_line"]


def environ_of(settings):
    """Make the environment of a member: ours without any setting of the service, and these."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("LOTMETER_")}
    return env | {f"LOTMETER_{name}": str(value) for name, value in settings.items()}


async def command_line(settings, *arguments, seconds=120):
    """Run a command of the service; returns its status and what it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "consumer", *arguments,
        cwd=ROOT, env=environ_of(settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), seconds)
    return process.returncode, out.decode(), err.decode()


class Member:
    """One member. It is started again whenever it ends, unless somebody says that it shall not."""

    def __init__(self, name, settings, folder):
        self.name = name
        self.settings = dict(settings)
        self.log = folder / f"{name}.log"
        self.log.touch()
        self.statuses = Counter()
        self.starts = 0
        self.failpoint = None
        self.program = None
        self._read_to = 0
        self._keeping = None

    # Living

    def start(self, *, failpoint=None, days_ahead=0):
        """Start it once, perhaps with a point to die at, or a clock that is ahead."""
        env = environ_of(self.settings)
        module = "consumer"
        if failpoint is not None or days_ahead:
            env[DAYS_AHEAD], module = str(days_ahead), "tests.faults.failpoints"
        if failpoint is not None:
            env[VARIABLE] = failpoint
        env["PYTHONPATH"] = str(ROOT)
        self._read_to = self.log.stat().st_size
        self.program = Program(self.name, [sys.executable, "-m", module, "run"], self.log, env=env)
        self.starts += 1

    def keep_running(self, *, next_failpoint=lambda: None):
        """Start it, and again whenever it ends."""

        async def keep():
            while True:
                self.start(failpoint=next_failpoint())
                while self.program.is_running:
                    await asyncio.sleep(0.02)
                self.statuses[self.program.status] += 1

        self._keeping = asyncio.create_task(keep())

    async def kill(self):
        """Kill it; its supervisor starts it again."""
        self.program.send(signal.SIGKILL)
        await self.program.ended()

    async def stop(self, *, seconds=STOP_SECONDS_MAX):
        """Ask it to end, for good; returns its status."""
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        if self.program is None:
            return None
        self.program.send(signal.SIGCONT)
        self.program.send(signal.SIGTERM)
        return await self.program.ended(seconds)

    async def die(self):
        """End it at once, for good."""
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
        if self.program is not None:
            await self.kill()

    # Watching

    def lines(self, *, since_start=False):
        """Read the lines of its log that are JSON."""
        with self.log.open("rb") as file:
            if since_start:
                file.seek(self._read_to)
            found = []
            for line in file.read().splitlines():
                if line.startswith(b"{"):
                    try:
                        found.append(json.loads(line))
                    except ValueError:
                        continue  # Half a line, written as it was killed.
            return found

    def count(self, event, **fields):
        """Count the lines that tell of an event."""
        return sum(
            line.get("event") == event and fields.items() <= line.items() for line in self.lines()
        )

    async def started(self):
        """Wait until it is a member of the group."""

        def is_there():
            return any(line.get("event") == "started" for line in self.lines(since_start=True))

        await until(is_there, START_SECONDS_MAX, f"{self.name} has started")

    @property
    def http_port(self):
        """Where it serves health; None before it says so."""
        ports = [
            line["http_port"]
            for line in self.lines(since_start=True)
            if line.get("event") == "starting"
        ]
        return ports[-1] if ports else None

    async def ask(self, path):
        """Ask over HTTP; returns status and text, or None where nobody answers."""
        port = self.http_port
        if port is None:
            return None

        def get():
            try:
                with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
                    return answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                return error.code, error.read().decode()
            except (OSError, ValueError):
                return None

        return await asyncio.to_thread(get)

    async def metric(self, name, **labels):
        """Add up the samples of a metric that have these labels."""
        answer = await self.ask("/metrics")
        total = 0.0
        for line in answer[1].splitlines() if answer else ():
            head, _, value = line.rpartition(" ")
            if head.partition("{")[0] == name and all(
                f'{label}="{wanted}"' in head for label, wanted in labels.items()
            ):
                total += float(value)
        return total
