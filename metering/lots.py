"""A lot: one prepaid purchase, its windows, and the order in which lots burn.

Words: `quota` is what one window of the lot brings; `taken` counts what is gone from the quota of
each window;
`drawn` is what the running window has given to usage. All are quantities.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Final

from metering.catalog import Product
from metering.periods import MONTHS_OF_A_LOT, ONE_DAY, window_starts

NO_WINDOWS: Final[frozenset[int]] = frozenset()


@dataclass(slots=True)
class Window:
    """What is booked of one month of a lot, as quantities."""

    own: int = 0  # Drawn in this window from its own quota …
    carried: int = 0  # … from what earlier windows left over …
    borrowed: int = 0  # … and from the quotas of later ones.
    minimum: int = 0  # Deducted for this window with no use behind it.
    lent: int = 0  # Taken from its quota by earlier windows, in draws and minimum.
    taken: int = 0  # Taken from its quota by any window.


# Most months of most lots are still to come: they share this one, which nothing is booked on.
UNTOUCHED: Final = Window()


@dataclass(slots=True)
class Lot:
    """One purchase, as it stands in the books. Its flag of renewal is a value of the account."""

    lot: str
    product: Product
    quota: int  # A quantity: q of a windowed lot, all of a PU lot.
    starts_on: date
    month_price: Decimal | None
    price: Decimal | None
    is_refunded: bool = False
    has_started: bool = False  # Its start has been told.
    has_ended: bool = False  # Its end has been told, and its renewal decided.
    expiring_told: int = 0  # How many of the days before its end have been told.
    expired: int = 0
    windows: list[Window] = field(default_factory=list, repr=False)  # As booked; a PU lot has one.
    changed: frozenset[int] = field(
        default=NO_WINDOWS, repr=False
    )  # Windows that were booked on since loaded. Mostly none, and then all lots share it.
    starts: tuple[date, ...] = field(
        init=False, repr=False
    )  # Of its windows, and the day after it all.
    quotas: int = field(init=False, repr=False)  # How many times the quota it holds.

    def __post_init__(self) -> None:
        self.starts = window_starts(self.starts_on)
        self.quotas = quotas_of(self.product)
        if not self.windows:
            self.windows = [UNTOUCHED] * self.quotas

    @property
    def expires_on(self) -> date:
        """The day after the last."""
        return self.starts[MONTHS_OF_A_LOT]

    @property
    def ends_on(self) -> date:
        """The last day."""
        return self.expires_on - ONE_DAY

    @property
    def bought(self) -> int:
        """All it held when it was new."""
        return self.quota * self.quotas

    @property
    def pool(self) -> int:
        """All it still holds."""
        return (
            0
            if self.is_refunded
            else self.bought - self.expired - sum(window.taken for window in self.windows)
        )

    @property
    def minimum(self) -> int:
        """What a window must give, be it used or not."""
        return self.quota // 2 if self.product.is_windowed else 0

    @property
    def maximum(self) -> int:
        """The most that a window may give."""
        return self.quota * 2 if self.product.is_windowed else self.quota

    def window_to_book(self, number: int) -> Window:
        """Give one of its windows of its own, which may be moved on."""
        if self.windows[number] is UNTOUCHED:
            self.windows[number] = Window()
        return self.windows[number]

    def is_valid(self, day: date) -> bool:
        """Say whether usage of a day may be poured into it."""
        return not self.is_refunded and self.starts_on <= day < self.expires_on

    def window_of(self, day: date) -> int:
        """Say which window a day of the lot falls in; a PU lot has one."""
        return bisect_right(self.starts, day) - 1 if self.product.is_windowed else 0


def quotas_of(product: Product) -> int:
    """Say how many times its quota a lot of a product holds: one for each of its windows."""
    return MONTHS_OF_A_LOT if product.is_windowed else int(product.is_metered)


def burn_order(lot: Lot) -> tuple[date, date, str]:
    """Spend what ends first, then what began first; the id breaks ties."""
    return (lot.expires_on, lot.starts_on, lot.lot)


def base_name(lot: str) -> str:
    """Name the purchase that a renewed lot goes back to."""
    return lot.partition("~")[0]


def renewed_name(lot: str) -> str:
    """Name the lot that renews this one: l-1, l-1~2, l-1~3 and so on."""
    base, _, number = lot.partition("~")
    return f"{base}~{int(number or 1) + 1}"


@dataclass(slots=True, init=False)
class Burn:
    """How far a lot has been used up, seen from one day."""

    taken: list[int]  # From the quota of each window.
    window: int  # The running one.
    drawn: int  # By usage in the running window.

    def __init__(self, taken: list[int], window: int = 0, drawn: int = 0) -> None:
        self.taken, self.window, self.drawn = taken, window, drawn

    def pool(self, lot: Lot) -> int:
        """Sum what the lot still holds."""
        return lot.bought - sum(self.taken)
