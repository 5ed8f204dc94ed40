"""What is sold: products, plans, prices, thresholds, with effective dates; checked when loaded."""

from __future__ import annotations

import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from metering.errors import BadCatalog
from metering.periods import HOUR
from metering.quantities import THOUSAND, quantity_of

if TYPE_CHECKING:
    from metering.events import Tariff

AddsUp = Literal["level", "distinct", "count", "cost", "nothing"]
GLOBAL_SMS = "global_sms"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Product:
    """Something that is metered or switched on; its bounds are those of one purchase, in units."""

    name: str
    adds_up: AddsUp
    purchase_min: int
    purchase_max: int

    @property
    def is_windowed(self) -> bool:
        """Say whether its lots are given out month by month."""
        return self.adds_up in ("level", "distinct", "count")

    @property
    def is_metered(self) -> bool:
        """Say whether there is anything to count."""
        return self.adds_up != "nothing"


PRODUCTS = {
    product.name: product
    for product in (
        Product("mu", "level", 100, 1_000_000),
        Product("basic_seat", "distinct", 1, 1_000),
        Product("operator_seat", "distinct", 1, 1_000),
        Product("workflow", "count", 1, 9_999_999_999),
        Product("marketing", "count", 1, 9_999_999_999),
        Product("white_label", "nothing", 1, 1),
        Product("security_bundle", "nothing", 1, 1),
        Product("pu", "cost", 100, 9_999_999_999),
    )
}
PLANS = ("free", "trial", "early_stage", "growth", "enterprise")


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a plan gives of one product in a cycle. None stands for without end."""

    included: int | None = 0  # A quantity.
    limit: int | None = None  # A quantity.


@dataclass(frozen=True, slots=True)
class Range:
    """Units above the previous range and up to this one cost this much each."""

    up_to: int | None  # A quantity; None in the last range.
    each: Decimal  # Dollars a unit.


@dataclass(frozen=True, slots=True)
class Rate:
    """PU of one message, and of each of its segments, as quantities."""

    message: int
    segment: int = 0


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the rules that can be set."""

    horizon: int  # Microseconds, like the next three.
    closing: int
    ahead: int
    arrival: int
    postpaid_scale: Literal["cycle", "own"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """At which percentages and how many days before people are told."""

    quota_used: tuple[int, ...]
    limit_reached: tuple[int, ...]
    lot_low: tuple[int, ...]
    lot_expiring_days: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that whoever runs the system can set about products, plans and prices."""

    rules: Rules
    thresholds: Thresholds
    discounts: dict[str, Decimal]  # Percent, by product.
    plans: dict[str, dict[str, Allowance]]
    unit_prices: dict[str, tuple[tuple[date, tuple[Range, ...]], ...]]
    tariffs: tuple[tuple[date, dict[tuple[str, str], Rate]], ...]
    _tariff_days: list[date] = field(repr=False, default_factory=list)

    def allowance(self, plan: str, product: str) -> Allowance:
        """Look up what a plan gives of a product."""
        return self.plans[plan].get(product, _NOTHING)

    def ranges_on(self, product: str, day: date) -> tuple[Range, ...] | None:
        """Look up the unit prices of a product on a day; None if it has no published price."""
        lists = self.unit_prices.get(product, ())
        place = bisect_right([effective_on for effective_on, _ in lists], day)
        return lists[place - 1][1] if place else None

    def pu_of(self, tariff: Tariff, day: date) -> int | None:
        """Look up the PU quantity of one message on a day; None if nothing prices it."""
        if tariff.free:
            return 0
        place = bisect_right(self._tariff_days, day)
        rate = self.tariffs[place - 1][1].get((tariff.kind, tariff.country)) if place else None
        return None if rate is None else rate.message + rate.segment * tariff.segments

    @property
    def message_kinds(self) -> frozenset[str]:
        """The kinds of message that any tariff prices."""
        return frozenset(kind for _, rates in self.tariffs for kind, _ in rates)

    @property
    def countries(self) -> frozenset[str]:
        """The countries to which any tariff prices a global SMS."""
        return frozenset(
            country for _, rates in self.tariffs for kind, country in rates if kind == GLOBAL_SMS
        )

    def with_rules(
        self, *, horizon_days: int | None = None, closing_hours: int | None = None
    ) -> Catalog:
        """Replace single numbers of the rules, as settings may."""
        rules = self.rules
        if horizon_days is not None:
            rules = replace(rules, horizon=horizon_days * 24 * HOUR)
        if closing_hours is not None:
            rules = replace(rules, closing=closing_hours * HOUR)
        return replace(self, rules=rules)


_NOTHING = Allowance()


@lru_cache(maxsize=1)
def shipped_catalog() -> Catalog:
    """Load the catalog that comes with the program."""
    return read_catalog(files("metering").joinpath("catalog.toml").read_bytes().decode())


def read_catalog(text: str) -> Catalog:
    """Read a catalog from TOML. Raises BadCatalog, which names the first place that is wrong."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadCatalog(f"the catalog is no TOML: {error}") from error
    place = "[rules]"
    try:
        rules = _rules(document["rules"])
        place = "[thresholds]"
        thresholds = _thresholds(document["thresholds"])
        place = "[discount_percent]"
        discounts = _discounts(document["discount_percent"])
        place = "[plans]"
        plans = {plan: _plan(document["plans"][plan]) for plan in PLANS}
        _expect(set(document["plans"]) == set(PLANS), f"the plans are {', '.join(PLANS)}")
        place = "[[unit_prices]]"
        unit_prices = _unit_prices(document["unit_prices"])
        place = "[[tariffs]]"
        tariffs = _tariffs(document["tariffs"])
    except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation) as error:
        raise BadCatalog(f"{place} of the catalog: {_sentence(error)}") from error
    return Catalog(
        rules,
        thresholds,
        discounts,
        plans,
        unit_prices,
        tariffs,
        [effective_on for effective_on, _ in tariffs],
    )


