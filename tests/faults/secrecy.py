"""Who may come in and who may not, over TLS; and that nothing secret is ever said."""

import asyncio
import contextlib
import dataclasses
import os
import secrets
import shutil
import subprocess
from collections import Counter

from tests.faults.kafka import Broker
from tests.faults.members import command_line
from tests.faults.postgres import Postgres
from tests.faults.programs import Missing, tls_postgres
from tests.faults.reading import read
from tests.faults.traffic import Message
from tests.faults.world import World

DAYS = {"fine": "3", "expired": "-1"}


class Authority:
    """Certificates of our own, made by openssl."""

    def __init__(self, folder):
        if shutil.which("openssl") is None:
            raise Missing("openssl is not installed: apt-get install openssl")
        self.folder = folder
        folder.mkdir()
        folder.chmod(0o755)
        self._run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key",
                  "-out", "ca.pem", "-days", "3", "-subj", "/CN=authority")  # fmt: skip
        self.ca = folder / "ca.pem"

    def _run(self, *arguments):
        subprocess.run(
            ["openssl", *arguments], cwd=self.folder, check=True, capture_output=True, text=True
        )

    def issue(self, name, *, host="localhost", days="3"):
        """Make a key and a certificate; returns their paths and that of both in one file."""
        key, request, certificate = f"{name}.key", f"{name}.csr", f"{name}.pem"
        self._run("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request,
                  "-subj", f"/CN={name}")  # fmt: skip
        (self.folder / "extensions").write_text(f"subjectAltName=DNS:{host}")
        self._run("x509", "-req", "-in", request, "-CA", "ca.pem", "-CAkey", "ca.key",
                  "-CAcreateserial", "-days", days, "-extfile", "extensions",
                  "-out", certificate)  # fmt: skip
        both = self.folder / f"{name}.both.pem"
        both.write_text((self.folder / key).read_text() + (self.folder / certificate).read_text())
        return self.folder / key, self.folder / certificate, both


def _secure_broker(home, authority, users):
    listeners, settings = [], {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:metering;User:CN=member",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
    }  # fmt: skip

    def listener(name, protocol, certificate, **more):
        listeners.append((name, protocol))
        place = f"listener.name.{name.lower()}."
        settings.update({
            f"{place}ssl.keystore.type": "PEM",
            f"{place}ssl.keystore.location": certificate,
            f"{place}ssl.truststore.type": "PEM",
            f"{place}ssl.truststore.location": authority.ca,
            **{f"{place}{key}": value for key, value in more.items()},
        })  # fmt: skip

    scram = {
        "scram-sha-512.sasl.jaas.config":
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
    }  # fmt: skip
    [_, _, fine] = authority.issue("broker")
    [_, _, expired] = authority.issue("broker-expired", days="-1")
    [_, _, elsewhere] = authority.issue("broker-elsewhere", host="elsewhere.example")
    listener("SCRAM", "SASL_SSL", fine, **scram)
    listener("MUTUAL", "SSL", fine, **{"ssl.client.auth": "required"})
    listener("EXPIRED", "SASL_SSL", expired, **scram)
    listener("ELSEWHERE", "SASL_SSL", elsewhere, **scram)
    return Broker(home, settings=settings, listeners=listeners, users=users)


async def _tls_database(home, authority):
    key, certificate, _ = authority.issue("database")
    programs = await asyncio.to_thread(tls_postgres, home / "programs")
    postgres = Postgres(home, programs=programs)
    await postgres.create()
    for source, name in ((key, "server.key"), (certificate, "server.crt")):
        target = postgres.data / name
        shutil.copyfile(source, target)
        target.chmod(0o600)
        if postgres._user is not None:
            os.chown(target, postgres._user.pw_uid, postgres._user.pw_gid)
    access = postgres.data / "pg_hba.conf"
    # The tests' own questions come from the same address, so it is a name that tells them apart.
    access.write_text("host all lotmeter all scram-sha-256\nhostssl all all all scram-sha-256\n")
    postgres._settings["ssl"] = "on"
    await postgres.start()
    return postgres


