"""What is sold; a catalog that cannot be meant is refused with the place that is wrong."""

from datetime import date
from decimal import Decimal
from importlib.resources import files

import pytest

from metering.catalog import (
    PLANS,
    PRODUCTS,
    Allowance,
    Range,
    Rate,
    Rules,
    Thresholds,
    read_catalog,
    shipped_catalog,
)
from metering.errors import BadCatalog
from metering.events import Tariff
from metering.periods import HOUR

SHIPPED = files("metering").joinpath("catalog.toml").read_text(encoding="utf-8")
DAY = date(2024, 1, 1)

LATER_LISTS = """
[[unit_prices]]
product = "workflow"
effective_on = 2024-03-01
ranges = [{ each = "0.2" }]

[[unit_prices]]
product = "workflow"
effective_on = 1999-01-01
ranges = [{ each = "0.3" }]

[[tariffs]]
effective_on = 2024-03-01
kinds.sms = "11.5"
kinds.fax = "3"
global_sms.DE = { message = "14", segment = "20.125" }

[[tariffs]]
effective_on = 1999-01-01
kinds.telegram = "4"
global_sms.FR = { message = "1", segment = "2" }
"""


def changed(old, new):
    assert old in SHIPPED
    return SHIPPED.replace(old, new, 1)


def without(table):
    """Leave out a table, from its heading to the next one."""
    before, _, after = SHIPPED.partition(f"[{table}]")
    return before + after[after.index("\n[") :]


# What is shipped


@pytest.mark.parametrize(
    ("name", "adds_up", "least", "most", "is_windowed", "is_metered"),
    [
        ("mu", "level", 100, 1_000_000, True, True),
        ("basic_seat", "distinct", 1, 1_000, True, True),
        ("operator_seat", "distinct", 1, 1_000, True, True),
        ("workflow", "count", 1, 9_999_999_999, True, True),
        ("marketing", "count", 1, 9_999_999_999, True, True),
        ("white_label", "nothing", 1, 1, False, False),
        ("security_bundle", "nothing", 1, 1, False, False),
        ("pu", "cost", 100, 9_999_999_999, False, True),
    ],
)
def test_each_product_adds_up_in_its_way_and_is_bought_within_bounds(
    name, adds_up, least, most, is_windowed, is_metered
):
    product = PRODUCTS[name]

    assert product.name == name
    assert product.adds_up == adds_up
    assert (product.purchase_min, product.purchase_max) == (least, most)
    assert product.is_windowed is is_windowed
    assert product.is_metered is is_metered


def test_the_shipped_rules_are_those_that_are_written_down():
    assert shipped_catalog().rules == Rules(
        horizon=35 * 24 * HOUR,
        closing=72 * HOUR,
        ahead=HOUR // 6,
        arrival=14 * 24 * HOUR,
        postpaid_scale="cycle",
    )
    assert shipped_catalog().thresholds == Thresholds(
        quota_used=(80, 100),
        limit_reached=(80, 100),
        lot_low=(20, 10, 0),
        lot_expiring_days=(30, 7),
    )


def test_the_rules_count_whole_microseconds():
    rules = shipped_catalog().rules

    assert [type(rules.horizon), type(rules.closing), type(rules.ahead)] == [int] * 3
    assert type(rules.arrival) is int


def test_all_but_recharges_are_discounted():
    assert shipped_catalog().discounts == {name: 0 if name == "pu" else 25 for name in PRODUCTS}


@pytest.mark.parametrize(
    ("plan", "product", "included", "limit"),
    [
        ("free", "mu", None, None),
        ("trial", "white_label", None, None),
        ("free", "pu", 0, None),
        ("trial", "pu", 0, None),
        ("early_stage", "mu", 1_000_000, 3_000_000),
        ("early_stage", "basic_seat", 5_000, 10_000),
        ("early_stage", "operator_seat", 2_000, 5_000),
        ("early_stage", "workflow", 0, None),
        ("growth", "mu", 3_000_000, None),
        ("growth", "basic_seat", 0, None),
        ("enterprise", "mu", 0, None),
    ],
)
def test_each_plan_includes_and_limits_what_is_written_down(plan, product, included, limit):
    assert shipped_catalog().allowance(plan, product) == Allowance(included, limit)


