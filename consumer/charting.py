"""The command that draws the months of a channel, in the terminal or into a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consumer.charting_words import picture_of
from consumer.terminal import (
    WRONG_USAGE,
    ChannelArgument,
    Stop,
    catalog_of,
    completing,
    settings_for,
    shown,
    with_engine,
)
from consumer.wall_clock import now_instant
from metering.catalog import PRODUCTS
from metering.storage import book_store

KINDS = (".svg", ".png")
METERED = tuple(name for name, product in PRODUCTS.items() if product.is_metered)
MISSING = "charts need two more packages: run pip install 'lotmeter[charts]'"


def chart(
    channel: ChannelArgument,
    product: Annotated[
        str | None,
        typer.Option(
            "--product",
            metavar="PRODUCT",
            help="Only this one.",
            autocompletion=completing(METERED),
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="An .svg or .png; else the terminal."),
    ] = None,
) -> None:
    """Draw the months of a channel: what each took, what it might take, what is left."""
    if product is not None and product not in METERED:
        raise Stop(
            f"{product} has no months to draw: choose from {', '.join(METERED)}", WRONG_USAGE
        )
    if output is not None and output.suffix not in KINDS:
        raise Stop(f"{output} must end in .svg or .png", WRONG_USAGE)
    try:
        if output is None:
            from consumer import charting_terminal  # noqa: PLC0415
        else:
            from consumer import charting_files  # noqa: PLC0415
    except ImportError:
        raise Stop(MISSING) from None
    settings = settings_for(kafka=False)
    catalog = catalog_of(settings)
    months = with_engine(
        settings,
        lambda engine: book_store.read_months(engine, catalog, channel, clock=now_instant()),
    )
    if months is None:
        raise Stop(f"channel {shown(channel)} is not registered")
    if product is not None:
        months = {name: found for name, found in months.items() if name == product}
    picture = picture_of(channel, months)
    if output is None:
        charting_terminal.show(picture)
        return
    try:
        charting_files.draw(picture, output)
    except OSError as error:
        raise Stop(f"{output} cannot be written: {error.strerror}") from None
    print(f"wrote {output}")
