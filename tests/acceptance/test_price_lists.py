"""Prices have a day from which they count: purchases, renewals, messages and postpaid units cost
what is asked on their own day.
"""

from importlib.resources import files

import pytest

from metering.catalog import read_catalog
from tests.builders import message, purchased, registered, scheduled, workflow
from tests.shell import Shell

# From March 10 on an action costs twenty cents however many there are, and from 2025 on one cent
# less; mu has a price from March on; an SMS costs more from the 10th on.
LATER_PRICES = """
[[unit_prices]]
product = "workflow"
effective_on = 2025-01-05
ranges = [{ each = "0.19" }]

[[unit_prices]]
product = "workflow"
effective_on = 2024-03-10
ranges = [{ each = "0.20" }]

[[unit_prices]]
product = "mu"
effective_on = 2024-03-01
ranges = [{ each = "0.5" }]

[[tariffs]]
effective_on = 2024-03-10
kinds.sms = "12.5"
global_sms.US = { message = "15", segment = "14.5" }
"""


@pytest.fixture
def catalog_file(tmp_path):
    """Write the shipped catalog with price lists that come later."""
    path = tmp_path / "catalog.toml"
    shipped = files("metering").joinpath("catalog.toml").read_text(encoding="utf-8")
    path.write_text(shipped + LATER_PRICES, encoding="utf-8")
    return path


@pytest.fixture
def catalog(catalog_file):
    return read_catalog(catalog_file.read_text(encoding="utf-8"))


@pytest.fixture
def lotmeter(monkeypatch, capsys, catalog_file):
    return Shell(monkeypatch, capsys, {"LOTMETER_CATALOG": str(catalog_file)}).run


def price_of(books, lot):
    found = books.lot(lot)
    return found["month_price"], found["price"]


@pytest.mark.parametrize(
    ("on", "ranges", "month", "year"),
    [
        ("2024-03-09", [("50", "0"), ("950", "0.10")], "95.00", "855.00"),
        ("2024-03-10", [("1000", "0.20")], "200.00", "1800.00"),
        ("2025-01-04", [("1000", "0.20")], "200.00", "1800.00"),
        ("2025-01-05", [("1000", "0.19")], "190.00", "1710.00"),
    ],
)
def test_a_quote_is_that_of_its_day(lotmeter, on, ranges, month, year):
    document = lotmeter("quote", "workflow", "1000", "--on", on, "--json").document

    assert [(part["quantity"], part["each"]) for part in document["ranges"]] == ranges
    assert (document["month_price"], document["price"]) == (month, year)


def test_before_its_first_price_a_product_has_none(lotmeter):
    before = lotmeter("quote", "mu", "100", "--on", "2024-02-29")
    document = lotmeter("quote", "mu", "100", "--on", "2024-03-01", "--json").document

    assert "no published price" in before.out
    assert document["price"] == "450.00"


async def test_a_lot_is_renewed_at_the_price_of_its_day(simulated):
    books = await simulated(
        registered("2024-01-01"),
        purchased("2024-01-04", "workflow", 1000, "old", renew=True),
        purchased("2024-01-05", "workflow", 1000, "newer", renew=True),
        purchased("2024-02-29", "mu", 100, "unpriced", renew=True),
        as_of="2026-02-01",
    )

    assert price_of(books, "old") == price_of(books, "newer") == ("95.00", "855.00")
    assert price_of(books, "old~2") == ("200.00", "1800.00")
    assert price_of(books, "newer~2") == ("190.00", "1710.00")
    assert price_of(books, "old~3") == ("190.00", "1710.00")
    assert price_of(books, "unpriced") == (None, None)
    assert price_of(books, "unpriced~2") == ("50.00", "450.00")


async def test_a_purchase_and_a_reservation_cost_what_is_asked_on_their_day(simulated):
    books = await simulated(
        registered("2024-02-01", billing_day=10),
        scheduled("2024-02-12", "workflow", 1000, "reserved"),
        # In Seoul it is March 10 already.
        purchased("2024-03-09T14:59:59Z", "workflow", 1000, "before"),
        purchased("2024-03-09T15:00:00Z", "workflow", 1000, "after"),
        as_of="2024-03-12",
    )

    assert price_of(books, "before") == ("95.00", "855.00")
    assert price_of(books, "after") == ("200.00", "1800.00")
    assert price_of(books, "reserved") == ("200.00", "1800.00")


async def test_each_postpaid_unit_and_each_message_costs_what_is_asked_on_its_day(simulated):
    books = await simulated(
        registered("2024-03-01"),
        workflow("2024-03-09", 60),
        workflow("2024-03-10", 5),
        message("2024-03-09", "sms", 2),
        message("2024-03-10", "sms", 2),
        message("2024-03-10", "global_sms", 1, country="US", segments=2),
        as_of="2024-04-10",
    )

    # Actions 51 to 60 at ten cents, then five at twenty; the closed cycle stays as it is.
    assert books.product("workflow", "2024-03-01")["postpaid_amount"] == "2.00"
    pu = books.product("pu", "2024-03-01")
    assert pu["kinds"] == {
        "global_sms": {"messages": "1", "pu": "44"},
        "sms": {"messages": "4", "pu": "45"},
    }
    assert pu["postpaid_amount"] == "0.09"
