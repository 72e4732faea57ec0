"""A reference page for each job, from the dataclass that its command line is made of.

What this does *not* do: parse a command line; `tyro` does, and a test holds the flags here to its `--help`.
"""

import ast
import dataclasses
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from docs.generate.rendering import cell, docstring, prose, table
from docs.generate.said import class_docs
from pipelines.training.recipes import RECIPES
from pipelines.training.stages import Stage

ROOT = Path(__file__).resolve().parents[2]


def find_jobs() -> dict[str, type[Any]]:
    """Each front door with the dataclass that its command line is made of; the demo has none."""
    found = {}
    for path in sorted((ROOT / "jobs").glob("*.py")):
        tree = ast.parse(path.read_text())
        homes = {
            alias.name: str(node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("cli.parse", "tyro.cli"):
                name = ast.unparse(node.args[0])
                found[path.stem] = getattr(import_module(homes.get(name, f"jobs.{path.stem}")), name)
    return found


JOBS: Mapping[str, type[Any]] = find_jobs()
"""Job → what its command line is made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Flag:
    """One setting of a command line."""

    name: str
    """As it is typed."""
    takes: str
    """What follows it."""
    default: str
    """Without it; empty where it must be given."""
    meaning: str
    """The docstring under the field."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The settings of one dataclass."""

    title: str
    """What they are about; empty for the job's own."""
    flags: tuple[Flag, ...]
    """In the order of the fields."""


def job_page(name: str) -> str:
    """The page of a job."""
    text = ast.get_docstring(ast.parse((ROOT / "jobs" / f"{name}.py").read_text()))
    parts = [f"# {name}", docstring(text)]
    for group in groups(JOBS[name]):
        rows = ((f"`{one.name}`", one.takes, one.default, cell(one.meaning)) for one in group.flags)
        parts += [f"## {prose(group.title)}" if group.title else "## Settings"]
        parts.append(table(("flag", "takes", "default", "meaning"), rows))
    return "\n\n".join(parts)


def jobs_table() -> str:
    """All jobs, with the first sentence that each says of itself."""
    rows = []
    for name in JOBS:
        said = str(ast.get_docstring(ast.parse((ROOT / "jobs" / f"{name}.py").read_text())))
        rows.append((f"[{name}](jobs/{name}.md)", cell(said.split("\n\n")[0])))
    return table(("job", "what it does"), rows)


def groups(kind: type[Any]) -> list[Group]:
    """The flags of a dataclass, and of those inside it, in the order of the fields."""
    return list(_groups(kind, "", ""))


def _groups(kind: type[Any], prefix: str, title: str) -> Iterator[Group]:
    hints, docs = get_type_hints(kind, include_extras=True), class_docs(kind)
    inner, flags = [], []
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(plain):
            # tyro.conf.arg(name="") leaves the field's name out of the flags of what it holds
            named = not any(getattr(mark, "name", None) == "" for mark in getattr(hint, "__metadata__", ()))
            below = f"{prefix}{field.name.replace('_', '-')}." if named else prefix
            inner.append((plain, below, docs[field.name].split("\n")[0].rstrip(".;")))
        else:
            flags.append(_flag(field, plain, prefix, docs[field.name]))
    if flags:
        yield Group(title=title, flags=tuple(flags))
    for one, below, what in inner:
        assert isinstance(one, type)
        yield from _groups(one, below, what)


def _flag(field: "dataclasses.Field[Any]", hint: Any, prefix: str, meaning: str) -> Flag:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    off = "no-" if default is True else ""
    shown = "" if default is dataclasses.MISSING else _shown(default)
    name = f"--{prefix}{off}{field.name.replace('_', '-')}"
    return Flag(name=name, takes=takes(hint), default=shown or "**required**", meaning=meaning)


def takes(hint: Any) -> str:
    """What a flag of a type takes, for people.

    Example:
        >>> takes(tuple[str, ...]), takes(int | None), takes(Literal["a", "b"])
        ('text, several', 'whole number', '`a` or `b`')
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(takes(one) for one in args if one is not type(None))
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in args)
    if origin is tuple:
        return f"{takes(args[0])}, several"
    if origin is not None and issubclass(origin, Mapping):
        return f"{takes(args[0])} and {takes(args[1])}, several"
    words = {bool: "nothing", int: "whole number", float: "number", str: "text", Path: "path"}
    return words[hint]


def recipe_table(name: str) -> str:
    """The stages of a training recipe, with what differs between them."""
    stages = RECIPES[name]()  # type: ignore[index]
    return table(
        ("stage", "trains, at the learning rate", "samples a step", "tiles beyond the base", "tokens of a row"),
        (
            (
                f"`{one.name}`",
                ", ".join(f"{part} {rate:g}" for part, rate in one.learning_rates.items()),
                f"{one.batch_size}",
                _tiles(one),
                f"{one.row_tokens:,}",
            )
            for one in stages
        ),
    )


def _tiles(stage: Stage) -> str:
    return "all that the model has" if stage.max_tiles is None else f"{stage.max_tiles}"


def _shown(value: object) -> str:
    if value in (None, (), {}):
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(f"`{one}`" for one in value)
    return f"`{value}`"
