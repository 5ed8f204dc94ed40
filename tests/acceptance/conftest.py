"""A scenario through the whole system, Kafka apart."""

import json
from collections.abc import Awaitable, Callable

import pytest

from consumer.decoding import instant_from
from consumer.simulate import read_scenario, simulate
from metering.catalog import Catalog, shipped_catalog
from tests.builders import Books, Line, instant


@pytest.fixture
def catalog() -> Catalog:
    """Return what is sold; a module may sell something else."""
    return shipped_catalog()


@pytest.fixture
def simulated(database_url, tmp_path, catalog) -> Callable[..., Awaitable[Books]]:
    """Return what gives the books of some lines as of a time."""

    async def run(*lines: Line, as_of: str) -> Books:
        path = tmp_path / "scenario.ndjson"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        simulation = await simulate(
            read_scenario(path),
            catalog,
            as_of=instant_from(instant(as_of)),
            database_url=database_url,
        )
        # Each simulation proves its books.
        assert not simulation.differences
        return Books(simulation.document)

    return run
