"""docker-compose.yml and the Dockerfile name only what exists and works.

tests/acceptance/test_being_woken.py runs what the services run.
"""

import re
import subprocess
import sys

import pytest
import typer
from ruamel.yaml import YAML

from consumer.cli import app
from consumer.embedded import INITDB_OPTIONS
from consumer.settings import PREFIX, Settings
from tests.benchmarks.stack import POSTGRES_MEMORY
from tests.compose import DOCUMENT, ROOT, SERVICES, command_of, environment_of, resolved

OURS = [name for name, service in SERVICES.items() if "build" in service]
COMMANDS = [name for name in OURS if "entrypoint" not in SERVICES[name]]
FOREIGN = [name for name in SERVICES if name not in OURS]
DOCKERFILE = (ROOT / "Dockerfile").read_text()

each_of_ours = pytest.mark.parametrize("name", OURS)
each_service = pytest.mark.parametrize("name", SERVICES)


def read(path):
    return YAML(typ="safe").load(ROOT / path)


def test_the_file_keeps_the_schema_of_compose():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema=vendor.compose-spec",
            ROOT / "docker-compose.yml",
        ],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@each_service
def test_images_are_pinned(name):
    image = SERVICES[name]["image"]

    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9]+)?", image), image


def test_our_image_carries_our_version():
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]

    assert {SERVICES[name]["image"] for name in OURS} == {f"lotmeter:{version}"}


@each_service
def test_every_path_that_is_mounted_exists(name):
    for volume in SERVICES[name].get("volumes", ()):
        source, target, *_ = volume.split(":")
        assert target.startswith("/")
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert volume.endswith(":ro")
        else:
            assert source in DOCUMENT["volumes"]


def test_every_volume_is_used():
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
    }

    assert set(DOCUMENT["volumes"]) <= used


@each_service
def test_ports_are_open_on_this_machine_only(name):
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("127.0.0.1:")


def test_no_two_services_take_the_same_port():
    taken = [
        port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", ())
    ]

    assert len(set(taken)) == len(taken)


