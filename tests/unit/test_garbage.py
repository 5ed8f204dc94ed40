"""Reference cycles are let go before they are a million objects."""

import asyncio
import gc
import weakref

from consumer import service


class Cycle:
    def __init__(self):
        self.itself = self
        self.held = bytearray(1_000)


async def test_what_a_failure_left_behind_is_let_go_soon(monkeypatch):
    monkeypatch.setattr(service, "GARBAGE_SECONDS", 0.01)
    gc.collect()
    gc.disable()
    try:
        seen = weakref.ref(Cycle())
        assert seen() is not None
        tidying = asyncio.create_task(service._look_for_new_garbage())
        await asyncio.sleep(0.1)
        tidying.cancel()
        assert seen() is None
    finally:
        gc.enable()


async def test_what_was_in_use_when_it_looked_is_let_go_in_time(monkeypatch):
    monkeypatch.setattr(service, "GARBAGE_SECONDS", 0.01)
    monkeypatch.setattr(service, "GARBAGE_TURNS", 3)
    gc.disable()
    try:
        used = Cycle()
        gc.collect()
        seen = weakref.ref(used)
        del used
        gc.collect(1)
        assert seen() is not None
        tidying = asyncio.create_task(service._look_for_new_garbage())
        await asyncio.sleep(0.3)
        tidying.cancel()
        assert seen() is None
    finally:
        gc.enable()
