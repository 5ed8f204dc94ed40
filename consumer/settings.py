"""What can be set: one field is one variable LOTMETER_<NAME>, or the file LOTMETER_<NAME>_FILE."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveInt,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from metering.catalog import Catalog, read_catalog, shipped_catalog

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "LOTMETER_"
FILE_SUFFIX = "_FILE"

# A wrong value is quoted so that it can be found, not so that it fills the screen.
_QUOTED_CHARACTERS_MAX = 40
_PORT_MAX = 65_535

USAGE_TOPICS = ("usage.mu", "usage.seat", "usage.workflow", "usage.message")


class BadSettings(Exception):
    """The settings cannot be used; `problems` holds one sentence for each reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def _split(value: object) -> object:
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else value


def _servers(text: str) -> str:
    for server in text.split(","):
        host, _, port = server.strip().rpartition(":")
        if not (host and _is_port(port)):
            raise ValueError("must be host:port, with commas between several")
    return text


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not (host and _is_port(port, lowest=0)):
        raise ValueError("must be host:port")
    return text


def _is_port(text: str, *, lowest: int = 1) -> bool:
    return text.isascii() and text.isdigit() and lowest <= int(text) <= _PORT_MAX


def postgres_url(url: SecretStr) -> SecretStr:
    """Hold a database URL against its form. Raises ValueError."""
    # Nothing of the URL may get into a message: it holds a password.
    scheme = url.get_secret_value().partition("://")[0]
    try:
        port_is_fine = urlsplit(url.get_secret_value()).port != 0
    except ValueError:
        port_is_fine = False
    if scheme not in ("postgresql", "postgres") or not port_is_fine:
        raise ValueError("must be like postgresql://user:password@host/db")
    return url


Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
Topic = Annotated[str, StringConstraints(pattern=re.compile(r"^[A-Za-z0-9._-]{1,249}$"))]
SqlName = Annotated[str, StringConstraints(pattern=re.compile(r"^[a-z_][a-z0-9_]{0,62}$"))]
Mebibytes = Annotated[int, Field(ge=1, le=1024)]


