"""The topics that the system needs, and how they must be kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from consumer.brokers import kafka_options

if TYPE_CHECKING:
    from consumer.settings import Settings

DAY_MS = 24 * 3600 * 1000

# Long enough that a restored database can read again what it lost, and a weekend is no emergency.
READ_RETENTION_MS = 14 * DAY_MS
WRITTEN_RETENTION_MS = 35 * DAY_MS


def plan(settings: Settings, *, partitions: int, replication: int) -> list[NewTopic]:
    """List the topics: all that are read have the same number of partitions, so that all of a
    channel is in partitions of one number, and with one lane at a time.
    """
    read = {
        "cleanup.policy": "delete",
        "retention.ms": str(READ_RETENTION_MS),
        # The time of arrival decides what is late, not what a producer says.
        "message.timestamp.type": "LogAppendTime",
        # Room for what is too large to be counted: it is rejected with its reason, not refused to
        # the producer.
        "max.message.bytes": str(2**20),
    }
    written = {
        "cleanup.policy": "delete",
        "retention.ms": str(WRITTEN_RETENTION_MS),
        "max.message.bytes": str(2**21),
    }
    outgoing = (settings.notices_topic, settings.statements_topic, settings.dead_letters_topic)
    return [
        *(
            NewTopic(topic, partitions, replication, topic_configs=read)
            for topic in settings.topics
        ),
        *(NewTopic(topic, partitions, replication, topic_configs=written) for topic in outgoing),
    ]


async def create_missing(settings: Settings, *, partitions: int, replication: int) -> list[str]:
    """Create the topics that are not there; returns their names."""
    admin = AIOKafkaAdminClient(**kafka_options(settings))
    await admin.start()
    try:
        known = set(await admin.list_topics())
        missing = [
            topic
            for topic in plan(settings, partitions=partitions, replication=replication)
            if topic.name not in known
        ]
        created = []
        if missing:
            # What an answer holds depends on its version, so the client has no types for it.
            response: Any = await admin.create_topics(missing)
            for name, code, *_ in response.topic_errors:
                error = for_code(code)
                if code and error is not TopicAlreadyExistsError:
                    raise error(f"topic {name} cannot be created")
                if not code:
                    created.append(name)
        return created
    finally:
        await admin.close()
