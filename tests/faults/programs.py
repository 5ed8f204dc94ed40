"""The programs that are run: found or fetched once, started so that they die with us."""

import asyncio
import os
import shutil
import signal
import subprocess
import tarfile
import zipfile
from functools import partial
from pathlib import Path

from consumer.embedded import HOST, _die_with, _free_port

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "lotmeter-faults")
POM = Path(__file__).with_name("pom.xml")
STOP_SECONDS_MAX = 30

free_port = _free_port
__all__ = ["HOST", "Missing", "Program", "fetch", "free_port", "tls_postgres", "until"]


class Missing(Exception):
    """Something is not installed; the message says what to do."""


def fetch() -> Path:
    """Give the folder of jars that hold Apache Kafka; Maven fetches them the first time."""
    if shutil.which("java") is None:
        raise Missing("Java 17 or later is not installed: apt-get install openjdk-17-jre-headless")
    libs = CACHE / "libs"
    done = CACHE / POM.read_bytes().hex()[-16:] / "done"
    if done.exists() and libs.exists():
        return libs
    if shutil.which("mvn") is None:
        raise Missing(
            "Maven is not installed, and Apache Kafka not here yet: apt-get install maven"
        )
    command = ["mvn", "-q", "-B", "-f", POM, "dependency:copy-dependencies"]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={libs}"]
    if subprocess.run([*command, *options], check=False, stdout=subprocess.DEVNULL).returncode:
        raise Missing("Maven cannot fetch Apache Kafka: its words are above")
    done.parent.mkdir(parents=True, exist_ok=True)
    done.touch()
    return libs


def tls_postgres(folder) -> Path:
    """Unpack a PostgreSQL that speaks TLS into a folder that everybody may enter."""
    [jar] = fetch().glob("embedded-postgres-binaries-*.jar")
    with zipfile.ZipFile(jar) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".txz")]
        with archive.open(name) as packed, tarfile.open(fileobj=packed, mode="r:xz") as tar:
            tar.extractall(folder, filter="data")
    folder.chmod(0o755)
    return folder


async def until(condition, seconds, what, *, every=0.1):
    """Wait for a condition; says what did not come. Returns how long it took."""
    loop = asyncio.get_running_loop()
    since = loop.time()
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return loop.time() - since
        if loop.time() - since > seconds:
            raise AssertionError(f"not within {seconds} seconds: {what}")
        await asyncio.sleep(every)


class Program:
    """One process, whose words go to a file."""

    def __init__(self, name, command, log, *, env=None, user=None):
        self.name, self.log = name, Path(log)
        with self.log.open("ab") as words:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=subprocess.STDOUT,
                env=env,
                cwd="/" if user else None,
                start_new_session=True,
                # Whatever ends this run must not leave servers behind.
                preexec_fn=partial(_die_with, os.getpid(), signal.SIGKILL),  # noqa: PLW1509
                user=user and user.pw_uid,
                group=user and user.pw_gid,
                extra_groups=user and (),
            )

    @property
    def status(self):
        """The exit status; None while it runs."""
        return self.process.poll()

    @property
    def is_running(self):
        """Say whether it has not ended yet."""
        return self.status is None

    def send(self, number):
        """Send a signal, if it still runs."""
        if self.is_running:
            self.process.send_signal(number)

    async def ended(self, seconds=STOP_SECONDS_MAX):
        """Wait for its end; returns the status. One that does not end is killed, and that fails."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.is_running:
            if loop.time() > deadline:
                self.send(signal.SIGKILL)
                self.process.wait()
                raise AssertionError(f"{self.name} did not end within {seconds} seconds")
            await asyncio.sleep(0.02)
        return self.status

    async def kill(self):
        """End it at once."""
        self.send(signal.SIGKILL)
        await self.ended()

    def words(self):
        """Read what it said."""
        return self.log.read_text(errors="replace")
