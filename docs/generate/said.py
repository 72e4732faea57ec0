"""What source files say about themselves: the docstrings that Python throws away, under fields and constants.

What this does *not* do: write Markdown (`rendering`).
"""

import ast
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any


def module_docs(module: ModuleType) -> dict[str, str]:
    """The docstring under each constant of a module, by the constant's name."""
    return _docs_under(ast.parse(Path(str(module.__file__)).read_text()).body)


def class_docs(kind: type[Any]) -> dict[str, str]:
    """The docstring under each field or member of a class and its bases, the class's own first.

    Example:
        >>> from llava_core.engine.types import SamplingConfig
        >>> class_docs(SamplingConfig)["max_new_tokens"]
        'Most tokens generated for one request.'
    """
    docs: dict[str, str] = {}
    for one in kind.__mro__:
        if one.__module__.split(".")[0] in ("schemas", "llava_core", "pipelines", "jobs"):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
            assert isinstance(tree, ast.ClassDef)
            docs = _docs_under(tree.body) | docs
    return docs


def _docs_under(body: list[ast.stmt]) -> dict[str, str]:
    docs = {}
    for node, after in pairwise(body):
        said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and after.value.value
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
        if isinstance(target, ast.Name) and isinstance(said, str):
            docs[target.id] = inspect.cleandoc(said)
    return docs
