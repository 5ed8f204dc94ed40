"""Purchase, schedule, renew, refund, expire: decisions about lots, taken once, against the books
as they stand.
"""

from __future__ import annotations

from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from metering.accounts import ALWAYS, Account, Reservation, Setting
from metering.catalog import PRODUCTS
from metering.commands import (
    CancelReservation,
    Change,
    ChangeReservation,
    Command,
    Order,
    Purchase,
    Refund,
    Register,
    Schedule,
    SetLimit,
    SetRenewal,
)
from metering.errors import Refused
from metering.lots import Lot, burn_order, renewed_name
from metering.periods import ONE_DAY, billing_date_up_to, day_of, first_instant
from metering.prices import quote
from metering.quantities import quantity_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metering.catalog import Catalog, Product

REFUND_DAYS = 7

# Plans on which a reservation made in a trial goes on waiting. PU may be bought on the free plan.
_WAITING_PLANS = frozenset({"trial", "free"})
_WAITING_PLANS_PU = frozenset({"trial"})


class Happening(NamedTuple):
    """Something a person should hear about."""

    kind: str
    product: str | None
    on: date
    detail: dict[str, Any]


def open_account(command: Command, order: Register) -> Account:
    """Take a channel into the books, from the cycle on that holds the day of its registration."""
    registered_on = day_of(command.at, order.time_zone)
    first_cycle_on = billing_date_up_to(registered_on, order.billing_day)
    account = Account(
        command.channel, order.time_zone, registered_on, first_cycle_on, open_from=first_cycle_on
    )
    trial_ends_on = order.trial_ends_on.isoformat() if order.trial_ends_on else None
    account.set_value("plan", "", Setting(ALWAYS, 0, date.min, order.plan))
    account.set_value("billing_day", "", Setting(ALWAYS, 0, date.min, order.billing_day))
    account.set_value("trial_ends_on", "", Setting(ALWAYS, 0, date.min, trial_ends_on))
    return account


def decide(account: Account, catalog: Catalog, command: Command) -> list[Happening]:
    """Grant a command, or raise Refused. What is due by the clock must have happened before."""
    # An id is used once, also that of a lot which is long over.
    assert account.has_all_lots
    on = account.day_of(command.at)
    if isinstance(command.order, Register):
        raise Refused("already_registered")
    if on < account.open_from:
        raise Refused("too_late")
    carry_out = _ANSWERS[type(command.order)]
    happenings = carry_out(command.order, account, catalog, command.at, on)
    account.touch_all(account.open_from)
    return happenings


def product_named(account: Account, order: Order) -> str | None:
    """Tell which product a command is about: its own, or that of the lot it names."""
    product = getattr(order, "product", None)
    lot = getattr(order, "lot", None)
    if product is None and lot is not None:
        if lot in account.lots:
            return account.lots[lot].product.name
        if lot in account.reservations:
            return account.reservations[lot].product
    return product


def next_act(
    account: Account, catalog: Catalog, today: date
) -> Callable[[], list[Happening]] | None:
    """Find the first thing that is due by the clock up to a day, in the order of the day."""
    acts = [act for act in _acts(account, catalog, today) if act[0] <= today]
    return min(acts, key=lambda act: act[:3])[3] if acts else None


def next_act_on(account: Account, catalog: Catalog, today: date) -> date | None:
    """Find the next day after today on which something is due by the clock."""
    return min((act[0] for act in _acts(account, catalog, today) if act[0] > today), default=None)


Act = tuple[date, int, Any, "Callable[[], list[Happening]]"]


def _acts(account: Account, catalog: Catalog, today: date) -> Iterator[Act]:
    """List what is still to happen: day, rank within the day, order within the rank, act."""
    for lot in account.lots.values():
        if not lot.has_started:
            # Told of every new lot, also of one that was refunded on the day before it began.
            yield lot.starts_on, 3, lot.lot, partial(_start, account, lot)
            continue
        if lot.is_refunded or lot.has_ended:
            continue
        days = catalog.thresholds.lot_expiring_days
        if lot.expiring_told < len(days):
            on = lot.ends_on - days[lot.expiring_told] * ONE_DAY
            yield on, 0, lot.lot, partial(_warn_of_end, account, catalog, lot, on)
        yield lot.expires_on, 1, burn_order(lot), partial(_end, account, catalog, lot)
    for reservation in account.reservations.values():
        if reservation.state == "waiting":
            day = execution_day(account, reservation, today)
            if day is not None:
                execute = partial(_execute, account, catalog, reservation, day)
                yield day, 2, reservation.sequence, execute


def execution_day(account: Account, reservation: Reservation, today: date) -> date | None:
    """Say when a reservation buys; None while it waits for the end of a trial that is not in
    sight.
    """
    if reservation.executes_on is not None:
        return reservation.executes_on
    waiting_plans = _WAITING_PLANS_PU if reservation.product == "pu" else _WAITING_PLANS
    # The plan changes on days on which a value was set, and when a trial is over.
    days = {reservation.made_on}
    days.update(account.days_of_values(("plan", ""), ("trial_ends_on", "")))
    for setting in account.values.get(("trial_ends_on", ""), ()):
        if isinstance(setting.value, str):
            days.add(date.fromisoformat(setting.value))
    for day in sorted(days):
        if day >= reservation.made_on and account.plan_on(day) not in waiting_plans:
            return day
    return None


