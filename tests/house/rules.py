"""The house's rules, each a function from source to faults: what `CONTRIBUTING.md` says, as code.

Each takes a root folder, so that it can be tried on a bad house too, and returns lines "file:line: what is wrong".
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCE = ("schemas", "llava_core", "pipelines", "jobs", "benchmarks", "docs", "examples")
LIBRARY = ("schemas", "llava_core", "pipelines")
MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 80
MOST_DOOR_LINES = 60
MAY_IMPORT = {
    "schemas": {"schemas"},
    "llava_core": {"llava_core"},
    "pipelines": {"pipelines", "schemas", "llava_core"},
    "jobs": {"jobs", "pipelines", "schemas", "llava_core"},
    "benchmarks": {"benchmarks", "pipelines", "schemas", "llava_core"},
    "docs": {"docs", "jobs", "pipelines", "schemas", "llava_core"},
    "examples": {"pipelines", "schemas", "llava_core"},
}
"""Which of this project's packages each may import: down only."""
_OWN = set(SOURCE) | {"tests", "infra"}
_UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
_TEST_FILE = re.compile(r"test_.+\.py")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(root: Path, packages: tuple[str, ...] = SOURCE) -> Iterator[tuple[Path, ast.Module]]:
    """Give each source file, relative to the root, with its syntax tree."""
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            yield path.relative_to(root), ast.parse(path.read_text(), str(path))


