"""Half an hour at half speed with small faults: memory, tasks and connections stay flat.

    make soak ARGS="--minutes 30"

The speed is measured first, with a backlog. What is seen is written to docs/soak.md.
"""

import argparse
import asyncio
import random
import secrets
import statistics
import time
from datetime import UTC, datetime, timedelta

from consumer.embedded import _temporary_directory
from tests.faults.members import command_line
from tests.faults.results import DOCS
from tests.faults.servers import servers
from tests.faults.world import World

CHANNELS = 200
BACKLOG = 60_000
LOOK_SECONDS = 10
FAULT_SECONDS = 5
CHUNK_SECONDS = 0.2
COPIES_PERCENT = 2

# What may be left over between the first and the last third: a leak is larger in half an hour.
RESIDENT_MEBIBYTES_MAX = 40
TASKS_MAX, FILES_MAX, CONNECTIONS_MAX = 3, 6, 1

EVENT = (
    b'{"specversion":"1.0","id":"s-%d","source":"/soak","type":"workflow.executed",'
    b'"subject":"%b","time":"%b","data":{"actions":%d}}'
)


class Stream:
    """Events of one kind, and how many units each channel must have."""

    def __init__(self, world, draw):
        self._world, self._draw, self._number = world, draw, 0
        self._copies = []
        self.units = dict.fromkeys(world.traffic.channels, 0)
        self.events = self.copies = 0

    async def send(self, count):
        """Send so many, a few of them twice."""
        topic, producer = self._world.real("usage.workflow"), self._world.producer
        waiting = []
        for _ in range(count):
            if self._copies and self._draw.randrange(100) < COPIES_PERCENT:
                key, value = self._draw.choice(self._copies)
                self.copies += 1
            else:
                self._number += 1
                self.events += 1
                channel = self._draw.choice(self._world.traffic.channels)
                actions = self._draw.randint(1, 4)
                self.units[channel] += actions
                at = datetime.now(UTC) - timedelta(seconds=self._draw.randrange(3_600))
                key = channel.encode()
                value = EVENT % (self._number, key, at.isoformat().encode(), actions)
                if self._number % 50 == 0:
                    self._copies = [*self._copies[-200:], (key, value)]
            waiting.append(await producer.send(topic, value, key=key))
        await asyncio.gather(*waiting)
        self._world.sent += count


async def _harm(world, draw, is_over, done):
    """Do something small every few seconds."""
    line, wire = world.line, world.wire

    async def slow():
        line.delay_seconds = 0.03
        await asyncio.sleep(1)
        line.heal()

    async def hold():
        wire.black_hole()
        await asyncio.sleep(1)
        wire.heal()

    async def end_session():
        await world.ask(
            "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'lotmeter'"
            " ORDER BY random() LIMIT 1) one"
        )

    async def lose():
        line.lose_next.append(draw.choice(("reply", "request")))

    async def cut_line():
        line.reset()

    async def cut_wire():
        wire.reset()

    faults = (slow, hold, end_session, lose, cut_line, cut_wire)
    while not is_over.is_set():
        await asyncio.sleep(FAULT_SECONDS * (0.5 + draw.random()))
        fault = draw.choice(faults)
        await fault()
        done[fault.__name__] = done.get(fault.__name__, 0) + 1


async def _look(world, member):
    process = f"/proc/{member.program.process.pid}"
    with open(f"{process}/statm") as file:  # noqa: PTH123
        resident = int(file.read().split()[1]) * 4096 / (1 << 20)
    return {
        "resident_mebibytes": resident,
        "tasks": await member.metric("lotmeter_tasks"),
        "open_files": await member.metric("process_open_fds"),
        "connections": await world.ask(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'lotmeter'"
        ),
        "lag": await member.metric("lotmeter_consumer_lag"),
    }


