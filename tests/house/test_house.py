"""The house keeps its rules, and each rule can be broken: a planted fault is found and named."""

from pathlib import Path

import pytest

from tests.house import rules

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: rules.Callable[[Path], list[str]]) -> None:
    assert rule(ROOT) == []


def test_all_packages_are_looked_at() -> None:
    seen = {path.parts[0] for path, _ in rules.sources(ROOT)}
    assert {"schemas", "llava_core", "pipelines", "jobs", "benchmarks"} <= seen
    assert len(list((ROOT / "tests").rglob("test_*.py"))) > 20


def planted(root: Path, name: str, text: str) -> Path:
    """A small house without fault, and one more file."""
    house = {
        "schemas/__init__.py": '"""Doorways."""\n',
        "llava_core/__init__.py": '"""Model."""\n',
        "llava_core/errors.py": '"""Errors."""\n\nimport enum\n',
        "pipelines/__init__.py": '"""Flow."""\n',
        "pipelines/tables.py": '"""Tables."""\n\nimport ray\nfrom llava_core import errors\nfrom schemas import row\n',
        "pipelines/train/__init__.py": '"""Training."""\n\nfrom pipelines import tables\n',
        "pipelines/infer/__init__.py": '"""Inference."""\n\nfrom pipelines.infer import flow\n',
        "jobs/train.py": '"""Train."""\n\nfrom pipelines.train import flow\n\nprint(flow)\n',
        "tests/test_a.py": '"""A."""\n\n\ndef test_a():\n    assert True\n',
        "tests/cases.py": '"""Cases."""\n\n\ndef make():\n    return 1\n',
    }
    assert name not in house or name.endswith("__init__.py")
    for path, body in {**house, name: text}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(body)
    return root


def test_a_house_without_fault_passes(tmp_path: Path) -> None:
    root = planted(tmp_path, "schemas/row.py", '"""Row."""\n')
    assert [rule(root) for rule in rules.RULES] == [[]] * len(rules.RULES)


LONG = "\n".join(f"    a{n} = {n}" for n in range(80))
SAID = '"""Said."""\n\n'


@pytest.mark.parametrize(
    ("rule", "name", "text", "found"),
    [
        ("imports_point_down", "schemas/a.py", "import llava_core", "schemas/a.py:1: schemas imports llava_core"),
        ("imports_point_down", "llava_core/a.py", "def f():\n    from schemas.row import X", "imports schemas.row"),
        ("imports_point_down", "llava_core/a.py", "from pipelines import tables", "llava_core imports pipelines"),
        ("imports_point_down", "llava_core/a.py", "import ray.data", "llava_core imports ray"),
        (
            "imports_point_down",
            "schemas/a.py",
            "import importlib\nimportlib.import_module('ray')",
            "schemas imports ray",
        ),
        ("imports_point_down", "pipelines/a.py", "from jobs import train", "pipelines imports jobs"),
        ("imports_point_down", "pipelines/a.py", "import tests.cases", "pipelines imports tests.cases"),
        (
            "imports_point_down",
            "pipelines/train/a.py",
            "from pipelines.infer import flow",
            "train imports the room infer",
        ),
        ("imports_point_down", "pipelines/train/a.py", "from pipelines import infer", "train imports the room infer"),
        ("imports_point_down", "pipelines/train/a.py", "from ..infer import flow", "train imports the room infer"),
        ("imports_point_down", "pipelines/a.py", "import pipelines.infer.flow", "a.py imports the room infer"),
        ("sizes", "schemas/a.py", "a = 1\n" * 401, "schemas/a.py:1: 401 lines; at most 400"),
        ("sizes", "jobs/a.py", "a = 1\n" * 61, "61 lines; at most 60"),
        ("sizes", "schemas/a.py", f"def f():\n{LONG}", "schemas/a.py:1: f has 81 lines; at most 80"),
        ("sizes", "schemas/a.py", f"class A:\n  async def f():\n{LONG}", "f has 81 lines"),
        ("docstrings", "schemas/a.py", "a = 1", "schemas/a.py:1: the module has no docstring"),
        ("docstrings", "schemas/a.py", SAID + "def f():\n    pass", "schemas/a.py:3: f has no docstring"),
        ("docstrings", "schemas/a.py", SAID + "class A:\n  'B.'\n  def f(self):\n    pass", "A.f has no docstring"),
        ("docstrings", "schemas/a.py", SAID + "@dataclass\nclass A:\n  'B.'\n  x: int", "A.x has no docstring under"),
        ("no_print", "schemas/a.py", "print(1)", "schemas/a.py:1: print"),
        ("no_print", "schemas/a.py", "say = print", "schemas/a.py:1: print"),
        ("nothing_unpickles", "pipelines/a.py", "import pickle\npickle.loads(b'')", "a.py:2: uses pickle.loads"),
        ("nothing_unpickles", "pipelines/a.py", "from pickle import loads as f", "uses pickle.loads"),
        ("nothing_unpickles", "pipelines/a.py", "import pickle as p\np.loads(b'')", "under another name"),
        ("nothing_unpickles", "pipelines/a.py", "from cloudpickle import loads", "imports cloudpickle"),
        ("nothing_unpickles", "pipelines/a.py", "torch.load(f)", "torch.load without weights_only=True"),
        ("nothing_unpickles", "pipelines/a.py", "torch.load(f, weights_only=False)", "torch.load without"),
        ("nothing_unpickles", "pipelines/a.py", "f(trust_remote_code=True)", "trust_remote_code may be True"),
        ("nothing_unpickles", "pipelines/a.py", "f(trust_remote_code=x)", "trust_remote_code may be True"),
        ("nothing_unpickles", "pipelines/a.py", "np.load(f, allow_pickle=True)", "allow_pickle may be True"),
        ("nothing_unpickles", "pipelines/a.py", "yaml.load(f)", "yaml.load"),
        ("nothing_unpickles", "pipelines/a.py", "eval('1')", "eval"),
        ("collected_tests", "tests/golden_tests.py", "def test_b():\n    pass", "test_b is never collected"),
        ("collected_tests", "tests/test_b.py", "def check():\n    pass", "no test in it"),
        ("collected_tests", "tests/test_b.py", "class Cases:\n  def test_b(self):\n    pass", "of Cases are never"),
    ],
)
def test_a_planted_fault_is_found(rule: str, name: str, text: str, found: str, tmp_path: Path) -> None:
    faults = getattr(rules, rule)(planted(tmp_path, name, text))
    assert len(faults) >= 1
    assert any(found in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            "nothing_unpickles",
            "import pickle\ne = pickle.UnpicklingError\ntorch.load(f, weights_only=True)",
        ),
        ("sizes", f'def f():\n    """{"long" * 9}\n{"more" * 5}\n    """\n{LONG[:-12]}'),
        (
            "docstrings",
            SAID + "def _f():\n    pass\n\nclass _A:\n  x: int\n\n@dataclass\nclass B:\n  'C.'\n  x: int\n  'D.'",
        ),
        ("imports_point_down", "import rayleigh\nimport llava_core.errors"),
    ],
)
def test_what_only_looks_like_a_fault_is_none(rule: str, text: str, tmp_path: Path) -> None:
    assert getattr(rules, rule)(planted(tmp_path, "llava_core/a.py", text)) == []
