"""Commands that ask the books for something: lots, reservations, limits, channels. They publish,
and can wait.
"""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from secrets import token_hex
from typing import Annotated, Any

import orjson
import typer

from consumer import reports
from consumer.answers import answers_to
from consumer.sending import Outgoing, send
from consumer.terminal import (
    WRONG_USAGE,
    ChannelArgument,
    Stop,
    catalog_of,
    day_from,
    print_json,
    run,
    settings_for,
)
from consumer.wall_clock import now_instant
from metering.catalog import PLANS, PRODUCTS
from metering.periods import moment_of
from metering.quantities import amount_text

SOURCE = "/lotmeter/cli"
WAIT_SECONDS = 60

# The type of a command, what it says, and its id, where somebody chose one.
Order = tuple[str, dict[str, Any], str | None]

lot = typer.Typer(help="Buy, reserve, renew and refund lots.", no_args_is_help=True)
channel = typer.Typer(help="Register and change channels.", no_args_is_help=True)

WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait until it is in the books, and say what was decided.")
]
LotArgument = Annotated[str, typer.Argument(metavar="LOT", help="The lot id.")]
RenewOption = Annotated[bool, typer.Option("--renew/--no-renew", help="Renew it when it ends.")]
IdOption = Annotated[
    str | None, typer.Option("--id", help="Id of the command: the same again does nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

# What each refusal means to the one who asked.
REFUSALS = {
    "already_registered": "the channel is registered already",
    "too_late": "its day lies in a billing month that is closed",
    "lot_exists": "this lot id was used before: choose another",
    "in_trial": "nothing can be bought during the trial: schedule it instead",
    "free_plan": "the free plan cannot buy this: change the plan first",
    "quantity_out_of_bounds": "the quantity is less or more than one purchase may have",
    "over_plan_limit": "with what is included and other lots it would exceed the plan's limit",
    "unknown_lot": "there is no such lot, or it has ended or was refunded",
    "unknown_reservation": "there is no such reservation, or it can no longer be changed",
    "refund_window_over": "a lot can be given back up to the 7th day after its purchase",
    "already_deducted": "something was already deducted from the lot",
}


@lot.command()
def purchase(
    channel_id: ChannelArgument,
    cart: Annotated[
        list[str],
        typer.Argument(
            metavar="LOT=PRODUCT:QUANTITY …", help="Like l-1=mu:2000; several make a cart."
        ),
    ],
    renew: RenewOption = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Buy without asking.")] = False,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Buy lots that are valid from today, after showing what they cost."""
    _buy(channel_id, "lot.purchased", cart, renew=renew, yes=yes, wait=wait, json=json)


@lot.command()
def schedule(
    channel_id: ChannelArgument,
    cart: Annotated[
        list[str],
        typer.Argument(
            metavar="LOT=PRODUCT:QUANTITY …", help="Like l-1=mu:2000; several make a cart."
        ),
    ],
    renew: RenewOption = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Reserve without asking.")] = False,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Reserve lots that are bought on the next billing date."""
    _buy(channel_id, "lot.scheduled", cart, renew=renew, yes=yes, wait=wait, json=json)


@lot.command(name="reserve-change")
def reserve_change(
    channel_id: ChannelArgument,
    lot_id: LotArgument,
    quantity: Annotated[
        int | None, typer.Option("--quantity", help="Units a month from now on.")
    ] = None,
    renew: Annotated[
        bool | None, typer.Option("--renew/--no-renew", help="Renew it when it ends.")
    ] = None,
    command_id: IdOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Change what a reservation will buy."""
    changes = {"quantity": quantity, "renew": renew}
    data = {"lot": lot_id, **{name: value for name, value in changes.items() if value is not None}}
    if len(data) == 1:
        raise Stop("say --quantity, --renew or --no-renew", WRONG_USAGE)
    _ask(channel_id, [("reservation.changed", data, command_id)], wait=wait, json=json)


@lot.command()
def cancel(
    channel_id: ChannelArgument,
    lot_id: LotArgument,
    command_id: IdOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Take a reservation back."""
    _ask(channel_id, [("reservation.cancelled", {"lot": lot_id}, command_id)], wait=wait, json=json)


@lot.command()
def renewal(
    channel_id: ChannelArgument,
    lot_id: LotArgument,
    switch: Annotated[
        str, typer.Argument(metavar="on|off", help="Whether it is renewed when it ends.")
    ],
    command_id: IdOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Switch the renewal of a lot on or off."""
    if switch not in ("on", "off"):
        raise Stop("renewal is switched on or off", WRONG_USAGE)
    data = {"lot": lot_id, "renew": switch == "on"}
    _ask(channel_id, [("lot.renewal_set", data, command_id)], wait=wait, json=json)


@lot.command()
def refund(
    channel_id: ChannelArgument,
    lot_id: LotArgument,
    command_id: IdOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Give a lot back that nothing was deducted from."""
    _ask(channel_id, [("lot.refunded", {"lot": lot_id}, command_id)], wait=wait, json=json)


@channel.command()
def register(
    channel_id: ChannelArgument,
    plan: Annotated[str, typer.Option("--plan", help=", ".join(PLANS))],
    time_zone: Annotated[str, typer.Option("--time-zone", help="IANA name, like Asia/Seoul.")],
    billing_day: Annotated[str, typer.Option("--billing-day", help="1 to 27, or end.")],
    trial_ends_on: Annotated[str | None, typer.Option("--trial-ends-on", metavar="DATE")] = None,
    command_id: IdOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Take a channel into the books."""
    data = {"plan": plan, "time_zone": time_zone, "billing_day": _billing_day(billing_day)}
    if trial_ends_on is not None:
        data["trial_ends_on"] = day_from(trial_ends_on).isoformat()
    _ask(channel_id, [("channel.registered", data, command_id)], wait=wait, json=json)


@channel.command()
def change(
    channel_id: ChannelArgument,
    plan: Annotated[str | None, typer.Option("--plan", help=", ".join(PLANS))] = None,
    billing_day: Annotated[
        str | None, typer.Option("--billing-day", help="1 to 27, or end.")
    ] = None,
    trial_ends_on: Annotated[str | None, typer.Option("--trial-ends-on", metavar="DATE")] = None,
    command_id: IdOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Give a channel another plan, billing day or end of trial."""
    data: dict[str, Any] = {} if plan is None else {"plan": plan}
    if billing_day is not None:
        data["billing_day"] = _billing_day(billing_day)
    if trial_ends_on is not None:
        data["trial_ends_on"] = day_from(trial_ends_on).isoformat()
    if not data:
        raise Stop("say --plan, --billing-day or --trial-ends-on", WRONG_USAGE)
    _ask(channel_id, [("channel.changed", data, command_id)], wait=wait, json=json)


def limit(
    channel_id: ChannelArgument,
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help=", ".join(PRODUCTS))],
    units: Annotated[
        str, typer.Argument(metavar="LIMIT", help="Units a cycle, or none to remove it.")
    ],
    command_id: IdOption = None,
    wait: WaitOption = False,
    json: JsonOption = False,
) -> None:
    """Set the channel's own limit of a product, or remove it."""
    if units != "none" and not units.isdecimal():
        raise Stop("a limit is a whole number of units, or none", WRONG_USAGE)
    data = {"product": product, "limit": None if units == "none" else int(units)}
    _ask(channel_id, [("limit.set", data, command_id)], wait=wait, json=json)


def _billing_day(text: str) -> int | str:
    if text == "end":
        return text
    if not text.isdecimal():
        raise Stop("--billing-day is 1 to 27, or end", WRONG_USAGE)
    return int(text)


def _buy(
    channel_id: str, kind: str, cart: list[str], *, renew: bool, yes: bool, wait: bool, json: bool
) -> None:
    lines = [_cart_line(text) for text in cart]
    catalog = catalog_of(settings_for(database=False))
    today = moment_of(now_instant()).date()
    quotes = [
        reports.quote_document(catalog, PRODUCTS[product], quantity, on=today)
        for _, product, quantity in lines
    ]
    if not json:
        _show_cart(quotes, today)
    if not yes:
        typer.confirm(
            "Buy this?" if kind == "lot.purchased" else "Reserve this?", abort=True, err=True
        )
    orders: list[Order] = [
        (kind, {"lot": name, "product": product, "quantity": quantity, "renew": renew}, None)
        for name, product, quantity in lines
    ]
    _ask(channel_id, orders, wait=wait, json=json)


def _cart_line(text: str) -> tuple[str, str, int]:
    name, _, rest = text.rpartition("=")
    product, _, quantity = rest.partition(":")
    if not name or product not in PRODUCTS or not quantity.isdecimal():
        raise Stop(f"{text}: write LOT=PRODUCT:QUANTITY, like l-1=mu:2000", WRONG_USAGE)
    return name, product, int(quantity)


def _show_cart(quotes: list[dict[str, Any]], today: date) -> None:
    for each in quotes:
        reports.show_quote(each)
    priced = [Decimal(each["price"]) for each in quotes if each["price"] is not None]
    if len(quotes) > 1 and priced:
        unpriced = len(quotes) - len(priced)
        note = f", and {unpriced} without a published price" if unpriced else ""
        reports.console.print(
            f"total    ${amount_text(sum(priced, Decimal(0)))} on {today.isoformat()}{note}"
        )


def _ask(channel_id: str, orders: list[Order], *, wait: bool, json: bool) -> None:
    """Publish commands, and wait for the answers where that is wished."""
    settings = settings_for(database=wait)
    now = moment_of(now_instant()).isoformat(timespec="microseconds").replace("+00:00", "Z")
    events = [
        {
            "specversion": "1.0",
            "id": command_id or f"cli-{token_hex(12)}",
            "source": SOURCE,
            "type": kind,
            "subject": channel_id,
            "time": now,
            "data": data,
        }
        for kind, data, command_id in orders
    ]
    messages = [
        Outgoing(settings.commands_topic, channel_id.encode(), orjson.dumps(event))
        for event in events
    ]
    run(send(settings, messages))
    if not wait:
        _report([{"id": event["id"], "outcome": "sent"} for event in events], json=json)
        return
    ids = [str(event["id"]) for event in events]
    answers = run(answers_to(settings, channel_id, SOURCE, ids, seconds=WAIT_SECONDS))
    _report(answers, json=json)
    if any(answer["outcome"] != "granted" for answer in answers):
        raise typer.Exit(1)


def _report(answers: list[dict[str, Any]], *, json: bool) -> None:
    if json:
        print_json({"commands": answers})
        return
    for answer in answers:
        reason = answer.get("reason")
        words = f": {REFUSALS.get(reason, reason)} ({reason})" if reason else ""
        reports.console.print(f"{answer['id']} {answer['outcome']}{words}", markup=False)