class Settings(BaseSettings):
    """Names end in their unit. Everything that can grow has a maximum."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # Where Kafka is, and how it knows us.
    kafka_servers: Annotated[str, AfterValidator(_servers)]
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    kafka_sasl_username: Text | None = None
    kafka_sasl_password: SecretStr | None = None
    # Paths of PEM files, or their content.
    kafka_tls_ca: Text | None = None
    kafka_tls_certificate: Text | None = None
    kafka_tls_key: SecretStr | None = None

    # Where the books are.
    database_url: Annotated[SecretStr, AfterValidator(postgres_url)]
    database_schema: SqlName = "lotmeter"
    # Roles that `migrate` grants to: who meters, and who only looks.
    database_app_role: SqlName | None = None
    database_reader_role: SqlName | None = None

    # What is read and written.
    group: Text = "lotmeter"
    usage_topics: Annotated[tuple[Topic, ...], BeforeValidator(_split), Field(min_length=1)] = (
        USAGE_TOPICS
    )
    commands_topic: Topic = "billing.commands"
    notices_topic: Topic = "billing.notices"
    statements_topic: Topic = "billing.statements"
    dead_letters_topic: Topic = "usage.dead-letters"

    # The rules; None leaves a number as the catalog has it.
    catalog: Path | None = None
    horizon_days: PositiveInt | None = None
    closing_hours: Annotated[int, Field(ge=0)] | None = None

    # How long the record of each event is kept; what is booked stays for ever.
    records_kept_months: Annotated[int, Field(ge=3, le=1_200)] = 25

    # How much is done at once. A lane has a connection and batches of its own.
    lanes: Annotated[int, Field(ge=1, le=32)] = 2
    batch_records_max: Annotated[int, Field(ge=1, le=200_000)] = 40_000
    batch_mebibytes_max: Mebibytes = 32
    fetch_mebibytes_max: Mebibytes = 2
    partition_fetch_mebibytes_max: Mebibytes = 1
    relay_messages_max: Annotated[int, Field(ge=1, le=10_000)] = 500

    # How long things may take.
    session_timeout_seconds: Annotated[int, Field(ge=1, le=1_800)] = 30
    rebalance_timeout_seconds: Annotated[int, Field(ge=1, le=1_800)] = 30
    fetch_wait_milliseconds: Annotated[int, Field(ge=1, le=10_000)] = 100
    kafka_commit_seconds: PositiveInt = 5
    idle_mark_seconds: PositiveInt = 5
    drain_seconds: PositiveInt = 25

    # When the process gives itself up, to be started again.
    fetch_age_seconds_max: PositiveInt = 180
    batch_age_seconds_max: PositiveInt = 180
    loop_lag_seconds_max: PositiveInt = 45

    # A partition of which nearly everything is rejected is not read on.
    breaker_records_min: PositiveInt = 1_000
    breaker_reject_percent: Annotated[int, Field(ge=1, le=100)] = 95

    # What people look at.
    http_address: Annotated[str, AfterValidator(_address)] = "127.0.0.1:9464"
    gauge_seconds: PositiveInt = 15
    usage_ratio_channels_max: Annotated[int, Field(ge=0, le=1_000)] = 20
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = list(self._contradictions())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _contradictions(self) -> list[str]:
        problems = []
        credentials = (self.kafka_sasl_username, self.kafka_sasl_password)
        if self.kafka_security_protocol.startswith("SASL") and None in credentials:
            problems.append(
                f"{PREFIX}KAFKA_SASL_USERNAME and {PREFIX}KAFKA_SASL_PASSWORD must be set"
                f" with {PREFIX}KAFKA_SECURITY_PROTOCOL {self.kafka_security_protocol}"
            )
        if (self.kafka_tls_certificate is None) != (self.kafka_tls_key is None):
            problems.append(
                f"{PREFIX}KAFKA_TLS_CERTIFICATE and {PREFIX}KAFKA_TLS_KEY must be set together"
            )
        if self.partition_fetch_mebibytes_max > self.fetch_mebibytes_max:
            problems.append(
                f"{PREFIX}PARTITION_FETCH_MEBIBYTES_MAX must not be more"
                f" than {PREFIX}FETCH_MEBIBYTES_MAX"
            )
        written = [self.notices_topic, self.statements_topic, self.dead_letters_topic]
        if len({*self.topics, *written}) < len(self.topics) + len(written):
            problems.append("two topics have one name: each needs its own")
        return problems

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that are read."""
        return (*self.usage_topics, self.commands_topic)

    @property
    def http_endpoint(self) -> tuple[str, int]:
        """Host and port to serve /metrics and health on."""
        host, _, port = self.http_address.rpartition(":")
        return host.strip("[]"), int(port)

    def read_catalog(self) -> Catalog:
        """Read the catalog that the rules come from. Raises BadCatalog or OSError."""
        catalog = shipped_catalog()
        if self.catalog is not None:
            catalog = read_catalog(self.catalog.read_text(encoding="utf-8"))
        return catalog.with_rules(horizon_days=self.horizon_days, closing_hours=self.closing_hours)

    @classmethod
    def settings_customise_sources(  # noqa: D102
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # Only what is passed: `from_environ` reads the variables and their files.
        return (init_settings,)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings. Raises BadSettings with everything that is wrong, and no secret."""
        values: dict[str, str] = {}
        problems: list[str] = []
        for name in cls.model_fields:
            try:
                value = _value_of(PREFIX + name.upper(), environ)
            except BadSettings as bad:
                problems += bad.problems
                continue
            if value is not None:
                values[name] = value
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            found = " ".join(problems)
            # A variable whose file cannot be read is not reported again as not set.
            problems += [
                words for words in _sentences(error, values) if words.split()[0] not in found
            ]
        if problems:
            raise BadSettings(problems)
        return settings


def _value_of(variable: str, environ: Mapping[str, str]) -> str | None:
    """Find what a variable says; an empty one says nothing."""
    value, path = environ.get(variable), environ.get(variable + FILE_SUFFIX)
    if not path:
        return value or None
    if value:
        raise BadSettings([f"{variable} and {variable}{FILE_SUFFIX} are both set: keep one"])
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        message = f"{variable}{FILE_SUFFIX} names a file that cannot be read: {reason}"
        raise BadSettings([message]) from None


def _sentences(error: ValidationError, values: Mapping[str, str]) -> list[str]:
    sentences = []
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        words = detail["msg"].removeprefix("Value error, ")
        if not detail["loc"]:
            sentences += words.splitlines()
            continue
        name = str(detail["loc"][0])
        variable = PREFIX + name.upper()
        if detail["type"] == "missing":
            sentences.append(f"{variable} is not set")
            continue
        words = words.partition(", unable to parse")[0].replace("a valid integer", "an integer")
        for wordy in ("Input should ", "String should ", "Value should ", "Tuple should "):
            words = words.replace(wordy, "must ")
        is_secret = "SecretStr" in str(Settings.model_fields[name].annotation)
        got = "" if is_secret else f", got {values.get(name, '')[:_QUOTED_CHARACTERS_MAX]!r}"
        sentences.append(f"{variable} {words}{got}")
    return sentences
