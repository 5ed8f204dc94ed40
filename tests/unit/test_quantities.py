"""Exact amounts, and the one place that rounds."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.quantities import EXACT, amount_text, quantity_of, quantity_text


def test_a_unit_is_a_thousand_steps():
    assert quantity_of(0) == 0
    assert quantity_of(7) == 7000


@pytest.mark.parametrize(
    ("quantity", "text"),
    [
        (0, "0"),
        (1, "0.001"),
        (10, "0.01"),
        (500, "0.5"),
        (1_000, "1"),
        (1_050, "1.05"),
        (57_500, "57.5"),
        (100_000, "100"),
        (12_345_678, "12345.678"),
        (-1, "-0.001"),
        (-14_500, "-14.5"),
        (-20_000, "-20"),
    ],
)
def test_a_quantity_is_written_without_trailing_zeros(quantity, text):
    assert quantity_text(quantity) == text


@given(st.integers(-(10**18), 10**18))
def test_a_written_quantity_is_the_quantity(quantity):
    text = quantity_text(quantity)

    assert Decimal(text) * 1000 == quantity
    assert "E" not in text
    assert not (text.endswith("0") and "." in text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        ("0", "0.00"),
        ("1", "1.00"),
        ("0.004", "0.00"),
        ("0.005", "0.01"),
        ("0.015", "0.02"),
        ("0.025", "0.03"),
        ("2.675", "2.68"),
        ("2.67499999999999999999999999999999", "2.67"),
        ("-0.005", "-0.01"),
        ("89999999991.005", "89999999991.01"),
        ("1E+3", "1000.00"),
    ],
)
def test_an_amount_has_two_decimals_rounded_half_up(amount, text):
    assert amount_text(Decimal(amount)) == text


def test_an_amount_of_fifty_digits_is_exact():
    amount = Decimal("1234567890123456789012345678901234567890123456.785")

    assert amount_text(amount) == "1234567890123456789012345678901234567890123456.79"


def test_a_sum_of_sixty_digits_is_exact():
    total = EXACT.add(Decimal(10**30), Decimal("1E-29"))

    assert str(total) == "1000000000000000000000000000000.00000000000000000000000000001"
