"""The command blocks of the documentation's pages, and what a reader's shell would make of them.

A page is one session: its blocks run in order, in one folder. `calls` has bash itself expand the commands and takes
down those that start something, so quoting and variables are the shell's; `run` runs everything for real.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
RUN = ("bash", "python")
SHOWN = ("text", "yaml")
STARTS = ("python", "make", "ray", "git", "kubectl")
"""Commands that start something; any other has to be one of the shell's, or a tool that every machine has."""
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SNIPPET = re.compile(r'--8<-- "(.*)"\n')


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    language: str
    """After the fence."""
    text: str
    """Between the fences."""
    line: int
    """Of the page."""

    @property
    def snippet(self) -> str | None:
        """The file that the block shows, if it is one; the file has a test of its own."""
        found = _SNIPPET.fullmatch(self.text)
        return found[1] if found else None


def blocks(page: str) -> list[Block]:
    """All blocks of a page."""
    text = (DOCS / page).read_text()
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in _FENCE.finditer(text)]


def running(page: str) -> list[Block]:
    """Blocks that a reader would run."""
    return [block for block in blocks(page) if block.language in RUN and block.snippet is None]


def commands(text: str) -> list[list[str]]:
    """Indented or fenced lines of a text that are commands, as words; lines that a backslash joins are one."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.strip().startswith(STARTS)]
    return [words for words in found if words[0] in STARTS]


def starts_something(page: str) -> bool:
    """Whether a page has commands."""
    return any(block.language == "bash" for block in running(page))


def calls(page: str, folder: Path) -> list[list[str]]:
    """The commands of a page that start something, as bash would hand them over; none of them runs."""
    taken = folder / "calls"
    taken.touch()
    functions = [f'{name}() {{ printf "%s\\0" "$(($# + 1))" {name} "$@" >> "{taken}"; }}' for name in STARTS]
    # what they would have left behind
    functions += ["source() { :; }", "cp() { :; }", 'cd() { mkdir -p "$1"; builtin cd "$1"; }']
    lines = ["set -euo pipefail", *functions, *(one.text for one in running(page) if one.language == "bash")]
    _bash(lines, folder, {"PATH": "/usr/bin:/bin", "TESSERA": "somewhere"}, 20)
    words, found = taken.read_bytes().decode().split("\0")[:-1], []
    while words:
        count = int(words[0])
        found.append(words[1 : count + 1])
        words = words[count + 1 :]
    return found


def run(page: str, folder: Path, venv: Path, environment: Mapping[str, str]) -> str:
    """Run a page as a reader would, in a folder, and return what it printed.

    Four commands have stand-ins: `ray job submit … -- X` runs X here, `make` takes the environment as it is, a clone
    gets this environment in place of a new one, and `kubectl` does nothing.
    """
    lines = [
        "set -euo pipefail",
        'ray() { while [ "$1" != -- ]; do shift; done; shift; "$@"; }',
        'make() { command make -o .venv/demo -o .venv/dev "$@"; }',
        "kubectl() { :; }",
        f'git() {{ command git "$@"; ln -s "{venv}" tessera/.venv; }}',
    ]
    for block in running(page):
        lines.append(f"echo '--- {page}, line {block.line}'")
        lines.append(block.text if block.language == "bash" else f"python - <<'PYTHON'\n{block.text}PYTHON")
    path = f"{venv / 'bin'}:{os.environ['PATH']}"
    return _bash(lines, folder, {**os.environ, "PATH": path, "TESSERA": str(ROOT), **environment}, 900)


def _bash(lines: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float) -> str:
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
