"""Builds everything, starts it, and stops it in order: the process that runs in production."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import KafkaError
from asyncpg.exceptions import InterfaceError, PostgresError
from sqlalchemy.exc import SQLAlchemyError

from consumer import metrics
from consumer.brokers import CannotReachKafka, kafka_options, reaching_kafka
from consumer.clock import Clock
from consumer.gauges import Gauges
from consumer.health import Health
from consumer.loop import Loop
from consumer.partitions import Partitions
from consumer.pump import MEBIBYTE
from consumer.readers import decoder_for
from consumer.relay import Relay
from consumer.retention import Retention
from consumer.settings import BadSettings
from consumer.unpacking import as_unpacked, bound_unpacking, unpack_once
from consumer.watchdogs import Stuck, Watchdogs, watching_the_loop
from metering import settlement
from metering.errors import BadCatalog
from metering.meter import Meter
from metering.storage.database import create_engine, describe
from metering.storage.schema import revision_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from sqlalchemy.ext.asyncio import AsyncEngine

    from consumer.settings import Settings

# Besides the lanes: the loader, the clock, the relay, the gauges, and marks of idle partitions.
SPARE_CONNECTIONS = 5

# How soon partitions that were added are noticed.
METADATA_AGE_MS = 60_000

# Our own watchdogs end a member that does not read; the client's own check cannot be relied on.
POLL_SECONDS_MAX = 86_400
HEARTBEATS_A_SESSION = 10

# For so long the client waits for what it holds to be taken, before it fetches anything else.
HOLDING_SECONDS = 0.01

LEAVE_SECONDS_MAX = 5

# What may still hang when all is over: a client that cannot say goodbye, a socket nobody answers.
EXIT_SECONDS_MAX = 10

# New objects after which the collector of reference cycles looks at them: more than there are.
GARBAGE_OBJECTS_MIN = 5_000_000
# It looks at what is new so often besides: a failure leaves few objects, but they can hold much …
GARBAGE_SECONDS = 30
# … and every so many times at all there is: what was in use when it looked counts as old after.
GARBAGE_TURNS = 20

# A block of so much memory is one of its own, and goes back when it is let go; of smaller ones so
# much is kept. The numbers of the options are those of malloc.h.
LARGE_BYTES_MIN, M_MMAP_THRESHOLD = 4 << 20, -3
KEPT_BYTES_MAX, M_TRIM_THRESHOLD = 8 << 20, -1

log = structlog.get_logger()


class CannotStart(Exception):
    """Something is missing that somebody must provide; the message says what."""


async def run(settings: Settings) -> int:
    """Run until SIGTERM or SIGINT; returns the status to exit with."""
    configure_logs(settings.log_level)
    _look_for_garbage_seldom()
    _bound_what_is_kept()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    status = 1
    try:
        with watching_the_loop(lag_seconds_max=settings.loop_lag_seconds_max):
            await serve(settings, stop=stop)
        status = 0
    except* (CannotStart, Stuck, BadSettings, BadCatalog) as found:
        for error in _leaves(found):
            log.critical("stopped", why=str(error))
    except* Exception as found:
        for error in _leaves(found):
            # Without the message: those of drivers quote what they were given.
            log.critical("bug", error=describe(error), exc_info=_without_message(error))
    _exit_in_any_case(status)
    return status


async def serve(settings: Settings, *, stop: asyncio.Event) -> None:
    """Read the topics into the books until `stop` is set, then finish what was begun and leave."""
    metrics.prepare(settings.topics)
    catalog = settings.read_catalog()
    decode = decoder_for(
        catalog, commands_topic=settings.commands_topic, usage_topics=settings.usage_topics
    )
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(_books(settings))
        cluster_id = await _cluster_id(settings)
        consumer = _consumer(settings)
        meter = Meter(engine, catalog, decode, group=settings.group, lanes=settings.lanes)
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        partitions = Partitions(consumer, meter, owner=owner, cluster_id=cluster_id)
        reading = Loop(
            consumer,
            partitions,
            meter,
            decode,
            settings=settings,
            arrival=catalog.rules.arrival,
        )
        clock = Clock(meter, reading.batch_since)
        relay = Relay(engine, settings=settings)
        retention = Retention(meter, kept_months=settings.records_kept_months)
        gauges = Gauges(engine, catalog, settings=settings, observer=owner)
        watchdogs = Watchdogs(consumer, partitions, reading, clock, settings=settings)

        health = Health(lambda: _why_not_ready(partitions, stop))
        port = await stack.enter_async_context(health.serving(*settings.http_endpoint))
        log.info(
            "starting",
            owner=owner,
            http_port=port,
            topics=settings.topics,
            is_compiled=not settlement.__file__.endswith(".py"),
        )
        consumer.subscribe(settings.topics, listener=partitions)
        await stack.enter_async_context(_membership(consumer, stop))
        if stop.is_set():
            return
        log.info("started")
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watchdogs.run())
            settling = tasks.create_task(clock.run())
            looking = tasks.create_task(gauges.run())
            letting_go = tasks.create_task(retention.run())
            tidying = tasks.create_task(_look_for_new_garbage())
            relaying = tasks.create_task(relay.run())
            batches = tasks.create_task(reading.run())
            await stop.wait()
            log.info("stopping")
            watching.cancel()
            letting_go.cancel()
            tidying.cancel()
            try:
                async with asyncio.timeout(settings.drain_seconds):
                    reading.stop()
                    clock.stop()
                    gauges.stop()
                    await asyncio.wait([batches, settling, looking])
                    # Now, so that others read on while the rest is sent.
                    await _leave(consumer)
                    relay.stop()
                    await asyncio.wait([relaying])
            except TimeoutError:
                # Nothing is lost: the books say what was done, and the outbox what is to be sent.
                log.warning("drain_deadline_passed", seconds=settings.drain_seconds)
                for task in (batches, settling, looking, relaying):
                    task.cancel()
    log.info("stopped")


@asynccontextmanager
async def _books(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(
        settings.database_url.get_secret_value(),
        schema=settings.database_schema,
        connections=settings.lanes + SPARE_CONNECTIONS,
    )
    try:
        try:
            current, wanted = await revision_of(engine)
        except (SQLAlchemyError, PostgresError, InterfaceError, OSError) as error:
            # Without its words: they may hold the URL.
            raise CannotStart(f"the database does not answer: {describe(error)}") from None
        if current != wanted:
            raise CannotStart(
                f"the schema {settings.database_schema} is at {current or 'nothing'}, not {wanted}:"
                " run lotmeter migrate"
            )
        yield engine
    finally:
        await engine.dispose()


async def _cluster_id(settings: Settings) -> str:
    """Ask for the name that a cluster has for ever: other clusters may have our topics too."""
    admin = AIOKafkaAdminClient(**kafka_options(settings))
    try:
        with reaching_kafka(settings):
            await admin.start()
            return str((await admin.describe_cluster()).get("cluster_id") or "")
    except CannotReachKafka as error:
        raise CannotStart(str(error)) from None
    finally:
        await admin.close()


def _consumer(settings: Settings) -> AIOKafkaConsumer:
    bound_unpacking()
    unpack_once()
    session_ms = settings.session_timeout_seconds * 1_000
    return AIOKafkaConsumer(
        **kafka_options(settings),
        group_id=settings.group,
        key_deserializer=as_unpacked,
        # Where to read is for the books to say; Kafka's word is for tools that show lag.
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        # Of topics with as many partitions, partition n of each goes to one member.
        partition_assignment_strategy=(RangePartitionAssignor,),
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=session_ms // HEARTBEATS_A_SESSION,
        rebalance_timeout_ms=settings.rebalance_timeout_seconds * 1_000,
        metadata_max_age_ms=METADATA_AGE_MS,
        max_poll_interval_ms=POLL_SECONDS_MAX * 1_000,
        fetch_max_wait_ms=settings.fetch_wait_milliseconds,
        fetch_max_bytes=settings.fetch_mebibytes_max * MEBIBYTE,
        max_partition_fetch_bytes=settings.partition_fetch_mebibytes_max * MEBIBYTE,
    )


def _fetch_on(consumer: AIOKafkaConsumer) -> None:
    """Have a client that was started ask for more while it holds something: of a backlog it always
    holds what will have its turn next, and asked ten times a second. A batch of 40,000 records
    needs five answers, and the first ones of a member took it nearly a second.
    """
    fetcher = consumer._fetcher  # noqa: SLF001  # Pinned, and a test holds it.
    assert fetcher is not None
    fetcher._prefetch_backoff = HOLDING_SECONDS  # noqa: SLF001


@asynccontextmanager
async def _membership(consumer: AIOKafkaConsumer, stop: asyncio.Event) -> AsyncIterator[None]:
    """Be a member of the group, unless told to stop before it has let us in."""
    joining, stopping = asyncio.ensure_future(consumer.start()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({joining, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if joining.done():
            if (error := joining.exception()) is not None:
                raise CannotStart(f"the group cannot be joined: {type(error).__name__}")
            _fetch_on(consumer)
        yield
    finally:
        joining.cancel()
        stopping.cancel()
        await asyncio.gather(joining, stopping, return_exceptions=True)
        await _leave(consumer)


async def _leave(consumer: AIOKafkaConsumer) -> None:
    """Leave the group, if it lets us in time; the second time does nothing."""
    with suppress(KafkaError, TimeoutError):
        async with asyncio.timeout(LEAVE_SECONDS_MAX):
            await consumer.stop()


def _why_not_ready(partitions: Partitions, stop: asyncio.Event) -> list[str]:
    reasons = []
    if stop.is_set():
        reasons.append("stopping")
    if not partitions.has_joined:
        reasons.append("the group has not given out its partitions")
    loading = sum(held.state == "loading" for held in partitions.held)
    if loading:
        reasons.append(f"{loading} partitions are not claimed in the books yet")
    return reasons


def _look_for_garbage_seldom() -> None:
    """Let the collector of reference cycles run by the clock, and else only where there would be
    very many.

    A batch makes millions of short-lived tuples and nearly no cycles: to look at all of them again
    and again took a third of the time, and to look once at the million that accounts of a large
    batch are, a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS_MIN, 10, 10)


