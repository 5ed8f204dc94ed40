"""What people see in the terminal can be read in a narrow one, whatever things are called."""

import pytest

from consumer import reports
from consumer.terminal import SHOWN_CHARACTERS_MAX, grouped, shown

SUMS = {
    "usage": "6000",
    "included": "0",
    "own": "1904",
    "carried": "0",
    "borrowed": "1904.5",
    "postpaid": "2191.5",
    "postpaid_amount": "1021.59",
    "over_limit": "0",
}
PRODUCTS = ("mu", "basic_seat", "operator_seat", "workflow", "marketing", "pu")


def a_cycle(**changes):
    products = dict.fromkeys(PRODUCTS, SUMS | changes)
    return {
        "starts_on": "2024-01-01",
        "ends_on": "2024-01-31",
        "closed": True,
        "products": products,
    }


@pytest.fixture
def printed(monkeypatch, capsys):
    """Return what prints something in a terminal of a width, and gives the lines."""

    def show(width, what, *words):
        monkeypatch.setattr(reports.console, "_width", width)
        monkeypatch.setattr(reports.console, "_file", None)
        what(*words)
        return capsys.readouterr().out.splitlines()

    return show


@pytest.mark.parametrize("width", [80, 120])
def test_a_statement_is_not_cut_in_a_narrow_terminal(printed, width):
    lines = printed(width, reports.show_cycles, "c-1", [a_cycle(included="123456")])

    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    [row] = [line for line in lines if line.split()[:1] == ["operator_seat"]]
    assert row.split() == [
        "operator_seat", "6,000", "123,456", "1,904", "1,904.5", "2,191.5", "$1,021.59",
    ]  # fmt: skip


def test_columns_in_which_nothing_stands_are_left_out(printed):
    lines = printed(80, reports.show_cycles, "c-1", [a_cycle()])

    [heading] = [line for line in lines if "product" in line]
    assert heading.split() == ["product", "usage", "own", "borrowed", "postpaid", "amount"]


def test_numbers_for_which_no_table_has_room_are_written_one_after_the_other(printed):
    huge = "9999999999999.995"
    cycle = a_cycle(**dict.fromkeys(("usage", "included", "own", "carried", "postpaid"), huge))

    lines = printed(80, reports.show_cycles, "c-1", [cycle])

    text = " ".join(" ".join(lines).split())
    assert "carried 9,999,999,999,999.995" in text
    assert "…" not in text


def test_a_product_without_a_price_says_so(printed):
    lines = printed(80, reports.show_cycles, "c-1", [a_cycle(postpaid_amount=None)])

    assert sum("no price" in line for line in lines) == len(PRODUCTS)


@pytest.mark.parametrize(
    "name", ["[bold red]x", "[/]", ":smile:", "가나다 상점", "\x1b[31mred", "a\nb", "\u202egnp.exe"]
)
def test_names_are_neither_markup_nor_control_characters(printed, name):
    [line, *_] = printed(120, reports.show_cycles, name, [a_cycle()])

    assert line.startswith(shown(name) + ", 2024-01-01")
    assert line.isprintable()


def test_a_name_is_shown_whole_if_it_is_not_too_long():
    assert shown("가나다 상점 [x]") == "가나다 상점 [x]"
    assert shown("n" * SHOWN_CHARACTERS_MAX) == "n" * SHOWN_CHARACTERS_MAX
    assert shown("n" * 255) == "n" * (SHOWN_CHARACTERS_MAX - 1) + "…"
    assert shown("\u202ea\x00") == "\\u202ea\\x00"


@pytest.mark.parametrize(
    ("number", "words"),
    [("0", "0"), ("1234567.5", "1,234,567.5"), ("-0.5", "-0.5"), ("-1000", "-1,000")],
)
def test_thousands_are_grouped(number, words):
    assert grouped(number) == words