async def secured(world):
    """SASL_SSL with SCRAM, mTLS, verify-full; and everybody else is turned away in one line."""
    home = world.folder / "secure"
    home.mkdir()
    home.chmod(0o711)
    authority = await asyncio.to_thread(Authority, home / "certificates")
    passwords = {name: f"canary-{name}-{secrets.token_hex(8)}" for name in ("metering", "nobody")}
    broker = await asyncio.to_thread(_secure_broker, home, authority, passwords)
    postgres = None
    try:
        await broker.start()
        postgres = await _tls_database(home, authority)
        inner_servers = dataclasses.replace(
            world.servers, home=home, broker=broker, postgres=postgres
        )
        async with _inside(inner_servers, world, authority, passwords) as inner:
            await _let_in(inner, authority)
            turned_away = await _turn_away(inner, passwords)
            await inner.judge()
            _say_nothing(inner, [*passwords.values(), inner.role_password, postgres.password])
    finally:
        await broker.stop()
        if postgres is not None:
            await postgres.stop()
    world.report = inner.report
    world.hit("turned away", turned_away)


@contextlib.asynccontextmanager
async def _inside(servers, world, authority, passwords):
    inner = World(servers, world.seed)
    inner.role_password = f"canary-role-{secrets.token_hex(8)}"
    role = f"app_{inner.name}"
    await servers.postgres.tell(
        f"CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{inner.role_password}'"
    )
    inner.url = (
        f"postgresql://{role}:{inner.role_password}@localhost:{servers.postgres.port}/{inner.name}"
        f"?sslmode=verify-full&sslrootcert={authority.ca}"
    )
    inner._given = {
        "KAFKA_SERVERS": f"localhost:{servers.broker.ports['SCRAM']}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": "metering",
        "KAFKA_SASL_PASSWORD": passwords["metering"],
        "KAFKA_TLS_CA": authority.ca,
        "DATABASE_URL": inner.url,
    }
    async with inner:
        yield inner


async def _let_in(inner, authority):
    status, out, err = await command_line(inner.settings, "check")
    assert status == 0, out + err
    key, certificate, _ = authority.issue("member")
    mutual = {
        "KAFKA_SERVERS": f"localhost:{inner.broker.ports['MUTUAL']}",
        "KAFKA_SECURITY_PROTOCOL": "SSL",
        "KAFKA_TLS_CERTIFICATE": certificate.read_text(),
        "KAFKA_TLS_KEY": key.read_text(),
    }
    await inner.start(members=1)
    second = inner.add_member(**mutual)
    second.keep_running()
    await second.started()
    async with inner.flowing():
        await asyncio.sleep(3)
    await inner.recovered()
    ways = await inner.postgres.ask(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        f" WHERE ssl AND usename = 'app_{inner.name}'"
    )
    inner.hit("sessions over TLS", ways)
    inner.hit("members let in", sum(member.count("started") for member in inner.members))


async def _turn_away(inner, passwords):
    """Try everything that must fail; it ends at once, says why in one line, and no secret."""
    broker, url = inner.broker, inner.url
    port = f":{inner.postgres.port}/"
    wrong = {
        "wrong password for Kafka": {"KAFKA_SASL_PASSWORD": "canary-wrong"},
        "no grant in Kafka": {
            "KAFKA_SASL_USERNAME": "nobody", "KAFKA_SASL_PASSWORD": passwords["nobody"],
        },
        "expired certificate": {"KAFKA_SERVERS": f"localhost:{broker.ports['EXPIRED']}"},
        "certificate of another host": {"KAFKA_SERVERS": f"localhost:{broker.ports['ELSEWHERE']}"},
        "unknown authority": {"KAFKA_TLS_CA": ""},
        "no certificate of ours": {
            "KAFKA_SERVERS": f"localhost:{broker.ports['MUTUAL']}",
            "KAFKA_SECURITY_PROTOCOL": "SSL",
        },
        "wrong password for the database": {
            "DATABASE_URL": url.replace(inner.role_password, "canary-wrong"),
        },
        "database under another name": {"DATABASE_URL": url.replace("@localhost", "@127.0.0.1")},
        "no such database": {"DATABASE_URL": url.replace(f"{port}{inner.name}", f"{port}nowhere")},
        "database of an unknown authority": {"DATABASE_URL": url.partition("&sslrootcert")[0]},
        "no grant in the database": {"DATABASE_URL": await _without_grants(inner)},
    }  # fmt: skip
    for name, changes in wrong.items():
        for command in (("check",), ("run",)):
            settings = {**inner.settings, **changes}
            status, out, err = await command_line(settings, *command, seconds=60)
            said = out + err
            assert status not in (0, None), f"{name}: {command[0]} went through"
            for secret in (*passwords.values(), inner.role_password, "canary-"):
                assert secret not in said, f"{name}: {command[0]} tells a secret"
            assert "Traceback" not in said, f"{name}: {command[0]}: {said[:2000]}"
            if command == ("check",):
                assert len(err.strip().splitlines()) == 1, f"{name}: {err}"
                print(f"         {name}: {err.strip()}", flush=True)
    return len(wrong)


