"""What is to be said to others: rows of the same transaction, sent and removed by the relay."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson
import sqlalchemy as sa

from metering.events import digest_of
from metering.periods import first_instant, moment_of
from metering.storage import database
from metering.storage.tables import outbox

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from metering.intake import Closing, Headers
    from metering.lifecycle import Happening

Destination = Literal["notices", "statements", "dead_letters"]

SOURCE = "/lotmeter"


class Draft(NamedTuple):
    """A message that is to be sent."""

    destination: Destination
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class OutboxMessage(NamedTuple):
    """A message that waits to be sent."""

    number: int
    destination: Destination
    key: bytes | None
    value: bytes | None
    headers: Headers


async def put(driver: Any, drafts: Sequence[Draft]) -> None:
    """Add messages to the outbox."""
    rows = [
        (draft.destination, draft.key, draft.value, pack_headers(draft.headers)) for draft in drafts
    ]
    await database.insert(driver, outbox, rows)


async def take(
    connection: AsyncConnection, destinations: Collection[str], *, messages_max: int
) -> list[OutboxMessage]:
    """Take the oldest messages for some destinations, which no other member takes until the
    transaction ends.
    """
    rows = await connection.execute(
        sa.select(
            outbox.c.number, outbox.c.destination, outbox.c.key, outbox.c.value, outbox.c.headers
        )
        .where(outbox.c.destination.in_(destinations))
        .order_by(outbox.c.number)
        .limit(messages_max)
        .with_for_update(skip_locked=True)
    )
    # By place: each name would be looked up for each row.
    return [
        OutboxMessage(number, destination, key, value, unpack_headers(headers))
        for number, destination, key, value, headers in rows
    ]


async def remove(connection: AsyncConnection, numbers: Collection[int]) -> None:
    """Remove messages that were sent."""
    if numbers:
        await connection.execute(sa.delete(outbox).where(database.any_of(outbox.c.number, numbers)))


async def oldest_age_seconds(connection: AsyncConnection) -> float:
    """Tell how long the oldest message has waited; 0 if none does."""
    # By its number: there is no index of the times.
    age = await connection.scalar(
        sa.select(sa.extract("epoch", sa.func.now() - outbox.c.created_at))
        .order_by(outbox.c.number)
        .limit(1)
    )
    return float(age or 0)


def draft_notice(account_zone: str, channel: str, happening: Happening) -> Draft:
    """Write a notice as a CloudEvent, whose id is made from its content."""
    content = {
        "kind": happening.kind,
        "product": happening.product,
        "on": happening.on.isoformat(),
        "detail": happening.detail,
    }
    text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS).decode()
    event = _cloud_event(
        digest_of("notice", channel, text),
        f"lotmeter.notice.{happening.kind}",
        channel,
        first_instant(happening.on, account_zone),
        content,
    )
    return Draft("notices", channel.encode(), event)


def draft_statement(account_zone: str, closing: Closing) -> Draft:
    """Write a closed cycle as a CloudEvent for invoicing."""
    starts_on = closing.starts_on.isoformat()
    event = _cloud_event(
        digest_of("statement", closing.channel, starts_on),
        "lotmeter.cycle.closed",
        closing.channel,
        first_instant(closing.ends_on, account_zone),
        closing.statement,
    )
    return Draft("statements", f"{closing.channel}|{starts_on}".encode(), event)


def _cloud_event(digest: bytes, kind: str, channel: str, at: int, data: dict[str, Any]) -> bytes:
    return _json_of(
        {
            "specversion": "1.0",
            "id": digest.hex(),
            "source": SOURCE,
            "type": kind,
            "subject": channel,
            "time": moment_of(at).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": data,
        }
    )


def _json_of(value: object) -> bytes:
    """Write JSON in as many bytes as it has: what orjson gives keeps four KiB, however short."""
    return bytes(memoryview(orjson.dumps(value)))


def pack_headers(headers: Headers) -> bytes:
    """Pack the headers of a record, whose values are any bytes, into one value."""
    packed = [
        [name, None if value is None else b64encode(value).decode()] for name, value in headers
    ]
    return _json_of(packed)


def unpack_headers(packed: bytes) -> Headers:
    """Unpack what pack_headers packed."""
    return tuple(
        (name, None if value is None else b64decode(value)) for name, value in orjson.loads(packed)
    )
