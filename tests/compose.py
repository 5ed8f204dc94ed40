"""What docker-compose.yml says, as tests run it without Docker."""

import os
import re
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DOCUMENT = YAML(typ="safe").load(ROOT / "docker-compose.yml")
SERVICES = DOCUMENT["services"]

_VARIABLE = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")


def resolved(text: object) -> str:
    """Put the defaults of variables in, as compose does where no .env stands beside the file."""
    return _VARIABLE.sub(lambda match: match[2], str(text)).replace("$$", "$")


def environment_of(service: str) -> dict[str, str]:
    """Say what a container of a service finds in its environment."""
    found = SERVICES[service].get("environment", {})
    return {name: resolved(value) for name, value in found.items()}


def command_of(service: str) -> list[str]:
    """Say what a service runs; without a command it is what the image runs."""
    return [resolved(word) for word in SERVICES[service].get("command", ())]


def here(environment: dict[str, str], **places: str) -> dict[str, str]:
    """Let a program of this machine find what containers know by name: places are host:port."""
    moved = dict(environment)
    for name, place in places.items():
        port = {"kafka": 9092, "postgres": 5432}[name]
        moved = {key: value.replace(f"{name}:{port}", place) for key, value in moved.items()}
    own = {key: value for key, value in os.environ.items() if not key.startswith("LOTMETER_")}
    return {**own, **moved}
