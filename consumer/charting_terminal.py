"""The months of a channel drawn in the terminal, with the numbers below."""

from __future__ import annotations

from itertools import groupby
from math import floor, log10
from typing import TYPE_CHECKING, Any

import plotext

from consumer import reports
from consumer.charting_words import UNITS, Picture, brief, month_names, units_of
from consumer.terminal import grouped
from metering.months import PARTS
from metering.quantities import quantity_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metering.months import Month

# Told apart without colours, too.
MARKS = {"own": "█", "carried": "▓", "borrowed": "▒", "minimum": "░", "postpaid": "$"}
COLOURS = {"own": 26, "carried": 117, "borrowed": 214, "minimum": 250, "postpaid": 160}
LINES = {"maximum": "┈", "quota": "─", "minimum": "╌"}
LEGEND = (
    "█ own   ▓ carried   ▒ borrowed   ░ minimum deducted   $ postpaid",
    "┈ maximum   ─ quota   ╌ minimum",
)

BAR_WIDTH = 0.6
WIDTH_MIN, WIDTH_MAX = 60, 160
MONTHS_HEIGHT, POOL_HEIGHT = 18, 7
# As many as a picture shows at least, so that one month is no wall.
PLACES_MIN = 7
# What stands left of the bars, and what the name of a month takes.
MARGIN, NAME_WIDTH = 12, 10


def show(picture: Picture) -> None:
    """Draw a picture in the terminal."""
    console = reports.console
    width = min(max(console.width, WIDTH_MIN), WIDTH_MAX)
    console.print(f"{picture.title}: {picture.subtitle}")
    if not picture.products:
        console.print("Nothing was used or bought yet.")
    for product, months in picture.products.items():
        _print(_months(product, months, width))
        console.print("\n".join(LEGEND))
        if any(month.pool is not None for month in months):
            _print(_pool(months, width))
        _show_numbers(months)
    for note in picture.notes:
        console.print(note)


def _print(matrix: Any) -> None:  # noqa: ANN401
    console = reports.console
    print(matrix.string(colorless=not console.is_terminal), file=console.file)


def _months(product: str, months: Sequence[Month], width: int) -> Any:  # noqa: ANN401
    figure = _figure(width, MONTHS_HEIGHT)
    figure.title(f"{product}, {UNITS[product]} a month")
    for name, mark in LINES.items():
        levels = [getattr(month, name) for month in months]
        for level, stretch in groupby(range(len(months)), key=levels.__getitem__):
            if level is not None:
                reached = list(stretch)
                across = [reached[0] + 0.5, reached[-1] + 1.5]
                figure.draw(figure.segment(across, [units_of(level)] * 2, marker=mark))
    heights = [[units_of(month.parts[part]) for month in months] for part in PARTS]
    marks = [plotext.marker(MARKS[part], COLOURS[part]) for part in PARTS]
    places = list(range(1, len(months) + 1))
    figure.draw(figure.bar(places, heights, stacked=True, width=BAR_WIDTH, marker=marks))
    tops = [sum(month.parts.values()) for month in months]
    tops += [month.maximum or 0 for month in months]
    _name_places(figure, months, width)
    _scale(figure, max(tops), steps=5)
    return figure.build()


def _pool(months: Sequence[Month], width: int) -> Any:  # noqa: ANN401
    figure = _figure(width, POOL_HEIGHT)
    figure.title("left in the pool when the month ended")
    places = list(range(1, len(months) + 1))
    pools = [units_of(month.pool or 0) for month in months]
    figure.draw(figure.bar(places, pools, width=BAR_WIDTH, marker=plotext.marker("█", 66)))
    _name_places(figure, months, width)
    _scale(figure, max(month.pool or 0 for month in months), steps=2)
    return figure.build()


def _figure(width: int, height: int) -> Any:  # noqa: ANN401
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, height)
    return figure


def _name_places(figure: Any, months: Sequence[Month], width: int) -> None:  # noqa: ANN401
    """Name the places of the months; names that would run into each other are left out."""
    places = max(len(months), PLACES_MIN)
    step = -(-places * NAME_WIDTH // (width - MARGIN))
    named = list(range(1, len(months) + 1, step))
    names = [name.replace("\n", " ") for name in month_names(months, named=named)]
    ruler = figure.ruler("x")
    ruler.lim(0.4, places + 0.6)
    ruler.ticks(named, [names[place - 1] for place in named])


def _scale(figure: Any, highest: int, *, steps: int) -> None:  # noqa: ANN401
    """Write the heights in round steps."""
    top = units_of(highest) or 1
    power = 10 ** floor(log10(top / steps))
    step = next(power * round_ for round_ in (1, 2, 5, 10) if power * round_ * steps >= top)
    levels = [step * number for number in range(int(top / step) + 1)]
    ruler = figure.ruler("y")
    ruler.lim(0, max(top, levels[-1]) * 1.04)
    ruler.ticks(levels, [brief(level) for level in levels])


def _show_numbers(months: Sequence[Month]) -> None:
    columns = [part for part in PARTS if any(month.parts[part] for month in months)]
    with_amount = any(month.parts["postpaid"] and month.amount for month in months)
    with_pool = any(month.pool is not None for month in months)
    table = reports.a_table(
        "month",
        *columns,
        *(["amount"] if with_amount else []),
        *(["pool"] if with_pool else []),
    )
    for month in months:
        row = [_number(month.parts[part]) for part in columns]
        if with_amount:
            is_priced = month.amount is not None and month.parts["postpaid"]
            row.append(f"${grouped(month.amount or '')}" if is_priced else "-")
        if with_pool:
            row.append("-" if month.pool is None else grouped(quantity_text(month.pool)))
        table.add_row(month.starts_on.isoformat(), *row)
    reports.console.print(table)


def _number(quantity: int) -> str:
    return grouped(quantity_text(quantity)) if quantity else "-"
