"""Apache Kafka as one process: started, killed, stopped and asked."""

import asyncio
import contextlib
import os
import signal
import subprocess
import uuid
from base64 import urlsafe_b64encode

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.errors import KafkaError

from tests.faults.programs import HOST, Program, fetch, free_port, until

START_SECONDS_MAX = 60

# Small and quick to start: there are only two cores, and members want some of them.
JAVA = ("java", "-Xms192m", "-Xmx448m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Broker:
    """A broker and controller in one. `address` is for tests.

    Each wire is a port of a proxy: whoever comes that way is told to come that way again.
    """

    def __init__(self, home, *, wires=(), settings=None, listeners=(), users=None):
        self.home = home / "kafka"
        self.home.mkdir()
        self.libs = fetch()
        self.port, controller = free_port(), free_port()
        self.address = f"{HOST}:{self.port}"
        self._program = None
        protocols = ["CONTROLLER:PLAINTEXT", "PLAINTEXT:PLAINTEXT"]
        bound, told = [f"PLAINTEXT://{self.address}"], [f"PLAINTEXT://{self.address}"]
        self.wire_ports = [free_port() for _ in wires]
        for number, (wire, port) in enumerate(zip(wires, self.wire_ports, strict=True)):
            protocols.append(f"WIRE{number}:PLAINTEXT")
            bound.append(f"WIRE{number}://{HOST}:{port}")
            told.append(f"WIRE{number}://{HOST}:{wire}")
        self.ports = {}
        for name, protocol in listeners:
            self.ports[name] = free_port()
            bound.append(f"{name}://{HOST}:{self.ports[name]}")
            told.append(bound[-1].replace(HOST, "localhost"))
            protocols.append(f"{name}:{protocol}")
        properties = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join([*bound, f"CONTROLLER://{HOST}:{controller}"]),
            "advertised.listeners": ",".join(told),
            "listener.security.protocol.map": ",".join(protocols),
            "log.dirs": self.home / "data",
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 2,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 2,
            "group.coordinator.rebalance.protocols": "classic,consumer",
            # Tests do not want to wait half a minute until a member is missed.
            "group.min.session.timeout.ms": 1000,
            "group.initial.rebalance.delay.ms": 0,
            "broker.session.timeout.ms": 2000,
            "broker.heartbeat.interval.ms": 400,
            "log.retention.check.interval.ms": 2000,
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
            **(settings or {}),
        }
        self._properties = self.home / "server.properties"
        self._properties.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        passwords = [
            f"-SSCRAM-SHA-512=[name={user},password={password}]"
            for user, password in (users or {}).items()
        ]
        form = ["format", f"--cluster-id={cluster}", "-c", self._properties, *passwords]
        self._tool("kafka.tools.StorageTool", *form)

    def _java(self, *arguments):
        return [*JAVA, "-cp", f"{self.libs}/*", *arguments]

    def _tool(self, *arguments):
        command = [str(part) for part in self._java(*arguments)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise AssertionError(f"{arguments[0]}: {done.stderr[-500:]}")

    async def start(self):
        """Start, and wait until it answers."""
        # Not ours: a variable of the caller's would change what is started.
        env = {"PATH": os.environ["PATH"]}
        self._program = Program(
            "Kafka", self._java("kafka.Kafka", self._properties), self.home / "log", env=env
        )
        await until(self._answers, START_SECONDS_MAX, "Kafka answers")

    async def _answers(self):
        if not self._program.is_running:
            raise AssertionError(f"Kafka ended: {self._program.words()[-800:]}")
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(HOST, self.port)
            writer.close()
            with contextlib.suppress(KafkaError):
                async with self.admin() as admin:
                    await admin.list_topics()
                    return True
        return False

    async def kill(self):
        """End it at once, as a power cut of the process would."""
        await self._program.kill()

    async def stop(self):
        """Shut down in order."""
        if self._program is not None and self._program.is_running:
            self._program.send(signal.SIGCONT)
            self._program.send(signal.SIGTERM)
            with contextlib.suppress(AssertionError):
                await self._program.ended(20)

    @contextlib.asynccontextmanager
    async def admin(self):
        """Yield a client that may change topics."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.address, request_timeout_ms=10_000)
        try:
            await admin.start()
            yield admin
        finally:
            await admin.close()

    async def create(self, topic, partitions, **configs):
        """Create a topic."""
        configs = {name.replace("_", "."): str(value) for name, value in configs.items()}
        async with self.admin() as admin:
            answer = await admin.create_topics(
                [NewTopic(topic, partitions, 1, topic_configs=configs)]
            )
            assert not answer.topic_errors[0][1], answer

    async def delete(self, topic):
        """Delete a topic, and wait until it is gone."""
        async with self.admin() as admin:
            await admin.delete_topics([topic])

            async def is_gone():
                return topic not in await admin.list_topics()

            await until(is_gone, 20, f"{topic} is gone")

    async def widen(self, topic, partitions):
        """Give a topic more partitions."""
        async with self.admin() as admin:
            await admin.create_partitions({topic: NewPartitions(total_count=partitions)})

    async def delete_records(self, topic, partition, before):
        """Remove what was not read yet, as retention would; -1 removes all."""
        async with self.admin() as admin:
            plan = {TopicPartition(topic, partition): RecordsToDelete(before_offset=before)}
            await admin.delete_records(plan)
