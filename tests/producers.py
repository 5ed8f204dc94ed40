"""A producer that keeps what is sent in memory."""

import asyncio

from aiokafka.errors import MessageSizeTooLargeError, TopicAuthorizationFailedError


class FakeBatch:
    """Takes so many messages, and weighs what is in them."""

    def __init__(self, room):
        self.room = room
        self.messages = []

    def append(self, *, timestamp, key, value, headers):
        assert timestamp is None
        if len(self.messages) == self.room:
            return None
        self.messages.append((key, value, headers))
        return object()

    def size(self):
        return sum(
            len(value or b"") + sum(len(text or b"") for _, text in headers)
            for _, value, headers in self.messages
        )


class FakeProducer:
    """Takes batches up to a size; some topics are dead, or never answer."""

    def __init__(self, *, bytes_max=100, room=10, refused=(), silent=(), partitions=1):
        self.bytes_max = bytes_max
        self.room = room
        self.refused = refused
        self.silent = silent
        self.partitions = partitions
        self.sent = []
        self.batches = []

    async def partitions_for(self, _topic):
        return set(range(self.partitions))

    def create_batch(self):
        return FakeBatch(self.room)

    async def send_batch(self, batch, topic, *, partition):
        answer = asyncio.get_running_loop().create_future()
        if topic in self.refused:
            raise TopicAuthorizationFailedError(topic)
        if batch.size() > self.bytes_max:
            answer.set_exception(MessageSizeTooLargeError())
        elif topic not in self.silent:
            self.sent += [(topic, *message) for message in batch.messages]
            self.batches.append((partition, [key for key, _, _ in batch.messages]))
            answer.set_result(None)
        return answer
