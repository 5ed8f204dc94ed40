"""The months of a channel drawn for a file: what each took, what it might take, what was left."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from consumer.charting_words import (
    AMOUNT_ROOM_MONTHS,
    UNITS,
    Picture,
    brief,
    month_names,
    units_of,
)
from consumer.terminal import grouped
from metering.months import PARTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from metering.months import Month

# Told apart by people who see few colours, and in grey: light and dark alternate.
COLOURS = {
    "own": "#2b63a8",
    "carried": "#9cc6ea",
    "borrowed": "#ef9f2d",
    "minimum": "#e3e3e3",
    "postpaid": "#b3261e",
}
PART_NAMES = {"minimum": "minimum deducted", "postpaid": "postpaid, with its price"}
POOL_COLOUR, OPEN_COLOUR = "#5b8c7a", "#f1eedd"
INK, FAINT = "#222222", "#6f6f6f"
LINES: dict[str, Any] = {
    "maximum": {"color": INK, "linestyle": (0, (1, 1.2)), "linewidth": 1.6},
    "quota": {"color": INK, "linestyle": "solid", "linewidth": 1.6},
    "minimum": {"color": INK, "linestyle": (0, (5, 2)), "linewidth": 1.2},
}
BAR_WIDTH = 0.72
# Inches.
WIDTH, HEAD, FOOT = 11.0, 1.6, 0.15
MONTHS_HEIGHT, POOL_HEIGHT, GAP = 2.7, 0.85, 0.95
MONTH_NAMES_HEIGHT, NOTE_HEIGHT = 0.5, 0.2
# A picture of few months is as wide as one of these; their bars stay bars.
PLACES_MIN = 7

STYLE: Any = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": FAINT,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "font.size": 9,
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # A name with dollars is no formula.
    "xtick.color": INK,
    "ytick.color": INK,
    # Text stays text: it can be searched, and whoever looks has the fonts for it.
    "svg.fonttype": "none",
    "svg.hashsalt": "lotmeter",
}
# Three labels at the end of three lines are kept this far apart, in points.
LABEL_POINTS = 11
POINTS = 72  # To the inch.


def draw(picture: Picture, path: Path) -> None:
    """Draw a picture into a file. Raises OSError."""
    is_svg = path.suffix == ".svg"
    # It would tell people that it looks for fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    families, unknown = families_for(picture.title + "".join(picture.notes))
    if unknown and not is_svg:
        picture = picture.spelled_out(unknown)
    with rc_context({**STYLE, "font.family": [*families, "sans-serif"]}), warnings.catch_warnings():
        # Letters that no font here has are for the fonts of whoever looks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        metadata = {"Title": picture.title, "Date": None} if is_svg else {"Title": picture.title}
        figure_of(picture).savefig(path, format=path.suffix[1:], dpi=150, metadata=metadata)


def families_for(text: str) -> tuple[list[str], set[str]]:
    """Find fonts that have all letters of a text; returns those that none has, too."""
    families = ["DejaVu Sans"]
    missing = {letter for letter in text if not letter.isspace()}
    missing -= _letters_of(font_manager.findfont("DejaVu Sans"))
    for font in sorted(font_manager.fontManager.ttflist, key=_plainest) if missing else ():
        # What draws a box with a hint in place of every letter has none of them.
        is_last_resort = font.name.startswith("Last Resort")
        found = set() if is_last_resort else missing & _letters_of(font.fname)
        if found:
            families.append(font.name)
            missing -= found
        if not missing:
            break
    return families, missing


def _letters_of(path: str) -> set[str]:
    try:
        return {chr(code) for code in font_manager.get_font(path).get_charmap()}
    except (OSError, RuntimeError):
        # A broken font of this machine is not our business.
        return set()


def _plainest(font: font_manager.FontEntry) -> tuple[bool, str, str]:
    is_plain = font.style == "normal" and str(font.weight) in ("400", "normal", "regular")
    return not is_plain, font.name, font.fname


@dataclass(slots=True)
class _Page:
    """A figure that is filled from top to bottom, in inches."""

    figure: Figure
    height: float
    top: float = field(default=HEAD)

    def axes(self, height: float, **options: Any) -> Axes:  # noqa: ANN401
        left, right = 0.95, 1.25
        bottom = self.height - self.top - height
        place = (
            left / WIDTH,
            bottom / self.height,
            (WIDTH - left - right) / WIDTH,
            height / self.height,
        )
        self.top += height
        axes: Axes = self.figure.add_axes(place, **options)
        return axes

    def text(self, top: float, words: str, **options: Any) -> None:  # noqa: ANN401
        place = 1 - top / self.height
        self.figure.text(0.3 / WIDTH, place, words, ha="left", va="top", **options)


def figure_of(picture: Picture) -> Figure:
    """Draw a picture."""
    products = picture.products
    with_pool = {product for product, months in products.items() if _has_pool(months)}
    notes_height = NOTE_HEIGHT * len(picture.notes) + FOOT
    height = HEAD + GAP * (len(products) - 1) + MONTH_NAMES_HEIGHT + notes_height
    height += MONTHS_HEIGHT * len(products) + POOL_HEIGHT * len(with_pool)
    figure = Figure(figsize=(WIDTH, max(height, HEAD + GAP)), facecolor="white")
    page = _Page(figure, figure.get_figheight())
    page.text(0.22, picture.title, fontsize=14, fontweight="bold", color=INK)
    page.text(0.52, picture.subtitle, fontsize=10, color=FAINT)
    if products:
        _draw_legend(page)
    else:
        page.text(HEAD, "Nothing was used or bought yet.", fontsize=11)
    for product, months in products.items():
        axes = page.axes(MONTHS_HEIGHT)
        _draw_months(axes, product, months)
        if product in with_pool:
            _draw_pool(page.axes(POOL_HEIGHT, sharex=axes), months)
            axes.tick_params(labelbottom=False)
        page.top += GAP
    for number, note in enumerate(picture.notes):
        page.text(page.height - notes_height + NOTE_HEIGHT * number, note, fontsize=8, color=FAINT)
    return figure


def _has_pool(months: Sequence[Month]) -> bool:
    return any(month.pool is not None for month in months)


def _draw_legend(page: _Page) -> None:
    bars: list[Any] = [Patch(label=PART_NAMES.get(part, part), **_fill_of(part)) for part in PARTS]
    others: list[Any] = [Line2D([], [], label=name, **look) for name, look in LINES.items()]
    others.append(Patch(label="left in the pool", color=POOL_COLOUR))
    others.append(Patch(label="not closed yet", color=OPEN_COLOUR))
    page.figure.legend(
        # It is filled column by column: bars are its first row.
        handles=[handle for pair in zip(bars, others, strict=True) for handle in pair],
        loc="upper left",
        bbox_to_anchor=(0.2 / WIDTH, 1 - 0.74 / page.height),
        ncols=len(bars),
        frameon=False,
        handlelength=2.2,
        columnspacing=2.2,
        fontsize=9,
    )


def _fill_of(part: str) -> dict[str, Any]:
    fill: dict[str, Any] = {"facecolor": COLOURS[part], "edgecolor": "white", "linewidth": 0.4}
    return {**fill, "hatch": "////", "edgecolor": FAINT} if part == "minimum" else fill


def _draw_months(axes: Axes, product: str, months: Sequence[Month]) -> None:
    places = range(len(months))
    bottoms = [0.0] * len(months)
    for part in PARTS:
        heights = [units_of(month.parts[part]) for month in months]
        axes.bar(places, heights, BAR_WIDTH, bottoms, label=part, **_fill_of(part))
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    for name, look in LINES.items():
        _draw_line(axes, name, [getattr(month, name) for month in months], look)
    highest = max([*bottoms, *(units_of(month.maximum or 0) for month in months)])
    is_crowded = len(months) > AMOUNT_ROOM_MONTHS
    axes.set_ylim(0, (highest or 1) * (1.28 if is_crowded else 1.14))
    axes.set_xlim(-0.6, max(len(months), PLACES_MIN) - 0.4)
    axes.set_title(product, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_ylabel(f"{UNITS[product]} a month")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: brief(number)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=highest > 5))  # noqa: PLR2004
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.set_xticks(list(places), month_names(months))
    if is_crowded:
        axes.tick_params(axis="x", labelsize=7.5)
    _mark_running(axes, months)
    _label_lines(axes, months)
    _label_postpaid(axes, months, bottoms)


def _draw_line(
    axes: Axes, name: str, quantities: Sequence[int | None], look: Mapping[str, Any]
) -> None:
    """Draw a level over each month in which there is one."""
    across: list[float] = []
    up: list[float] = []
    for place, quantity in enumerate(quantities):
        level = float("nan") if quantity is None else units_of(quantity)
        across += [place - 0.5, place + 0.5]
        up += [level, level]
    axes.plot(across, up, label=name, **look)


def _mark_running(axes: Axes, months: Sequence[Month]) -> None:
    """Shade the month that still runs: what it has taken is not all that it will take."""
    running = [place for place, month in enumerate(months) if not month.is_closed]
    if running:
        axes.axvspan(running[0] - 0.5, len(months) - 0.5, color=OPEN_COLOUR, zorder=0)


def _label_lines(axes: Axes, months: Sequence[Month]) -> None:
    """Write at the right end how high the lines are there."""
    last = months[-1]
    levels = [(getattr(last, name), name) for name in ("minimum", "quota", "maximum")]
    known = [(units_of(level), name) for level, name in levels if level is not None]
    scale = MONTHS_HEIGHT * POINTS / axes.get_ylim()[1]
    lifted: list[float] = []
    for level, _ in known:
        lowest = lifted[-1] + LABEL_POINTS / scale if lifted else level
        lifted.append(max(level, lowest))
    for (level, name), place in zip(known, lifted, strict=True):
        axes.annotate(
            f"{name} {brief(level)}",
            (len(months) - 0.36, place),
            annotation_clip=False,
            va="center",
            fontsize=8,
            color=INK,
        )


def _label_postpaid(axes: Axes, months: Sequence[Month], tops: Sequence[float]) -> None:
    """Write over a month what it costs beyond the lots."""
    for place, (month, top) in enumerate(zip(months, tops, strict=True)):
        postpaid = month.parts["postpaid"]
        if postpaid:
            words = f"${grouped(month.amount)}" if month.amount else brief(units_of(postpaid))
            axes.annotate(
                words,
                (place, top),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                rotation=90 if len(months) > AMOUNT_ROOM_MONTHS else 0,
                fontsize=7.5,
                color=COLOURS["postpaid"],
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8},
            )


def _draw_pool(axes: Axes, months: Sequence[Month]) -> None:
    pools = [units_of(month.pool or 0) for month in months]
    axes.bar(range(len(months)), pools, BAR_WIDTH, color=POOL_COLOUR, label="pool")
    highest = max(pools) or 1
    axes.set_ylim(0, highest * 1.3)
    axes.set_ylabel("pool")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: brief(number)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=highest > 5))  # noqa: PLR2004
    if not any(pools):
        axes.set_yticks([0])
    before = [None, *(month.pool for month in months)]
    for place, (earlier, now) in enumerate(pairwise(before)):
        # Where it rose, and where it stands in the end.
        is_told = now is not None and (earlier is None or now > earlier or place == len(months) - 1)
        if is_told:
            axes.annotate(
                brief(pools[place]),
                (place, pools[place]),
                xytext=(0, 1.5),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
                color=INK,
            )