def _rules(table: dict[str, Any]) -> Rules:
    scale = table["postpaid_scale"]
    _expect(scale in ("cycle", "own"), 'postpaid_scale is "cycle" or "own"')
    return Rules(
        horizon=_whole(table["horizon_days"], least=1) * 24 * HOUR,
        closing=_whole(table["closing_hours"], least=0) * HOUR,
        ahead=_whole(table["ahead_minutes"], least=0) * HOUR // 60,
        arrival=_whole(table["arrival_days"], least=0) * 24 * HOUR,
        postpaid_scale=scale,
    )


def _thresholds(table: dict[str, list[int]]) -> Thresholds:
    return Thresholds(
        quota_used=tuple(_whole(percent, least=1) for percent in table["quota_used_percent"]),
        limit_reached=tuple(_whole(percent, least=1) for percent in table["limit_reached_percent"]),
        lot_low=tuple(_whole(percent, least=0) for percent in table["lot_low_percent"]),
        # Told in the order in which they come up.
        lot_expiring_days=tuple(
            sorted((_whole(days, least=0) for days in table["lot_expiring_days"]), reverse=True)
        ),
    )


def _discounts(table: dict[str, str]) -> dict[str, Decimal]:
    discounts = {product: _decimal(table[product]) for product in PRODUCTS}
    _expect(all(percent <= 100 for percent in discounts.values()), "a discount is at most 100")  # noqa: PLR2004
    return discounts


def _plan(table: dict[str, Any]) -> dict[str, Allowance]:
    if table.get("everything_included"):
        return {name: Allowance(included=None) for name in PRODUCTS if name != "pu"}
    _expect(set(table) <= set(PRODUCTS), f"a plan names products: {', '.join(PRODUCTS)}")
    return {product: _allowance(given) for product, given in table.items()}


def _allowance(table: dict[str, int]) -> Allowance:
    limit = table.get("limit")
    return Allowance(
        included=quantity_of(_whole(table.get("included", 0), least=0)),
        limit=None if limit is None else quantity_of(_whole(limit, least=0)),
    )


def _unit_prices(
    tables: list[dict[str, Any]],
) -> dict[str, tuple[tuple[date, tuple[Range, ...]], ...]]:
    lists: dict[str, list[tuple[date, tuple[Range, ...]]]] = {}
    for table in tables:
        _expect(table["product"] in PRODUCTS, f"there is no product {table['product']!r}")
        lists.setdefault(table["product"], []).append(
            (_day(table["effective_on"]), _ranges(table["ranges"]))
        )
    return {product: _in_order(versions) for product, versions in lists.items()}


def _ranges(tables: list[dict[str, Any]]) -> tuple[Range, ...]:
    bounds = [table.get("up_to") for table in tables]
    finite = [_whole(bound, least=1) for bound in bounds[:-1]]
    _expect(bool(tables) and bounds[-1] is None, "the last range has no up_to")
    _expect(finite == sorted(set(finite)), "ranges rise")
    return tuple(
        Range(None if bound is None else quantity_of(bound), _decimal(table["each"]))
        for bound, table in zip(bounds, tables, strict=True)
    )


def _tariffs(tables: list[dict[str, Any]]) -> tuple[tuple[date, dict[tuple[str, str], Rate]], ...]:
    versions = []
    for table in tables:
        rates = {(kind, ""): Rate(_quantity(pu)) for kind, pu in table["kinds"].items()}
        for country, rate in table[GLOBAL_SMS].items():
            rates[GLOBAL_SMS, country] = Rate(
                _quantity(rate["message"]), _quantity(rate["segment"])
            )
        versions.append((_day(table["effective_on"]), rates))
    return _in_order(versions)


def _in_order(versions: list[tuple[date, _T]]) -> tuple[tuple[date, _T], ...]:
    by_day = dict(versions)
    _expect(len(by_day) == len(versions), "two lists are in effect from the same day")
    return tuple((day, by_day[day]) for day in sorted(by_day))


def _day(value: object) -> date:
    _expect(type(value) is date, "effective_on is a date")
    assert isinstance(value, date)
    return value


def _whole(value: object, *, least: int) -> int:
    _expect(type(value) is int and value >= least, f"a whole number of at least {least} is needed")
    assert isinstance(value, int)
    return value


def _decimal(value: object) -> Decimal:
    _expect(isinstance(value, str), "prices and percentages are written as text")
    number = Decimal(str(value))
    _expect(number.is_finite() and number >= 0, "prices and percentages are not negative")
    return number


def _quantity(value: object) -> int:
    quantity = _decimal(value) * THOUSAND
    _expect(quantity == int(quantity), "PU have at most three decimals")
    return int(quantity)


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _sentence(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