def imported(tree: ast.Module, path: Path) -> Iterator[tuple[int, str]]:
    """Give each imported module, fully named, wherever in the file: relative ones and those in functions too."""
    here = list(path.parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = here[: len(here) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, base
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and _called(node) in ("importlib.import_module", "import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, first.value


def imports_point_down(root: Path) -> list[str]:
    """jobs → pipelines → {llava_core, schemas}; the foundations know neither each other nor Ray; rooms never meet."""
    rooms = {path.name for path in (root / "pipelines").glob("*") if path.is_dir() and (path / "__init__.py").exists()}
    faults = []
    for path, tree in sources(root):
        package = path.parts[0]
        room = path.parts[1] if package == "pipelines" and len(path.parts) > 2 else None
        for line, module in imported(tree, path):
            parts = module.split(".")
            if parts[0] in _OWN and parts[0] not in MAY_IMPORT[package]:
                faults.append(f"{path}:{line}: {package} imports {module}")
            if parts[0] == "ray" and package in ("schemas", "llava_core"):
                faults.append(f"{path}:{line}: {package} imports ray")
            other = parts[1] if parts[0] == "pipelines" and len(parts) > 1 and parts[1] in rooms else None
            if package == "pipelines" and other is not None and other != room:
                faults.append(f"{path}:{line}: {room or path.name} imports the room {other}; rooms meet in a table")
    return sorted(set(faults))


def sizes(root: Path) -> list[str]:
    """A file fits a head, a function a screen, a front door half of one."""
    faults = []
    for path, tree in sources(root):
        lines = len((root / path).read_text().splitlines())
        most = MOST_DOOR_LINES if path.parts[0] in ("jobs", "examples") else MOST_FILE_LINES
        if lines > most:
            faults.append(f"{path}:1: {lines} lines; at most {most}")
        for node in ast.walk(tree):
            if isinstance(node, Function) and (length := _length(node)) > MOST_FUNCTION_LINES:
                faults.append(f"{path}:{node.lineno}: {node.name} has {length} lines; at most {MOST_FUNCTION_LINES}")
    return faults


def docstrings(root: Path) -> list[str]:
    """Every module, and every public class, function and method, says what it is for; fields of dataclasses too."""
    faults = []
    for path, tree in sources(root):
        if ast.get_docstring(tree) is None:
            faults.append(f"{path}:1: the module has no docstring")
        for owner, node in _public(tree):
            if ast.get_docstring(node) is None:
                faults.append(f"{path}:{node.lineno}: {owner}{node.name} has no docstring")
            if isinstance(node, ast.ClassDef) and _is_dataclass(node):
                bare = _fields_without_docstring(node)
                faults += [f"{path}:{line}: {node.name}.{name} has no docstring under it" for line, name in bare]
    return faults


def no_print(root: Path) -> list[str]:
    """The library logs; only front doors and benchmarks print."""
    return [
        f"{path}:{node.lineno}: print"
        for path, tree in sources(root, LIBRARY)
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == "print"
    ]


def nothing_unpickles(root: Path) -> list[str]:
    """Nothing that runs what a file says: pickles, remote code, YAML tags."""
    faults = []
    for path, tree in sources(root):
        for line, module in imported(tree, path):
            if module.split(".")[0] in _UNSAFE_MODULES - {"pickle"}:
                faults.append(f"{path}:{line}: imports {module}")
        for node in ast.walk(tree):
            # torch's weights-only loader refuses with pickle's error: that name may be used, and no other of the module
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                names = {alias.name for alias in node.names}
                faults += [f"{path}:{node.lineno}: uses pickle.{name}" for name in names - {"UnpicklingError"}]
            if isinstance(node, ast.Import) and any(alias.name == "pickle" and alias.asname for alias in node.names):
                faults.append(f"{path}:{node.lineno}: imports pickle under another name")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle":
                faults += [f"{path}:{node.lineno}: uses pickle.{node.attr}"] if node.attr != "UnpicklingError" else []
            if isinstance(node, ast.Call):
                faults += [f"{path}:{node.lineno}: {fault}" for fault in _unsafe_call(node)]
    return sorted(set(faults))


def collected_tests(root: Path) -> list[str]:
    """A file with tests is named as pytest looks for them, and a helper file has none."""
    faults = []
    for path in sorted((root / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(), str(path))
        found = [node for node in ast.walk(tree) if isinstance(node, Function) and node.name.startswith("test")]
        named = _TEST_FILE.fullmatch(path.name) is not None
        if found and not named:
            faults.append(f"{path.relative_to(root)}:{found[0].lineno}: {found[0].name} is never collected")
        if named and not found:
            faults.append(f"{path.relative_to(root)}:1: no test in it")
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for owner in classes:
            methods = [node for node in owner.body if isinstance(node, Function) and node.name.startswith("test")]
            if methods and not (owner.name.startswith("Test") and not _has_init(owner)):
                faults.append(f"{path.relative_to(root)}:{owner.lineno}: tests of {owner.name} are never collected")
    return faults


RULES: tuple[Callable[[Path], list[str]], ...] = (
    imports_point_down,
    sizes,
    docstrings,
    no_print,
    nothing_unpickles,
    collected_tests,
)


def _unsafe_call(node: ast.Call) -> Iterator[str]:
    name = _called(node)
    words = {word.arg: word.value for word in node.keywords}
    for flag, bad in (("trust_remote_code", True), ("allow_pickle", True)):
        value = words.get(flag)
        if value is not None and not (isinstance(value, ast.Constant) and value.value is not bad):
            yield f"{flag} may be {bad}"
    if name == "torch.load":
        only = words.get("weights_only")
        if not (isinstance(only, ast.Constant) and only.value is True):
            yield "torch.load without weights_only=True"
    if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"):
        yield name


def _called(node: ast.Call) -> str:
    parts: list[str] = []
    at: ast.expr = node.func
    while isinstance(at, ast.Attribute):
        parts.append(at.attr)
        at = at.value
    return ".".join(reversed([*parts, at.id])) if isinstance(at, ast.Name) else ""


def _length(node: Function) -> int:
    """Lines of a function without its docstring, which may be as long as it needs."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def _public(tree: ast.Module) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in tree.body:
        if isinstance(node, (Function, ast.ClassDef)) and not node.name.startswith("_"):
            yield "", node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    yield f"{node.name}.", inner


def _is_dataclass(node: ast.ClassDef) -> bool:
    names = (
        ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)
        for decorator in node.decorator_list
    )
    return any(name.split(".")[-1] == "dataclass" for name in names)


def _fields_without_docstring(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    following = [*node.body[1:], None]
    for field, after in zip(node.body, following, strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if not said and not field.target.id.startswith("_"):
                yield field.lineno, field.target.id


def _has_init(node: ast.ClassDef) -> bool:
    return any(isinstance(inner, ast.FunctionDef) and inner.name == "__init__" for inner in node.body)
