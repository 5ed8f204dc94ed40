"""Run a scenario with the clock under control, through the code that runs in production, Kafka
apart.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from consumer.embedded import embedded_postgres
from consumer.envelopes import instant_from
from consumer.readers import decoder_for
from metering.errors import Rejected
from metering.meter import Batch, Meter, Partition, Record, Slice
from metering.periods import moment_of
from metering.storage import book_store, schema
from metering.storage.database import create_engine
from metering.verification import verify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from metering.catalog import Catalog
    from metering.intake import Message
    from metering.meter import Decode, Receipt

COMMANDS = "billing.commands"
GROUP = "simulate"

# Lines that go into one transaction.
LINES_MAX = 1_000

# A line is at most this long, so that a file that is no scenario does not fill the memory.
LINE_CHARACTERS_MAX = 1_000_000


class WrongScenario(ValueError):
    """The file is no scenario; the message names the line."""


class Line(NamedTuple):
    """One line of a scenario."""

    topic: str
    value: bytes
    clock: int | None  # The instant at which it arrives; None where it does not say.


class FedBooks(NamedTuple):
    """Books of a scenario, as long as their database is there."""

    engine: AsyncEngine
    end: int  # Where the clock stands.
    outcomes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Simulation:
    """What a scenario came to: the document of `simulate --json`, and whether its books could be
    proven.
    """

    document: dict[str, Any]
    differences: list[str]


def read_scenario(path: Path) -> list[Line]:
    """Read the lines of a scenario. Raises WrongScenario."""
    lines = []
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                try:
                    lines.append(_line(text))
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    raise WrongScenario(f"line {number} of {path}: {error}") from error
    return lines


def _line(text: str) -> Line:
    if len(text) > LINE_CHARACTERS_MAX:
        raise ValueError("it is too long")
    line = json.loads(text)
    if not isinstance(line, dict) or not isinstance(line.get("topic"), str):
        raise TypeError('it must be an object with a "topic"')
    if isinstance(line.get("raw"), str):
        value = line["raw"].encode("utf-8", "surrogatepass")
        event = _parsed(line["raw"])
    elif "event" in line:
        event = line["event"]
        value = _compact(event)
    else:
        raise ValueError('it needs an "event" or a "raw" text')
    if "clock" in line:
        clock = instant_from(line["clock"])
        if clock is None:
            raise ValueError('"clock" must be a time with an offset')
    else:
        clock = instant_from(event.get("time")) if isinstance(event, dict) else None
    return Line(line["topic"], value, clock)


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _compact(event: object) -> bytes:
    try:
        return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8: keep its escape, as a producer would have sent it.
        return json.dumps(event, separators=(",", ":")).encode()


async def simulate(
    lines: Sequence[Line],
    catalog: Catalog,
    *,
    as_of: int | None,
    database_url: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Simulation:
    """Feed a scenario into a fresh database and read its books. Raises WrongScenario if as_of has
    passed.
    """
    async with fed_books(
        lines, catalog, as_of=as_of, database_url=database_url, progress=progress
    ) as books:
        channels = await book_store.read_all(books.engine, catalog, clock=books.end)
        report = await verify(books.engine, catalog, full=True)
    document = {
        "as_of": moment_of(books.end).isoformat().replace("+00:00", "Z"),
        "outcomes": books.outcomes,
        "channels": channels,
    }
    return Simulation(document, report.differences)


@asynccontextmanager
async def fed_books(
    lines: Sequence[Line],
    catalog: Catalog,
    *,
    as_of: int | None,
    database_url: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> AsyncIterator[FedBooks]:
    """Yield the books of a scenario in a database of their own. Raises WrongScenario."""
    clocks = _clocks(lines)
    end = clocks[-1] if clocks else None
    if as_of is not None and end is not None and as_of < end:
        raise WrongScenario(
            f"--as-of lies before the clock, which is at {moment_of(end).isoformat()}"
        )
    end = as_of if as_of is not None else end
    if end is None:
        raise WrongScenario("no line has a readable time: say --as-of")
    async with _fresh_books(database_url) as engine:
        read = decoder_for(catalog, commands_topic=COMMANDS)
        meter = Meter(engine, catalog, read, group=GROUP)
        yield FedBooks(engine, end, await _feed(meter, read, lines, clocks, end, progress))


def _clocks(lines: Iterable[Line]) -> list[int]:
    """Say what the clock shows at each line: the latest time so far."""
    clocks: list[int] = []
    for line in lines:
        latest = clocks[-1] if clocks else None
        clock = line.clock if line.clock is not None else latest
        # Before the first readable time the clock stands at the beginning of time.
        clocks.append(
            max(clock if clock is not None else 0, latest if latest is not None else -(2**62))
        )
    return clocks


async def _feed(
    meter: Meter,
    read: Decode,
    lines: Sequence[Line],
    clocks: Sequence[int],
    end: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    topics = {Partition(line.topic, 0): 0 for line in lines}
    claims = {
        claim.partition.topic: claim
        for claim in await meter.claim(topics, owner=GROUP, cluster_id=GROUP)
    }
    offsets = dict.fromkeys(claims, 0)
    outcomes: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    late = 0
    for start in range(0, len(lines), LINES_MAX):
        before = dict(offsets)
        records = []
        for line, clock in zip(
            lines[start : start + LINES_MAX], clocks[start : start + LINES_MAX], strict=True
        ):
            number, offset = claims[line.topic].number, offsets[line.topic]
            offsets[line.topic] += 1
            records.append(
                Record(number, offset, clock, line.topic, None, line.value, (), _found(read, line))
            )
        slices = [
            Slice(claim, before[topic], offsets[topic], None, records[-1].clock)
            for topic, claim in sorted(claims.items())
            if offsets[topic] > before[topic]
        ]
        receipt = await meter.record(Batch(slices, records))
        late += receipt.late
        rejected.update(receipt.rejected)
        for (_, outcome), count in receipt.outcomes.items():
            outcomes[outcome] += count
        _move_taken_up(receipt, outcomes)
        if progress is not None:
            progress(start + len(records))
    while True:
        receipt, settled = await meter.settle_due(now=end, closing_clock=end)
        rejected.update(receipt.rejected)
        _move_taken_up(receipt, outcomes)
        if not settled:
            break
    return {
        "applied": outcomes["applied"],
        "duplicate": outcomes["duplicate"],
        "late": late,
        "parked": outcomes["parked"],
        "rejected": dict(sorted(rejected.items())),
    }


def _move_taken_up(receipt: Receipt, outcomes: Counter[str]) -> None:
    """Move records that waited to where they went; one that goes on waiting is counted where it
    was.
    """
    for outcome, count in receipt.taken_up.items():
        outcomes["parked"] -= count
        if outcome != "rejected":
            outcomes[outcome] += count


def _found(read: Decode, line: Line) -> Message | Rejected:
    try:
        return read(line.topic, line.value, ())
    except Rejected as rejected:
        return rejected


@asynccontextmanager
async def _fresh_books(database_url: str | None) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on a schema that is gone afterwards."""
    if database_url is None:
        async with embedded_postgres() as url, _fresh_books(url) as engine:
            yield engine
        return
    name = f"lotmeter_simulate_{token_hex(6)}"
    engine = create_engine(database_url, schema=name, connections=2)
    try:
        await schema.migrate(engine, name)
        yield engine
    finally:
        async with engine.begin() as connection:
            await connection.execute(
                sa.text(f"DROP SCHEMA IF EXISTS {schema.quoted(name)} CASCADE")
            )
        await engine.dispose()
