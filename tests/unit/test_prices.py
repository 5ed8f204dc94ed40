"""What a quantity costs, by the range each unit falls in."""

from dataclasses import replace
from datetime import date
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.catalog import PRODUCTS, Range, shipped_catalog
from metering.prices import PricedRange, Quote, by_range, graduated, quote
from metering.quantities import quantity_of

DAY = date(2024, 1, 1)
CATALOG = shipped_catalog()
WORKFLOW = CATALOG.ranges_on("workflow", DAY)
TWO_RANGES = (Range(10_000, Decimal("0.10")), Range(None, Decimal("0.01")))


def price(units, *, above=0):
    return graduated(WORKFLOW, above=quantity_of(above), up_to=quantity_of(units))


@pytest.mark.parametrize(
    ("units", "amount"),
    [
        (0, "0"),
        (1, "0"),
        (50, "0"),
        (51, "0.10"),
        (75, "2.50"),
        (1_000, "95"),
        (3_000, "295"),
        (3_001, "295.05"),
        (5_000, "395"),
        (20_000, "1145"),
        (20_001, "1145.01"),
        (9_999_999_999, "100000944.99"),
    ],
)
def test_each_unit_is_priced_by_the_range_it_falls_in(units, amount):
    assert price(units) == Decimal(amount)


@pytest.mark.parametrize(
    ("above", "units", "amount"),
    [
        (2_000, 2_100, "10"),
        (40, 60, "1.00"),
        (2_999, 3_001, "0.15"),
        (20_000, 20_010, "0.10"),
        (0, 60, "1.00"),
        (100, 100, "0"),
        (3_000, 3_000, "0"),
    ],
)
def test_units_are_priced_by_their_position(above, units, amount):
    assert price(units, above=above) == Decimal(amount)


def test_half_a_unit_costs_half():
    assert graduated(WORKFLOW, above=60_000, up_to=60_500) == Decimal("0.05")


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=6))
def test_parts_cost_together_what_the_whole_costs(cuts):
    bounds = [0, *sorted(cuts)]
    parts = [graduated(WORKFLOW, above=above, up_to=up_to) for above, up_to in pairwise(bounds)]

    assert sum(parts) == graduated(WORKFLOW, above=0, up_to=bounds[-1])


def test_the_ranges_of_a_price_say_what_falls_in_each():
    assert by_range(TWO_RANGES, above=0, up_to=12_500) == (
        PricedRange(0, 10_000, Decimal("0.10"), 10_000, Decimal(1)),
        PricedRange(10_000, None, Decimal("0.01"), 2_500, Decimal("0.025")),
    )


def test_a_range_that_nothing_falls_in_is_left_out():
    assert by_range(TWO_RANGES, above=0, up_to=10_000) == (
        PricedRange(0, 10_000, Decimal("0.10"), 10_000, Decimal(1)),
    )
    assert by_range(TWO_RANGES, above=10_000, up_to=10_001) == (
        PricedRange(10_000, None, Decimal("0.01"), 1, Decimal("0.00001")),
    )
    assert by_range(TWO_RANGES, above=0, up_to=0) == ()


def test_nothing_is_priced_beyond_the_range_without_end():
    ranges = (Range(None, Decimal(1)), Range(5_000, Decimal(7)))

    assert by_range(ranges, above=0, up_to=9_000) == (
        PricedRange(0, None, Decimal(1), 9_000, Decimal(9)),
    )


def test_a_year_costs_twelve_months_less_the_discount():
    found = quote(CATALOG, PRODUCTS["workflow"], 1_000_000, on=DAY)

    assert found == Quote(
        by_range(WORKFLOW, above=0, up_to=1_000_000), Decimal(95), Decimal(25), Decimal(855)
    )


def test_a_price_stays_exact_until_it_is_shown():
    discounts = CATALOG.discounts | {"workflow": Decimal("33.333")}

    found = quote(
        replace(CATALOG, discounts=discounts), PRODUCTS["workflow"], quantity_of(51), on=DAY
    )

    assert found.total == Decimal("0.80000400") == Decimal("0.10") * 12 * Decimal("0.66667")


def test_a_recharge_costs_its_units_once_and_knows_no_month():
    found = quote(CATALOG, PRODUCTS["pu"], quantity_of(12_345), on=DAY)

    assert (found.month, found.discount_percent, found.total) == (None, 0, Decimal("12.345"))
    assert [part.quantity for part in found.ranges] == [12_345_000]


@pytest.mark.parametrize("product", ["mu", "basic_seat", "marketing", "white_label"])
def test_what_has_no_price_is_quoted_without_one(product):
    assert quote(CATALOG, PRODUCTS[product], 1000, on=DAY) == Quote((), None, Decimal(25), None)


def test_a_price_that_is_not_in_effect_yet_is_none():
    assert quote(CATALOG, PRODUCTS["workflow"], 1000, on=date(1999, 12, 31)).total is None
