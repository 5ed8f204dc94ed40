"""Servers that tests share: each starts at most once in a run."""

import os
import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio
from hypothesis import settings

from consumer.embedded import embedded_broker, embedded_postgres

# Where a change is judged, the same examples every time; chance searches on people's machines.
settings.register_profile("judged", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("judged")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def database_url() -> AsyncIterator[str]:
    """Yield the URL of the superuser of one PostgreSQL for the whole run."""
    async with embedded_postgres() as url:
        yield url


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def broker() -> AsyncIterator[str]:
    """Yield the host:port of one broker for the whole run; topics need unique names."""
    async with embedded_broker() as server:
        yield server


@pytest_asyncio.fixture
async def fresh_database_url(database_url: str) -> AsyncIterator[str]:
    """Yield the URL of an empty database that only this test sees."""
    name = f"test_{secrets.token_hex(8)}"
    administrator = await asyncpg.connect(database_url)
    try:
        await administrator.execute(f"CREATE DATABASE {name}")
        yield f"{database_url.rpartition('/')[0]}/{name}"
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await administrator.close()
