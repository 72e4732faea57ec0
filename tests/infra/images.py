"""Reading an image file and a compose file, as far as tests need."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "infra" / "docker" / "Dockerfile"
COMPOSE = ROOT / "infra" / "docker" / "compose.yaml"


@dataclass
class Stage:
    """One FROM and what follows it."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, word: str) -> list[str]:
        """Arguments of the instructions of a kind."""
        return [rest for kind, rest in self.instructions if kind == word]


def stages(text: str) -> list[Stage]:
    """Split an image file; continued lines are joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found: list[Stage] = []
    for line in filter(str.strip, joined.splitlines()):
        word, rest = line.strip().split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].instructions.append((word, rest))
    return found


def words(command: str) -> list[str]:
    """Words of a CMD in its exec form."""
    return list(json.loads(command)) if command.startswith("[") else shlex.split(command)


def services() -> dict[str, dict[str, Any]]:
    """Services of the compose file."""
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])
