"""What a picture of a channel says in words, wherever it is drawn: title, months, units, notes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from consumer.terminal import shown
from metering.quantities import THOUSAND, quantity_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from metering.months import Month

UNITS = {
    "mu": "contacts",
    "basic_seat": "seats",
    "operator_seat": "seats",
    "workflow": "actions",
    "marketing": "messages",
    "pu": "PU",
}

# More months than these cannot be told apart on a page.
MONTHS_MAX = 24
# Up to so many, there is room for an amount over each.
AMOUNT_ROOM_MONTHS = 13

BILLION, MILLION = 10**9, 10**6


@dataclass(frozen=True, slots=True)
class Picture:
    """What is drawn of a channel."""

    title: str
    subtitle: str
    products: Mapping[str, Sequence[Month]]
    notes: tuple[str, ...]

    def spelled_out(self, letters: Collection[str]) -> Picture:
        """Write letters that cannot be drawn as what they are called."""
        names = {ord(letter): letter.encode("unicode_escape").decode() for letter in letters}
        return replace(self, title=self.title.translate(names))


def picture_of(channel: str, months: Mapping[str, Sequence[Month]]) -> Picture:
    """Put into words what is drawn: the newest months of each product."""
    # Months before anything was used or bought say nothing.
    first = min(map(_first_telling, months.values()), default=0)
    number = max(map(len, months.values()), default=0) - first
    products = {product: found[first:][-MONTHS_MAX:] for product, found in months.items()}
    title = f"Channel {shown(channel)}"
    if not products:
        return Picture(title, "prepaid lots and what months took from them", {}, ())
    newest = next(iter(products.values()))
    period = f"{newest[0].starts_on:%d %b %Y} to {newest[-1].ends_on:%d %b %Y}"
    which = f"the last {MONTHS_MAX} of {number} months" if number > MONTHS_MAX else ""
    subtitle = ", ".join(filter(None, ("billing months", which, period)))
    return Picture(title, subtitle, products, tuple(_notes(products)))


def _first_telling(months: Sequence[Month]) -> int:
    told = (place for place, month in enumerate(months) if not month.is_empty)
    return next(told, len(months) - 1)


def _notes(products: Mapping[str, Sequence[Month]]) -> list[str]:
    notes = []
    included = {
        product: max(month.included for month in months) for product, months in products.items()
    }
    most = ", ".join(
        f"{quantity_text(quantity)} {UNITS[product]} of {product}"
        for product, quantity in included.items()
        if quantity
    )
    if most:
        notes.append(f"Not drawn: what the plan includes, at most {most} in one month.")
    if any(month.is_askew for months in products.values() for month in months):
        notes.append(
            "Months of these lots begin on other days than billing months: quota, minimum and"
            " maximum are those of the lots that are valid together."
        )
    return notes


def month_names(months: Sequence[Month], *, named: Collection[int] | None = None) -> list[str]:
    """Name months by their first day; the year stands with the first of each.

    Where only some of the places, from 1 on, get a name, these are the months that have one.
    """
    from_the_first = all(month.starts_on.day == 1 for month in months)
    names, year = [], None
    for place, month in enumerate(months, start=1):
        name = f"{month.starts_on:%b}" if from_the_first else f"{month.starts_on:%d %b}"
        if month.starts_on.year != year and (named is None or place in named):
            year = month.starts_on.year
            name += f"\n{year}"
        names.append(name)
    return names


def units_of(quantity: int) -> float:
    """Turn a quantity into units, as near as a picture needs it."""
    return quantity / THOUSAND


def brief(number: float) -> str:
    """Write a number so that it fits beside a line."""
    if abs(number) >= BILLION:
        return f"{number / BILLION:,.4g} bn"
    if abs(number) >= 10 * MILLION:
        return f"{number / MILLION:,.4g} M"
    return f"{number:,.1f}".removesuffix(".0")