def planned_day(account: Account, reservation: Reservation, today: date) -> date | None:
    """Say when a waiting reservation is expected to buy, as people are told: at the end of the
    trial.
    """
    if reservation.executes_on is not None:
        return reservation.executes_on
    if account.plan_on(today) != "trial":
        return None
    ends_on = account.value_on("trial_ends_on", today)
    return date.fromisoformat(ends_on) if isinstance(ends_on, str) else None


# What happens by the clock


def _start(account: Account, lot: Lot) -> list[Happening]:
    account.unsaved.lots |= {lot.lot}
    lot.has_started = True
    return [Happening("lot_started", lot.product.name, lot.starts_on, {"lot": lot.lot})]


def _warn_of_end(account: Account, catalog: Catalog, lot: Lot, on: date) -> list[Happening]:
    account.unsaved.lots |= {lot.lot}
    days = catalog.thresholds.lot_expiring_days[lot.expiring_told]
    lot.expiring_told += 1
    return [Happening("lot_expiring", lot.product.name, on, {"lot": lot.lot, "days": days})]


def _end(account: Account, catalog: Catalog, lot: Lot) -> list[Happening]:
    lot.has_ended = True
    account.unsaved.lots |= {lot.lot}
    product = lot.product.name
    happenings = [Happening("lot_expired", product, lot.expires_on, {"lot": lot.lot})]
    if not account.value_on("renew", lot.ends_on, lot.lot):
        return happenings
    name = renewed_name(lot.lot)
    try:
        _check_purchase(account, catalog, lot.product, lot.quota // 1000, lot.expires_on)
    except Refused as refused:
        detail = {"lot": name, "reason": refused.reason}
        return [*happenings, Happening("renewal_refused", product, lot.expires_on, detail)]
    at = first_instant(lot.expires_on, account.time_zone)
    _add_lot(
        account, catalog, name, lot.product, lot.quota // 1000, renew=True, at=at, on=lot.expires_on
    )
    return [*happenings, Happening("lot_renewed", product, lot.expires_on, {"lot": name})]


def _execute(
    account: Account, catalog: Catalog, reservation: Reservation, on: date
) -> list[Happening]:
    product, name = PRODUCTS[reservation.product], reservation.lot
    account.unsaved.reservations |= {name}
    quantity = account.value_on("quantity", on, name)
    renew = account.value_on("renew", on, name)
    assert isinstance(quantity, int)
    try:
        _check_purchase(account, catalog, product, quantity, on)
    except Refused as refused:
        reservation.state = "refused"
        detail = {"lot": name, "reason": refused.reason}
        return [Happening("reservation_refused", product.name, on, detail)]
    reservation.state = "executed"
    at = first_instant(on, account.time_zone)
    _add_lot(account, catalog, name, product, quantity, renew=bool(renew), at=at, on=on)
    return [Happening("reservation_executed", product.name, on, {"lot": name})]


# What is asked for


def _change(
    order: Change, account: Account, catalog: Catalog, at: int, on: date
) -> list[Happening]:
    sequence = _next(account)
    if order.plan is not None:
        account.set_value("plan", "", Setting(at, sequence, on, order.plan))
    if order.billing_day is not None:
        account.set_value("billing_day", "", Setting(at, sequence, on, order.billing_day))
    if order.trial_ends_on is not None:
        account.set_value(
            "trial_ends_on", "", Setting(at, sequence, on, order.trial_ends_on.isoformat())
        )
    return []


def _set_limit(
    order: SetLimit, account: Account, catalog: Catalog, at: int, on: date
) -> list[Happening]:
    account.set_value("limit", order.product, Setting(at, _next(account), on, order.limit))
    return []


def _purchase(
    order: Purchase, account: Account, catalog: Catalog, at: int, on: date
) -> list[Happening]:
    _check_id(account, order.lot)
    _check_purchase(account, catalog, PRODUCTS[order.product], order.quantity, on)
    _add_lot(
        account,
        catalog,
        order.lot,
        PRODUCTS[order.product],
        order.quantity,
        renew=order.renew,
        at=at,
        on=on,
    )
    return []


def _schedule(
    order: Schedule, account: Account, catalog: Catalog, at: int, on: date
) -> list[Happening]:
    _check_id(account, order.lot)
    product = PRODUCTS[order.product]
    is_trial = account.plan_on(on) == "trial"
    executes_on = None if is_trial else account.cycle_after(on)
    _check_reservation(account, catalog, product, order.quantity, executes_on)
    sequence = _next(account)
    account.reservations[order.lot] = Reservation(
        order.lot, product.name, on, sequence, executes_on
    )
    account.unsaved.reservations |= {order.lot}
    account.set_value("quantity", order.lot, Setting(at, sequence, on, order.quantity))
    account.set_value("renew", order.lot, Setting(at, sequence, on, order.renew))
    return [Happening("reservation_made", product.name, on, {"lot": order.lot})]


def _change_reservation(
    order: ChangeReservation, account: Account, catalog: Catalog, at: int, on: date
) -> list[Happening]:
    reservation = _waiting_reservation(account, order.lot, on)
    if order.quantity is not None:
        product = PRODUCTS[reservation.product]
        _check_reservation(account, catalog, product, order.quantity, reservation.executes_on)
    sequence = _next(account)
    if order.quantity is not None:
        account.set_value("quantity", order.lot, Setting(at, sequence, on, order.quantity))
    if order.renew is not None:
        account.set_value("renew", order.lot, Setting(at, sequence, on, order.renew))
    return [Happening("reservation_changed", reservation.product, on, {"lot": order.lot})]


def _cancel_reservation(
    order: CancelReservation, account: Account, catalog: Catalog, at: int, on: date
) -> list[Happening]:
    reservation = _waiting_reservation(account, order.lot, on)
    reservation.state = "cancelled"
    account.unsaved.reservations |= {order.lot}
    return [Happening("reservation_cancelled", reservation.product, on, {"lot": order.lot})]


def _set_renewal(
    order: SetRenewal, account: Account, catalog: Catalog, at: int, on: date
) -> list[Happening]:
    lot = _lot_there(account, order.lot)
    if lot.has_ended or on > lot.ends_on:
        raise Refused("unknown_lot")
    account.set_value("renew", order.lot, Setting(at, _next(account), on, order.renew))
    return []


def _refund(
    order: Refund, account: Account, catalog: Catalog, at: int, on: date
) -> list[Happening]:
    lot = _lot_there(account, order.lot)
    if on > lot.starts_on + REFUND_DAYS * ONE_DAY:
        raise Refused("refund_window_over")
    if lot.expired or any(window.taken for window in lot.windows):
        raise Refused("already_deducted")
    _next(account)
    lot.is_refunded = True
    account.unsaved.lots |= {lot.lot}
    return [Happening("lot_refunded", lot.product.name, on, {"lot": lot.lot})]


_ANSWERS: dict[type, Callable[[Any, Account, Catalog, int, date], list[Happening]]] = {
    Change: _change,
    SetLimit: _set_limit,
    Purchase: _purchase,
    Schedule: _schedule,
    ChangeReservation: _change_reservation,
    CancelReservation: _cancel_reservation,
    SetRenewal: _set_renewal,
    Refund: _refund,
}

# Checks


def _check_id(account: Account, lot: str) -> None:
    if lot in account.lots or lot in account.reservations:
        raise Refused("lot_exists")


def _check_purchase(
    account: Account, catalog: Catalog, product: Product, quantity: int, on: date
) -> None:
    if account.plan_on(on) == "trial":
        raise Refused("in_trial")
    _check_plan_and_quantity(account, catalog, product, quantity, on)


def _check_reservation(
    account: Account, catalog: Catalog, product: Product, quantity: int, executes_on: date | None
) -> None:
    """Check with what is known now; made in a trial, the plan that will hold is not known."""
    if executes_on is None:
        check_quantity(product, quantity)
    else:
        _check_plan_and_quantity(account, catalog, product, quantity, executes_on)


def _check_plan_and_quantity(
    account: Account, catalog: Catalog, product: Product, quantity: int, on: date
) -> None:
    if account.plan_on(on) == "free" and product.name != "pu":
        raise Refused("free_plan")
    check_quantity(product, quantity)
    allowance = account.allowance_on(catalog, product.name, on)
    if allowance.limit is not None and allowance.included is not None:
        held = sum(
            lot.quota
            for lot in account.lots.values()
            if lot.product == product and lot.is_valid(on)
        )
        if allowance.included + held + quantity_of(quantity) > allowance.limit:
            raise Refused("over_plan_limit")


def check_quantity(product: Product, quantity: int) -> None:
    """Hold the quantity of one purchase, in units, against its bounds. Raises Refused."""
    if not product.purchase_min <= quantity <= product.purchase_max:
        raise Refused("quantity_out_of_bounds")


def _lot_there(account: Account, name: str) -> Lot:
    lot = account.lots.get(name)
    if lot is None or lot.is_refunded:
        raise Refused("unknown_lot")
    return lot


def _waiting_reservation(account: Account, name: str, on: date) -> Reservation:
    reservation = account.reservations.get(name)
    if reservation is None or reservation.state != "waiting":
        raise Refused("unknown_reservation")
    executes_on = execution_day(account, reservation, on)
    if executes_on is not None and on >= executes_on:
        raise Refused("unknown_reservation")
    return reservation


def _add_lot(
    account: Account,
    catalog: Catalog,
    name: str,
    product: Product,
    quantity: int,
    *,
    renew: bool,
    at: int,
    on: date,
) -> None:
    price = quote(catalog, product, quantity_of(quantity), on=on)
    account.lots[name] = Lot(name, product, quantity_of(quantity), on, price.month, price.total)
    account.unsaved.lots |= {name}
    account.set_value("renew", name, Setting(at, _next(account), on, renew))
    account.touch_all(on)


def _next(account: Account) -> int:
    account.sequence += 1
    return account.sequence