def test_there_are_five_plans():
    assert tuple(shipped_catalog().plans) == PLANS


def test_the_unit_prices_are_those_that_are_written_down():
    assert shipped_catalog().ranges_on("workflow", DAY) == (
        Range(50_000, Decimal(0)),
        Range(3_000_000, Decimal("0.10")),
        Range(20_000_000, Decimal("0.05")),
        Range(None, Decimal("0.01")),
    )
    assert shipped_catalog().ranges_on("pu", DAY) == (Range(None, Decimal("0.001")),)
    assert shipped_catalog().ranges_on("mu", DAY) is None


@pytest.mark.parametrize(
    ("tariff", "pu"),
    [
        (Tariff("kakao_infotalk"), 7_000),
        (Tariff("kakao_cstalk"), 80_000),
        (Tariff("sms"), 10_000),
        (Tariff("lms"), 28_000),
        (Tariff("global_sms", "US", 1), 28_500),
        (Tariff("global_sms", "CA", 3), 57_500),
        (Tariff("global_sms", "JP", 2), 232_000),
        (Tariff("global_sms", "DE", 1), None),
        (Tariff("fax"), None),
        (Tariff("global_sms", "DE", 9, free=True), 0),
    ],
)
def test_a_message_costs_what_is_written_down(tariff, pu):
    assert shipped_catalog().pu_of(tariff, DAY) == pu


def test_nothing_is_priced_before_the_first_list_is_in_effect():
    assert shipped_catalog().pu_of(Tariff("sms"), date(1999, 12, 31)) is None
    assert shipped_catalog().pu_of(Tariff("sms", free=True), date(1999, 12, 31)) == 0
    assert shipped_catalog().pu_of(Tariff("sms"), date(2000, 1, 1)) == 10_000
    assert shipped_catalog().ranges_on("workflow", date(1999, 12, 31)) is None
    assert shipped_catalog().ranges_on("workflow", date(2000, 1, 1)) is not None


def test_the_kinds_and_countries_are_those_with_a_price():
    assert shipped_catalog().message_kinds == {
        "kakao_infotalk",
        "kakao_cstalk",
        "sms",
        "lms",
        "global_sms",
    }
    assert shipped_catalog().countries == {"US", "CA", "JP"}


def test_the_shipped_catalog_is_read_once():
    assert shipped_catalog() is shipped_catalog()


# Lists with effective dates


def test_the_latest_list_that_is_in_effect_counts():
    catalog = read_catalog(SHIPPED + LATER_LISTS)

    days = [date(1999, 6, 1), date(2024, 2, 29), date(2024, 3, 1), date(2030, 1, 1)]

    each = [catalog.ranges_on("workflow", day)[-1].each for day in days]
    assert each == [Decimal(price) for price in ("0.3", "0.01", "0.2", "0.2")]
    assert [catalog.pu_of(Tariff("sms"), day) for day in days] == [None, 10_000, 11_500, 11_500]
    assert [catalog.pu_of(Tariff("telegram"), day) for day in days] == [4_000, None, None, None]
    assert catalog.pu_of(Tariff("global_sms", "DE", 2), days[-1]) == 54_250
    assert catalog.ranges_on("pu", days[-1]) == (Range(None, Decimal("0.001")),)


def test_a_kind_or_country_of_any_list_is_known():
    catalog = read_catalog(SHIPPED + LATER_LISTS)

    assert {"fax", "telegram", "global_sms"} <= catalog.message_kinds
    assert catalog.countries == {"US", "CA", "JP", "DE", "FR"}


