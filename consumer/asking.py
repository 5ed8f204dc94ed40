"""How a command is given from the shell: written, held against the rules of reading, shown, sent,
answered.
"""

from __future__ import annotations

import sys
from secrets import token_hex
from typing import Any, NamedTuple

import orjson
import typer

from consumer.answers import Order, give, give_and_wait
from consumer.carts import cart_document, read_cart, show_cart
from consumer.decoding import instant_from
from consumer.readers import decoder_for
from consumer.sending import Outgoing
from consumer.terminal import (
    FINDING,
    INTERRUPTED,
    WRONG_USAGE,
    Stop,
    catalog_of,
    print_json,
    run,
    settings_for,
)
from consumer.wall_clock import now_instant
from metering.commands import Command
from metering.errors import Rejected
from metering.periods import moment_of

SOURCE = "/lotmeter/cli"


class Manner(NamedTuple):
    """How a command is given, whatever it asks for."""

    at: str | None
    wait: bool
    within: float
    json: bool


class Wish(NamedTuple):
    """What is asked for: what people know it by, the type of the command and what it says."""

    about: str
    kind: str
    data: dict[str, Any]
    command_id: str | None = None  # Where somebody chose one.


def buy(
    channel_id: str, kind: str, typed: list[str], manner: Manner, *, renew: bool, yes: bool
) -> None:
    """Show what a cart costs, ask, and buy."""
    if manner.json and not yes:
        raise Stop("--json asks no questions: add --yes", WRONG_USAGE)
    cart = read_cart(typed)
    wishes = [Wish(line.lot, kind, line._asdict() | {"renew": renew}) for line in cart]
    orders = _orders(channel_id, wishes, manner)
    catalog = catalog_of(settings_for(kafka=False, database=False))
    document = cart_document(catalog, cart, on=moment_of(orders[0].command.at).date())
    if not manner.json:
        show_cart(document)
        if kind == "lot.scheduled":
            typer.echo("each is bought at the price of the day on which it is bought")
    if not yes:
        _confirm("Buy this?" if kind == "lot.purchased" else "Reserve this?")
    _give(orders, manner, {"cart": document})


def _confirm(question: str) -> None:
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        typer.echo(err=True)
    if answer.strip().lower() not in ("y", "yes"):
        raise Stop("nothing was sent: answer y, or say --yes", FINDING)


def ask(channel_id: str, wish: Wish, manner: Manner) -> None:
    """Give one command."""
    _give(_orders(channel_id, [wish], manner), manner, {})


def _orders(channel_id: str, wishes: list[Wish], manner: Manner) -> list[Order]:
    """Write commands, as they will be read. Raises Stop for one that would be rejected."""
    settings = settings_for(database=False)
    decode = decoder_for(catalog_of(settings), commands_topic=settings.commands_topic)
    now = moment_of(now_instant()).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if manner.at is not None and instant_from(manner.at) is None:
        raise Stop("--at must be a time with an offset, like 2025-01-01T00:00:00Z", WRONG_USAGE)
    orders = []
    for wish in wishes:
        event = {
            "specversion": "1.0",
            "id": wish.command_id or f"cli-{token_hex(12)}",
            "source": SOURCE,
            "type": wish.kind,
            "subject": channel_id,
            "time": manner.at or now,
            "data": wish.data,
        }
        message = Outgoing(settings.commands_topic, channel_id.encode(), orjson.dumps(event))
        try:
            command = decode(message.topic, message.value, ())
        except Rejected as rejected:
            raise Stop(f"{wish.about or wish.kind}: {rejected.detail}", WRONG_USAGE) from None
        assert isinstance(command, Command)
        orders.append(Order(wish.about, wish.kind, command, message))
    return orders


def _give(orders: list[Order], manner: Manner, document: dict[str, Any]) -> None:
    """Give commands, and wait for the answers where that is wished."""
    settings = settings_for(database=manner.wait)
    giving = (
        give_and_wait(settings, orders, seconds=manner.within)
        if manner.wait
        else give(settings, orders)
    )
    try:
        answers = run(giving)
    except KeyboardInterrupt:
        raise Stop("interrupted: what was sent is decided all the same", INTERRUPTED) from None
    if manner.json:
        print_json(document | {"commands": answers})
    else:
        for answer in answers:
            words = f": {answer['words']} ({answer['reason']})" if "reason" in answer else ""
            typer.echo(f"{answer['about']} {answer['outcome']}{words}, {answer['id']}")
    if any(answer["outcome"] not in ("sent", "granted") for answer in answers):
        raise typer.Exit(FINDING)
