"""The months of a channel are those of its statements, and they can be drawn."""

import asyncio
import os
import re
import sys
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from metering.catalog import PRODUCTS, shipped_catalog
from metering.storage import book_store
from tests.builders import purchased, registered, workflow
from tests.feeding import feed, feed_built

PNG = b"\x89PNG\r\n\x1a\n"
OF_CYCLES = ("own", "carried", "borrowed", "postpaid")
OF_WINDOWS = ("own", "carried", "borrowed", "minimum")


def in_thousandths(texts):
    return sum(int(Decimal(text) * 1000) for text in texts)


@pytest.mark.parametrize("name", ["books-medium-everything-1", "lots-medium-everything-1"])
async def test_months_add_up_to_statements_and_lots(fresh_database_url, name):
    engine, clock = await feed(name, fresh_database_url)
    catalog = shipped_catalog()
    seen = 0
    documents = await book_store.read_all(engine, catalog, clock=clock)
    for channel, document in documents.items():
        months = await book_store.read_months(engine, catalog, channel, clock=clock)
        for product, found in months.items():
            seen += 1
            for month, cycle in zip(found, document["cycles"], strict=True):
                sums = cycle["products"].get(product, {})
                assert month.starts_on.isoformat() == cycle["starts_on"]
                for part in OF_CYCLES:
                    assert month.parts[part] == in_thousandths([sums.get(part, "0")])
                assert month.included == in_thousandths([sums.get("included", "0")])
            lots = [lot for lot in document["lots"] if lot["product"] == product]
            windows = [window for lot in lots for window in lot["windows"]]
            if PRODUCTS[product].is_windowed:
                for part in OF_WINDOWS:
                    taken = in_thousandths(window[part] for window in windows)
                    assert sum(month.parts[part] for month in found) == taken
            # The last month is the one that holds the clock's day.
            assert (found[-1].pool or 0) == in_thousandths(lot["pool"] for lot in lots)
    assert seen > len(documents)
    await engine.dispose()


async def test_a_month_has_the_lines_of_its_lots_and_the_pool_at_its_end(fresh_database_url):
    engine, clock = await feed_built(
        [
            registered("2024-01-01"),
            purchased("2024-01-01", "workflow", 101),
            workflow("2024-01-10", 150),
            purchased("2024-03-01", "workflow", 200, "l-2"),
            workflow("2024-03-31", 20),
        ],
        "2024-04-10",
        fresh_database_url,
    )

    months = await book_store.read_months(engine, shipped_catalog(), "c-1", clock=clock)

    found = [
        (month.quota, month.minimum, month.maximum, month.parts["minimum"], month.pool)
        for month in months["workflow"]
    ]
    assert found == [
        (101_000, 50_500, 202_000, 0, 12 * 101_000 - 150_000),
        (101_000, 50_500, 202_000, 50_500, 12 * 101_000 - 200_500),
        (301_000, 150_500, 602_000, 130_500, 12 * 301_000 - 351_000),
        (301_000, 150_500, 602_000, 0, 12 * 301_000 - 351_000),
    ]
    assert not any(month.is_askew for month in months["workflow"])
    await engine.dispose()


async def lotmeter(url, *words, code=None, **variables):
    """Run the command line; with code, in a Python that runs this first."""
    start = (
        ["-m", "consumer"]
        if code is None
        else ["-c", f"{code}; from consumer.cli import main; main()"]
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *start,
        *words,
        env={**os.environ, "LOTMETER_DATABASE_URL": url, "COLUMNS": "80", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await process.communicate()
    return process.returncode, out.decode(), errors.decode()


async def test_a_channel_is_drawn_as_a_file_or_in_the_terminal(fresh_database_url, tmp_path):
    name = "가나다 [red]$x^2$ <&>\u202e"
    registered_on, bought_on, used_on, today = (
        (datetime.now(UTC) - timedelta(days=days)).date().isoformat() for days in (60, 9, 5, 0)
    )
    engine, _ = await feed_built(
        [
            registered(registered_on, channel=name),
            purchased(bought_on, "workflow", 100, channel=name),
            workflow(used_on, 250, channel=name),
            registered(registered_on, channel="quiet"),
        ],
        today,
        fresh_database_url,
    )
    await engine.dispose()
    svg, png, nothing = (tmp_path / file for file in ("a.svg", "a.png", "nothing.png"))

    assert await lotmeter(fresh_database_url, "chart", name, "-o", str(svg)) == (
        0,
        f"wrote {svg}\n",
        "",
    )
    assert await lotmeter(
        fresh_database_url, "chart", name, "--product", "workflow", "-o", str(png)
    )
    assert await lotmeter(fresh_database_url, "chart", "quiet", "-o", str(nothing))

    text = svg.read_text(encoding="utf-8")
    root = ET.fromstring(text)  # noqa: S314 - our own file.
    words = " ".join(element.text or "" for element in root.iter())
    assert "가나다 [red]$x^2$ <&>\\u202e" in words
    assert "\u202e" not in text
    assert "actions a month" in words
    assert "Months of these lots begin on other days" in words
    assert png.read_bytes().startswith(PNG)
    assert nothing.read_bytes().startswith(PNG)
    status, out, errors = await lotmeter(fresh_database_url, "chart", name)
    assert (status, errors) == (0, "")
    assert "\x1b" not in out
    assert "█ own" in out
    assert re.search(r"20..-..-..  100 +100 +50 +\$5\.00 +1,000", out)
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["nobody"], 1, "lotmeter: channel nobody is not registered"),
        (["quiet", "-o", "a.pdf"], 2, "lotmeter: a.pdf must end in .svg or .png"),
        (["quiet", "--product", "white_label"], 2, "white_label has no months to draw: choose"),
        (["quiet", "-o", "/nowhere/a.svg"], 1, "/nowhere/a.svg cannot be written: No such file"),
    ],
)
async def test_what_cannot_be_drawn_is_said_in_one_line(fresh_database_url, words, status, error):
    engine, _ = await feed_built(
        [registered("2024-01-01", channel="quiet")], "2024-01-02", fresh_database_url
    )
    await engine.dispose()

    found, out, errors = await lotmeter(fresh_database_url, "chart", *words)

    assert (found, out) == (status, "")
    assert error in errors
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(("package", "more"), [("plotext", []), ("matplotlib", ["-o", "a.svg"])])
async def test_without_the_extra_it_says_what_to_install(package, more):
    url = "postgresql://nobody@127.0.0.1:1/none"

    found = await lotmeter(
        url, "chart", "c-1", *more, code=f"import sys; sys.modules['{package}'] = None"
    )

    words = "lotmeter: charts need two more packages: run pip install 'lotmeter[charts]'\n"
    assert found == (1, "", words)
