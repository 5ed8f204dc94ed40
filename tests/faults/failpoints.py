"""A member that dies, stands still or blocks at a named point: the service itself knows none.

    LOTMETER_TEST_FAILPOINT=after_claim:kill:3 python -m tests.faults.failpoints run

LOTMETER_TEST_DAYS_AHEAD moves the clock by which things become due.

The points are put around functions of the service from here, so nothing of them is in what is
shipped. One that is gone is an error: then its point must be put elsewhere.
"""

import asyncio
import contextvars
import functools
import os
import signal
import sys
import time

from aiokafka import AIOKafkaConsumer
from asyncpg.transaction import Transaction

from consumer import clock
from consumer.cli import main
from consumer.wall_clock import now_instant
from metering import claims
from metering.meter import Meter
from metering.storage import account_store, ledger_store, outbox_store, position_store

VARIABLE = "LOTMETER_TEST_FAILPOINT"
DAYS_AHEAD = "LOTMETER_TEST_DAYS_AHEAD"
DAY = 86_400_000_000

POINTS = (
    "before_begin",
    "after_begin",
    "after_advance",
    "after_claim",
    "after_lock",
    "before_commit",
    "commit_sent",
    "after_commit",
    "before_kafka_commit",
    "relay_taken",
    "relay_sent",
    "clock_locked",
    "clock_before_commit",
    "clock_committed",
    "before_claiming",
    "after_claiming",
    "before_seek",
)

_doing = contextvars.ContextVar("doing", default=None)


class Failpoint:
    """What happens when a point is reached the n-th time."""

    def __init__(self, text):
        self.name, self._action, count, *rest = text.split(":")
        assert self.name in POINTS, self.name
        self._left = int(count)
        self._seconds = float(rest[0]) if rest else 0

    def reach(self, name):
        """Act, if this is the point and the time has come."""
        if name != self.name:
            return
        self._left -= 1
        if self._left:
            return
        # Not through the logs: nothing may be lost in a buffer.
        os.write(2, f'{{"event": "failpoint", "point": "{name}"}}\n'.encode())
        if self._action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self._action == "block":
            time.sleep(self._seconds)


def put(point):
    """Put all points where they are."""
    reach = point.reach

    def around(owner, name, *, before=None, after=None, doing=None, only=lambda *_: True):
        original = getattr(owner, name)

        @functools.wraps(original)
        async def wrapped(*args, **kwargs):
            token = _doing.set(doing) if doing else None
            try:
                if before and only(args, None):
                    reach(before)
                result = await original(*args, **kwargs)
                if after and only(args, result):
                    reach(after)
                return result
            finally:
                if token:
                    _doing.reset(token)

        setattr(owner, name, wrapped)

    is_batch = lambda *_: _doing.get() == "record"  # noqa: E731
    is_due = lambda *_: _doing.get() == "due"  # noqa: E731
    around(Meter, "record", before="before_begin", after="after_commit", doing="record")
    around(
        Meter, "settle_due", after="clock_committed", doing="due",
        only=lambda _, result: result is None or result[1],
    )  # fmt: skip
    around(Meter, "claim", before="before_claiming", after="after_claiming")
    around(position_store, "advance", before="after_begin", after="after_advance")
    around(position_store, "keep_account", after="before_commit")
    around(claims, "claim", after="after_claim")
    around(account_store, "lock", after="after_lock", only=is_batch)
    around(
        account_store, "lock_due", after="clock_locked",
        only=lambda _, result: result is None or result[0],
    )  # fmt: skip
    around(
        ledger_store.Ledger, "write", after="clock_before_commit",
        only=lambda args, _: is_due() and args[0]._lines,
    )  # fmt: skip
    around(outbox_store, "take", after="relay_taken", only=lambda _, result: result)
    around(outbox_store, "remove", before="relay_sent", only=lambda args, _: args[1])
    around(AIOKafkaConsumer, "commit", before="before_kafka_commit")

    # By which it commits where it is left, too.
    seek, commit = AIOKafkaConsumer.seek, Transaction._Transaction__commit

    def sought(*args):
        reach("before_seek")
        return seek(*args)

    async def committed(self):
        if not is_batch():
            return await commit(self)
        asking = asyncio.ensure_future(commit(self))
        # One turn: the question is on its way, and nobody has looked at the answer.
        await asyncio.sleep(0)
        reach("commit_sent")
        return await asking

    AIOKafkaConsumer.seek, Transaction._Transaction__commit = sought, committed


if __name__ == "__main__":
    if VARIABLE in os.environ:
        put(Failpoint(os.environ[VARIABLE]))
    ahead = int(os.environ.get(DAYS_AHEAD, "0")) * DAY
    # Only for what is due: records say themselves when they arrived.
    clock.now_instant = lambda: now_instant() + ahead
    sys.argv[0] = "lotmeter"
    main()
