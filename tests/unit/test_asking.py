"""A command that would be rejected is not sent, and whoever typed it is told what to type."""

import io
import sys

import pytest

from consumer.answers import REFUSALS
from metering.errors import REFUSAL_REASONS
from tests.shell import Shell

# Nobody listens there: what reaches Kafka ends with another status.
NOWHERE = {
    "LOTMETER_KAFKA_SERVERS": "127.0.0.1:1",
    "LOTMETER_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
}
REGISTER = ("channel", "register", "acme", "--time-zone", "Asia/Seoul", "--billing-day", "1")


@pytest.fixture
def lotmeter(monkeypatch, capsys):
    return Shell(monkeypatch, capsys, NOWHERE).run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lot", "purchase", "acme"), "Missing argument"),
        (("lot", "purchase", "acme", "l-1"), "write LOT=PRODUCT:QUANTITY"),
        (("lot", "purchase", "acme", "l-1=mu"), "write LOT=PRODUCT:QUANTITY"),
        (("lot", "purchase", "acme", "=mu:100"), "write LOT=PRODUCT:QUANTITY"),
        (("lot", "purchase", "acme", "l-1=gold:100"), "the products are mu, basic_seat"),
        (("lot", "purchase", "acme", "l-1=mu:many"), "write LOT=PRODUCT:QUANTITY"),
        (("lot", "purchase", "acme", "l-1=mu:" + "9" * 5_000), "write LOT=PRODUCT:QUANTITY"),
        (("lot", "purchase", "acme", "l-1=mu:100", "l-1=pu:100"), "l-1 is named twice"),
        (("lot", "purchase", "acme", "l~2=mu:100", "--yes"), "lot must not hold ~"),
        (("lot", "purchase", "", "l-1=mu:100", "--yes"), "subject must be a text"),
        (("lot", "purchase", "acme", "l-1=mu:100", "--json"), "add --yes"),
        (("lot", "purchase", "acme", "l-1=mu:100", "--yes", "--at", "noon"), "--at must be"),
        (("lot", "reserve-change", "acme", "l-1"), "say --quantity"),
        (("lot", "reserve-change", "acme", "l-1", "--quantity", "x"), "valid integer"),
        (("lot", "renewal", "acme", "l-1", "maybe"), "switched on or off"),
        (("lot", "cancel", "acme", "l-1", "--within", "-1"), "--within"),
        (("lot", "explode", "acme"), "No such command"),
        ((*REGISTER, "--plan", "gold"), "plan is not one"),
        ((*REGISTER, "--plan", "trial"), "trial_ends_on is required"),
        ((*REGISTER, "--plan", "trial", "--trial-ends-on", "soon"), "soon is no day"),
        (("channel", "change", "acme"), "say --plan"),
        (("channel", "change", "acme", "--billing-day", "28"), "from 1 to 27"),
        (("channel", "change", "acme", "--billing-day", "last"), "1 to 27, or end"),
        (("limit", "acme", "gold", "5"), "product is not one"),
        (("limit", "acme", "mu", "some"), "a whole number, or none"),
        (("limit", "acme", "mu", "1" + "0" * 13), "to 1000000000000"),
    ],
)
def test_wrong_usage_is_told_in_one_line_and_nothing_is_sent(lotmeter, arguments, words):
    said = lotmeter(*arguments)

    assert said.status == 2
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yesterday\n"])
def test_whoever_does_not_say_yes_buys_nothing(lotmeter, monkeypatch, answer):
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))

    said = lotmeter("lot", "purchase", "acme", "l-1=workflow:1000")

    assert said.status == 1
    assert "$855.00" in said.out
    assert "nothing was sent" in said.err


@pytest.mark.parametrize("arguments", [(), ("--wait",)])
def test_a_server_that_does_not_answer_is_told_in_one_line(lotmeter, arguments):
    said = lotmeter("lot", "refund", "acme", "l-1", *arguments)

    assert said.status == 1
    assert "cannot" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "arguments"), [("KAFKA_SERVERS", ()), ("DATABASE_URL", ("--wait",))]
)
def test_a_server_that_nobody_named_is_asked_for(lotmeter, monkeypatch, name, arguments):
    monkeypatch.delenv(f"LOTMETER_{name}")

    said = lotmeter("lot", "refund", "acme", "l-1", *arguments)

    assert said.status == 2
    assert f"LOTMETER_{name} is not set" in said.err


def test_every_refusal_has_words_that_a_customer_can_read():
    assert set(REFUSALS) == set(REFUSAL_REASONS)
    assert not any(reason in words or "_" in words for reason, words in REFUSALS.items())


def test_a_cart_shows_each_price_by_range_the_discount_and_the_total(lotmeter, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))

    said = lotmeter(
        *("lot", "purchase", "acme", "--at", "2026-01-05T00:00:00Z"),
        *(f"w-{number}=workflow:1000" for number in range(5)),
        *("w-5=workflow:5000", "p-1=pu:12000", "m-1=mu:2000", "x-1=white_label:2"),
        "w-6=workflow:0",
    )

    words = [" ".join(line.split()) for line in said.out.splitlines()]
    assert "prices of 2026-01-05 quantity each amount" in words
    place = words.index("w-5, workflow 5,000")
    assert words[place + 1 : place + 6] == [
        "1 to 50 50 $0 $0.00",
        "51 to 3,000 2,950 $0.10 $295.00",
        "3,001 to 20,000 2,000 $0.05 $100.00",
        "a month $395.00",
        "12 months, less 25 % $3,555.00",
    ]
    # Examples E3 and E4 of the rules: five purchases of 1,000 are not one of 5,000.
    assert words.count("a month $95.00") == 5
    assert words.count("12 months, less 25 % $855.00") == 5
    place = words.index("p-1, pu 12,000")
    assert words[place + 1 : place + 3] == ["1 and up 12,000 $0.001 $12.00", "in all $12.00"]
    assert "m-1, mu 2,000 no published price" in words
    place = words.index("x-1, white_label 2 refused")
    assert words[place + 1] == "is bought from 1 to 1"
    assert "total $7,842.00" in words
    assert "the total is without m-1, x-1, w-6" in words
