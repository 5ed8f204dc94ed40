"""Measure the product: `python -m tests.benchmarks --help`."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import product
from tests.benchmarks.stack import Stack, stack
from tests.benchmarks.workload import Population, Spec, Workload


async def limit(what: str, *options: str) -> float:
    """Measure a limit in a process of its own; returns seconds."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.benchmarks.limits", what, *options,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the limit {what} could not be measured")
    return float(json.loads(output)["seconds"])


def say(text: str) -> None:
    """Tell how far the benchmark is."""
    print(text, file=sys.stderr, flush=True)


async def bench(told: argparse.Namespace) -> dict[str, Any]:
    now = datetime.now(UTC)
    async with stack(kafka_servers=told.kafka_servers, database_url=told.database) as servers:
        return await _bench(servers, told, now)


async def _bench(servers: Stack, told: argparse.Namespace, now: datetime) -> dict[str, Any]:
    spec = Spec(
        "bench", told.events, told.channels, told.mix, told.skewed, told.duplicates
    )
    population = Population(spec.channels, events=spec.events, now=now)
    commands = list(population.commands())
    base = servers.environ("base", commands="bench.commands")
    environ = servers.environ("run", prefix=spec.name, commands="bench.commands")
    await servers.create_database("base")
    await servers.migrate("base")
    await servers.create_topics(base)
    await servers.create_topics(environ)
    from tests.benchmarks.workload import partition_of

    chunk: Any = {}
    for record in commands:
        chunk.setdefault(("bench.commands", partition_of(record.key)), []).append(record)
    await servers.produce([chunk])
    seconds = await product.take_in_commands(
        servers, "base", base, commands=len(commands), channels=spec.channels
    )
    say(f"{len(commands):,} commands taken in, {len(commands) / seconds:,.0f} a second")
    workload = Workload(spec, population, now=now)
    await servers.produce(workload.chunks())
    say(f"{spec.events:,} events produced: {dict(workload.manifest.by_kind)}")

    drains, raws = [], []
    for number in range(told.runs):
        await servers.create_database("raw")
        seconds = await limit(
            "arrays", "--database", servers.url_of("raw"), "--records", str(spec.events),
            "--channels", str(spec.channels),
        )  # fmt: skip
        await servers.drop_database("raw")
        raws.append(spec.events / seconds)
        say(f"raw insert {raws[-1]:,.0f} a second")
        await servers.create_database("run", template="base")
        profile = Path(told.profile) if told.profile and number == told.runs - 1 else None
        found = await product.drain(
            servers, "run", environ, records=spec.events, profile=profile
        )
        sources = await product.check_books(servers, "run", environ, workload.manifest)
        drains.append(found)
        parts = " ".join(
            f"{role} {100_000 * cpu / spec.events:.2f}" for role, cpu in found.cpu.items()
        )
        memory = " ".join(f"{role} {size / 2**20:.0f}" for role, size in found.memory.items())
        say(
            f"product {found.rate:,.0f} a second ({found.seconds:.1f} s);"
            f" CPU s per 100,000: {parts}; peak MiB: {memory};"
            f" bytes an event: {found.bytes_of_database / spec.events:.0f},"
            f" log {found.bytes_of_log / spec.events:.0f}"
        )
    say(f"units by source: {sources}")
    if not told.no_verify:
        proved = await product.prove_books(servers, "run", environ)
        say(f"verify ok in {proved:.1f} s")
    return {
        "product": statistics.median(drain.rate for drain in drains),
        "raw_insert": statistics.median(raws),
        "ratio": statistics.median(drain.rate for drain in drains) / statistics.median(raws),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--kafka-servers")
    parser.add_argument("--database")
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--channels", type=int, default=5_000)
    parser.add_argument("--mix", default="all")
    parser.add_argument("--skewed", action="store_true")
    parser.add_argument("--duplicates", type=int, default=0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--profile")
    parser.add_argument("--no-verify", action="store_true")
    told = parser.parse_args()
    print(json.dumps(asyncio.run(bench(told)), indent=1))


main()