async def soak(options):
    """Run it; returns what was seen, and what was wrong."""
    seed = options.seed if options.seed is not None else secrets.randbits(31)
    draw = random.Random(seed)
    seen, done = [], {}
    with _temporary_directory(None) as home:
        async with servers(home) as found, World(found, seed) as world:
            [member] = await world.start(members=1, channels=CHANNELS)
            stream = Stream(world, draw)
            await member.stop()
            await stream.send(BACKLOG)
            member.keep_running()
            await member.started()
            speed = BACKLOG / await world.caught_up()
            rate = options.per_second or int(speed / 2)
            print(f"seed {seed}: {speed:.0f} events a second, so {rate} are sent", flush=True)
            is_over = asyncio.Event()
            harming = asyncio.create_task(_harm(world, draw, is_over, done))
            began = time.monotonic()
            looked = began
            while (now := time.monotonic()) - began < options.minutes * 60:
                await stream.send(int(rate * CHUNK_SECONDS))
                if now - looked > LOOK_SECONDS:
                    looked = now
                    seen.append({"at": round(now - began), **await _look(world, member)})
                    print(seen[-1], flush=True)
                await asyncio.sleep(max(0, CHUNK_SECONDS - (time.monotonic() - now)))
            is_over.set()
            await harming
            world.line.lose_next.clear()
            assert not member.statuses, f"it ended: {member.statuses}"
            recovery = await world.caught_up(300)
            problems = await _compare(world, stream)
    problems += _not_flat(seen)
    _write(options, seed, speed, rate, stream, seen, done, recovery, problems)
    return problems


async def _compare(world, stream):
    async with world.books() as books:
        rows = await books.fetch(
            "SELECT channel, sum(quantity)::bigint FROM entry WHERE product = 'workflow'"
            " AND source NOT IN ('minimum', 'expired') GROUP BY channel"
        )
        counted = await books.fetchval("SELECT count(*) FROM event")
        copies = await books.fetchval(
            "SELECT sum(duplicate)::bigint FROM batch JOIN position ON number = position"
            " WHERE topic = $1",
            world.real("usage.workflow"),
        )
    found = {channel: units // 1000 for channel, units in rows}
    problems = []
    if found != {channel: units for channel, units in stream.units.items() if units}:
        problems.append("units differ")
    if (counted, copies) != (stream.events, stream.copies):
        problems.append(f"{(counted, copies)} and not {(stream.events, stream.copies)}")
    status, out, err = await command_line(world.settings, "verify", "--json", seconds=900)
    return problems + ([f"verify: {out[:500]}{err}"] if status else [])


def _thirds(seen, name):
    # The first minutes warm caches up.
    steady = [look[name] for look in seen[len(seen) // 6 :] if look[name]]
    third = max(1, len(steady) // 3)
    return statistics.median(steady[:third]), statistics.median(steady[-third:])


LIMITS = {
    "resident_mebibytes": RESIDENT_MEBIBYTES_MAX,
    "tasks": TASKS_MAX,
    "open_files": FILES_MAX,
    "connections": CONNECTIONS_MAX,
}


def _not_flat(seen):
    problems = []
    for name, most in LIMITS.items():
        first, last = _thirds(seen, name)
        if last - first > most:
            problems.append(f"{name} grew from {first:.0f} to {last:.0f}")
    return problems


def _write(options, seed, speed, rate, stream, seen, done, recovery, problems):
    DOCS.mkdir(exist_ok=True)
    lines = [
        "# Soak",
        "",
        (
            f"Written by `make soak`. One member, {options.minutes:g} minutes, seed {seed}: with a"
            f" backlog it read {speed:,.0f} events a second; {rate:,} a second were sent."
        ),
        (
            f"{stream.events:,} events and {stream.copies:,} copies; caught up {recovery:.1f} s"
            f" after the end; {'; '.join(problems) or 'every unit found once, and all of it flat'}."
        ),
        "",
        "| | first third | last third | most |",
        "|---|---|---|---|",
    ]
    for name in LIMITS:
        first, last = _thirds(seen, name)
        most = max(look[name] for look in seen)
        lines.append(f"| {name.replace('_', ' ')} | {first:.0f} | {last:.0f} | {most:.0f} |")
    lines += ["", "| fault | times |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {times} |" for name, times in sorted(done.items())]
    (DOCS / "soak.md").write_text("\n".join(lines) + "\n")


def main():
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="make soak ARGS=…", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--per-second", type=int, help="half of what is measured if absent")
    parser.add_argument("--seed", type=int)
    problems = asyncio.run(soak(parser.parse_args()))
    print("; ".join(problems) or "flat")
    raise SystemExit(bool(problems))


if __name__ == "__main__":
    main()
