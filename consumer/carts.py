"""Several purchases at once: the lots that are named, what each costs by range, and the total."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from consumer import reports
from consumer.terminal import WRONG_USAGE, Stop, grouped, shown
from metering.catalog import PRODUCTS
from metering.quantities import amount_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from rich.table import Table

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
    counted = [Decimal(each["price"]) for each in lots if _is_counted(each)]
    total = amount_text(sum(counted, Decimal(0))) if counted else None
    return {"on": on.isoformat(), "lots": lots, "total": total}


def _is_counted(document: dict[str, Any]) -> bool:
    return document["price"] is not None and document["refused"] is None


def show_cart(document: dict[str, Any]) -> None:
    """Show the price of each purchase by range, with its discount, and the total."""
    table = reports.a_table(f"prices of {document['on']}", "quantity", "each", "amount")
    for each in document["lots"]:
        _add_rows(table, each)
    if document["total"] is not None:
        table.add_row("total", "", "", f"${grouped(document['total'])}")
    reports.console.print(table)
    left_out = [shown(each["lot"]) for each in document["lots"] if not _is_counted(each)]
    if left_out and document["total"] is not None:
        typer.echo(f"the total is without {', '.join(left_out)}")


def _add_rows(table: Table, document: dict[str, Any]) -> None:
    name = f"{shown(document['lot'])}, {document['product']}"
    quantity = grouped(document["quantity"])
    if document["refused"] is not None:
        product = PRODUCTS[document["product"]]
        table.add_row(name, quantity, "", "refused")
        table.add_row(f"  is bought from {product.purchase_min:,} to {product.purchase_max:,}")
    elif document["price"] is None:
        table.add_row(name, quantity, "", "no published price")
    else:
        table.add_row(name, quantity)
        for label, *cells in reports.price_rows(document):
            table.add_row(f"  {label}", *cells)
