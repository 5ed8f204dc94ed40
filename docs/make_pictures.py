"""Draw the pictures of these pages: `make pictures` writes them again after a change."""

from __future__ import annotations

import asyncio
from pathlib import Path

from consumer import charting_files, simulate
from consumer.charting_words import picture_of
from consumer.envelopes import instant_from
from metering.catalog import shipped_catalog
from metering.storage import book_store

HERE = Path(__file__).parent
SCENARIO, PICTURE = HERE / "a-year.ndjson", "a-year.svg"
CHANNEL, AS_OF = "acme", "2025-01-04T00:00:00+09:00"


async def draw_a_year(path: Path, *, database_url: str | None = None) -> None:
    """Run the scenario of a year and draw what its lot went through."""
    catalog, lines = shipped_catalog(), simulate.read_scenario(SCENARIO)
    async with simulate.fed_books(
        lines, catalog, as_of=instant_from(AS_OF), database_url=database_url
    ) as books:
        months = await book_store.read_months(books.engine, catalog, CHANNEL, clock=books.end)
    assert months is not None
    # The year itself; the month after it is only there to close December.
    a_year = {product: found[:12] for product, found in months.items()}
    charting_files.draw(picture_of(CHANNEL, a_year), path)


if __name__ == "__main__":
    asyncio.run(draw_a_year(HERE / PICTURE))
