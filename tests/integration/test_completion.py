"""Shells complete the command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOTMETER = Path(sys.executable).with_name("lotmeter")


def completed(*words, shell="bash"):
    environ = {
        **os.environ,
        "_LOTMETER_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": " ".join(("lotmeter", *words)),
        "COMP_CWORD": str(len(words)),
    }
    found = subprocess.run([LOTMETER], env=environ, capture_output=True, text=True, check=True)
    return found.stdout.split()


@pytest.mark.parametrize(
    ("words", "choices"),
    [
        (["de"], ["demo", "dead-letters"]),
        (["lot", "re"], ["reserve-change", "renewal", "refund"]),
        (["explain", "c-1", "--e"], ["--entry"]),
        (["chart", "c-1", "--product", "wo"], ["workflow"]),
        (["redeliver", "--reason", "no"], ["no_price", "not_voidable"]),
        (["quote", "mar"], ["marketing"]),
    ],
)
def test_what_was_begun_is_completed(words, choices):
    assert completed(*words) == choices


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell, tmp_path):
    shown = subprocess.run(
        [LOTMETER, "--show-completion", shell],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    installed = subprocess.run(
        [LOTMETER, "--install-completion", shell],
        env={
            **os.environ,
            "HOME": str(tmp_path),
            "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert "_LOTMETER_COMPLETE" in shown.stdout
    assert f"{shell} completion installed" in installed.stdout
    assert any(path.is_file() for path in tmp_path.rglob("*"))
