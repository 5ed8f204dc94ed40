"""What cannot be done is said in one line, with the status of wrong usage."""

import subprocess
import sys

import pytest

from tests.builders import workflow


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "consumer", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("url", ["nonsense", "postgresql://user:secret@localhost:port/db"])
def test_a_database_that_is_no_url_is_wrong_usage(tmp_path, url):
    scenario = tmp_path / "empty.ndjson"
    scenario.touch()

    ended = run("simulate", str(scenario), "--database", url)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert "--database" in ended.stderr
    assert "secret" not in ended.stderr


def test_a_scenario_that_is_no_text_is_wrong_usage(tmp_path):
    scenario = tmp_path / "bytes.ndjson"
    scenario.write_bytes(b"\xff\xfe\n")

    ended = run("simulate", str(scenario))

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert str(scenario) in ended.stderr


async def test_usage_on_a_topic_of_ours_is_on_the_wrong_topic(simulated):
    astray = workflow("2024-01-02", 1) | {"topic": "billing.notices"}

    books = await simulated(astray, as_of="2024-01-03")

    assert books.document["outcomes"]["rejected"] == {"wrong_topic": 1}
