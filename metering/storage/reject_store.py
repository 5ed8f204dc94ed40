"""Records that were rejected, as people look for them: where they were read, and why they could not
be counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from metering.storage.database import any_of
from metering.storage.tables import position, reject

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncEngine


class Choice(NamedTuple):
    """Which of them; what is empty or None leaves all in."""

    reasons: Collection[str] = ()
    topic: str | None = None
    partition: int | None = None
    from_offset: int | None = None
    to_offset: int | None = None  # The last one.
    channel: str | None = None

    @property
    def is_all(self) -> bool:
        """Say whether nothing is left out."""
        return self == Choice()

    def holds(self, reason: str, topic: str, partition: int, offset: int) -> bool:
        """Say whether a record of any channel is chosen."""
        return (
            (not self.reasons or reason in self.reasons)
            and self.topic in (None, topic)
            and self.partition in (None, partition)
            and (self.from_offset is None or offset >= self.from_offset)
            and (self.to_offset is None or offset <= self.to_offset)
        )


class RejectedRecord(NamedTuple):
    """One of them."""

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    channel: str | None  # None where not even that could be read.
    was_parked: bool
    rejected_at: datetime


async def find(
    engine: AsyncEngine, choice: Choice, *, group: str, records_max: int
) -> tuple[list[RejectedRecord], dict[str, int]]:
    """Find the newest rejected records, and how many there are of each reason."""
    joined = reject.join(position, position.c.number == reject.c.position)
    chosen = sa.and_(position.c.consumer_group == group, *_conditions(choice))
    newest = (
        sa.select(
            position.c.topic,
            position.c.topic_partition,
            reject.c.read_at_offset,
            reject.c.reason,
            reject.c.detail,
            reject.c.channel,
            reject.c.was_parked,
            reject.c.rejected_at,
        )
        .select_from(joined)
        .where(chosen)
        .order_by(
            reject.c.rejected_at.desc(),
            position.c.topic,
            position.c.topic_partition,
            reject.c.read_at_offset.desc(),
        )
        .limit(records_max)
    )
    counts = (
        sa.select(reject.c.reason, sa.func.count())
        .select_from(joined)
        .where(chosen)
        .group_by(reject.c.reason)
        .order_by(sa.func.count().desc(), reject.c.reason)
    )
    async with engine.connect() as opened:
        connection = await opened.execution_options(isolation_level="REPEATABLE READ")
        rows = await connection.execute(newest)
        found = [RejectedRecord(*row) for row in rows]
        reasons = {row[0]: row[1] for row in await connection.execute(counts)}
    return found, reasons


def _conditions(choice: Choice) -> list[sa.ColumnElement[Any]]:
    conditions: list[sa.ColumnElement[Any]] = []
    if choice.reasons:
        conditions.append(any_of(reject.c.reason, choice.reasons))
    for column, wanted in (
        (position.c.topic, choice.topic),
        (position.c.topic_partition, choice.partition),
        (reject.c.channel, choice.channel),
    ):
        if wanted is not None:
            conditions.append(column == wanted)
    if choice.from_offset is not None:
        conditions.append(reject.c.read_at_offset >= choice.from_offset)
    if choice.to_offset is not None:
        conditions.append(reject.c.read_at_offset <= choice.to_offset)
    return conditions
