"""Several purchases at once: the lots that are named, what each costs by range, and the total."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from rich.table import Table

from consumer import reports
from consumer.terminal import WRONG_USAGE, Stop
from metering.catalog import PRODUCTS
from metering.quantities import amount_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from metering.catalog import Catalog

# So many always fit 64 bits; how many units one purchase may have is for the books to say.
DIGITS_MAX = 18


class CartLine(NamedTuple):
    """One purchase of a cart."""

    lot: str
    product: str
    quantity: int


def read_cart(texts: Iterable[str]) -> list[CartLine]:
    """Read a cart from what was typed. Raises Stop."""
    cart: dict[str, CartLine] = {}
    for line in map(_line, texts):
        if line.lot in cart:
            raise Stop(f"{line.lot} is named twice: each purchase needs a lot id", WRONG_USAGE)
        cart[line.lot] = line
    return list(cart.values())


def _line(text: str) -> CartLine:
    lot, _, rest = text.rpartition("=")
    product, _, typed = rest.partition(":")
    quantity = None
    if len(typed) <= DIGITS_MAX:
        with suppress(ValueError):
            quantity = int(typed)
    if not lot or product not in PRODUCTS or quantity is None:
        raise Stop(
            f"{text[:80]}: write LOT=PRODUCT:QUANTITY, like l-1=mu:2000;"
            f" the products are {', '.join(PRODUCTS)}",
            WRONG_USAGE,
        )
    return CartLine(lot, product, quantity)


def cart_document(catalog: Catalog, cart: Sequence[CartLine], *, on: date) -> dict[str, Any]:
    """Write what a cart costs, each purchase alone, and what all that have a price come to."""
    lots = [
        {
            "lot": line.lot,
            **reports.quote_document(catalog, PRODUCTS[line.product], line.quantity, on=on),
        }
        for line in cart
    ]
    counted = [
        Decimal(each["price"])
        for each in lots
        if each["price"] is not None and each["refused"] is None
    ]
    total = amount_text(sum(counted, Decimal(0))) if counted else None
    return {"on": on.isoformat(), "lots": lots, "total": total}


def show_cart(document: dict[str, Any]) -> None:
    """Show the price of each purchase by range, with its discount, and the total."""
    table = Table(title=f"prices of {document['on']}", show_footer=document["total"] is not None)
    table.add_column("lot", "total")
    table.add_column("product")
    table.add_column("range")
    for heading in ("quantity", "each"):
        table.add_column(heading, justify="right")
    table.add_column("amount", f"${document['total']}", justify="right")
    for each in document["lots"]:
        _add_rows(table, each)
        table.add_section()
    reports.console.print(table)
    unpriced = [each["lot"] for each in document["lots"] if each["price"] is None]
    if unpriced and document["total"] is not None:
        typer.echo(f"the total is without {', '.join(unpriced)}")


def _add_rows(table: Table, document: dict[str, Any]) -> None:
    start = (document["lot"], document["product"])
    if document["refused"] is not None:
        product = PRODUCTS[document["product"]]
        bounds = f"from {product.purchase_min:,} to {product.purchase_max:,}"
        table.add_row(*start, f"is bought {bounds}", f"{int(document['quantity']):,}")
        return
    if document["price"] is None:
        table.add_row(*start, "no published price", f"{int(document['quantity']):,}")
        return
    for row in reports.range_rows(document):
        table.add_row(*start, *row)
        start = ("", "")
    if document["month_price"] is not None:
        table.add_row("", "", "a month", "", "", f"${document['month_price']}")
        discount = f"12 months, less {document['discount_percent']} %"
        table.add_row("", "", discount, "", "", f"${document['price']}")
