"""How far channels have used up what they have, looked at a slice of the channels at a time, and
what was seen last, which every member shares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from metering.storage.database import driver_of
from metering.storage.tables import channel, observation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

    from sqlalchemy.ext.asyncio import AsyncConnection

Document = dict[str, Any]


class Pulse(NamedTuple):
    """What the database says at once. Instants are None where there is nothing."""

    read_up_to: int | None
    due_at: int | None
    closes_at: int | None
    parked_at: int | None  # The time of the oldest record that waits.
    parked: int


class PlanLimit(NamedTuple):
    """What a plan limits of a product, as a quantity."""

    plan: str
    product: str
    limit: int


class Standing(NamedTuple):
    """How a channel stands with a product: shares used, None where there is nothing to use up."""

    channel: str
    product: str
    quota: float | None  # Draws of the running windows, of what these windows bring.
    lot: float | None  # What is gone of all valid lots, of what they were bought with.
    limit: float | None  # Usage of the running cycle, of the limit that holds today.
    ending: int  # Lots that end soon and are not renewed.
    ends_on: date | None  # The last day of the first of them.


_PULSE = sa.text("""
SELECT (SELECT min(read_up_to) FROM position WHERE consumer_group = :group) AS read_up_to,
    (SELECT min(due_at) FROM channel WHERE due_at IS NOT NULL) AS due_at,
    (SELECT min(closes_at) FROM channel WHERE closes_at IS NOT NULL) AS closes_at,
    (SELECT min(at) FROM parked) AS parked_at, (SELECT count(*) FROM parked) AS parked
