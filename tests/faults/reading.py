"""What stands in the topics, read by one plain consumer that is no member of any group."""

import contextlib
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition


class Found(NamedTuple):
    """A record as it stands in a topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # Milliseconds.
    key: bytes | None
    value: bytes | None
    headers: tuple


@contextlib.asynccontextmanager
async def reader(address, *, isolation="read_committed"):
    """Yield a consumer without a group."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=address,
        enable_auto_commit=False,
        isolation_level=isolation,
        max_partition_fetch_bytes=4 << 20,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def partitions_of(consumer, topics):
    """List the partitions of some topics, by what the cluster says now."""
    await consumer._client.force_metadata_update()
    for topic in topics:
        consumer._client.add_topic(topic)
    await consumer._client.force_metadata_update()
    return [
        TopicPartition(topic, partition)
        for topic in topics
        for partition in sorted(consumer._client.cluster.partitions_for_topic(topic) or ())
    ]


async def ends(address, topics, *, isolation="read_committed"):
    """Say where each partition ends for those who read what is committed."""
    async with reader(address, isolation=isolation) as consumer:
        return await consumer.end_offsets(await partitions_of(consumer, topics))


async def read(address, topics):
    """Read everything, in the order of arrival; returns the records and where they end."""
    found = []
    async with reader(address) as consumer:
        tps = await partitions_of(consumer, topics)
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        last = await consumer.end_offsets(tps)
        while any([await consumer.position(tp) < last[tp] for tp in tps]):
            for tp, records in (await consumer.getmany(timeout_ms=500)).items():
                found += [
                    Found(*tp, each.offset, each.timestamp, each.key, each.value, each.headers)
                    for each in records
                    if each.offset < last[tp]
                ]
    found.sort(key=lambda record: (record.timestamp, record.topic, record.partition, record.offset))
    return found, last


def line_of(record, topic):
    """Write a record as a line of a scenario, for whoever reads those."""
    line = {"topic": topic}
    attributes = {
        name.removeprefix("ce_"): value.decode()
        for name, value in record.headers
        if name.startswith("ce_")
    }
    value = record.value or b""
    if "type" in attributes:
        with contextlib.suppress(orjson.JSONDecodeError):
            return {**line, "event": {**attributes, "data": orjson.loads(value)}}
    try:
        return {**line, "raw": value.decode()}
    except UnicodeDecodeError:
        # No JSON either way; the size still decides for what reason it is rejected.
        return {**line, "raw": "?" * len(value)}
