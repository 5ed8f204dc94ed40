"""Measure the product: `make bench`, `make bench ARGS=--quick`, `make bench-full`.

Ends with status 1 if the books of a run are wrong: then no rate is worth anything.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from aiokafka.errors import KafkaError

from tests.benchmarks import apache_kafka, profiling, report
from tests.benchmarks.books import WrongBooks
from tests.benchmarks.population import PARTITIONS
from tests.benchmarks.runs import DAYS, Bench, Scenario
from tests.benchmarks.stack import running_database, running_stack
from tests.benchmarks.workload import MIXES

if TYPE_CHECKING:
    from collections.abc import Iterable

EVENTS, EVENTS_IF_QUICK = 500_000, 200_000
HISTORY = 10_000_000
PLAIN_SECONDS, DELAY_SECONDS = 10, 20
# A batch has all that waits of one number of partitions, of at most 5,000 channels.
CHANNELS_A_PARTITION = 3_125

# What one change after the other is held against.
USUAL = Scenario("usual")
QUICK = Scenario("usual, few channels", channels=1_000)
ONE_MEMBER = Scenario("one member", members=1)
LONG = Scenario("three times as long", length=3)
MONTH_BEFORE = Scenario(
    "three times as long, 5,000,000 in the month before", length=3, month_before=5_000_000
)
FEW_PARTITIONS = Scenario("8 partitions", partitions=8)
LOTS_OVER = Scenario("two more of each lot, long over", lots_over=2)
SOME = [
    ONE_MEMBER,
    LONG,
    Scenario("one channel has half", is_skewed=True),
    Scenario("10 % duplicates", duplicates_percent=10),
    Scenario("of three days", is_of_days=True),
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
                partitions=max(PARTITIONS, channels // CHANNELS_A_PARTITION),
            )
            for is_skewed in (False, True)
            for duplicates in (0, 10)
        ]
        for channels in (100, 5_000, 100_000)
    ),
    [Scenario(f"only {mix}", mix=mix) for mix in MIXES if mix != "all"],
    [
        Scenario(
            "100,000 channels, ten times as long, 128 partitions",
            channels=100_000, length=10, partitions=128,
        ),
        LONG, MONTH_BEFORE, Scenario("100 channels, three times as long", channels=100, length=3),
        ONE_MEMBER, FEW_PARTITIONS, LOTS_OVER, Scenario("of three days", is_of_days=True),
    ],
]  # fmt: skip
MONTH = Scenario("after 2,000,000 events of 26 days of history", history=2_000_000, days=26)
ON_KAFKA = [USUAL, *SOME]
# Of which traffic there is a steady stream, too, and of which shares of its rate. The first line of
# the matrix is of few channels.
STREAMS = {USUAL: (1 / 2,)}
STREAMS_IF_FULL = {**dict.fromkeys((USUAL, MATRIX[0][0]), (1 / 2, 1 / 4)), FEW_PARTITIONS: (1 / 2,)}


def options() -> argparse.ArgumentParser:
    """Say what can be asked for."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--quick", action="store_true", help="under a minute: few channels, no limits, no delay"
    )
    size.add_argument("--full", action="store_true", help="the whole matrix: up to an hour")
    parser.add_argument("--kafka-servers", help="host:port of a broker; embedded if absent")
    parser.add_argument(
        "--apache-kafka", action="store_true", help="on an Apache Kafka that is started"
    )
    parser.add_argument("--database", help="URL of a superuser; embedded PostgreSQL if absent")
    parser.add_argument(
        "--events", type=positive, help=f"in a backlog: {EVENTS:,}, or {EVENTS_IF_QUICK:,} if quick"
    )
    parser.add_argument(
        "--runs", type=positive, default=3,
        help="of one kind of traffic, whose medians are compared; of those beside it there is one",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--record", action="store_true", help="write the tables of docs/scale.md")
    parser.add_argument(
        "--profile", type=Path, metavar="FOLDER", help="where to say what the last run spent"
    )
    parser.add_argument("--no-proof", action="store_true", help="leave out verify")
    one = parser.add_argument_group("one scenario of your own, and nothing else")
    one.add_argument(
        "--stream", type=positive, nargs="+", metavar="RATE",
        help="the delay of a steady stream, of so many events a second, instead of a backlog",
    )  # fmt: skip
    one.add_argument("--channels", type=positive)
    one.add_argument("--partitions", type=positive, help="of each topic")
    one.add_argument("--mix", choices=MIXES)
    one.add_argument("--skewed", action="store_true")
    one.add_argument("--duplicates", type=int, choices=range(100), metavar="PERCENT")
    one.add_argument("--members", type=positive)
    one.add_argument("--history", type=positive, metavar="EVENTS")
    one.add_argument(
        "--days", type=int, choices=range(1, 27), metavar="DAYS",
        help=f"of traffic, that of the history too: up to 26; {DAYS} if absent",
    )  # fmt: skip
    one.add_argument(
        "--padding", type=positive, metavar="BYTES", help="of white space behind each event"
    )
    one.add_argument(
        "--standstill", type=int, choices=range(1, 11), metavar="SECONDS",
        help="for which the database lets nobody at its channels, in each run: up to 10",
    )  # fmt: skip
    one.add_argument(
        "--lots-over", type=positive, metavar="LOTS", help="that are over, for each; not for verify"
    )
    return parser


def positive(text: str) -> int:
    """Read a number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def own_scenario(told: argparse.Namespace) -> Scenario | None:
    """Make the scenario that was asked for in detail, if one was."""
    wanted = {
        "channels": told.channels, "mix": told.mix, "is_skewed": told.skewed,
        "duplicates_percent": told.duplicates, "members": told.members, "history": told.history,
        "days": told.days, "partitions": told.partitions, "lots_over": told.lots_over,
        "padding": told.padding, "standstill": told.standstill,
    }  # fmt: skip
    wanted = {name: value for name, value in wanted.items() if value}
    return Scenario("asked for", **wanted) if wanted else None


def plan(told: argparse.Namespace) -> list[tuple[bool, list[Scenario]]]:
    """List what is to be run: whether on Apache Kafka, and scenarios that share servers."""
    if told.full:
        history = told.history or HISTORY
        after = Scenario(f"after {history:,} events of history", history=history, length=4)
        last = [[after], [MONTH]]
        return [*((False, group) for group in ([USUAL], *MATRIX, *last)), (True, ON_KAFKA)]
    own = own_scenario(told)
    if own is not None:
        return [(told.apache_kafka, [own])]
    if told.stream:
        return [(told.apache_kafka, [USUAL])]
    if told.quick:
        return [(told.apache_kafka, [QUICK])]
    return [(told.apache_kafka, [USUAL, *SOME])]


async def bench(told: argparse.Namespace) -> report.Document:
    """Run it all; what is there is written after each scenario."""
    groups = plan(told)
    is_alone = sum(len(scenarios) for _, scenarios in groups) == 1
    if any(is_apache for is_apache, _ in groups):
        apache_kafka.require()
    document = report.opened()
    streams = dict(STREAMS_IF_FULL if told.full else STREAMS)
    settings = profiling.SERVER_SETTINGS if told.profile else {}
    async with running_database(told.database, settings=settings) as database:
        document["machine"]["postgresql"] = await version_of(database[0])
        for is_apache, scenarios in groups:
            async with (
                running_stack(told.kafka_servers, database, is_apache=is_apache) as stack,
                Bench(stack, now=datetime.now(UTC)) as runs,
            ):
                for scenario in scenarios:
                    if told.stream:
                        document["delays"] += await delays(runs, scenario, told, told.stream)
                        report.write(told.json, document)
                        continue
                    # All are held against what was sent; proving every one takes too long.
                    is_proved = not (told.no_proof or scenario.lots_over) and (
                        not told.full or scenario is scenarios[-1]
                    )
                    results = await runs.measure(
                        scenario,
                        events=told.events * scenario.length,
                        runs=told.runs if scenario in (USUAL, LONG) or is_alone else 1,
                        proved=is_proved, profile=told.profile,
                    )  # fmt: skip
                    document["scenarios"] += [result.document() for result in results]
                    if scenario is USUAL and "limits" not in document:
                        document["limits"] = await limits(runs, told)
                    rate = document["scenarios"][-1]["rate"]
                    rates = [share * rate for share in streams.pop(scenario, ())]
                    document["delays"] += await delays(runs, scenario, told, rates)
                    report.write(told.json, document)
    return document


async def version_of(url: str) -> str:
    """Ask a database server for its version."""
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


async def limits(runs: Bench, told: argparse.Namespace) -> report.Document:
    """Measure what the product is made of."""
    events = told.events
    return {
        "reading_alone": await runs.read(USUAL, events=events),
        "insert_by_copy": await runs.insert("copy", events, USUAL.channels),
        "plain_consumer": await runs.plain(USUAL, events=events, seconds=PLAIN_SECONDS),
    }


async def delays(
    runs: Bench, scenario: Scenario, told: argparse.Namespace, rates: Iterable[float]
) -> list[report.Document]:
    """Measure how late the books are with steady streams of so many events a second."""
    return [
        await runs.delays(scenario, events=told.events, rate=rate, seconds=DELAY_SECONDS)
        for rate in rates
    ]


def main() -> int:
    """Run what was asked for."""
    parser = options()
    told = parser.parse_args()
    if told.history and told.lots_over:
        parser.error("either --history or --lots-over")
    if told.stream and any(
        [
            told.full, told.quick, told.record, told.profile, told.history, told.lots_over,
            told.standstill,
        ]
    ):  # fmt: skip
        parser.error("--stream is of a new database, and of nothing else")
    told.events = told.events or (EVENTS_IF_QUICK if told.quick else EVENTS)
    if told.profile:
        told.profile.mkdir(parents=True, exist_ok=True)
    # A topic that was just made has no leader for a moment; what goes wrong for good is raised.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        document = asyncio.run(bench(told))
        if told.record:
            report.record(document)
    except (WrongBooks, RuntimeError, OSError, KafkaError, asyncpg.PostgresError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    report.show(document)
    return 0


sys.exit(main())
