"""CPU seconds and memory of processes, as the kernel counts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 1


def children_named(name: str) -> list[int]:
    """Find the children of this process by the name of their program."""
    return [process for process in _children(os.getpid()) if _stat(process)[0] == name]


def tree_of(root: int) -> list[int]:
    """List a process and all below it."""
    found = [root]
    for process in found:
        found += _children(process)
    return found


def cpu_seconds(root: int) -> float:
    """Sum up the time that a process and all below it have worked, those that are gone included."""
    return sum(sum(_stat(process)[1]) for process in tree_of(root)) / TICKS


def machine_cpu_seconds() -> float:
    """Sum up the time that anybody has worked on this machine."""
    user, nice, system, _, _, interrupts, soft, steal = (
        int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    return (user + nice + system + interrupts + soft + steal) / TICKS


def memory_bytes(root: int) -> int:
    """Sum up what each of a process and all below it has for itself; of what they share, add what
    the one that sees most of it has.
    """
    own = shared = 0
    for process in tree_of(root):
        sizes = _sizes(process)
        own += sizes.get("RssAnon", 0)
        shared = max(shared, sizes.get("RssShmem", 0) + sizes.get("RssFile", 0))
    return own + shared


def peak_bytes(process: int) -> int:
    """Tell the most memory that a single process has had."""
    return _sizes(process)["VmHWM"]


@dataclass
class Usage:
    """What processes have used between two moments, by their role."""

    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def watching(roots: Mapping[str, list[int]]) -> AsyncIterator[Usage]:
    """Count what processes use while a block runs; `other` is everything else on the machine."""
    usage = Usage(memory=dict.fromkeys(roots, 0))

    def counted() -> dict[str, float]:
        seconds = {role: sum(map(cpu_seconds, found)) for role, found in roots.items()}
        return {**seconds, "machine": machine_cpu_seconds()}

    async def sample() -> None:
        while True:
            for role, found in roots.items():
                usage.memory[role] = max(usage.memory[role], sum(map(memory_bytes, found)))
            await asyncio.sleep(SAMPLE_SECONDS)

    before, own = counted(), os.times()
    sampler = asyncio.create_task(sample())
    try:
        yield usage
    finally:
        sampler.cancel()
        usage.cpu = {role: seconds - before[role] for role, seconds in counted().items()}
        now = os.times()
        usage.cpu["bench"] = now.user + now.system - own.user - own.system
        usage.cpu["other"] = usage.cpu.pop("machine") - sum(usage.cpu.values())


def _children(process: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{process}/task").glob("*/children"):
            found += map(int, path.read_text().split())
    return found


def _sizes(process: int) -> dict[str, int]:
    """Read the sizes that the kernel keeps of a process, in bytes; to have it count pages, of which
    each process of a database has many, took a fiftieth of the machine.
    """
    sizes = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                sizes[name] = 1_024 * int(value.split()[0])
    return sizes


def _stat(process: int) -> tuple[str, tuple[int, ...]]:
    """Read name and times of a process; of one that is gone there is nothing."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return "", ()
    name, _, rest = text.partition("(")[2].rpartition(")")
    words = rest.split()
    return name, tuple(map(int, words[11:15]))
