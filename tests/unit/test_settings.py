"""What can be set is checked at once, explained in sentences, and not shown where it is secret."""

import shutil
import ssl
import subprocess

import pytest

from consumer.brokers import kafka_options
from consumer.settings import BadSettings, Settings
from metering.catalog import shipped_catalog
from metering.errors import BadCatalog
from metering.periods import HOUR

SECRET = "hunter2-canary"
NEEDED = {
    "LOTMETER_KAFKA_SERVERS": "kafka-1:9092,kafka-2:9092",
    "LOTMETER_DATABASE_URL": f"postgresql://meter:{SECRET}@db/books",
}
SASL = {
    "LOTMETER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "LOTMETER_KAFKA_SASL_USERNAME": "meter",
    "LOTMETER_KAFKA_SASL_PASSWORD": SECRET,
}


def settings(**variables):
    return Settings.from_environ({**NEEDED, **variables})


def problems_of(environ):
    with pytest.raises(BadSettings) as found:
        Settings.from_environ(environ)
    assert SECRET not in str(found.value)
    assert SECRET not in repr(found.value.__context__)
    return found.value.problems


def test_only_kafka_and_the_database_must_be_named():
    found = settings()

    assert found.group == "lotmeter"
    assert found.http_endpoint == ("127.0.0.1", 9464)
    assert found.topics[-1] == "billing.commands"
    assert problems_of({}) == [
        "LOTMETER_KAFKA_SERVERS is not set",
        "LOTMETER_DATABASE_URL is not set",
    ]


def test_everything_that_is_wrong_is_said_at_once():
    problems = problems_of(
        {
            "LOTMETER_KAFKA_SERVERS": "kafka",
            "LOTMETER_DATABASE_URL": f"mysql://meter:{SECRET}@db/books",
            "LOTMETER_BATCH_RECORDS_MAX": "many",
            "LOTMETER_LANES": "0",
            "LOTMETER_HTTP_ADDRESS": "9464",
            "LOTMETER_USAGE_TOPICS": "usage mu",
            "LOTMETER_GROUP_FILE": "/nowhere/at/all",
        }
    )

    assert sorted(problems) == [
        "LOTMETER_BATCH_RECORDS_MAX must be an integer, got 'many'",
        "LOTMETER_DATABASE_URL must be like postgresql://user:password@host/db",
        "LOTMETER_GROUP_FILE names a file that cannot be read: No such file or directory",
        "LOTMETER_HTTP_ADDRESS must be host:port, got '9464'",
        "LOTMETER_KAFKA_SERVERS must be host:port, with commas between several, got 'kafka'",
        "LOTMETER_LANES must be greater than or equal to 1, got '0'",
        "LOTMETER_USAGE_TOPICS must match pattern '^[A-Za-z0-9._-]{1,249}$', got 'usage mu'",
    ]


def test_settings_that_contradict_each_other_are_refused():
    problems = problems_of(
        {
            **NEEDED,
            "LOTMETER_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
            "LOTMETER_KAFKA_TLS_CERTIFICATE": "/tls/own.pem",
            "LOTMETER_NOTICES_TOPIC": "usage.mu",
            "LOTMETER_PARTITION_FETCH_MEBIBYTES_MAX": "64",
        }
    )

    assert len(problems) == 4


def test_a_value_can_stand_in_a_file_with_a_line_end(tmp_path):
    url_file = tmp_path / "url"
    url_file.write_text("postgresql://meter:from-file@db/books\n")
    environ = {
        "LOTMETER_KAFKA_SERVERS": "kafka:9092",
        "LOTMETER_DATABASE_URL_FILE": str(url_file),
    }

    found = Settings.from_environ(environ)

    assert found.database_url.get_secret_value() == "postgresql://meter:from-file@db/books"
    assert problems_of({**environ, **NEEDED}) == [
        "LOTMETER_DATABASE_URL and LOTMETER_DATABASE_URL_FILE are both set: keep one"
    ]


def test_a_required_value_whose_file_is_missing_is_reported_once():
    problems = problems_of(
        {**NEEDED, "LOTMETER_DATABASE_URL": "", "LOTMETER_DATABASE_URL_FILE": "/x"}
    )

    assert problems == [
        "LOTMETER_DATABASE_URL_FILE names a file that cannot be read: No such file or directory"
    ]


def test_nothing_shows_a_secret():
    found = settings(**SASL, LOTMETER_KAFKA_TLS_KEY=SECRET, LOTMETER_KAFKA_TLS_CERTIFICATE="x")

    assert SECRET not in repr(found) + str(found) + str(found.model_dump())


def test_variables_that_are_no_settings_are_left_alone():
    # A cluster sets such variables for every service, by the name of the service.
    assert settings(LOTMETER_SERVICE_HOST="10.0.0.1", LOTMETER_PORT="tcp://10.0.0.1:9464")


def test_numbers_of_the_rules_replace_those_of_the_catalog(tmp_path):
    catalog_file = tmp_path / "catalog.toml"
    catalog_file.write_text("nothing = 1")

    catalog = settings(LOTMETER_HORIZON_DAYS="40", LOTMETER_CLOSING_HOURS="0").read_catalog()

    assert catalog.rules.horizon == 40 * 24 * HOUR
    assert catalog.rules.closing == 0
    assert settings().read_catalog().rules == shipped_catalog().rules
    with pytest.raises(BadCatalog):
        settings(LOTMETER_CATALOG=str(catalog_file)).read_catalog()


def test_kafka_is_reached_in_the_clear_unless_told():
    options = kafka_options(settings())

    assert options["security_protocol"] == "PLAINTEXT"
    assert options["bootstrap_servers"] == "kafka-1:9092,kafka-2:9092"
    assert "ssl_context" not in options


def test_with_tls_the_broker_must_prove_its_name_and_we_give_our_password():
    options = kafka_options(settings(**SASL))

    assert options["ssl_context"].check_hostname
    assert options["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["sasl_plain_username"] == "meter"
    assert options["sasl_plain_password"] == SECRET


def test_a_certificate_can_be_a_path_or_its_content(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    paths = [tmp_path / "certificate.pem", tmp_path / "key.pem"]
    making = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kafka"]
    subprocess.run(
        [*making, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True
    )
    certificate, key = (path.read_text().strip() for path in paths)
    tls = {"LOTMETER_KAFKA_SECURITY_PROTOCOL": "SSL"}

    for ours, secret in ((str(paths[0]), str(paths[1])), (certificate, key)):
        found = settings(
            **tls,
            LOTMETER_KAFKA_TLS_CA=ours,
            LOTMETER_KAFKA_TLS_CERTIFICATE=ours,
            LOTMETER_KAFKA_TLS_KEY=secret,
        )
        assert len(kafka_options(found)["ssl_context"].get_ca_certs()) == 1


def test_a_certificate_that_cannot_be_read_is_named():
    found = settings(
        LOTMETER_KAFKA_SECURITY_PROTOCOL="SSL", LOTMETER_KAFKA_TLS_CA="/nowhere/ca.pem"
    )

    with pytest.raises(BadSettings, match="LOTMETER_KAFKA_TLS_CA"):
        kafka_options(found)