def _bound_what_is_kept() -> None:
    """Keep as much memory as what is fetched, and rows on their way, take again and again, and have
    the rest given back once it is not used.

    By itself glibc puts blocks into its heap that are not larger than one that was freed before,
    and keeps what others stand behind: some 20 of 320 MiB at a long backlog. With all of them given
    back at once a page of four KiB was made for every four events, a twentieth of a member's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # Where the C library is glibc.
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES_MIN)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES_MAX)


async def _look_for_new_garbage() -> None:
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Where the C library is glibc.
    for turn in count(1):
        await asyncio.sleep(GARBAGE_SECONDS)
        gc.collect(1 if turn % GARBAGE_TURNS else 2)
        if give_back is not None:
            # It keeps what the largest batch took: a tenth of a member's memory after a backlog.
            give_back(0)


def configure_logs(level: str) -> None:
    """Write structured lines: JSON, or colours for people at a terminal."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries speak through the standard library. At debug they would quote messages.
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[lines], force=True)


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _without_message(error: BaseException) -> BaseException:
    return RuntimeError(type(error).__name__).with_traceback(error.__traceback__)


def _exit_in_any_case(status: int) -> None:
    timer = threading.Timer(EXIT_SECONDS_MAX, os._exit, [status])
    timer.daemon = True
    timer.start()
