"""The reference of `llava_core`: its public names, from their signatures and docstrings.

What this does *not* do: document what is not public.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import llava_core
from docs.generate.rendering import cell, docstring, table
from docs.generate.said import class_docs
from llava_core import checkpoints, errors
from llava_core.engine import Request, Result, SamplingConfig

PAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "llava_core": (str(llava_core.__doc__), {name: getattr(llava_core, name) for name in llava_core.__all__}),
    "llava_core.engine": (
        "What goes into `Engine.generate` and what comes out.",
        {one.__name__: one for one in (SamplingConfig, Request, Result)},
    ),
    "llava_core.checkpoints": (
        str(checkpoints.__doc__),
        {name: one for name in checkpoints.__all__ if inspect.isfunction(one := getattr(checkpoints, name))},
    ),
    "llava_core.errors": (
        str(errors.__doc__),
        {name: getattr(errors, name) for name in ("ConfigError", "ImageRefused", "PromptRefused", "CheckpointRefused")},
    ),
}
"""Module → what is said of it, and its public names."""
LINE = 88
_MODULES = re.compile(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])")


def core_page(module: str) -> str:
    """The page of a module's public names."""
    said, names = PAGES[module]
    parts = [f"# {module}", docstring(said)]
    for name, one in names.items():
        others = [other for other in names.values() if inspect.isclass(other) and other is not one]
        parts += _entry(name, one, others)
    return "\n\n".join(parts)


def _entry(name: str, one: Any, others: Sequence[type[Any]]) -> Iterator[str]:
    yield f"## {name}"
    yield signature(name, one)
    yield docstring(inspect.getdoc(one))
    if dataclasses.is_dataclass(one) and isinstance(one, type):
        docs = class_docs(one)
        rows = ((f"`{field.name}`", cell(docs[field.name])) for field in dataclasses.fields(one))
        yield table(("field", "meaning"), rows)
    if inspect.isclass(one):
        for base in others:
            if issubclass(one, base):
                yield f"Has all that `{base.__name__}` has."
        for method, member in _methods(one, others):
            yield f"### {name}.{method}"
            yield signature(method, member) if callable(member) else ""
            yield docstring(inspect.getdoc(member))


def _methods(kind: type[Any], others: Sequence[type[Any]]) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of this project's making, bases last; those of other entries are there."""
    seen = set()
    for base in kind.__mro__:
        if not base.__module__.startswith("llava_core") or base in others:
            continue
        for name, member in vars(base).items():
            if name.startswith("_") or name in seen or not inspect.getdoc(member):
                continue
            seen.add(name)
            if inspect.isfunction(member) or isinstance(member, classmethod | staticmethod | property):
                yield name, getattr(kind, name) if isinstance(member, classmethod | staticmethod) else member


def signature(name: str, one: Any) -> str:
    """How it is called, one parameter a line where it is long; types without the modules that they are in."""
    if isinstance(one, type) and issubclass(one, BaseException | tuple):
        return ""
    found = inspect.signature(one)
    text = _MODULES.sub("", f"{name}{found}")
    if len(text) > LINE:
        text = _MODULES.sub("", f"{name}{_broken(found)}")
    return f"```python\n{text}\n```"


def _broken(found: inspect.Signature) -> str:
    back = "" if found.return_annotation is found.empty else f" -> {inspect.formatannotation(found.return_annotation)}"
    text, starred = [], False
    for one in found.parameters.values():
        if one.kind is one.KEYWORD_ONLY and not starred:
            text.append("    *,")
            starred = True
        text.append(f"    {one},")
    return "\n".join(["(", *text, f"){back}"])
