"""What people see in the terminal: prices, statements, lots, findings."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from consumer.terminal import grouped, shown
from metering.errors import Refused
from metering.lifecycle import check_quantity
from metering.prices import quote
from metering.quantities import amount_text, quantity_of, quantity_text
from metering.statements import SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import date
    from decimal import Decimal

    from metering.catalog import Catalog, Product
    from metering.prices import PricedRange

Document = dict[str, Any]

# Names come from outside: nothing in them is markup.
console = Console(highlight=False, markup=False, emoji=False)

# Wider than any table of ours wants to be.
WIDTH_MAX = 10_000

# Differences that are printed; --json has them all.
DIFFERENCES_MAX = 20


def quote_document(catalog: Catalog, product: Product, quantity: int, *, on: date) -> Document:
    """Write the price of a purchase."""
    try:
        check_quantity(product, quantity)
        refused = None
    except Refused as error:
        refused = error.reason
    price = quote(catalog, product, quantity_of(quantity), on=on)
    return {
        "product": product.name,
        "quantity": str(quantity),
        "on": on.isoformat(),
        "ranges": [_range(part) for part in price.ranges],
        "month_price": _amount(price.month),
        "discount_percent": str(price.discount_percent),
        "price": _amount(price.total),
        "refused": refused,
    }


def _range(part: PricedRange) -> Document:
    return {
        "from": quantity_text(part.above + 1000),
        "to": None if part.up_to is None else quantity_text(part.up_to),
        "quantity": quantity_text(part.quantity),
        "each": str(part.each),
        "amount": amount_text(part.amount),
    }


def _amount(amount: Decimal | None) -> str | None:
    return None if amount is None else amount_text(amount)


def show_quote(document: Document) -> None:
    """Show the price of a purchase by range."""
    product = document["product"]
    if document["price"] is None:
        console.print(f"{product} has no published price: ask whoever sells it.")
        return
    console.print(f"{grouped(document['quantity'])} {product}, bought on {document['on']}")
    table = a_table("", "quantity", "each", "amount")
    for row in price_rows(document):
        table.add_row(*row)
    console.print(table)


def price_rows(document: Document) -> Iterator[tuple[str, str, str, str]]:
    """Write what a purchase costs as rows of a table: by range, a month, a year or in all."""
    for part in document["ranges"]:
        upper = "and up" if part["to"] is None else f"to {grouped(part['to'])}"
        quantity, amount = grouped(part["quantity"]), f"${grouped(part['amount'])}"
        yield f"{grouped(part['from'])} {upper}", quantity, f"${part['each']}", amount
    if document["month_price"] is None:
        yield "in all", "", "", f"${grouped(document['price'])}"
    else:
        yield "a month", "", "", f"${grouped(document['month_price'])}"
        discount = f"12 months, less {document['discount_percent']} %"
        yield discount, "", "", f"${grouped(document['price'])}"


def show_simulation(document: Document) -> None:
    """Show what a scenario came to."""
    outcomes = document["outcomes"]
    console.print(f"as of {document['as_of']}: " + _outcome_words(outcomes))
    for channel, books in document["channels"].items():
        show_cycles(channel, books["cycles"])
        show_lots(channel, books)


def _outcome_words(outcomes: Mapping[str, Any]) -> str:
    rejected = sum(outcomes["rejected"].values())
    words = [f"{outcomes[name]} {name}" for name in ("applied", "duplicate", "late", "parked")]
    return ", ".join([*words, f"{rejected} rejected"])


def a_table(*headings: str) -> Table:
    """Make a table that fits narrow terminals: words to the left, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings):
        # A number that has no room is broken, never cut.
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    return table


def show_cycles(channel: str, cycles: Iterable[Document]) -> None:
    """Show what cycles came to."""
    for cycle in cycles:
        state = "closed" if cycle["closed"] else "open"
        title = f"{shown(channel)}, {cycle['starts_on']} to {cycle['ends_on']} ({state})"
        if not cycle["products"]:
            console.print(f"{title}: no usage")
            continue
        console.print(title)
        rows = {product: _row_of(sums) for product, sums in cycle["products"].items()}
        # A column without any number says nothing.
        used = [name for name in _COLUMNS if any(row[name] != "-" for row in rows.values())]
        table = a_table("product", *used)
        for product, row in rows.items():
            table.add_row(product, *(row[name] for name in used))
        if _width_of(table) <= console.width:
            console.print(table)
            continue
        for product, row in rows.items():
            words = [f"{name} {row[name]}" for name in used if row[name] != "-"]
            console.print(f"  {product}: " + ", ".join(words))


def _width_of(table: Table) -> int:
    options = console.options.update(max_width=WIDTH_MAX)
    return Measurement.get(console, options, table).maximum


_COLUMNS = ("usage", *SOURCES, "amount", "over limit")


def _row_of(sums: Document) -> dict[str, str]:
    amount = sums["postpaid_amount"]
    return {
        "usage": grouped(sums["usage"]),
        **{source: _dash(sums[source]) for source in SOURCES},
        "amount": "no price" if amount is None else f"${grouped(amount)}",
        "over limit": _dash(sums["over_limit"]),
    }


def show_lots(channel: str, document: Document) -> None:
    """Show the lots of a channel with their months."""
    if not document["lots"]:
        console.print(f"{shown(channel)} has no lots")
    for lot in document["lots"]:
        show_lot(channel, lot)
    for reservation in document["reservations"]:
        when = reservation["executes_on"] or "when the trial is over"
        console.print(
            f"reserved: {shown(reservation['lot'])}, {grouped(reservation['quantity'])}"
            f" {reservation['product']},"
            f" bought {when}"
        )
    for period in document.get("ranges", ()):
        console.print(
            f"{period['product']}, {period['from']} to {period['to']}:"
            f" {grouped(period['monthly'])} a month, at least {grouped(period['minimum'])},"
            f" at most {grouped(period['maximum'])}"
        )


def show_lot(channel: str, lot: Document) -> None:
    """Show one lot with its months."""
    price = "no price" if lot["price"] is None else f"${grouped(lot['price'])}"
    console.print(
        f"{shown(channel)}, lot {shown(lot['lot'])}: {grouped(lot['quantity'])} {lot['product']},"
        f" {lot['starts_on']} to {lot['ends_on']}, {lot['state']}, {price},"
        f" pool {grouped(lot['pool'])}"
    )
    if not lot["windows"]:
        return
    columns = ("own", "carried", "borrowed", "minimum", "lent")
    table = a_table("window", *columns)
    for window in lot["windows"]:
        table.add_row(window["starts_on"], *(_dash(window[column]) for column in columns))
    console.print(table)


@contextmanager
def progress_bar(words: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far long work is, beside its output; yields what to tell it by."""
    errors = Console(stderr=True)
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=errors, transient=True, disable=not errors.is_terminal
    ) as progress:
        task = progress.add_task(words, total=total)
        yield lambda done: progress.update(task, completed=done)


def show_verification(is_ok: bool, checked: Mapping[str, int], differences: Sequence[str]) -> None:
    """Show what was checked, and what does not agree."""
    counts = ", ".join(
        f"{count:,} {name.replace('_', ' ')}" for name, count in checked.items() if count
    )
    console.print(f"verify: {'ok' if is_ok else 'NOT OK'} ({counts})")
    for difference in differences[:DIFFERENCES_MAX]:
        console.print(f"  {difference}")
    if len(differences) > DIFFERENCES_MAX:
        console.print(f"  and {len(differences) - DIFFERENCES_MAX} more")


def _dash(quantity: str) -> str:
    return "-" if quantity == "0" else grouped(quantity)