@each_service
def test_services_wait_only_for_what_can_come_true(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        awaited = SERVICES[other]
        if how["condition"] == "service_healthy":
            assert "test" in awaited["healthcheck"]
        else:
            assert how["condition"] == "service_completed_successfully"
            assert "restart" not in awaited


@each_of_ours
def test_variables_are_settings_with_values_that_they_can_have(name):
    environment = environment_of(name)
    known = {PREFIX + field.upper() for field in Settings.model_fields}

    assert environment.keys() <= known
    complete = {f"{PREFIX}KAFKA_SERVERS": "x:1", f"{PREFIX}DATABASE_URL": "postgresql://x@x/x"}
    settings = Settings.from_environ(
        complete | {name: value for name, value in environment.items() if value}
    )
    if name != "traffic":
        url = settings.database_url.get_secret_value()
        assert url.partition("@")[2] == f"postgres:5432/{environment_of('postgres')['POSTGRES_DB']}"


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_exist_and_take_these_options(name):
    known = typer.main.get_command(app)
    first, *rest = command_of(name)

    context = known.commands[first].make_context(first, rest)

    assert context.command.name == first


def test_the_shell_that_verifies_can_be_read_and_runs_commands_that_exist():
    [script] = command_of("verify")

    assert SERVICES["verify"]["entrypoint"] == ["sh", "-c"]
    assert subprocess.run(["sh", "-n", "-c", script], check=False).returncode == 0
    for options in re.findall(r"lotmeter verify([^;]*);", script):
        typer.main.get_command(app).commands["verify"].make_context("verify", options.split())
    assert script.count("lotmeter verify") == 2


@each_of_ours
def test_our_containers_can_do_as_little_as_possible(name):
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_roles_and_passwords_agree():
    postgres, grafana = environment_of("postgres"), environment_of("grafana")
    roles = (ROOT / "deploy/postgres/roles.sh").read_text()
    source = read("deploy/grafana/provisioning/datasources/lotmeter.yml")["datasources"][1]
    app_url, owner_url = (
        environment_of(name)["LOTMETER_DATABASE_URL"] for name in ("consumer", "migrate")
    )

    assert app_url.startswith(f"postgresql://lotmeter_app:{postgres['LOTMETER_APP_PASSWORD']}@")
    owner, password = postgres["POSTGRES_USER"], postgres["POSTGRES_PASSWORD"]
    assert owner_url.startswith(f"postgresql://{owner}:{password}@")
    assert environment_of("migrate")["LOTMETER_DATABASE_APP_ROLE"] == "lotmeter_app"
    assert environment_of("migrate")["LOTMETER_DATABASE_READER_ROLE"] == source["user"]
    assert source["secureJsonData"]["password"] == "$LOTMETER_READER_PASSWORD"
    assert grafana["LOTMETER_READER_PASSWORD"] == postgres["LOTMETER_READER_PASSWORD"]
    for role in ("lotmeter_app", source["user"]):
        assert f"CREATE ROLE {role} LOGIN" in roles
    assert source["jsonData"]["database"] == postgres["POSTGRES_DB"]


def test_who_asks_whom_is_right():
    prometheus = read("deploy/prometheus/prometheus.yml")
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    [members] = jobs["lotmeter"]["dns_sd_configs"]
    sources = read("deploy/grafana/provisioning/datasources/lotmeter.yml")["datasources"]
    [rules] = prometheus["rule_files"]
    [alertmanagers] = prometheus["alerting"]["alertmanagers"]

    assert members["names"] == ["consumer"]
    assert f"LOTMETER_HTTP_ADDRESS=0.0.0.0:{members['port']}" in DOCKERFILE
    assert f"EXPOSE {members['port']}\n" in DOCKERFILE
    assert f"127.0.0.1:{members['port']}/livez" in DOCKERFILE
    assert (ROOT / "deploy/prometheus" / rules).exists()
    assert alertmanagers["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    assert [source["url"] for source in sources] == ["http://prometheus:9090", "postgres:5432"]
    for place in ("alertmanager:9093", "prometheus:9090", "postgres:5432", "grafana:3000"):
        service, port = place.split(":")
        assert any(bound.endswith(f":{port}") for bound in SERVICES[service]["ports"]), place
    assert environment_of("consumer")["LOTMETER_KAFKA_SERVERS"] == "kafka:9092"
    assert "PLAINTEXT://kafka:9092" in environment_of("kafka")["KAFKA_ADVERTISED_LISTENERS"]


def test_a_new_database_orders_names_as_the_embedded_one_does():
    options = environment_of("postgres")["POSTGRES_INITDB_ARGS"].split()

    assert options == [
        option for option in INITDB_OPTIONS if "locale" in option or "UTF8" in option
    ]


def test_the_benchmark_gives_postgresql_the_same_memory():
    program, *options = SERVICES["postgres"]["command"]
    assert (program, set(options[::2])) == ("postgres", {"-c"})
    assert dict(option.split("=") for option in options[1::2]) == POSTGRES_MEMORY


def test_servers_read_the_files_that_are_mounted():
    for name, option in (("prometheus", "--config.file="), ("alertmanager", "--config.file=")):
        [path] = [word.removeprefix(option) for word in command_of(name) if word.startswith(option)]
        sources = dict(reversed(volume.split(":")[:2]) for volume in SERVICES[name]["volumes"])
        folder, _, file = path.rpartition("/")
        assert (ROOT / sources[folder] / file).exists()
    sources = dict(reversed(volume.split(":")[:2]) for volume in SERVICES["grafana"]["volumes"])
    [provider] = read("deploy/grafana/provisioning/dashboards/lotmeter.yml")["providers"]
    assert (ROOT / sources[provider["options"]["path"]]).exists()
    folder, _, file = environment_of("grafana")[
        "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    ].rpartition("/")
    assert (ROOT / sources[folder] / file).exists()


def test_the_grace_period_is_longer_than_the_drain():
    drain = Settings.model_fields["drain_seconds"].default

    assert int(SERVICES["consumer"]["stop_grace_period"].rstrip("s")) > drain + 10


def test_the_image_is_small_and_runs_as_nobody():
    _, builder, image = DOCKERFILE.split("\nFROM ")
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)

    # The builder has a compiler besides.
    assert bases[0] == bases[1].replace("-slim", "")
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", bases[1])
    assert "USER 10001:10001" in image
    assert "--require-hashes" in builder
    assert "RUN" not in image


def test_the_image_is_made_of_files_that_exist_and_are_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)

    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored, path


def test_the_lock_of_the_image_is_a_part_of_the_lock():
    def pins(path):
        text = (ROOT / path).read_text()
        return {entry.split(" \\\n")[0]: entry for entry in re.split(r"\n(?=[a-z])", text.strip())}

    everything, image = pins("requirements.lock"), pins("deploy/image.lock")

    hashes = {
        name.split(" ;")[0]: set(re.findall(r"sha256:\w+", text))
        for name, text in everything.items()
    }
    for name, text in image.items():
        assert set(re.findall(r"sha256:\w+", text)) == hashes[name.split(" ;")[0]], name
    assert not any(name.startswith(("pytest", "ruff", "embedded", "calfkit")) for name in image)


def test_the_build_backend_is_found_in_the_lock():
    program = DOCKERFILE.split("awk '")[1].split("'")[0]

    done = subprocess.run(
        ["awk", program, ROOT / "requirements.lock"], check=True, capture_output=True, text=True
    )

    names = re.findall(r"^([a-z-]+)==", done.stdout, re.MULTILINE)
    backend = ["hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers"]
    compiler = [
        "ast-serialize",
        "librt",
        "mypy",
        "mypy-extensions",
        "setuptools",
        "typing-extensions",
    ]
    assert names == sorted(backend + compiler)
    assert done.stdout.count("--hash=") >= len(names)


def test_a_password_of_ones_own_is_used_everywhere():
    text = (ROOT / "docker-compose.yml").read_text()
    variables = set(re.findall(r"\$\{([A-Z_]+):-", text))
    documented = (ROOT / "docs/operations.md").read_text()

    assert resolved("${A_B:-c}d") == "cd"
    for variable in variables - {"LOTMETER_LOG_LEVEL"}:
        assert f"    {variable}=" in documented
