"""What the books know of one event or one entry: the records, batches and entries around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date, datetime

_EVENT = """
SELECT e.*, q.topic, q.topic_partition FROM event e JOIN position q ON q.number = e.position
WHERE e.channel = $1 AND e.digest = $2
"""
_COMMAND = """
SELECT c.*, q.topic, q.topic_partition FROM command c JOIN position q ON q.number = c.position
WHERE c.channel = $1 AND c.digest = $2
"""
_REGISTRATION = """
SELECT position, read_at_offset FROM command
WHERE channel = $1 AND kind = 'Register' AND answer IS NULL ORDER BY at LIMIT 1
"""
_VOIDS_OF = """
SELECT e.*, q.topic, q.topic_partition FROM event e JOIN position q ON q.number = e.position
WHERE e.channel = $1 AND e.product = 0 AND e.person = $2 AND e.state = 0
"""
_BATCH_OF = """
SELECT * FROM batch WHERE position = $1 AND from_offset <= $2 ORDER BY from_offset DESC LIMIT 1
"""
_BATCH_AT = """
SELECT b.*, q.topic, q.topic_partition FROM batch b JOIN position q ON q.number = b.position
WHERE b.committed_at = $1 ORDER BY q.topic, q.topic_partition
"""
_ENTRIES = """
SELECT n.*, q.topic, q.topic_partition, l.starts_on FROM entry n
LEFT JOIN position q ON q.number = n.position
LEFT JOIN lot l ON l.channel = n.channel AND l.lot = n.lot
WHERE n.channel = $1 AND {condition} ORDER BY n.number
"""
_EVENTS_IN = """
SELECT e.*, q.topic, q.topic_partition, count(*) OVER () AS events FROM event e
JOIN position q ON q.number = e.position
LEFT JOIN event t ON t.channel = e.channel AND t.digest = e.person AND e.product = 0
WHERE e.channel = $1 AND coalesce(t.product, e.product) = $2
    AND coalesce(t.at, e.at) < $6 AND coalesce(t.counts_on, e.counts_on, $7) <= $7 AND EXISTS (
    SELECT FROM unnest($3::int[], $4::bigint[], $5::bigint[]) AS b (position, low, beyond)
    WHERE b.position = e.position AND e.read_at_offset >= b.low AND e.read_at_offset < b.beyond
) ORDER BY q.topic, q.topic_partition, e.read_at_offset LIMIT $8
"""
_EVENTS_BEFORE = """
WITH reached AS (
    SELECT position, max(to_offset) AS to_offset FROM batch WHERE committed_at < $3
    GROUP BY position
)
SELECT count(*) FROM event e JOIN reached r USING (position)
WHERE e.channel = $1 AND e.product = $2 AND e.read_at_offset < r.to_offset
"""
_OF_DAY = """
SELECT count(*) AS events FROM event
WHERE channel = $1 AND product = $2 AND state = 0 AND month BETWEEN $3 AND $4
    AND ((counts_on IS NULL AND at >= $5 AND at < $6) OR counts_on = $7)
"""
_FILLS = """
SELECT source, lot, sum(quantity)::bigint AS quantity FROM fill
WHERE channel = $1 AND product = $2 AND on_day = $3 AND quantity <> 0
GROUP BY source, lot ORDER BY source, lot
"""
_WAITING = "SELECT waits_for FROM parked WHERE channel = $1 AND digest = $2"
_CHANNEL = "SELECT time_zone, open_from FROM channel WHERE channel = $1"


class Snapshot:
    """One channel at one moment. Rows are those of the driver."""

    def __init__(self, driver: Any, channel: str) -> None:
        self._driver = driver
        self._channel = channel

    async def channel(self) -> Any:
        """Find the channel; None if nobody has heard of it."""
        return await self._driver.fetchrow(_CHANNEL, self._channel)

    async def event(self, digest: bytes) -> Any:
        """Find an event by its identity."""
        return await self._driver.fetchrow(_EVENT, self._channel, digest)

    async def command(self, digest: bytes) -> Any:
        """Find a command by its identity."""
        return await self._driver.fetchrow(_COMMAND, self._channel, digest)

    async def registration(self) -> Any:
        """Find where the command was read that registered the channel."""
        return await self._driver.fetchrow(_REGISTRATION, self._channel)

    async def void_of(self, digest: bytes) -> Any:
        """Find the void that took an event back."""
        return await self._driver.fetchrow(_VOIDS_OF, self._channel, digest)

    async def is_waiting_for(self, digest: bytes) -> bytes | None:
        """Tell for which event a record waits; None where it waits for its channel."""
        waits_for: bytes | None = await self._driver.fetchval(_WAITING, self._channel, digest)
        return waits_for

    async def batch_of(self, position: int, offset: int) -> Any:
        """Find the stretch of a partition that an offset was recorded with."""
        row = await self._driver.fetchrow(_BATCH_OF, position, offset)
        return row if row is not None and offset < row["to_offset"] else None

    async def batch_at(self, committed_at: datetime) -> list[Any]:
        """Find all stretches that were recorded in one transaction; none if it was the clock's."""
        return list(await self._driver.fetch(_BATCH_AT, committed_at))

    async def entry(self, number: int) -> Any:
        """Find an entry by its number."""
        rows = await self._driver.fetch(
            _ENTRIES.format(condition="n.number = $2"), self._channel, number
        )
        return rows[0] if rows else None

    async def entries_at(self, booked_at: datetime) -> list[Any]:
        """Find the entries of one transaction."""
        return list(
            await self._driver.fetch(
                _ENTRIES.format(condition="n.booked_at = $2"), self._channel, booked_at
            )
        )

    async def events_in(
        self,
        product_code: int,
        stretches: Sequence[Any],
        *,
        through: date,
        before: int,
        events_max: int,
    ) -> list[Any]:
        """Find the events of a product in some stretches that count on a day or earlier, voids of
        such events too; each row tells how many there are in all.
        """
        columns = (
            [row[name] for row in stretches] for name in ("position", "from_offset", "to_offset")
        )
        return list(
            await self._driver.fetch(
                _EVENTS_IN, self._channel, product_code, *columns, before, through, events_max
            )
        )

    async def events_before(self, product_code: int, moment: datetime) -> int:
        """Count the events of a product that were read before a transaction."""
        return int(await self._driver.fetchval(_EVENTS_BEFORE, self._channel, product_code, moment))

    async def events_of_day(
        self, product_code: int, day: date, *, months: tuple[int, int], instants: tuple[int, int]
    ) -> int:
        """Count the events that count on a day."""
        return int(
            await self._driver.fetchval(
                _OF_DAY, self._channel, product_code, *months, *instants, day
            )
        )

    async def fills(self, product: str, day: date) -> list[Any]:
        """Sum where the usage of a day stands now."""
        return list(await self._driver.fetch(_FILLS, self._channel, product, day))
