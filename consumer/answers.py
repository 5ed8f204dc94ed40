"""What was decided about commands: looked up in the books once each was read, and said in words for
the one who asked.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from consumer import sending
from consumer.terminal import Stop, engine_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine

    from consumer.sending import Outgoing
    from consumer.settings import Settings
    from metering.commands import Command

POLL_SECONDS = 0.2

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

# The books know where each record was read, so a record that was set aside is found by its place;
# one that stood there before, in a log that is gone, was set aside before this one was sent.
_DECIDED = sa.text("""
SELECT asked.number::int AS number, p.halted, p.next_offset > asked.at_offset AS is_read,
    r.reason, r.detail, c.state, c.answer
FROM unnest(CAST(:partitions AS int[]), CAST(:offsets AS bigint[]), CAST(:digests AS bytea[]))
    WITH ORDINALITY AS asked (topic_partition, at_offset, digest, number)
JOIN position p ON p.consumer_group = :group AND p.topic = :topic
    AND p.topic_partition = asked.topic_partition
LEFT JOIN reject r ON r.position = p.number AND r.read_at_offset = asked.at_offset
    AND r.rejected_at >= :since
LEFT JOIN command c ON c.channel = :channel AND c.digest = asked.digest
""")


class Order(NamedTuple):
    """A command that is to be given."""

    about: str  # What people know it by: the lot, or the channel.
    kind: str
    command: Command
    message: Outgoing


async def give(settings: Settings, orders: Sequence[Order]) -> list[dict[str, Any]]:
    """Send commands, and wait for no answer."""
    await sending.publish(settings, [order.message for order in orders])
    return [_written(order, "sent") for order in orders]


async def give_and_wait(
    settings: Settings, orders: Sequence[Order], *, seconds: float
) -> list[dict[str, Any]]:
    """Send commands of one channel, and wait until it is in the books what was decided about each.

    Raises Stop if one of them is not read in time.
    """
    engine = engine_of(settings)
    try:
        # First, so that nothing is sent where no answer can be found.
        async with engine.connect() as connection:
            since = (await connection.execute(sa.text("SELECT clock_timestamp()"))).scalar_one()
        places = await sending.publish(settings, [order.message for order in orders])
        return await _answers(settings, engine, orders, places, since=since, seconds=seconds)
    finally:
        await engine.dispose()


async def _answers(
    settings: Settings,
    engine: AsyncEngine,
    orders: Sequence[Order],
    places: Sequence[tuple[int, int]],
    *,
    since: datetime,
    seconds: float,
) -> list[dict[str, Any]]:
    asked = {
        "group": settings.group,
        "topic": settings.commands_topic,
        "channel": orders[0].command.channel,
        "since": since,
        "partitions": [partition for partition, _ in places],
        "offsets": [offset for _, offset in places],
        "digests": [order.command.digest for order in orders],
    }
    deadline = time.monotonic() + seconds
    while True:
        async with engine.connect() as connection:
            rows = (await connection.execute(_DECIDED, asked)).all()
        answers = {
            row.number: answer
            for row in rows
            if row.is_read and (answer := _answer(orders[row.number - 1], row)) is not None
        }
        if len(answers) == len(orders):
            return [answers[number] for number in sorted(answers)]
        for row in rows:
            if not row.is_read and row.halted:
                partition = places[row.number - 1][0]
                raise Stop(
                    f"partition {partition} of {settings.commands_topic} is halted: {row.halted}"
                )
        if time.monotonic() > deadline:
            missing = [
                order.about for number, order in enumerate(orders, 1) if number not in answers
            ]
            raise Stop(
                f"sent, but not read within {seconds:g} seconds by group {settings.group}:"
                f" {', '.join(missing)}; see whether lotmeter run is up, it will be decided then"
            )
        await asyncio.sleep(POLL_SECONDS)


def _answer(order: Order, row: Any) -> dict[str, Any] | None:  # noqa: ANN401
    if row.reason is not None:
        return _written(order, "rejected", row.reason, row.detail)
    if row.state is None:
        return None
    if row.state == "parked":
        words = f"{order.command.channel} is not registered yet: it is decided when it is"
        return _written(order, "waiting", "unknown_channel", words)
    if row.answer is not None:
        return _written(order, "refused", row.answer, REFUSALS.get(row.answer, row.answer))
    return _written(order, "granted")


def _written(
    order: Order, outcome: str, reason: str | None = None, words: str | None = None
) -> dict[str, Any]:
    answer = {
        "id": order.command.command_id,
        "type": order.kind,
        "about": order.about,
        "outcome": outcome,
    }
    return answer if reason is None else {**answer, "reason": reason, "words": words}
