"""What was decided about commands: looked up in the books, until each is there."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from consumer.terminal import Stop, engine_of
from metering.events import digest_of
from metering.storage.database import any_of
from metering.storage.tables import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consumer.settings import Settings

POLL_SECONDS = 0.2


async def answers_to(
    settings: Settings, channel: str, source: str, ids: Sequence[str], *, seconds: float
) -> list[dict[str, Any]]:
    """Wait until commands are in the books: granted, refused with a reason, or waiting for their
    channel.

    Raises Stop if one of them does not come in time.
    """
    digests = {digest_of(channel, source, each): each for each in ids}
    found: dict[str, dict[str, Any]] = {}
    engine = engine_of(settings)
    deadline = time.monotonic() + seconds
    try:
        while True:
            async with engine.connect() as connection:
                rows = await connection.execute(
                    sa.select(command.c.digest, command.c.state, command.c.answer).where(
                        command.c.channel == channel, any_of(command.c.digest, digests)
                    )
                )
                found = {digests[bytes(row.digest)]: _answer(row) for row in rows}
            if len(found) == len(digests):
                return [{"id": each, **found[each]} for each in ids]
            if time.monotonic() > deadline:
                missing = ", ".join(each for each in ids if each not in found)
                raise Stop(
                    f"not in the books after {seconds:.0f} seconds: {missing};"
                    " see lotmeter dead-letters, and whether lotmeter run is up"
                )
            await asyncio.sleep(POLL_SECONDS)
    finally:
        await engine.dispose()


def _answer(row: Any) -> dict[str, Any]:  # noqa: ANN401
    if row.state == "parked":
        return {"outcome": "waiting", "reason": "unknown_channel"}
    if row.answer is not None:
        return {"outcome": "refused", "reason": row.answer}
    return {"outcome": "granted"}
