"""How Kafka is reached: who we are, and whom we trust."""

from __future__ import annotations

import logging
import ssl
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
)

from consumer.settings import PREFIX, BadSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from consumer.settings import Settings

_PEM_MARK = "-----BEGIN"

# A member that joins is answered when the slowest one has come, so wait a little longer than that.
_ANSWER_MARGIN_SECONDS = 5


_NOT_ALLOWED = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
)


class CannotReachKafka(Exception):
    """No broker takes us; the message says why, and what to look at."""


class _Reasons(logging.Handler):
    """Keeps the error that the client only logs: what it raises says that there was one."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        for part in record.args if isinstance(record.args, tuple) else ():
            if isinstance(part, BaseException):
                self.error = part


@contextmanager
def reaching_kafka(settings: Settings) -> Iterator[None]:
    """Say in one sentence why Kafka cannot be reached. Raises CannotReachKafka."""
    reasons, logger = _Reasons(), logging.getLogger("aiokafka")
    logger.addHandler(reasons)
    propagated, logger.propagate = logger.propagate, False
    try:
        yield
    except (KafkaError, OSError, TimeoutError) as error:
        raise CannotReachKafka(_sentence(settings, reasons.error or error)) from None
    finally:
        logger.propagate = propagated
        logger.removeHandler(reasons)


def _sentence(settings: Settings, error: BaseException) -> str:
    if isinstance(error, SaslAuthenticationFailed):
        return (
            f"Kafka refuses the user or the password: see {PREFIX}KAFKA_SASL_USERNAME"
            f" and {PREFIX}KAFKA_SASL_PASSWORD"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not trusted ({error.verify_message}):"
            f" see {PREFIX}KAFKA_TLS_CA and {PREFIX}KAFKA_SERVERS"
        )
    if isinstance(error, _NOT_ALLOWED):
        return f"Kafka does not allow it ({type(error).__name__}): grant it to our user"
    return f"no broker answers at {settings.kafka_servers}: {type(error).__name__}"


def kafka_options(settings: Settings) -> dict[str, Any]:
    """Say how every Kafka client of ours reaches the brokers. Raises BadSettings."""
    options: dict[str, Any] = {
        "bootstrap_servers": settings.kafka_servers,
        "client_id": "lotmeter",
        "request_timeout_ms": 1_000 * (settings.rebalance_timeout_seconds + _ANSWER_MARGIN_SECONDS),
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        assert settings.kafka_sasl_password is not None
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username
        options["sasl_plain_password"] = settings.kafka_sasl_password.get_secret_value()
    if settings.kafka_security_protocol.endswith("SSL"):
        options["ssl_context"] = _tls(settings)
    return options


def _tls(settings: Settings) -> ssl.SSLContext:
    """Make a context that checks the broker's certificate and its name."""
    ca, certificate = settings.kafka_tls_ca, settings.kafka_tls_certificate
    key = settings.kafka_tls_key
    try:
        context = ssl.create_default_context()
        if ca is not None:
            # Only this authority, not those of the system besides.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(
                **{"cadata" if ca.startswith(_PEM_MARK) else "cafile": ca}
            )
        if certificate is not None and key is not None:
            with tempfile.TemporaryDirectory(prefix="lotmeter-") as folder:
                context.load_cert_chain(
                    _path_of(certificate, Path(folder, "certificate")),
                    _path_of(key.get_secret_value(), Path(folder, "key")),
                )
    except OSError as error:
        problem = error.strerror or type(error).__name__
        message = f"{PREFIX}KAFKA_TLS_CA, _CERTIFICATE or _KEY cannot be used: {problem}"
        raise BadSettings([message]) from None
    return context


def _path_of(pem: str, place: Path) -> Path:
    """Give the path of a PEM file; a text is written to a place that only we may read."""
    if not pem.startswith(_PEM_MARK):
        return Path(pem)
    place.touch(mode=0o600)
    place.write_text(pem + "\n", encoding="ascii")
    return place
