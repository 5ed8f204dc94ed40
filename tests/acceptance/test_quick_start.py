"""Every command of the quick start does what it says, as it stands there."""

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README, CONTINUED = ROOT / "README.md", ROOT / "docs" / "quick-start.md"

STAYS = "--keep"
MINUTES_MAX = 10
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MADE = ("my-event", "my-usage", "my-void", "my-mistake")


def section(page, heading):
    """Return a section of the second level, with its subsections."""
    _, _, rest = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    return rest.partition("\n## ")[0]


def commands_in(text):
    return [body for language, body in BLOCK.findall(text) if language == "sh"]


@pytest.fixture
def clean():
    """Take away what the commands make, before and after."""

    def sweep():
        for path in [*(ROOT / f"{name}.ndjson" for name in MADE), ROOT / "acme.svg"]:
            path.unlink(missing_ok=True)

    sweep()
    yield
    sweep()


async def run(script, **variables):
    """Run commands as a shell would that stops at the first that fails; returns what they say."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        cwd=ROOT,
        # What `make test ARGS=…` was told is not for the make of these commands.
        env={**os.environ, "COLUMNS": "80", "MAKEFLAGS": "", "ARGS": "", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), MINUTES_MAX * 60)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, out.decode()
    return out.decode()


async def start(command):
    """Start what stays, as in a terminal of its own; returns the variables that it names."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", command),
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    variables = {}
    async with asyncio.timeout(MINUTES_MAX * 60):
        while line := (await process.stdout.readline()).decode():
            if found := re.match(r"\s+export (\w+)=(\S+)$", line):
                variables[found[1]] = found[2]
            if line.startswith("Metrics are at "):
                return process, variables
    pytest.fail("the demo that stays ended")


@pytest.mark.usefixtures("clean")
async def test_every_command_of_the_quick_start_works():
    blocks = commands_in(section(README, "Quick start"))
    more = commands_in(CONTINUED.read_text(encoding="utf-8"))
    [staying] = [block for block in blocks if STAYS in block]
    before, after = blocks[: blocks.index(staying)], blocks[blocks.index(staying) + 1 :]

    demonstrated = await run("\n".join(before))
    process, variables = await start(staying)
    try:
        out = await run("\n".join([*after, *more]), **variables)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) in (0, -signal.SIGINT, 130, 2)

    assert "verify: ok" in demonstrated
    assert set(variables) == {
        "LOTMETER_KAFKA_SERVERS",
        "LOTMETER_DATABASE_URL",
        "LOTMETER_HTTP_ADDRESS",
    }
    # What the page shows is what comes.
    assert re.search(r"workflow +1,200 +1,000 +200 +\$0\.00", out)
    assert "borrowed of l-1, quota of" in out
    ratio = 'lotmeter_channel_usage_ratio{channel="acme",product="workflow",what="limit"} 1.2'
    assert ratio in out
    assert "verify: ok" in out
    assert "taken back by the record at" in out
    assert "no_price" in out
    assert len(re.findall(r"sent \d+ records? again", out)) == 1
    assert (ROOT / "acme.svg").exists()


def test_the_page_shows_what_the_demo_prints():
    shown = [body for language, body in BLOCK.findall(README.read_text()) if language == "text"]

    for words in ("what became of them", "events a second", "verify: ok", "borrowed"):
        assert words in shown[0]
    assert max(map(len, shown[0].splitlines())) <= 80
