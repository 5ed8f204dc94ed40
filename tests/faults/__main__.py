"""Break the service on purpose: `make faults`.

Ends with status 1 if a fault was not survived, 2 if something is missing to try.
"""

import argparse
import asyncio
import inspect
import secrets
import sys
import time
import traceback

from consumer.embedded import _temporary_directory
from tests.faults import deaths, floods, judging, records, secrecy, storage, streams
from tests.faults.programs import Missing, fetch
from tests.faults.results import record
from tests.faults.servers import servers
from tests.faults.world import World

FAULT_SECONDS_MAX = 900

# In the order of what they are worth where there is little time, with the seconds they take.
FAULTS = [
    (judging.judge_is_judged, 20),
    (deaths.killed_at_each_point, 110),
    (deaths.killed_at_random, 40),
    (deaths.killed_while_it_settles, 30),
    (deaths.asleep_in_a_transaction, 45),
    (deaths.asleep, 25),
    (deaths.asked_to_stop_under_load, 20),
    (deaths.blocked_loop, 30),
    (storage.commit_lost, 40),
    (storage.database_restarted, 30),
    (storage.backends_killed, 30),
    (streams.broker_killed, 40),
    (streams.rebalance_storm, 60),
    (storage.database_restored, 40),
    (streams.topic_recreated, 60),
    (streams.topic_recreated_with_more, 60),
    (streams.offset_out_of_range, 40),
    (records.poison_everywhere, 60),
    (records.copies_everywhere, 40),
    (floods.dead_letter_topic_gone, 40),
    (records.bomb, 40),
    (secrecy.canaries, 60),
    (secrecy.secured, 240),
    (floods.all_poison, 30),
    (records.producers_transactions, 50),
    (floods.dead_letters_too_large, 30),
    (records.giants, 40),
    (records.disorder, 25),
    (storage.migrated_while_running, 40),
    (records.all_codecs, 25),
    (floods.hostile_channels, 90),
    (streams.cut_off_one_way, 60),
    (storage.database_black_hole, 60),
    (storage.database_read_only, 40),
    (storage.locks_held, 45),
    (storage.database_slow, 40),
    (storage.disk_full, 40),
    (storage.killed_in_a_migration, 40),
    (streams.partitions_added, 100),
    (deaths.blocked_for_good, 30),
    (streams.broker_away, 100),
]


async def run(options):
    """Try the chosen faults; returns how many were survived and how many were not."""
    survived, failed = [], []
    began = time.monotonic()
    with _temporary_directory(None) as home:
        async with servers(home) as found:
            for _ in range(options.rounds):
                for fault, usual_seconds in FAULTS:
                    name = fault.__name__
                    if options.only and name not in options.only:
                        continue
                    left = options.minutes * 60 - (time.monotonic() - began)
                    if usual_seconds > left:
                        print(f"skipped  {name}: {left:.0f} seconds are left", flush=True)
                        continue
                    seed = options.seed if options.seed is not None else secrets.randbits(31)
                    fine = await _try(found, fault, seed, options)
                    (survived if fine else failed).append(name)
    return len(survived), len(failed)


async def _try(found, fault, seed, options):
    name, since = fault.__name__, time.monotonic()
    settings = getattr(fault, "world", {})
    arguments = {
        key: getattr(options, key)
        for key in ("times", "kills")
        if key in inspect.signature(fault).parameters and getattr(options, key) is not None
    }
    try:
        async with asyncio.timeout(FAULT_SECONDS_MAX):
            async with World(found, seed, **settings) as world:
                await fault(world, **arguments)
    except Exception:  # noqa: BLE001  # Whatever went wrong, the other faults are tried too.
        print(f"FAILED   {name} seed {seed} after {time.monotonic() - since:.0f} s", flush=True)
        traceback.print_exc()
        return False
    seconds, report = time.monotonic() - since, world.report
    print(
        f"survived {name} seed {seed} in {seconds:.0f} s: {report.events} records, lost"
        f" {report.lost}, double {report.double}, recovered in {report.recovery_seconds:.1f} s,"
        f" hits {report.hits}",
        flush=True,
    )
    if options.record:
        record(name, report, seed, seconds)
    return True


def main():
    """Read the command line and run."""
    parser = argparse.ArgumentParser(prog="make faults ARGS=…", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=600, help="begin no fault that takes longer"
    )
    parser.add_argument("--seed", type=int, help="of the traffic and of chance; any if absent")
    parser.add_argument("--rounds", type=int, default=1, help="try everything so often")
    parser.add_argument(
        "--record", action="store_true", help="add what was survived to docs/faults.md"
    )
    parser.add_argument("--times", type=int, help="how often each failpoint, in its fault")
    parser.add_argument("--kills", type=int, help="how many kills at random, in their fault")
    parser.add_argument("only", nargs="*", help="names of faults; all if absent")
    options = parser.parse_args()
    names = {fault.__name__ for fault, _ in FAULTS}
    if unknown := set(options.only) - names:
        parser.error(
            f"there is no fault {', '.join(unknown)}: choose from {', '.join(sorted(names))}"
        )
    try:
        fetch()
    except Missing as missing:
        print(f"faults: {missing}", file=sys.stderr)
        sys.exit(2)
    survived, failed = asyncio.run(run(options))
    print(f"{survived} passed, {failed} failed")
    sys.exit(1 if failed or not survived else 0)


if __name__ == "__main__":
    main()