def test_rates_are_kept_as_quantities():
    catalog = read_catalog(SHIPPED + LATER_LISTS)

    [effective_on, rates] = catalog.tariffs[-1]
    assert effective_on == date(2024, 3, 1)
    assert rates == {
        ("sms", ""): Rate(11_500, 0),
        ("fax", ""): Rate(3_000, 0),
        ("global_sms", "DE"): Rate(14_000, 20_125),
    }


# Settings


def test_settings_replace_single_rules():
    catalog = shipped_catalog()

    assert catalog.with_rules() == catalog
    assert catalog.with_rules(horizon_days=1).rules.horizon == 24 * HOUR
    assert catalog.with_rules(horizon_days=1).rules.closing == 72 * HOUR
    assert catalog.with_rules(closing_hours=0).rules.closing == 0
    assert catalog.with_rules(closing_hours=5).rules.closing == 5 * HOUR
    assert catalog.with_rules(closing_hours=5).rules.horizon == 35 * 24 * HOUR
    assert catalog.with_rules(closing_hours=5).plans is catalog.plans


def test_every_number_of_the_rules_can_be_set():
    text = SHIPPED
    for old, new in {
        "horizon_days = 35": "horizon_days = 1",
        "closing_hours = 72": "closing_hours = 0",
        "ahead_minutes = 10": "ahead_minutes = 0",
        "arrival_days = 14": "arrival_days = 0",
        'postpaid_scale = "cycle"': 'postpaid_scale = "own"',
        "quota_used_percent = [80, 100]": "quota_used_percent = [1]",
        "limit_reached_percent = [80, 100]": "limit_reached_percent = [1, 50]",
        "lot_low_percent = [20, 10, 0]": "lot_low_percent = [5]",
        "lot_expiring_days = [30, 7]": "lot_expiring_days = [0, 60, 7]",
        'pu = "0"': 'pu = "100"',
        'mu = "25"': 'mu = "12.5"',
        "[plans.growth]\nmu = { included = 3000 }": "[plans.growth]\nmu = { limit = 7 }",
    }.items():
        assert old in text
        text = text.replace(old, new, 1)

    catalog = read_catalog(text)

    assert catalog.rules == Rules(24 * HOUR, 0, 0, 0, "own")
    assert catalog.thresholds == Thresholds((1,), (1, 50), (5,), (60, 7, 0))
    assert catalog.discounts["pu"] == 100
    assert catalog.discounts["mu"] == Decimal("12.5")
    assert catalog.allowance("growth", "mu") == Allowance(0, 7_000)


def test_a_plan_may_name_every_product():
    every = "".join(f"{product} = {{ included = 1 }}\n" for product in PRODUCTS)
    catalog = read_catalog(
        changed("[plans.growth]\nmu = { included = 3000 }", "[plans.growth]\n" + every)
    )

    assert catalog.plans["growth"] == dict.fromkeys(PRODUCTS, Allowance(1_000))


# What is refused

