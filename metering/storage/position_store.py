"""Positions: how far each partition has been read, by whom, and what became of each offset."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from metering.errors import Fenced
from metering.storage import database
from metering.storage.tables import batch, position

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sqlalchemy.ext.asyncio import AsyncConnection


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Claim(NamedTuple):
    """The right to move a partition on, until somebody else claims it."""

    number: int  # Of the partition in the books.
    partition: Partition
    epoch: int
    next_offset: int
    anchor: tuple[int, bytes] | None  # Offset and digest of the last record that was committed.
    halted: str | None  # Why it must not be read.


class Slice(NamedTuple):
    """A stretch of a partition that is recorded in one batch."""

    claim: Claim
    from_offset: int
    to_offset: int
    anchor: tuple[int, bytes] | None  # Of its last record; None where it has only holes.
    read_up_to: int  # The instant up to which all that arrived has been read.


async def claim(
    connection: AsyncConnection,
    partitions: Mapping[Partition, int],
    *,
    group: str,
    owner: str,
    cluster_id: str,
) -> list[Claim]:
    """Claim partitions; one that was never read starts at the offset given for it."""
    wanted = sorted(partitions)
    if not wanted:
        return []
    fresh = [
        {
            "consumer_group": group, "topic": topic, "topic_partition": number,
            "cluster_id": cluster_id, "start_offset": partitions[Partition(topic, number)],
            "next_offset": partitions[Partition(topic, number)], "epoch": 0, "owner": owner,
            "read_up_to": 0,
        }
        for topic, number in wanted
    ]  # fmt: skip
    await connection.execute(pg.insert(position).values(fresh).on_conflict_do_nothing())
    names = sa.tuple_(position.c.topic, position.c.topic_partition).in_(wanted)
    mine = sa.and_(position.c.consumer_group == group, names)
    await connection.execute(
        sa.select(position.c.number).where(mine).order_by(position.c.number).with_for_update()
    )
    # Another cluster under the same name holds other records at the same offsets.
    moved = f"it was read from another cluster; now it is on {cluster_id}"
    rows = await connection.execute(
        sa.update(position)
        .where(mine)
        .values(
            epoch=position.c.epoch + 1,
            owner=owner,
            halted=sa.case(
                (sa.and_(position.c.halted.is_(None), position.c.cluster_id != cluster_id), moved),
                else_=position.c.halted,
            ),
        )
        .returning(position)
    )
    return [
        Claim(
            row.number,
            Partition(row.topic, row.topic_partition),
            row.epoch,
            row.next_offset,
            None if row.anchor_offset is None else (row.anchor_offset, row.anchor_digest),
            row.halted,
        )
        for row in rows
    ]


_ADVANCE = """
WITH step AS (
    SELECT * FROM unnest(
        $1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bigint[]
    ) AS step (number, epoch, from_offset, to_offset, anchor_offset, anchor_digest, read_up_to)
), locked AS (
    SELECT number FROM position WHERE number = ANY ($1) ORDER BY number FOR UPDATE
)
UPDATE position SET
    next_offset = step.to_offset,
    anchor_offset = coalesce(step.anchor_offset, position.anchor_offset),
    anchor_digest = coalesce(step.anchor_digest, position.anchor_digest),
    read_up_to = greatest(position.read_up_to, step.read_up_to)
FROM step JOIN locked USING (number)
WHERE position.number = step.number AND position.next_offset = step.from_offset
    AND position.epoch = step.epoch AND position.halted IS NULL
