"""Measure the product: `make bench`, `make bench ARGS=--quick`, `make bench-full`.

Ends with status 1 if the books of a run are wrong: then no rate is worth anything.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consumer.embedded import EmbeddedServerUnavailable
from tests.benchmarks import profiling, report
from tests.benchmarks.books import WrongBooks
from tests.benchmarks.runs import Bench, Scenario
from tests.benchmarks.stack import Stack, running_broker, running_database
from tests.benchmarks.workload import MIXES

HISTORY = 10_000_000

# What one change after the other is held against.
USUAL = Scenario("usual")
SOME = [
    Scenario("one channel has half", is_skewed=True),
    Scenario("10 % duplicates", duplicates_percent=10),
    Scenario("100 channels", channels=100),
]
# Each list is run on servers of its own, so that they hold no more than they must.
MATRIX = [
    *(
        [
            Scenario(
                f"{channels:,} channels, {'one has half' if is_skewed else 'all alike'},"
                f" {duplicates} % duplicates",
                channels, is_skewed=is_skewed, duplicates_percent=duplicates,
            )
            for is_skewed in (False, True)
            for duplicates in (0, 10)
        ]
        for channels in (100, 5_000, 100_000)
    ),
    [Scenario(f"only {mix}", mix=mix) for mix in MIXES if mix != "all"],
    [Scenario("two members", members=2)],
    [Scenario(f"{HISTORY:,} events of history", history=HISTORY)],
]  # fmt: skip
ON_KAFKA = [USUAL, Scenario("two members", members=2), *SOME]


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="under a minute: the usual traffic only")
    size.add_argument("--full", action="store_true", help="the whole matrix: up to an hour")
    parser.add_argument("--kafka-servers", help="host:port of a broker; embedded if absent")
    parser.add_argument(
        "--apache-kafka", action="store_true", help="on an Apache Kafka that is started"
    )
    parser.add_argument("--database", help="URL of a superuser; embedded PostgreSQL if absent")
    parser.add_argument("--events", type=int, help="in a backlog; more are measured better")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--record", action="store_true", help="write the tables of docs/scale.md")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="where to say what the last run spent"
    )
    parser.add_argument("--no-proof", action="store_true", help="leave out verify")
    one = parser.add_argument_group("one scenario of your own, and nothing else")
    one.add_argument("--channels", type=int)
    one.add_argument("--mix", choices=MIXES)
    one.add_argument("--skewed", action="store_true")
    one.add_argument("--duplicates", type=int, metavar="PERCENT")
    one.add_argument("--members", type=int)
    one.add_argument("--history", type=int, metavar="EVENTS")
    return parser


def own_scenario(told: argparse.Namespace) -> Scenario | None:
    wanted = {
        "channels": told.channels, "mix": told.mix, "is_skewed": told.skewed,
        "duplicates_percent": told.duplicates, "members": told.members, "history": told.history,
    }  # fmt: skip
    wanted = {name: value for name, value in wanted.items() if value}
    return Scenario("asked for", **wanted) if wanted else None


async def bench(told: argparse.Namespace) -> dict[str, Any]:
    document = report.opened()
    lines, events = document["scenarios"], told.events or (200_000 if told.quick else 1_000_000)
    own = own_scenario(told)
    settings = profiling.SERVER_SETTINGS if told.profile else {}
    async with running_database(told.database, settings=settings) as (url, databases):

        async def measure(bench: Bench, scenario: Scenario) -> list[dict[str, Any]]:
            results = await bench.measure(
                scenario, events=events, runs=told.runs,
                proved=not told.no_proof, profile=told.profile,
            )  # fmt: skip
            found = [result.document() for result in results]
            lines.extend(found)
            report.write(told.json, document)
            return found

        async def on(groups: list[list[Scenario]], *, kafka: bool) -> None:
            for scenarios in groups:
                async with _broker(told, kafka=kafka) as (servers, brokers, name):
                    stack = Stack(servers, url, {"postgres": databases, "broker": brokers})
                    async with Bench(stack, name, now=datetime.now(UTC)) as runs:
                        for scenario in scenarios:
                            [*_, last] = await measure(runs, scenario)
                            if scenario is USUAL and "limits" not in document:
                                document["limits"] = await _limits(runs, told, events, last["rate"])

        if own is not None:
            await on([[own]], kafka=told.apache_kafka)
        elif told.quick:
            await on([[USUAL]], kafka=told.apache_kafka)
        elif told.full:
            await on([[USUAL], *MATRIX], kafka=False)
            await on([ON_KAFKA], kafka=True)
        else:
            await on([[USUAL, *SOME]], kafka=told.apache_kafka)
    report.write(told.json, document)
    return document


async def _limits(bench: Bench, told: argparse.Namespace, events: int, rate: float) -> Any:
    found: dict[str, Any] = {
        "reading_alone": await bench.read(USUAL, events=events),
        "insert_by_copy": await bench.insert("copy", events, USUAL.channels),
        "plain_consumer": await bench.plain(USUAL, events=events, seconds=4 if told.quick else 15),
    }
    delays = await bench.delays(
        USUAL, events=events, rate=rate / 2, seconds=6 if told.quick else 20
    )
    return {**found, "delay_seconds": asdict(delays)}


def _broker(told: argparse.Namespace, *, kafka: bool) -> Any:
    return running_broker(told.kafka_servers, is_apache=kafka)


def main() -> int:
    told = options().parse_args()
    try:
        document = asyncio.run(bench(told))
    except (WrongBooks, EmbeddedServerUnavailable, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    report.show(document)
    if told.record:
        report.record(document)
    return 0


sys.exit(main())
