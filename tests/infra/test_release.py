"""What is released: a version from the tags, a wheel with what jobs need, the image's commands in an empty venv."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from deltalake import DeltaTable

from tests.e2e.caption_cases import corpus_files
from tests.infra.images import DOCKERFILE, ROOT, stages

WORKFLOWS = ROOT / ".github" / "workflows"


def test_ci_runs_what_a_person_runs() -> None:
    ci, release = (yaml.safe_load((WORKFLOWS / f"{name}.yaml").read_text()) for name in ("ci", "release"))
    (job,) = ci["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    (job,) = release["jobs"].values()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs[0] == ".ci/run"
    assert "tests/infra/test_release.py" in runs[1]
    checkout = job["steps"][0]
    assert checkout["with"]["fetch-depth"] == 0
    # YAML reads the word `on` as true
    assert release[True] == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    for workflow in (ci, release):
        assert workflow["permissions"] == {"contents": "read"}


def test_what_the_first_command_imports_is_installed_by_it() -> None:
    """The demo, and the examples that a reader runs after it, begin with imports of the extra `demo` and no other."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[^\w.-]", one)[0].lower() for one in settings["dependencies"]}
    wanted |= {re.split(r"[^\w.-]", one)[0].lower() for one in settings["optional-dependencies"]["demo"]}
    known = packages_distributions()
    for path in [ROOT / "jobs" / "demo.py", *(ROOT / "examples").glob("*.py")]:
        tree = ast.parse(path.read_text())
        names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
        tops = {name.partition(".")[0] for name in names} - {"schemas", "llava_core", "pipelines", "jobs"}
        missing = [top for top in tops - sys.stdlib_module_names if not {n.lower() for n in known[top]} & wanted]
        assert missing == [], path


def installs(*words: str) -> list[str]:
    """What `make` would install for the demo, line by line."""
    lines = run("make", "--dry-run", "--always-make", ".venv/demo", *words, folder=ROOT).splitlines()
    return [line.partition(" -m pip install ")[2] for line in lines if " -m pip install " in line]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_torch_alone_comes_from_another_index_and_only_if_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    torch, rest = installs()
    assert "torch==" in torch
    assert "index" not in torch + rest
    torch, again = installs("TORCH_INDEX=https://wheels.example/cpu")
    assert " --no-deps --index-url https://wheels.example/cpu " in torch
    assert again == rest, "what depends on torch comes from pip's own index, and is held to the same version"
    assert "--constraint constraints.txt" in rest


def test_the_changelog_has_a_place_for_what_is_new() -> None:
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert "## Unreleased" in lines


def run(*words: str, folder: Path, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON", "SETUPTOOLS_"))}
    done = subprocess.run(words, cwd=folder, env=kept | environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def wheel(source: Path, to: Path) -> Path:
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(to), ".", folder=source)
    (made,) = to.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_version_comes_from_the_tags_and_none_are_needed(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", "--depth", "1", "--no-tags", f"file://{ROOT}", str(clone), folder=tmp_path)
    untagged = wheel(clone, tmp_path / "untagged")
    assert untagged.name.startswith("tessera-0."), untagged.name
    run("git", "tag", "v1.2.3", folder=clone)
    tagged = wheel(clone, tmp_path / "tagged")
    assert tagged.name == "tessera-1.2.3-py3-none-any.whl"
    inside = set(zipfile.ZipFile(tagged).namelist())
    packages = [path for name in ("schemas", "llava_core", "pipelines", "jobs") for path in (clone / name).rglob("*")]
    files = {str(path.relative_to(clone)) for path in packages if path.is_file() and "__pycache__" not in path.parts}
    assert files <= inside
    assert not {name.split("/")[0] for name in inside} & {"tests", "benchmarks", "infra", "docs", "examples"}


@pytest.mark.slow
def test_the_images_commands_give_an_environment_that_captions(tmp_path: Path) -> None:
    """Every RUN of the image's build stage, on what it copies and nothing else; CPU wheels come from pip's index."""
    build, _ = stages(DOCKERFILE.read_text())
    source, venv = tmp_path / "src", tmp_path / "venv"
    source.mkdir()
    index = run(sys.executable, "-m", "pip", "config", "list", folder=tmp_path)
    found = [line.partition("=")[2].strip("'\"") for line in index.splitlines() if "index-url" in line]
    arguments = {"DEVICE": "cpu", "CPU_INDEX": (found or ["https://pypi.org/simple"])[0], "VERSION": "9.8.7"}
    for kind, rest in build.instructions:
        if kind == "COPY":
            *names, _ = rest.split()
            for name in names:
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
        if kind == "RUN":
            command = rest.replace("/opt/tessera", str(venv)).replace("python -m venv", f"{sys.executable} -m venv")
            run("/bin/bash", "-euo", "pipefail", "-c", command, folder=source, **arguments)
    shutil.rmtree(source)
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    elsewhere.mkdir()
    photos.mkdir()
    name, data = next((name, data) for name, data in corpus_files(2).items() if name.endswith(".jpg"))
    (photos / Path(name).name).write_bytes(data)
    python = str(venv / "bin" / "python")
    words = ["--input", str(photos), "--output", str(tmp_path / "out"), "--max-new-tokens", "4"]
    said = run(python, "-m", "jobs.caption_corpus", *words, folder=elsewhere, OMP_NUM_THREADS="1")
    assert "ok          1" in " ".join(said.split("\n")) or "rows in" in said
    rows = DeltaTable(tmp_path / "out").to_pyarrow_table().to_pylist()
    assert [(row["status"], row["error"]) for row in rows] == [("ok", None)]
    assert "9.8.7" in run(python, "-m", "pip", "show", "tessera", folder=elsewhere)
    for module in ("pipelines.health", "pipelines.preemption"):
        run(python, "-c", f"import {module}", folder=elsewhere)