async def _without_grants(inner):
    role, password = f"poor_{inner.name}", f"canary-poor-{secrets.token_hex(8)}"
    await inner.postgres.tell(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    return inner.url.replace(f"app_{inner.name}:{inner.role_password}", f"{role}:{password}")


def _say_nothing(world, canaries):
    """Look for secrets in all that members have said."""
    for member in world.members:
        words = member.log.read_text(errors="replace")
        for canary in canaries:
            assert canary not in words, f"{member.name} tells a secret"


async def canaries(world):
    """Passwords, texts of messages and names of people are in no log, error, header or metric."""
    text, manager = (f"canary-{what}-{secrets.token_hex(6)}" for what in ("text", "manager"))
    world.traffic.sms = f"{text} 안녕"
    world.traffic.managers = manager
    members = await world.start(LOG_LEVEL="debug")
    scraped = []
    async with world.flowing(per_second=300):
        for what in ("database", "broker", "sessions"):
            await asyncio.sleep(1.5)
            scraped += [await member.ask("/metrics") for member in members]
            if what == "database":
                await world.postgres.stop()
                await world.postgres.start()
            elif what == "broker":
                await world.broker.kill()
                await world.broker.start()
            else:
                world.line.reset()
    # Bad records whose values hold them, in every place of an event.
    good = [world.traffic.plain() for _ in range(40)]
    await world.send(_with_canaries(message, text, manager) for message in good)
    await world.recovered()
    await world.judge()
    # What the database refuses, it quotes: the whole row, and where it came from.
    name = f"canary-channel-{secrets.token_hex(4)}"
    async with world.books() as books:
        await books.execute(
            f"ALTER TABLE event ADD CONSTRAINT no_canary CHECK (channel <> '{name}') NOT VALID"
        )
    await world.send([world.traffic.plain(name) for _ in range(3)])
    await world.recovered()
    refused = "SELECT count(*) FROM reject WHERE reason = 'unprocessable'"
    assert await world.ask(refused) == 3
    scraped += [await member.ask("/metrics") for member in members]
    scraped += [await member.ask("/readyz") for member in members]
    secret = [text, manager, world.postgres.password]
    _say_nothing(world, [*secret, name])
    for answer in filter(None, scraped):
        assert not _told(answer[1].encode(), secret), "a metric tells a secret"
    await _look_outside(world, secret)
    async with world.books() as books:
        for table, column in (("reject", "detail"), ("position", "halted"), ("notice", "detail")):
            rows = await books.fetch(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")
            for row in rows:
                assert not _told(row[0].encode(), secret), f"{table}.{column} tells a secret"
    world.hit("lines looked at", sum(len(member.lines()) for member in members))
    kinds = Counter(line.get("level") for member in members for line in member.lines())
    world.hit("warnings and errors among them", kinds["warning"] + kinds["error"])


def _told(words, secret):
    return [canary for canary in secret if canary.encode() in words]


async def _look_outside(world, secret):
    """Look at what was sent: our own headers of dead letters, notices and statements."""
    letters, _ = await read(world.broker.address, [world.outgoing["dead_letters"]])
    for letter in letters:
        for header, value in letter.headers:
            if header.startswith("lotmeter-"):
                assert not _told(value or b"", secret), f"{header} tells a secret"
    topics = [world.outgoing["notices"], world.outgoing["statements"]]
    for message in (await read(world.broker.address, topics))[0]:
        assert not _told(message.value, secret), f"{message.topic} tells a secret"
    world.hit("dead letters looked at", len(letters))


def _with_canaries(message, text, manager):
    cut = message.value[:-1]
    bad = (
        cut + f',"text":"{text}","x":{manager}}}'.encode(),
        cut + f',"type":"{text}"}}'.encode(),
        cut + f',"time":"{text}"}}'.encode(),
        cut + f',"data":{{"kind":"{manager}","count":"{text}"}}}}'.encode(),
        cut + f',"data":{{"seat":"{manager}","manager":7,"actions":"{text}"}}}}'.encode(),
        cut + f',"specversion":"{text}","source":["{manager}"]}}'.encode(),
        f"{text} {manager}".encode(),
    )
    number = message.value[-2] % len(bad)
    headers = (("ce_type", text.encode()),) if number == 0 else ((text, manager.encode()),)
    return Message(message.topic, message.key, bad[number], "canary", None, headers)
