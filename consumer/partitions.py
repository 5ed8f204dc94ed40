"""Which partitions this member reads: given by the group, claimed in the books, checked in the log.

    given by the group ──> loading ──claim, check the log, seek──> ready ──> taken back
                              ^                                      │
                              └──────── fenced, database away ───────┤
                                                                     └──> halted

Kafka says who should read a partition; only the books say from where, and who may write. What runs
inside the group's callbacks is therefore kept so small that it cannot fail: the client swallows
what they raise, and reads on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import structlog
from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import IllegalStateError, KafkaError

from consumer import metrics
from consumer.anchors import why_another_log
from metering.errors import Unavailable
from metering.meter import Partition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

    from metering.meter import Claim

# How long a rebalance waits for batches that run. Later ones are fenced, so this only saves work.
COURTESY_SECONDS = 10

BACKOFF_SECONDS_MIN = 0.1
BACKOFF_SECONDS_MAX = 10
POLL_SECONDS = 0.01

# How often to look whether an operator has taken up again what was halted.
HALTED_LOOK_SECONDS = 10

log = structlog.get_logger()


class Chunk(NamedTuple):
    """Records of one partition that were fetched at once, with the holes before and behind them."""

    records: Sequence[ConsumerRecord[bytes, bytes]]
    to_offset: int
    bytes: int
    fetched_at: float  # By the monotonic clock.
    is_of_backlog: bool = False  # Whatever is left of its partition since.


@dataclass(slots=True, eq=False)
class Held:
    """One partition, from when the group gives it to this member until it takes it back."""

    tp: TopicPartition
    state: Literal["loading", "ready", "halted"] = "loading"
    claim: Claim | None = None
    next_offset: int = 0  # As the books have it.
    fetched_to: int = 0  # As the client has it: what lies between is in the chunks, or in a batch.
    chunks: deque[Chunk] = field(default_factory=deque)
    is_busy: bool = False  # A batch with records of it is being recorded.
    load_at: float = 0  # When to load it, by the monotonic clock.
    asked_since: float | None = None  # Since when records are asked for: later by any pause.
    ask_at: float = 0  # When to ask again, by the monotonic clock.
    failures: int = 0  # In a row: questions that ended in an error.
    records_seen: int = 0  # For the breaker, with the next.
    records_rejected: int = 0


def fetched_at(held: Held) -> float:
    """Tell when what waits first of a partition was fetched, by the monotonic clock."""
    return held.chunks[0].fetched_at


class Claimer(Protocol):
    """What is needed of the books here; tests pass a simpler one."""

    async def claim(
        self, partitions: Mapping[Partition, int], *, owner: str, cluster_id: str
    ) -> list[Claim]:
        """Claim partitions."""

    async def halt(self, claim: Claim, why: str) -> None:
        """Stop a partition until somebody takes it up again."""


def backoff_seconds(attempt: int) -> float:
    """Say how long to wait after that many failures in a row, never the same for two members."""
    longest = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_MIN * float(1 << min(attempt, 10)))
    return longest * random.uniform(0.5, 1)  # noqa: S311  # It guards nothing.


class Partitions(ConsumerRebalanceListener):
    """The partitions that the group has given to this member."""

    def __init__(
        self, consumer: AIOKafkaConsumer, meter: Claimer, *, owner: str, cluster_id: str
    ) -> None:
        self._consumer = consumer
        self._meter = meter
        self._owner = owner
        self._cluster_id = cluster_id
        self._held: dict[TopicPartition, Held] = {}
        self._wake = asyncio.Event()
        self.has_joined = False
        # What somebody is asking the client for. A question outlives a rebalance, and would then
        # take records that it has no right to.
        self.asked: set[TopicPartition] = set()

    @property
    def held(self) -> Sequence[Held]:
        """All partitions of this member."""
        return list(self._held.values())

    @property
    def ready(self) -> Sequence[Held]:
        """The partitions that may be read."""
        return [held for held in self._held.values() if held.state == "ready"]

    def is_ready(self, held: Held) -> bool:
        """Say whether this is still ours, and may be read."""
        return held.state == "ready" and self._is_current(held)

    def _is_current(self, held: Held) -> bool:
        return self._held.get(held.tp) is held

    # What the group calls

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002
        """Forget everything, then let running batches finish for a while: they may just make it."""
        gone, self._held = self.held, {}
        for held in gone:
            held.chunks.clear()
            forget_lag(held.tp)
        deadline = time.monotonic() + COURTESY_SECONDS
        while any(held.is_busy for held in gone) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Mark them as not ready and wake who loads them. Until then nothing of them is read."""
        self._held = {tp: Held(tp) for tp in assigned}
        self._consumer.pause(*self._held)
        self.has_joined = True
        metrics.REBALANCES.inc()
        self._wake.set()

    # What the loop calls

    def give_back(self, partitions: Iterable[Held], *, seconds: float) -> None:
        """Drop what was fetched, and claim again after a while: then the books say what is next."""
        for held in partitions:
            held.chunks.clear()
            if self.is_ready(held):
                held.state = "loading"
                held.load_at = time.monotonic() + seconds
                self._consumer.pause(held.tp)
        self._wake.set()

    async def halt(self, held: Held, why: str) -> None:
        """Stop reading a partition, and say so in the books and to people."""
        if not self._is_current(held):
            return
        assert held.claim is not None
        self._stop_reading(held, why)
        try:
            await self._meter.halt(held.claim, why)
        except Unavailable as error:
            # Whoever loads it next finds the same again.
            log.warning("halt_not_recorded", reason=metrics.count_database_error(error))

    def _stop_reading(self, held: Held, why: str) -> None:
        was_halted, held.state = held.state == "halted", "halted"
        held.load_at = time.monotonic() + HALTED_LOOK_SECONDS
        held.chunks.clear()
        self._consumer.pause(held.tp)
        self._wake.set()
        if was_halted:
            return
        log.error("partition_halted", topic=held.tp.topic, partition=held.tp.partition, why=why)

    # Loading

    async def keep_loaded(self) -> None:
        """Load whatever is not ready, for ever."""
        attempt = 0
        while True:
            loading = await self._next_to_load()
            try:
                await self._load(loading)
                attempt = 0
            except (Unavailable, KafkaError) as error:
                attempt += 1
                reason = type(error).__name__
                if isinstance(error, Unavailable):
                    reason = metrics.count_database_error(error)
                    metrics.DATABASE_RETRIES.labels(reason).inc()
                log.warning("partitions_not_loaded", attempt=attempt, reason=reason)
                load_at = time.monotonic() + backoff_seconds(attempt)
                for held in loading:
                    held.load_at = load_at

    async def _next_to_load(self) -> list[Held]:
        while True:
            self._wake.clear()
            now = time.monotonic()
            loading = [held for held in self._held.values() if held.state != "ready"]
            if due := [held for held in loading if held.load_at <= now]:
                return due
            seconds = min(held.load_at for held in loading) - now if loading else None
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._wake.wait()

    async def _load(self, loading: Sequence[Held]) -> None:
        beginnings = await self._consumer.beginning_offsets([held.tp for held in loading])
        offsets = {Partition(*tp): offset for tp, offset in beginnings.items()}
        claims = await self._meter.claim(offsets, owner=self._owner, cluster_id=self._cluster_id)
        by_partition = {claim.partition: claim for claim in claims}
        # The client looks through all partitions for those that are paused: once, not for each.
        paused = self._consumer.paused()
        found = await asyncio.gather(
            *(
                self._open(held, by_partition[Partition(*held.tp)], is_paused=held.tp in paused)
                for held in loading
            ),
            return_exceptions=True,
        )
        for error in found:
            # What was taken back meanwhile is nobody's error.
            if error is not None and not isinstance(error, IllegalStateError):
                raise error

    async def _open(self, held: Held, claim: Claim, *, is_paused: bool) -> None:
        """Put the client where the books are, if the log is the one that they know."""
        held.claim = claim
        # A question that outlived a rebalance would take the records that are asked for here.
        while held.tp in self.asked:  # noqa: ASYNC110  # It lasts for a fraction of a second.
            await asyncio.sleep(POLL_SECONDS)
        why = claim.halted or await why_another_log(
            self._consumer, claim, is_ours=partial(self._is_current, held)
        )
        if why is not None:
            if claim.halted:
                self._stop_reading(held, why)
            else:
                await self.halt(held, why)
            return
        tp = held.tp
        if is_paused or await self._consumer.position(tp) != claim.next_offset:
            self._consumer.seek(tp, claim.next_offset)
            self._consumer.resume(tp)
        held.next_offset = held.fetched_to = claim.next_offset
        held.asked_since = None
        held.state = "ready"

    # Watching

    def show(self) -> None:
        """Bring the gauges up to date."""
        states = [held.state for held in self._held.values()]
        metrics.ASSIGNED.set(len(states))
        metrics.LOADING.set(states.count("loading"))
        metrics.HALTED.set(states.count("halted"))
        for held in self.ready:
            end = self._consumer.highwater(held.tp)
            if end is not None:
                stable = self._consumer.last_stable_offset(held.tp)
                open_records = end - stable if stable is not None and stable >= 0 else 0
                metrics.LAG.labels(*held.tp).set(max(0, end - held.next_offset))
                metrics.OPEN_TRANSACTION.labels(*held.tp).set(open_records)


def forget_lag(tp: TopicPartition) -> None:
    """Show no lag of a partition that somebody else reads now."""
    for gauge in (metrics.LAG, metrics.OPEN_TRANSACTION):
        with suppress(KeyError):
            gauge.remove(*tp)
