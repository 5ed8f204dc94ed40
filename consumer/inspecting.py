"""Commands that look at the books and prices: simulate, quote, statement, lots, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from consumer import reports
from consumer.settings import postgres_url
from consumer.terminal import (
    FINDING,
    WRONG_USAGE,
    ChannelArgument,
    JsonOption,
    ProductArgument,
    Stop,
    catalog_of,
    day_from,
    print_json,
    run,
    settings_for,
    with_engine,
)
from consumer.wall_clock import now_instant
from metering.catalog import PRODUCTS
from metering.storage import book_store
from metering.verification import verify as prove


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="One JSON object a line.")],
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="Move the clock to here at the end."),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            help="Use this server in place of an embedded one,"
            " in a schema that is dropped at the end.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print the books of a scenario, with the clock under control."""
    from consumer import simulate as simulation  # noqa: PLC0415
    from consumer.embedded import EmbeddedServerUnavailable  # noqa: PLC0415
    from consumer.envelopes import instant_from  # noqa: PLC0415

    end = None
    if as_of is not None and (end := instant_from(as_of)) is None:
        raise Stop("--as-of must be a time with an offset, like 2025-01-01T00:00:00Z", WRONG_USAGE)
    if database is not None:
        try:
            postgres_url(SecretStr(database))
        except ValueError as error:
            raise Stop(f"--database {error}", WRONG_USAGE) from None
    try:
        lines = simulation.read_scenario(file)
        with reports.progress_bar("lines", len(lines)) as progress:
            books = run(
                simulation.simulate(
                    lines,
                    catalog_of(settings_for(kafka=False, database=False)),
                    as_of=end,
                    database_url=database,
                    progress=progress,
                )
            )
    except simulation.WrongScenario as error:
        raise Stop(str(error), WRONG_USAGE) from None
    except UnicodeDecodeError:
        raise Stop(f"{file} is no text in UTF-8", WRONG_USAGE) from None
    except OSError as error:
        raise Stop(f"{file} cannot be read: {error.strerror}", WRONG_USAGE) from None
    except EmbeddedServerUnavailable as error:
        raise Stop(str(error), FINDING) from None
    if json:
        print_json(books.document)
    else:
        reports.show_simulation(books.document)
    if books.differences:
        raise Stop(f"the books do not prove: {books.differences[0]}", FINDING)


def quote(
    product: ProductArgument,
    quantity: Annotated[
        int, typer.Argument(metavar="QUANTITY", help="Units a month; of pu all units.")
    ],
    on: Annotated[
        str | None, typer.Option("--on", metavar="DATE", help="As of this day; today if absent.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print the price of a purchase: a month and a year, by range."""
    if product not in PRODUCTS:
        raise Stop(f"there is no product {product}: choose from {', '.join(PRODUCTS)}", WRONG_USAGE)
    document = reports.quote_document(
        catalog_of(settings_for(kafka=False, database=False)),
        PRODUCTS[product],
        quantity,
        on=day_from(on),
    )
    if document["refused"] is not None:
        sold = PRODUCTS[product]
        raise Stop(
            f"{document['refused']}: {product} is bought"
            f" from {sold.purchase_min:,} to {sold.purchase_max:,}",
            FINDING,
        )
    if json:
        print_json(document)
    else:
        reports.show_quote(document)


def statement(
    channel: ChannelArgument,
    cycle: Annotated[
        str | None,
        typer.Option("--cycle", metavar="DATE", help="Only the cycle that holds this day."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print what the cycles of a channel came to."""
    day = day_from(cycle) if cycle is not None else None
    document = channel_document(channel)
    cycles = [
        each
        for each in document["cycles"]
        if day is None or each["starts_on"] <= day.isoformat() <= each["ends_on"]
    ]
    if not cycles:
        raise Stop(f"channel {channel} has no cycle that holds {cycle}", FINDING)
    if json:
        print_json({"cycles": cycles})
    else:
        reports.show_cycles(channel, cycles)


def lots(channel: ChannelArgument, json: JsonOption = False) -> None:
    """Print the lots of a channel, its reservations, and what a month may take."""
    document = channel_document(channel)
    if json:
        print_json({name: document[name] for name in ("lots", "reservations", "ranges")})
    else:
        reports.show_lots(channel, document)


def verify(
    full: Annotated[
        bool, typer.Option("--full", help="Everything that is kept, closed cycles too.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Prove the books: recompute them from the records of the events."""
    settings = settings_for(kafka=False)
    catalog = catalog_of(settings)
    with reports.progress_bar("channels") as progress:
        report = with_engine(
            settings, lambda engine: prove(engine, catalog, full=full, progress=progress)
        )
    if json:
        print_json(
            {"ok": report.is_ok, "checked": report.checked, "differences": report.differences}
        )
    else:
        reports.show_verification(report.is_ok, report.checked, report.differences)
    if not report.is_ok:
        raise typer.Exit(FINDING)


def channel_document(channel: str) -> dict[str, Any]:
    """Read the books of a channel as they stand. Raises Stop if it is not registered."""
    settings = settings_for(kafka=False)
    catalog = catalog_of(settings)
    document = with_engine(
        settings,
        lambda engine: book_store.read_channel(engine, catalog, channel, clock=now_instant()),
    )
    if document is None:
        raise Stop(f"channel {channel} is not registered")
    assert isinstance(document, dict)
    return document
