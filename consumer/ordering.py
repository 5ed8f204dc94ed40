"""Commands that ask the books for something: lots, reservations, limits, channels."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from consumer.asking import Manner, Wish, ask, buy
from consumer.carts import DIGITS_MAX
from consumer.terminal import WRONG_USAGE, ChannelArgument, JsonOption, Stop, day_from
from metering.catalog import PLANS, PRODUCTS

WAIT_SECONDS = 60

lot = typer.Typer(help="Buy, reserve, renew and refund lots.", no_args_is_help=True)
channel = typer.Typer(help="Register and change channels.", no_args_is_help=True)

CartArgument = Annotated[
    list[str],
    typer.Argument(metavar="LOT=PRODUCT:QUANTITY …", help="Like l-1=mu:2000; several make a cart."),
]
LotArgument = Annotated[str, typer.Argument(metavar="LOT", help="The lot id.")]
RenewOption = Annotated[bool, typer.Option("--renew/--no-renew", help="Renew it when it ends.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]
IdOption = Annotated[
    str | None,
    typer.Option("--id", help="Id of the command: the same again, of the same time, does nothing."),
]
AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="When it was asked for, with an offset; else now."),
]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait until it is in the books, and say what was decided.")
]
WithinOption = Annotated[
    float, typer.Option("--within", metavar="SECONDS", min=0, help="How long to wait at most.")
]


@lot.command()
def purchase(
    channel_id: ChannelArgument,
    cart: CartArgument,
    renew: RenewOption = True,
    yes: YesOption = False,
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
    json: JsonOption = False,
) -> None:
    """Buy lots that are valid from today, after showing what they cost."""
    manner = Manner(at, wait, within, json)
    buy(channel_id, "lot.purchased", cart, manner, renew=renew, yes=yes)


@lot.command()
def schedule(
    channel_id: ChannelArgument,
    cart: CartArgument,
    renew: RenewOption = True,
    yes: YesOption = False,
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
    json: JsonOption = False,
) -> None:
    """Reserve lots that are bought on the next billing date, or when the trial is over."""
    manner = Manner(at, wait, within, json)
    buy(channel_id, "lot.scheduled", cart, manner, renew=renew, yes=yes)


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
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
    json: JsonOption = False,
) -> None:
    """Change what a reservation will buy."""
    changes = {"quantity": quantity, "renew": renew}
    data = {"lot": lot_id, **{name: value for name, value in changes.items() if value is not None}}
    if len(data) == 1:
        raise Stop("say --quantity, --renew or --no-renew", WRONG_USAGE)
    wish = Wish(lot_id, "reservation.changed", data, command_id)
    ask(channel_id, wish, Manner(at, wait, within, json))


@lot.command()
def cancel(
    channel_id: ChannelArgument,
    lot_id: LotArgument,
    command_id: IdOption = None,
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
    json: JsonOption = False,
) -> None:
    """Take a reservation back."""
    wish = Wish(lot_id, "reservation.cancelled", {"lot": lot_id}, command_id)
    ask(channel_id, wish, Manner(at, wait, within, json))


@lot.command()
def renewal(
    channel_id: ChannelArgument,
    lot_id: LotArgument,
    switch: Annotated[
        str, typer.Argument(metavar="on|off", help="Whether it is renewed when it ends.")
    ],
    command_id: IdOption = None,
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
    json: JsonOption = False,
) -> None:
    """Switch the renewal of a lot on or off."""
    if switch not in ("on", "off"):
        raise Stop("renewal is switched on or off", WRONG_USAGE)
    data = {"lot": lot_id, "renew": switch == "on"}
    ask(
        channel_id,
        Wish(lot_id, "lot.renewal_set", data, command_id),
        Manner(at, wait, within, json),
    )


@lot.command()
def refund(
    channel_id: ChannelArgument,
    lot_id: LotArgument,
    command_id: IdOption = None,
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
    json: JsonOption = False,
) -> None:
    """Give a lot back that nothing was deducted from."""
    wish = Wish(lot_id, "lot.refunded", {"lot": lot_id}, command_id)
    ask(channel_id, wish, Manner(at, wait, within, json))


@channel.command()
def register(
    channel_id: ChannelArgument,
    plan: Annotated[str, typer.Option("--plan", help=", ".join(PLANS))],
    time_zone: Annotated[str, typer.Option("--time-zone", help="IANA name, like Asia/Seoul.")],
    billing_day: Annotated[str, typer.Option("--billing-day", help="1 to 27, or end.")],
    trial_ends_on: Annotated[
        str | None,
        typer.Option("--trial-ends-on", metavar="DATE", help="The first day after the trial."),
    ] = None,
    command_id: IdOption = None,
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
    json: JsonOption = False,
) -> None:
    """Take a channel into the books."""
    data = {"plan": plan, "time_zone": time_zone, "billing_day": _billing_day(billing_day)}
    if trial_ends_on is not None:
        data["trial_ends_on"] = day_from(trial_ends_on).isoformat()
    wish = Wish(channel_id, "channel.registered", data, command_id)
    ask(channel_id, wish, Manner(at, wait, within, json))


@channel.command()
def change(
    channel_id: ChannelArgument,
    plan: Annotated[str | None, typer.Option("--plan", help=", ".join(PLANS))] = None,
    billing_day: Annotated[
        str | None, typer.Option("--billing-day", help="1 to 27, or end.")
    ] = None,
    trial_ends_on: Annotated[
        str | None,
        typer.Option("--trial-ends-on", metavar="DATE", help="The first day after the trial."),
    ] = None,
    command_id: IdOption = None,
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
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
    wish = Wish(channel_id, "channel.changed", data, command_id)
    ask(channel_id, wish, Manner(at, wait, within, json))


def limit(
    channel_id: ChannelArgument,
    product: Annotated[str, typer.Argument(metavar="PRODUCT", help=", ".join(PRODUCTS))],
    units: Annotated[
        str, typer.Argument(metavar="LIMIT", help="Units a cycle, or none to remove it.")
    ],
    command_id: IdOption = None,
    at: AtOption = None,
    wait: WaitOption = False,
    within: WithinOption = WAIT_SECONDS,
    json: JsonOption = False,
) -> None:
    """Set the channel's own limit of a product, or remove it."""
    most = None if units == "none" else _whole(units, "a limit is a whole number, or none")
    wish = Wish(product, "limit.set", {"product": product, "limit": most}, command_id)
    ask(channel_id, wish, Manner(at, wait, within, json))


def _billing_day(text: str) -> int | str:
    return text if text == "end" else _whole(text, "--billing-day is 1 to 27, or end")


def _whole(text: str, otherwise: str) -> int:
    if not text.isdecimal() or len(text) > DIGITS_MAX:
        raise Stop(otherwise, WRONG_USAGE)
    return int(text)
