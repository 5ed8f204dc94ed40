"""Books of a scenario in a database, kept there so that others can look at them."""

import json
from collections.abc import Iterable
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine

from consumer import simulate
from consumer.envelopes import instant_from
from consumer.readers import decoder_for
from metering.catalog import shipped_catalog
from metering.meter import Meter
from metering.storage import schema
from metering.storage.database import create_engine
from tests.builders import Line, instant

SCENARIOS = Path(__file__).parent / "scenarios"


async def feed(name: str, url: str) -> tuple[AsyncEngine, int]:
    """Feed a scenario that is kept as a file; returns the engine and where the clock stands."""
    lines = simulate.read_scenario(SCENARIOS / f"{name}.ndjson")
    return await feed_lines(lines, (SCENARIOS / f"{name}.as-of").read_text().strip(), url)


async def feed_built(lines: Iterable[Line], as_of: str, url: str) -> tuple[AsyncEngine, int]:
    """Feed lines that a test has built."""
    read = [simulate._line(json.dumps(line)) for line in lines]
    return await feed_lines(read, instant(as_of), url)


async def feed_lines(lines: list[simulate.Line], as_of: str, url: str) -> tuple[AsyncEngine, int]:
    end = instant_from(as_of)
    assert end is not None
    engine = create_engine(url, schema="lotmeter", connections=2)
    await schema.migrate(engine, "lotmeter")
    read = decoder_for(shipped_catalog(), commands_topic=simulate.COMMANDS)
    meter = Meter(engine, shipped_catalog(), read, group=simulate.GROUP)
    await simulate._feed(meter, read, lines, simulate._clocks(lines), end)
    return engine, end