""")
_VERIFIED = sa.text("""
SELECT DISTINCT ON (is_full) is_full, is_ok, verified_at FROM verification
ORDER BY is_full, number DESC
""")


async def feel_pulse(connection: AsyncConnection, *, group: str) -> Pulse:
    """Ask for what indexes and small tables know."""
    return Pulse(*(await connection.execute(_PULSE, {"group": group})).one())


async def last_verifications(connection: AsyncConnection) -> dict[bool, tuple[bool, datetime]]:
    """Tell, of full and of quick ones, whether the last verification was well, and when it was."""
    rows = await connection.execute(_VERIFIED)
    return {row.is_full: (row.is_ok, row.verified_at) for row in rows}


# What was seen


async def read(connection: AsyncConnection) -> tuple[datetime | None, Document]:
    """Read what was seen of all channels, and when; None before anybody looked."""
    row = (await connection.execute(sa.select(observation.c.seen_at, observation.c.document))).one()
    return row.seen_at, row.document


async def take_turn(connection: AsyncConnection, *, observer: str, pause_seconds: float) -> bool:
    """Take the turn to look at all channels, unless somebody is at it, or was just now."""

    def is_past(column: sa.ColumnElement[Any], seconds: float) -> sa.ColumnElement[bool]:
        age = sa.func.make_interval(0, 0, 0, 0, 0, 0, seconds)
        return column.is_(None) | (column < sa.func.now() - age)

    result = await connection.execute(
        sa.update(observation)
        .where(
            is_past(observation.c.seen_at, pause_seconds / 2),
            # Whoever is at it says so oftener, or is gone.
            is_past(observation.c.busy_at, 3 * pause_seconds),
        )
        .values(observer=observer, busy_at=sa.func.now())
    )
    return bool(result.rowcount)


async def keep_turn(connection: AsyncConnection, *, observer: str) -> bool:
    """Say that the look goes on; false if somebody else has taken the turn."""
    result = await connection.execute(
        sa.update(observation)
        .where(observation.c.observer == observer)
        .values(busy_at=sa.func.now())
    )
    return bool(result.rowcount)


async def write(connection: AsyncConnection, document: Document) -> None:
    """Write down what was seen, and give the turn back: it must have been kept just before."""
    await connection.execute(
        sa.update(observation).values(busy_at=None, seen_at=sa.func.now(), document=document)
    )


# How channels stand


async def channels_after(
    connection: AsyncConnection, name: str, *, channels_max: int
) -> list[tuple[str, str]]:
    """List the next registered channels by name, each with its time zone."""
    rows = await connection.execute(
        sa.select(channel.c.channel, channel.c.time_zone)
        .where(channel.c.channel > name, channel.c.time_zone.is_not(None))
        .order_by(channel.c.channel)
        .limit(channels_max)
    )
    return [(row[0], row[1]) for row in rows]


_STANDINGS = """
WITH part AS (
    SELECT * FROM unnest($1::text[], $2::date[]) AS part (channel, today)
), held AS (
    -- Entitlements hold nothing.
    SELECT lot.channel, product,
        sum(drawn)::float8 / nullif(sum(quota * least(quotas_of(product), 1)), 0) AS quota,
        sum(taken)::float8 / nullif(sum(quota * quotas_of(product)), 0) AS lot,
        count(*) FILTER (WHERE is_ending)::integer AS ending,
        min(ends_on) FILTER (WHERE is_ending) AS ends_on
    FROM part JOIN lot USING (channel)
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(taken), 0) AS taken, coalesce(
            sum(own + carried + borrowed) FILTER (WHERE lot_window.starts_on <= today
                AND today < (lot.starts_on + make_interval(months => number + 1))::date), 0
        ) AS drawn
        FROM lot_window WHERE lot_window.channel = lot.channel AND lot_window.lot = lot.lot
    ) AS held
    CROSS JOIN LATERAL (
        SELECT ends_on - today < $6 AND (
            SELECT value FROM setting WHERE setting.channel = lot.channel AND name = 'renew'
                AND "of" = lot.lot AND on_day <= today
            ORDER BY at DESC, sequence DESC LIMIT 1
        ) IS DISTINCT FROM 'true' AS is_ending
    ) AS ending
    WHERE today BETWEEN lot.starts_on AND ends_on AND NOT is_refunded
    GROUP BY lot.channel, product
), planned AS (
    SELECT part.channel, today, CASE
        WHEN plan.value = '"trial"' AND today >= (
            SELECT (value::jsonb #>> '{}')::date FROM setting
            WHERE setting.channel = part.channel AND name = 'trial_ends_on' AND on_day <= today
            ORDER BY at DESC, sequence DESC LIMIT 1
        ) THEN 'free' ELSE plan.value::jsonb #>> '{}' END AS plan
    FROM part, LATERAL (
        SELECT value FROM setting
        WHERE setting.channel = part.channel AND name = 'plan' AND on_day <= today
        ORDER BY at DESC, sequence DESC LIMIT 1
    ) AS plan
), own_limit AS (
    SELECT DISTINCT ON (channel, "of") channel, today, "of" AS product, value
    FROM part JOIN setting USING (channel) WHERE name = 'limit' AND on_day <= today
    ORDER BY channel, "of", at DESC, sequence DESC
), limited AS (
    SELECT channel, today, product, min(bound) AS bound FROM (
        SELECT channel, today, product, value::bigint * 1000 AS bound
        FROM own_limit WHERE value <> 'null'
        UNION ALL
        SELECT channel, today, product, bound FROM planned
        JOIN unnest($3::text[], $4::text[], $5::bigint[]) AS system (plan, product, bound)
        USING (plan)
    ) AS each GROUP BY channel, today, product
), running AS (
    -- Cycles are counted out only where the billing day was ever changed.
    SELECT channel.channel, CASE WHEN days = 1 THEN billing_date_up_to(today, day) ELSE (
        SELECT max(starts_on) FROM open_cycles(channel.channel, open_from, today)
    ) END AS starts_on
    FROM (SELECT DISTINCT channel, today FROM limited) AS concerned
    JOIN channel USING (channel), LATERAL (
        SELECT count(*) AS days, min(value)::integer AS day FROM setting
        WHERE setting.channel = concerned.channel AND name = 'billing_day'
    ) AS billing
), measured AS (
    SELECT channel, product, CASE
        -- A limit of 0 is reached with the first unit.
        WHEN bound > 0 THEN used::float8 / bound WHEN used > 0 THEN 1 ELSE 0 END AS bound
    FROM limited JOIN running USING (channel), LATERAL (
        SELECT coalesce(sum(quantity), 0) AS used FROM fill
        WHERE fill.channel = limited.channel AND fill.product = limited.product
            AND on_day >= running.starts_on AND source NOT IN ('minimum', 'expired')
    ) AS used
)
SELECT channel, product, CASE WHEN product <> 'pu' THEN quota END, lot, bound,
    coalesce(ending, 0), ends_on
FROM held FULL JOIN measured USING (channel, product)
"""


async def standings(
    connection: AsyncConnection,
    days: Sequence[tuple[str, date]],
    limits: Sequence[PlanLimit],
    *,
    ending_days: int,
) -> list[Standing]:
    """Say how channels stand, each on its own day; `limits` are those of the plans."""
    driver = await driver_of(connection)
    rows = await driver.fetch(
        _STANDINGS,
        [name for name, _ in days],
        [today for _, today in days],
        [limit.plan for limit in limits],
        [limit.product for limit in limits],
        [limit.limit for limit in limits],
        ending_days,
    )
    return [Standing(*row) for row in rows]
