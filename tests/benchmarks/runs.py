"""Runs: a population registers, a backlog waits, and product and limits take turns with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING, Any, Self

from tests.benchmarks import books, delay, in_use, product
from tests.benchmarks.population import PARTITIONS, Population
from tests.benchmarks.workload import Spec, Workload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime
    from pathlib import Path

    from tests.benchmarks.product import Drain
    from tests.benchmarks.stack import Stack
    from tests.benchmarks.workload import Manifest

# One for each core, as docs/scale.md says: of two.
MEMBERS = 2

# How many days of traffic there are.
DAYS = 2
# The last hours, as a part of a day: what a backlog mostly is of.
LAST_HOURS = 0.1
# Traffic of the history ends so long before the end, where what is measured after it begins.
HISTORY_ENDS = 0.2
# Lots are for a month: a backlog of few events of each channel ends few of them.
EVENTS_EACH_MIN = 64
# A stream without a backlog is about the last half hour.
STEADY = 0.02

_BEGAN = time.monotonic()


@dataclass(frozen=True)
class Scenario:
    """One line of the table."""

    name: str
    channels: int = 5_000
    mix: str = "all"
    is_skewed: bool = False
    duplicates_percent: int = 0
    members: int = MEMBERS
    history: int = 0  # Events that are in the books before. The line without comes with it.
    is_of_days: bool = False  # Usage of two or three days, not of the last hours.
    length: int = 1  # How many times the usual number of events.
    days: int = DAYS  # Of how many days there is traffic, that of the history too.
    partitions: int = PARTITIONS
    month_before: int = 0  # Events in the table of the month before.
    lots_over: int = 0  # How many each lot follows that are over.
    padding: int = 0  # Bytes of white space behind each event.
    standstill: int = 0  # For how many seconds the database lets nobody at its channels.

    def spec(self, events: int) -> Spec:
        """Say what traffic it needs."""
        return Spec(
            "usage", events, self.channels, self.mix, self.is_skewed, self.duplicates_percent,
            reach=(0.0 if self.is_of_days else self.last(LAST_HOURS), 1.0),
            partitions=self.partitions, padding=self.padding,
        )  # fmt: skip

    def last(self, days: float) -> float:
        """Say where the last of its days begin, or a part of the last, as a part of all."""
        return 1 - days / self.days


@dataclass
class Result:
    """What became of a scenario."""

    scenario: Scenario
    broker: str
    events: int
    drains: list[Drain] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)  # Rates of the raw insert.
    units: dict[str, int] = field(default_factory=dict)  # By source.
    proved_seconds: float | None = None
    bytes_of_events: int = 0

    def document(self) -> dict[str, Any]:
        """Write it as programs read it."""
        drain = self.typical
        return {
            **asdict(self.scenario),
            "broker": self.broker,
            "events": self.events,
            "bytes_an_event": round(self.bytes_of_events / self.events),
            "rate": round(drain.rate),
            "rates": [round(each.rate) for each in self.drains],
            "raw_insert": round(median(self.raw)) if self.raw else None,
            "raw_inserts": [round(rate) for rate in self.raw],
            "ratio": round(drain.rate / median(self.raw), 3) if self.raw else None,
            "cpu_seconds_per_100000": {
                role: round(1e5 * seconds / drain.events, 3) for role, seconds in drain.cpu.items()
            },
            "peak_mebibytes": {
                role: max(each.memory[role] for each in self.drains) // 2**20
                for role in drain.memory
            },
            "database_bytes_an_event": round(drain.bytes_of_database / drain.events),
            "log_bytes_an_event": round(drain.bytes_of_log / drain.events),
            "units": self.units,
            "proved_seconds": self.proved_seconds and round(self.proved_seconds, 1),
        }

    @property
    def typical(self) -> Drain:
        """The run with the median rate."""
        return sorted(self.drains, key=lambda each: each.rate)[len(self.drains) // 2]


@dataclass(frozen=True)
class Base:
    """Channels, and a database in which they have their lots."""

    population: Population
    database: str


class Bench:
    """Runs on one broker and one database server."""

    def __init__(self, stack: Stack, *, now: datetime) -> None:
        self._stack, self._now = stack, now
        self._bases: dict[tuple[int, ...], Base] = {}
        self._backlogs: dict[Spec, Workload] = {}
        self._streams = 0
        self._databases = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._databases.aclose()

    async def measure(
        self, scenario: Scenario, *, events: int, runs: int, proved: bool = True,
        profile: Path | None = None,
    ) -> list[Result]:  # fmt: skip
        """Measure one scenario, in turns with the raw insert; one with a history in turns with the
        same without it, too.
        """
        say(f"{scenario.name}: {events:,} events, {self._stack.broker}")
        base = await self._base(scenario, scenario.history + events)
        spec = scenario.spec(events)
        if scenario.history:
            reach = (scenario.last(HISTORY_ENDS), 1.0)
            spec = replace(spec, reach=reach, seed=spec.seed + 1)
        backlog = await self._backlog(spec, base)
        without = replace(
            scenario, name=scenario.name + ", without" * bool(scenario.history), history=0
        )
        lines = [(self._result(without, backlog), base, backlog.manifest)]
        async with contextlib.AsyncExitStack() as histories:
            if scenario.history:
                before, manifest = await histories.enter_async_context(
                    self._history(scenario, base)
                )
                joined = manifest.joined(backlog.manifest)
                lines.append((self._result(scenario, backlog), before, joined))
            if scenario.month_before or scenario.lots_over:
                before = await histories.enter_async_context(self._in_use(scenario, base))
                lines = [(self._result(scenario, backlog), before, backlog.manifest)]
            for number in range(runs):
                raw = await self.insert("arrays", events, scenario.channels)
                is_last = number == runs - 1
                for result, start, manifest in lines:
                    result.raw.append(raw)
                    await self._run(
                        result, backlog, start, manifest,
                        proved=proved and is_last, profile=profile if is_last else None,
                    )  # fmt: skip
        return [result for result, *_ in lines]

    async def insert(self, how: str, rows: int, channels: int) -> float:
        """Measure inserting identities and nothing else; returns the rate."""
        async with self._stack.database("raw") as name:
            url = self._stack.url_of(name)
            options = ["--database", url, "--records", str(rows), "--channels", str(channels)]
            found = await _child("limits", how, *options)
        rate = rows / found["seconds"]
        say(f"  insert by {how}: {rate:,.0f} a second")
        return float(rate)

    async def read(self, scenario: Scenario, *, events: int) -> float:
        """Measure reading a backlog and nothing else; returns the rate."""
        base = await self._base(scenario, events)
        backlog = await self._backlog(scenario.spec(events), base)
        servers, topics = self._stack.kafka_servers, ",".join(backlog.topics)
        options = ["--servers", servers, "--topics", topics, "--records", str(events)]
        found = await _child("limits", "read", *options)
        rate = events / found["seconds"]
        say(f"  reading alone: {rate:,.0f} a second")
        return float(rate)

    async def plain(self, scenario: Scenario, *, events: int, seconds: float) -> float:
        """Measure a plain consumer for some seconds; returns the rate."""
        base = await self._base(scenario, events)
        backlog = await self._backlog(scenario.spec(events), base)
        async with self._stack.database("plain") as name:
            found = await _child(
                "plain_consumer", "--servers", self._stack.kafka_servers,
                "--database", self._stack.url_of(name), "--topics", ",".join(backlog.topics),
                "--seconds", str(seconds),
            )  # fmt: skip
        rate = found["events"] / found["seconds"]
        say(f"  a plain consumer: {rate:,.0f} a second")
        return float(rate)

    async def delays(
        self, scenario: Scenario, *, events: int, rate: float, seconds: float
    ) -> dict[str, Any]:
        """Measure the delay of a steady stream to the channels of a backlog."""
        base = await self._base(scenario, events)
        self._streams += 1
        spec = replace(
            scenario.spec(round(rate * seconds)),
            name=f"{self._stack.mark}.steady.{self._streams}",
            seed=9,
            reach=(scenario.last(STEADY), 1.0),
        )
        workload = Workload(spec, base.population)
        async with self._stack.database("run", template=base.database) as name:
            environ = await self._environ(spec, base.population, name)
            found = await delay.measure(
                self._stack, name, environ, workload, seconds=seconds, members=scenario.members
            )
            await books.check(self._stack.url_of(name), environ, workload.manifest)
        say(
            f"  delay at {rate:,.0f} a second: p50 {found.p50:.3f} s, p99 {found.p99:.3f} s,"
            f" at most {found.longest:.3f} s"
        )
        return {**asdict(scenario), "broker": self._stack.broker, **asdict(found)}

    # Steps

    def _result(self, scenario: Scenario, backlog: Workload) -> Result:
        manifest = backlog.manifest
        return Result(
            scenario, self._stack.broker, manifest.records, bytes_of_events=manifest.bytes
        )

    async def _environ(self, spec: Spec, population: Population, database: str) -> dict[str, str]:
        environ = self._stack.environ(
            database, stream=spec.name, commands=population.commands_topic
        )
        await self._stack.create_topics(environ, population.partitions)
        return environ

    async def _base(self, scenario: Scenario, events: int) -> Base:
        """Give channels with lots for so many events; those with lots of about the same size are
        made once.
        """
        channels, days, partitions = scenario.channels, scenario.days, scenario.partitions
        each = max(EVENTS_EACH_MIN, events // channels).bit_length()
        key = channels, each, days, partitions
        if key not in self._bases:
            population = Population(
                channels, events_each=2 ** (each - 1), days=days,
                now=self._now, mark=self._stack.mark, partitions=partitions,
            )  # fmt: skip
            name = await self._databases.enter_async_context(
                self._stack.database("base_{}_{}_{}_{}".format(*key))
            )
            await self._stack.migrate(name)
            environ = await self._environ(Spec(f"{self._stack.mark}.none", 0), population, name)
            commands = population.commands()
            await self._stack.produce([commands])
            count = sum(map(len, commands.values()))
            seconds = await product.take_in_commands(
                self._stack, name, environ, commands=count, channels=channels
            )
            say(f"  {count:,} commands taken in, {count / seconds:,.0f} a second")
            self._bases[key] = Base(population, name)
        return self._bases[key]

    async def _backlog(self, spec: Spec, base: Base) -> Workload:
        """Have records wait in topics of their own; the same records are made once."""
        if spec not in self._backlogs:
            named = replace(spec, name=f"{self._stack.mark}.{len(self._backlogs)}")
            await self._environ(named, base.population, base.database)
            workload = Workload(named, base.population)
            await self._stack.produce(workload.chunks())
            self._backlogs[spec] = workload
        return self._backlogs[spec]

    @contextlib.asynccontextmanager
    async def _history(
        self, scenario: Scenario, base: Base
    ) -> AsyncIterator[tuple[Base, Manifest]]:
        """Give a database with a history that the product itself took in, as in production."""
        spec = replace(
            scenario.spec(scenario.history),
            name=f"{self._stack.mark}.history",
            reach=(0.0, scenario.last(HISTORY_ENDS)),
        )
        async with self._stack.database("history", template=base.database) as name:
            environ = await self._environ(spec, base.population, name)
            workload = Workload(spec, base.population)
            producing = asyncio.create_task(self._stack.produce(workload.chunks()))
            found = await product.drain(self._stack, name, environ, records=spec.events)
            await producing
            say(f"  {spec.events:,} events of history, {found.rate:,.0f} a second while produced")
            yield Base(base.population, name), workload.manifest

    @contextlib.asynccontextmanager
    async def _in_use(self, scenario: Scenario, base: Base) -> AsyncIterator[Base]:
        """Give a database that has been in use."""
        async with self._stack.database("before", template=base.database) as name:
            url = self._stack.url_of(name)
            if scenario.month_before:
                await in_use.add_month_before(url, now=self._now, events=scenario.month_before)
            if scenario.lots_over:
                await in_use.add_lots_over(url, each=scenario.lots_over)
            yield Base(base.population, name)

    async def _run(
        self, result: Result, backlog: Workload, base: Base, manifest: Manifest, *,
        proved: bool, profile: Path | None,
    ) -> None:  # fmt: skip
        """Drain a backlog once, from a copy of a database, and look at the books."""
        stack, records = self._stack, backlog.manifest.records
        async with stack.database("run", template=base.database) as name:
            environ = await self._environ(backlog.spec, base.population, name)
            drain = await product.drain(
                stack, name, environ,
                records=records, count=result.scenario.members, profile=profile,
                standstill=result.scenario.standstill,
            )  # fmt: skip
            result.drains.append(drain)
            result.units = await books.check(stack.url_of(name), environ, manifest)
            cpu = ", ".join(
                f"{role} {1e5 * seconds / drain.events:.2f}" for role, seconds in drain.cpu.items()
            )
            say(f"  product: {drain.rate:,.0f} a second; CPU seconds per 100,000: {cpu}")
            if proved:
                result.proved_seconds = await books.prove(stack.url_of(name), environ)
                say(f"  proved in {result.proved_seconds:.1f} s")


async def _child(module: str, *options: str) -> dict[str, Any]:
    """Run something in a process of its own; returns what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.benchmarks.{module}", *options,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{module} {options[0]} could not be measured")
    found: dict[str, Any] = json.loads(output)
    return found


def say(text: str) -> None:
    """Tell how far the benchmark is, and after how many seconds."""
    print(f"{time.monotonic() - _BEGAN:6.1f} {text}", file=sys.stderr, flush=True)