"""
_READ_UP_TO = "SELECT min(read_up_to) FROM position WHERE consumer_group = $1"


async def advance(driver: Any, slices: Sequence[Slice]) -> None:
    """Move positions on. Raises Fenced if any of them is not where its claim left it."""
    status = await driver.execute(
        _ADVANCE,
        [part.claim.number for part in slices],
        [part.claim.epoch for part in slices],
        [part.from_offset for part in slices],
        [part.to_offset for part in slices],
        [part.anchor[0] if part.anchor else None for part in slices],
        [part.anchor[1] if part.anchor else None for part in slices],
        [part.read_up_to for part in slices],
    )
    lost = len(slices) - database.count_of(status)
    if lost:
        raise Fenced(f"{lost} of {len(slices)} partitions were claimed by somebody else")


async def mark_read(
    connection: AsyncConnection, claims: Sequence[Claim], *, read_up_to: int
) -> None:
    """Note that nothing more came on partitions that are read to their end."""
    await connection.execute(
        sa.update(position)
        .where(
            sa.tuple_(position.c.number, position.c.epoch).in_(
                [(claim.number, claim.epoch) for claim in claims]
            ),
            position.c.read_up_to < read_up_to,
        )
        .values(read_up_to=read_up_to)
    )


async def halt(connection: AsyncConnection, claim: Claim, why: str) -> None:
    """Stop a partition until somebody takes it up again."""
    await connection.execute(
        sa.update(position)
        .where(position.c.number == claim.number, position.c.epoch == claim.epoch)
        .values(halted=why)
    )


async def read_up_to(driver: Any, group: str) -> int | None:
    """Find the instant up to which every partition has been read; None before the first one is."""
    instant: int | None = await driver.fetchval(_READ_UP_TO, group)
    return instant


async def keep_account(driver: Any, lines: Sequence[tuple[int, ...]]) -> None:
    """Write down what became of each offset: position, from, to, epoch, applied, duplicate,
    parked, rejected.
    """
    await database.insert(driver, batch, lines)


# What an operator decides. Only halted partitions are touched: nobody writes them.


class Standing(NamedTuple):
    """How a partition stands."""

    partition: Partition
    next_offset: int
    epoch: int
    owner: str
    read_up_to: int
    halted: str | None


async def standings(connection: AsyncConnection, group: str) -> list[Standing]:
    """List the partitions of a group."""
    rows = await connection.execute(
        sa.select(position)
        .where(position.c.consumer_group == group)
        .order_by(position.c.topic, position.c.topic_partition)
    )
    return [
        Standing(
            Partition(row.topic, row.topic_partition),
            row.next_offset,
            row.epoch,
            row.owner,
            row.read_up_to,
            row.halted,
        )
        for row in rows
    ]


def _halted(group: str, partition: Partition) -> sa.ColumnElement[bool]:
    return sa.and_(
        position.c.consumer_group == group,
        position.c.topic == partition.topic,
        position.c.topic_partition == partition.partition,
        position.c.halted.is_not(None),
    )


async def resume(connection: AsyncConnection, group: str, partition: Partition) -> bool:
    """Let a halted partition be read again; says whether there was one."""
    found = await connection.execute(
        sa.update(position).where(_halted(group, partition)).values(halted=None)
    )
    return found.rowcount == 1


async def retire(connection: AsyncConnection, group: str, partition: Partition) -> bool:
    """Put the position in a log that is gone aside; says whether there was one that is halted.

    What was read of it stays in the books under its number. Whoever claims the partition next
    begins at the beginning of the log that is there now, under another number: the same offset
    means another record.
    """
    until = sa.func.to_char(
        sa.func.timezone("UTC", sa.func.clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
    )
    found = await connection.execute(
        sa.update(position)
        .where(_halted(group, partition))
        .values(consumer_group=sa.func.concat(position.c.consumer_group, " until ", until))
    )
    return found.rowcount == 1


async def skip(
    connection: AsyncConnection, group: str, partition: Partition, *, to_offset: int
) -> bool:
    """Go on behind records that cannot be read; says whether there was something to skip.

    They are accounted for as a hole: offsets that were passed, and nothing of them counted.
    """
    row = (
        await connection.execute(
            sa.select(position.c.number, position.c.next_offset, position.c.epoch)
            .where(_halted(group, partition), position.c.next_offset < to_offset)
            .with_for_update()
        )
    ).one_or_none()
    if row is None:
        return False
    await connection.execute(
        sa.update(position)
        .where(position.c.number == row.number)
        .values(next_offset=to_offset, epoch=row.epoch + 1, halted=None)
    )
    await connection.execute(
        sa.insert(batch).values(
            position=row.number,
            from_offset=row.next_offset,
            to_offset=to_offset,
            epoch=row.epoch + 1,
            applied=0,
            duplicate=0,
            parked=0,
            rejected=0,
        )
    )
    return True
