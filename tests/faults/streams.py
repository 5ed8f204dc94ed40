"""Kafka goes away, is cut off, moves partitions, forgets, or is another one under its name."""

import asyncio
import time

import orjson

from tests.faults.members import command_line
from tests.faults.programs import until


async def broker_killed(world, *, times=2):
    """The broker is killed and started again."""
    await world.start()
    async with world.flowing():
        for _ in range(times):
            await asyncio.sleep(1.5)
            await world.broker.kill()
            await asyncio.sleep(world.draw.random() * 2)
            await world.broker.start()
    world.hit("broker killed", times)
    await world.recovered()
    await world.judge()


async def broker_away(world, *, seconds=60):
    """No broker at all for a minute."""
    await world.start()
    await world.send(world.traffic.usage(200))
    await world.broker.stop()
    await asyncio.sleep(seconds)
    await world.broker.start()
    since = time.monotonic()
    await world.send(world.traffic.usage(500))
    await world.recovered()
    world.report.recovery_seconds = time.monotonic() - since
    world.hit("seconds without a broker", seconds)
    await world.judge()


async def cut_off_one_way(world, *, seconds=15):
    """One member is not heard, or hears nothing, past the session's end: a zombie for a while."""
    await world.start(members=1)
    lonely = world.add_member(**world.apart)
    lonely.keep_running()
    await lonely.started()
    wire, _ = world.servers.to_broker[1], None
    async with world.flowing():
        await asyncio.sleep(3)
        before = wire.held
        wire.black_hole(up=False)
        await asyncio.sleep(seconds)
        wire.heal()
        await asyncio.sleep(3)
        wire.black_hole(down=False)
        await asyncio.sleep(seconds)
        wire.heal()
    world.hit("pieces held", wire.held - before)
    await world.recovered()
    await world.judge()


async def rebalance_storm(world, *, seconds=25):
    """Four members come and go all the time, and there are fewer partitions than members."""
    members = await world.start(members=4)
    before = sum(await _offsets(world))
    until_then = time.monotonic() + seconds
    left = 0
    async with world.flowing():
        while time.monotonic() < until_then:
            await asyncio.sleep(1 + world.draw.random() * 2)
            member = world.draw.choice(members)
            if world.draw.randrange(2):
                await member.stop()
            else:
                await member.die()
                world.report.kills += 1
            left += 1
            await asyncio.sleep(world.draw.random())
            member.keep_running()
        during = sum(await _offsets(world))
    world.hit("members that left", left)
    world.hit("records read in the storm", during - before)
    await world.recovered()
    await world.judge()


rebalance_storm.world = {"partitions": 2}


async def _offsets(world):
    return (await world.positions()).values()


async def partitions_added(world):
    """Topics get more partitions while they are read."""
    await world.start()
    async with world.flowing():
        await asyncio.sleep(1)
    # A key may go elsewhere from now on, and which of two in conflict came first would be chance.
    world.traffic.forget()
    for topic in world.topics:
        await world.broker.widen(topic, world.partitions + 2)
    # Until a producer knows of them too.
    await world.producer.client.force_metadata_update()
    async with world.flowing(registering=True):
        await asyncio.sleep(3)
    await world.recovered()
    world.hit("new partitions read", sum(
        position > 0 for (_, number), position in (await world.positions()).items() if number >= 4
    ))  # fmt: skip
    await world.judge()


async def _halted(world):
    return await world.ask("SELECT count(*) FROM position WHERE halted IS NOT NULL")


async def topic_recreated(world, *, more=False):
    """A topic is deleted and made again: halted, never skipped; an operator accepts the new one."""
    members = await world.start(members=1)
    old = [world.traffic.plain() for _ in range(150)]
    # Of a partition of which nothing was read the new log is as good as the old one.
    old += [_workflow_of(world.traffic, channel) for channel in world.traffic.channels]
    await world.send(old)
    await world.recovered()
    topic = world.real("usage.workflow")
    # What was read of the old log must stand; what is in the new one comes on top.
    before = await world.ask("SELECT count(*) FROM event WHERE state = 0")
    if more:
        await members[0].stop()
    await world.broker.delete(topic)
    await world.broker.create(topic, world.partitions, message_timestamp_type="LogAppendTime")
    await world.producer.client.force_metadata_update()
    fresh = [
        message
        for message in (world.traffic.plain() for _ in range(4000 if more else 40))
        if message.topic == "usage.workflow"
    ]
    # As after a restore: what was read stands in the new log too, some of it at the same offsets.
    await world.send([message for message in old if message.topic == "usage.workflow"])
    await world.send(fresh)
    if more:
        members[0].keep_running()

    async def is_halted():
        return await _halted(world)

    await until(is_halted, 90, "the partitions of another log are halted", every=0.5)
    await asyncio.sleep(1)
    world.hit("partitions halted", world.logged("partition_halted"))
    assert await world.ask("SELECT count(*) FROM event WHERE state = 0") == before
    for number in range(world.partitions):
        status, out, err = await command_line(
            world.settings, "partitions", "accept", topic, str(number)
        )
        assert status in (0, 1), out + err
    await world.recovered()
    found = await world.ask("SELECT count(*) FROM event WHERE state = 0")
    world.report.events += found
    world.report.lost = max(0, before + len(fresh) - found)
    world.report.double = max(0, found - before - len(fresh))
    assert found == before + len(fresh), (before, len(fresh), found)
    status, out, err = await command_line(world.settings, "verify", "--full", "--json")
    assert status == 0, out[:1000] + err


def _workflow_of(traffic, channel):
    made = iter(lambda: traffic.plain(channel), None)
    return next(message for message in made if message.topic == "usage.workflow")


async def topic_recreated_with_more(world):
    """As before, but the new log is longer than the old one was: only its records tell."""
    await topic_recreated(world, more=True)


async def offset_out_of_range(world):
    """Records are removed before they were read: halted; an operator decides to go on."""
    [member] = await world.start(members=1)
    await member.stop()
    lost = [world.traffic.plain() for _ in range(60)]
    await world.send(message._replace(partition=0) for message in lost)
    topic = world.real("usage.workflow")
    mine = sum(message.topic == "usage.workflow" for message in lost)
    await world.broker.delete_records(topic, 0, -1)
    member.keep_running()

    async def is_halted():
        return await _halted(world)

    await until(is_halted, 60, "the partition is halted")
    world.hit("partitions halted", world.logged("partition_halted"))
    status, out, _ = await command_line(world.settings, "partitions", "list", "--json")
    assert status == 0
    told = [each for each in orjson.loads(out)["partitions"] if each["halted"]]
    assert len(told) == 1
    assert "removed before" in told[0]["halted"]
    status, out, err = await command_line(world.settings, "partitions", "accept", topic, "0")
    assert status == 0, out + err
    more = [world.traffic.plain()._replace(partition=0) for _ in range(50)]
    await world.send(more)
    await world.recovered()
    found = await world.ask("SELECT count(*) FROM event WHERE state = 0")
    world.report.events = found
    assert found == len(lost) - mine + len(more)
    status, out, err = await command_line(world.settings, "verify", "--full", "--json")
    assert status == 0, out[:1000] + err
