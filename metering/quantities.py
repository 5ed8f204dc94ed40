"""Exact amounts: quantities are integers of a thousandth, money is a decimal that is rounded once.

Units: a `quantity` is an int that counts thousandths of a unit; an `amount` is a `Decimal` of US
dollars.
"""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Final

THOUSAND: Final = 1000

# Purchases reach 10^10 units × 12 months × prices of many decimals: never round before a cent is
# shown.
EXACT: Final = Context(prec=60, rounding=ROUND_HALF_UP)

_CENT: Final = Decimal("0.01")


def quantity_of(units: int) -> int:
    """Count whole units as a quantity."""
    return units * THOUSAND


def quantity_text(quantity: int) -> str:
    """Write a quantity as people read it: no trailing zeros, no exponent."""
    sign = "-" if quantity < 0 else ""
    units, rest = divmod(abs(quantity), THOUSAND)
    return f"{sign}{units}.{rest:03d}".rstrip("0") if rest else f"{sign}{units}"


def amount_text(amount: Decimal) -> str:
    """Write an amount in dollars with two decimals, rounded half up to the cent."""
    return str(amount.quantize(_CENT, context=EXACT))