WHOLE = "a whole number of at least {} is needed"
TEXT = "prices and percentages are written as text"
NEGATIVE = "prices and percentages are not negative"
PRODUCT_NAMES = (
    "a plan names products: mu, basic_seat, operator_seat, workflow, marketing, white_label, "
    "security_bundle, pu"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("horizon_days = 35", "", "[rules] of the catalog: 'horizon_days' is missing"),
        (
            "horizon_days = 35",
            "horizon_days = 0",
            f"[rules] of the catalog: {WHOLE.format(1)}",
        ),
        (
            "horizon_days = 35",
            "horizon_days = true",
            f"[rules] of the catalog: {WHOLE.format(1)}",
        ),
        ("closing_hours = 72", "", "[rules] of the catalog: 'closing_hours' is missing"),
        (
            "closing_hours = 72",
            "closing_hours = -1",
            f"[rules] of the catalog: {WHOLE.format(0)}",
        ),
        (
            "closing_hours = 72",
            "closing_hours = 7.0",
            f"[rules] of the catalog: {WHOLE.format(0)}",
        ),
        (
            "ahead_minutes = 10",
            "ahead_minutes = -1",
            f"[rules] of the catalog: {WHOLE.format(0)}",
        ),
        (
            "arrival_days = 14",
            "arrival_days = -1",
            f"[rules] of the catalog: {WHOLE.format(0)}",
        ),
        (
            'postpaid_scale = "cycle"',
            'postpaid_scale = "calendar"',
            '[rules] of the catalog: postpaid_scale is "cycle" or "own"',
        ),
        (
            "quota_used_percent = [80, 100]",
            "quota_used_percent = [0]",
            f"[thresholds] of the catalog: {WHOLE.format(1)}",
        ),
        (
            "limit_reached_percent = [80, 100]",
            "limit_reached_percent = [0]",
            f"[thresholds] of the catalog: {WHOLE.format(1)}",
        ),
        (
            "lot_low_percent = [20, 10, 0]",
            "lot_low_percent = [-1]",
            f"[thresholds] of the catalog: {WHOLE.format(0)}",
        ),
        (
            "lot_expiring_days = [30, 7]",
            "lot_expiring_days = [-1]",
            f"[thresholds] of the catalog: {WHOLE.format(0)}",
        ),
        (
            "lot_expiring_days = [30, 7]",
            "",
            "[thresholds] of the catalog: 'lot_expiring_days' is missing",
        ),
        ('mu = "25"\n', "", "[discount_percent] of the catalog: 'mu' is missing"),
        ('mu = "25"', "mu = 25", f"[discount_percent] of the catalog: {TEXT}"),
        ('mu = "25"', 'mu = "-1"', f"[discount_percent] of the catalog: {NEGATIVE}"),
        ('mu = "25"', 'mu = "NaN"', f"[discount_percent] of the catalog: {NEGATIVE}"),
        ('mu = "25"', 'mu = "Infinity"', f"[discount_percent] of the catalog: {NEGATIVE}"),
        (
            'mu = "25"',
            'mu = "100.1"',
            "[discount_percent] of the catalog: a discount is at most 100",
        ),
        ("[plans.enterprise]", "", "[plans] of the catalog: 'enterprise' is missing"),
        (
            "[plans.enterprise]",
            "[plans.enterprise]\n[plans.platinum]",
            ("[plans] of the catalog: the plans are free, trial, early_stage, growth, enterprise"),
        ),
        (
            "[plans.enterprise]",
            "[plans.enterprise]\ncontacts = { included = 1 }",
            f"[plans] of the catalog: {PRODUCT_NAMES}",
        ),
        (
            "mu = { included = 3000 }",
            "mu = { included = -1 }",
            f"[plans] of the catalog: {WHOLE.format(0)}",
        ),
        (
            "mu = { included = 3000 }",
            "mu = { limit = -1 }",
            f"[plans] of the catalog: {WHOLE.format(0)}",
        ),
        (
            "mu = { included = 3000 }",
            "mu = 3000",
            "[plans] of the catalog: 'int' object has no attribute 'get'",
        ),
        (
            'product = "workflow"',
            'product = "workflows"',
            "[[unit_prices]] of the catalog: there is no product 'workflows'",
        ),
        (
            "effective_on = 2000-01-01",
            "effective_on = 2000-01-01T00:00:00Z",
            "[[unit_prices]] of the catalog: effective_on is a date",
        ),
        (
            "effective_on = 2000-01-01",
            'effective_on = "2000-01-01"',
            "[[unit_prices]] of the catalog: effective_on is a date",
        ),
        (
            'ranges = [{ each = "0.001" }]',
            "ranges = []",
            "[[unit_prices]] of the catalog: the last range has no up_to",
        ),
        (
            'ranges = [{ each = "0.001" }]',
            'ranges = [{ up_to = 5, each = "0.001" }]',
            "[[unit_prices]] of the catalog: the last range has no up_to",
        ),
        (
            "{ up_to = 3000,",
            "{ up_to = 50,",
            "[[unit_prices]] of the catalog: ranges rise",
        ),
        (
            "{ up_to = 3000,",
            "{ up_to = 30000,",
            "[[unit_prices]] of the catalog: ranges rise",
        ),
        (
            "{ up_to = 50,",
            "{ up_to = 0,",
            f"[[unit_prices]] of the catalog: {WHOLE.format(1)}",
        ),
        (
            "{ up_to = 50, ",
            "{ ",
            f"[[unit_prices]] of the catalog: {WHOLE.format(1)}",
        ),
        (
            'each = "0.10"',
            "each = 0.10",
            f"[[unit_prices]] of the catalog: {TEXT}",
        ),
        ('kinds.sms = "10"', "kinds.sms = 10", f"[[tariffs]] of the catalog: {TEXT}"),
        (
            'kinds.sms = "10"',
            'kinds.sms = "10.0005"',
            "[[tariffs]] of the catalog: PU have at most three decimals",
        ),
        (
            'global_sms.JP = { message = "14", segment = "109" }',
            'global_sms.JP = { message = "14" }',
            "[[tariffs]] of the catalog: 'segment' is missing",
        ),
        (
            'global_sms.JP = { message = "14", segment = "109" }',
            'global_sms.JP = { segment = "109" }',
            "[[tariffs]] of the catalog: 'message' is missing",
        ),
        (
            "[[tariffs]]\neffective_on = 2000-01-01",
            "[[tariffs]]",
            "[[tariffs]] of the catalog: 'effective_on' is missing",
        ),
    ],
)
def test_a_catalog_that_cannot_be_meant_is_refused_with_the_place(old, new, message):
    with pytest.raises(BadCatalog) as refused:
        read_catalog(changed(old, new))

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (without("rules"), "[rules] of the catalog: 'rules' is missing"),
        (without("thresholds"), "[thresholds] of the catalog: 'thresholds' is missing"),
        (
            without("discount_percent"),
            "[discount_percent] of the catalog: 'discount_percent' is missing",
        ),
        (
            SHIPPED.replace("plans.", "plan."),
            "[plans] of the catalog: 'plans' is missing",
        ),
        (
            SHIPPED.replace("[[unit_prices]]", "[[prices]]"),
            "[[unit_prices]] of the catalog: 'unit_prices' is missing",
        ),
        (
            SHIPPED.replace("[[tariffs]]", "[[prices]]"),
            "[[tariffs]] of the catalog: 'tariffs' is missing",
        ),
    ],
)
def test_a_catalog_without_one_of_its_tables_is_refused(text, message):
    with pytest.raises(BadCatalog) as refused:
        read_catalog(text)

    assert str(refused.value) == message


def test_a_file_that_is_no_toml_is_refused_with_the_line():
    with pytest.raises(BadCatalog, match=r"^the catalog is no TOML: .*line 2"):
        read_catalog("[rules]\nhorizon_days = soon")


def test_a_price_that_is_no_number_is_refused():
    with pytest.raises(BadCatalog, match=r"^\[discount_percent\] of the catalog: "):
        read_catalog(changed('mu = "25"', 'mu = "a quarter"'))


def test_thresholds_that_are_no_list_are_refused():
    with pytest.raises(BadCatalog, match=r"^\[thresholds\] of the catalog: "):
        read_catalog(changed("quota_used_percent = [80, 100]", "quota_used_percent = 80"))


@pytest.mark.parametrize("place", ["unit_prices", "tariffs"])
def test_two_lists_that_count_from_the_same_day_are_refused(place):
    again = LATER_LISTS.replace("2024-03-01", "2000-01-01", 1)
    if place == "tariffs":
        again = SHIPPED[SHIPPED.index("[[tariffs]]") :]

    with pytest.raises(BadCatalog, match=rf"^\[\[{place}\]\] of the catalog: two lists are"):
        read_catalog(SHIPPED + again)
