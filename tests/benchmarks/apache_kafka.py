"""Apache Kafka, started as the fault tests start it, but with memory and compiler for speed."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.faults.kafka import Broker
from tests.faults.programs import Missing, fetch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JAVA = ("java", "-Xms512m", "-Xmx1g", "-XX:+UseG1GC")


class _Broker(Broker):
    def _java(self, *arguments: Any) -> list[Any]:
        return [*JAVA, "-cp", f"{self.libs}/*", *arguments]


def require() -> None:
    """Find out before anything is measured whether it can run here. Raises RuntimeError."""
    try:
        fetch()
    except Missing as missing:
        raise RuntimeError(str(missing)) from missing


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[str, list[int]]]:
    """Yield the address of a fresh broker, and its process."""
    with tempfile.TemporaryDirectory(prefix="lotmeter-") as home:
        broker = _Broker(Path(home))
        await broker.start()
        try:
            yield broker.address, [broker._program.process.pid]
        finally:
            await broker.stop()
