"""Reference cycles are let go before they take much, and memory that nobody uses is given back."""

import asyncio
import ctypes
import gc
import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest

from consumer import service


class Cycle:
    def __init__(self):
        self.itself = self
        self.held = bytearray(1_000)


@pytest.fixture
def tidied(monkeypatch):
    """Tidy up for a while, with nothing that does so by itself."""
    monkeypatch.setattr(service, "GARBAGE_SECONDS", 0.01)
    monkeypatch.setattr(service, "GARBAGE_TURNS", 3)

    async def tidy():
        tidying = asyncio.create_task(service._look_for_new_garbage())
        await asyncio.sleep(0.3)
        tidying.cancel()

    gc.collect()
    gc.disable()
    yield tidy
    gc.enable()


async def test_what_a_failure_left_behind_is_let_go_soon(tidied, monkeypatch):
    monkeypatch.setattr(service, "GARBAGE_TURNS", 10**9)
    seen = weakref.ref(Cycle())
    assert seen() is not None

    await tidied()

    assert seen() is None


async def test_what_was_in_use_when_it_looked_is_let_go_in_time(tidied):
    used = Cycle()
    gc.collect()
    seen = weakref.ref(used)
    del used
    gc.collect(1)
    assert seen() is not None

    await tidied()

    assert seen() is None


async def test_memory_that_nobody_uses_is_given_back(tidied, monkeypatch):
    kept = []
    monkeypatch.setattr(service.ctypes, "CDLL", lambda _: SimpleNamespace(malloc_trim=kept.append))

    await tidied()

    assert set(kept) == {0}


async def test_another_library_than_glibc_keeps_it(tidied, monkeypatch):
    monkeypatch.setattr(service.ctypes, "CDLL", lambda _: SimpleNamespace())
    used = weakref.ref(Cycle())

    await tidied()

    assert used() is None


BLOCKS = """
import ctypes
import resource
from consumer import service

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "abcdefghij"]

look = ctypes.CDLL(None).mallinfo2
look.restype = Info
service._bound_what_is_kept()
larger = bytearray(16 << 20)
del larger
before = look().e
block = bytearray(8 << 20)
print(look().e - before)

fetched = bytearray(2 << 20)
del fetched
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fetched = bytearray(2 << 20)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="it is about glibc")
def test_a_large_block_is_one_of_its_own_and_what_a_smaller_one_took_is_used_again():
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS], capture_output=True, check=True, text=True
    )

    apart, made = map(int, done.stdout.split())
    assert apart >= 8 << 20
    assert made < 1 << 20


def test_there_need_not_be_such_options(monkeypatch):
    monkeypatch.setattr(service.ctypes, "CDLL", lambda _: SimpleNamespace())

    service._bound_what_is_kept()
