"""Compiles the rules of billing to C while a wheel is built, where that is asked for:
`HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip wheel .`. Needs a C compiler and Python's headers.

The source is the same, and so is what it does; the whole suite passes with either (`make
test-compiled`). What it saves is in docs/scale.md.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Their constants are `Final`: any other one is looked up by its name each time it is used.
#
# What each record goes through, from its bytes to its row, and usage to the books. What checks the
# books stays as it is written, and so does what tests put failures into.
MODULES = (
    "metering/quantities", "metering/periods", "metering/events", "metering/commands",
    "metering/lots", "metering/tallies", "metering/accounts", "metering/account_cache",
    "metering/booked", "metering/settlement", "metering/notices", "metering/prices",
    "metering/lifecycle", "metering/due", "metering/statements", "metering/intake",
    "metering/storage/event_rows", "metering/records", "metering/batches", "metering/claims",
    "metering/storage/account_store", "metering/storage/daybook", "metering/storage/ledger_store",
    "consumer/readers",
)  # fmt: skip

# Nobody else calls what is in the library, so the compiler may put functions where they are called;
# and those of Python are looked up once. A backlog is read at 1.03 of the rate without.
ALONE = ["-fvisibility=hidden", "-fno-semantic-interposition", "-fno-plt"]


class CompilingHook(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel, beside their sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel is for this Python and this machine."""
        if version == "editable":
            raise ValueError("an editable install is run from its sources: it cannot be compiled")
        self.folder = Path(tempfile.mkdtemp(prefix="lotmeter-compiling-"))
        for path in compiled(Path(self.root), self.folder):
            build_data["force_include"][str(path)] = str(path.relative_to(self.folder / "lib"))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up, once the wheel is written."""
        del version, build_data, artifact_path
        shutil.rmtree(self.folder)


def compiled(root: Path, folder: Path) -> list[Path]:
    """Compile the modules into a folder; returns the libraries that came of it."""
    # Only where it is asked for.
    from mypyc.build import mypycify  # noqa: PLC0415
    from setuptools import Distribution  # noqa: PLC0415

    paths = [f"{name}.py" for name in MODULES]
    with contextlib.chdir(root):
        extensions = mypycify(
            # What mypy is told elsewhere is for checking; and here libraries may be missing.
            ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", *paths],
            group_name="lotmeter",
            target_dir=str(folder / "c"),
            debug_level="0",
        )
        for extension in extensions:
            extension.extra_compile_args += ALONE
        building = Distribution({"name": "lotmeter", "ext_modules": extensions}).get_command_obj(
            "build_ext"
        )
        building.build_lib, building.build_temp = str(folder / "lib"), str(folder / "temp")
        building.ensure_finalized()
        building.run()
    return sorted((folder / "lib").rglob("*.so"))
