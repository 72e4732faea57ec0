"""Every command on a page is one that works: parsed by the real command lines here, run whole under `slow`."""

import ast
import functools
import importlib.util
import re
import sys
import tarfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import ray
import tyro

from docs.generate.job_pages import JOBS
from pipelines import cli
from pipelines.inference.config import CaptionConfig
from tests.docs import pages
from tests.pipelines.inference.fakes import photo
from tests.s3_fixture import S3Bucket, s3_server  # noqa: F401

VENV = Path(sys.prefix)


def check_call(words: Sequence[str]) -> None:
    """Hold one command to what it calls; `SystemExit` or an assertion where it would not run."""
    match list(words):
        case ["python", "jobs/demo.py"]:
            pass
        case ["python", script, *args] if script.startswith("jobs/"):
            cli.parse(JOBS[Path(script).stem], args)
        case ["python", script, *args] if script.startswith("examples/"):
            main = import_module(f"examples.{Path(script).stem}").main
            tyro.cli(functools.wraps(main)(lambda **_: None), args=args)
        case ["python", "-m", module, *_]:
            assert importlib.util.find_spec(module), module
        case ["make", target]:
            assert re.search(rf"^{target}:", (pages.ROOT / "Makefile").read_text(), re.MULTILINE), target
        case ["ray", "job", "submit", "--working-dir", ".", "--", *rest]:
            check_call(rest)
        case ["git", "clone", "--quiet", "somewhere", "tessera"]:
            pass
        case ["kubectl", *args]:
            named = [args[place + 1] for place, word in enumerate(args) if word in ("-k", "-f")]
            assert all((pages.ROOT / name).exists() for name in named), named
        case _:
            raise AssertionError(f"a command that no test knows: {words}")


@pytest.mark.parametrize("page", pages.PAGES)
def test_every_command_of_a_page_is_understood(page: str, tmp_path: Path) -> None:
    for block in pages.blocks(page):
        assert block.language in (*pages.RUN, *pages.SHOWN), f"{page}:{block.line}: {block.language!r}"
    for words in pages.calls(page, tmp_path):
        check_call(words)
    for block in pages.running(page):
        if block.language == "python":
            check_imports(block.text)
    shown = [block.snippet for block in pages.blocks(page) if block.snippet]
    assert all((pages.ROOT / name).is_file() for name in shown)


@pytest.mark.parametrize("place", ["README.md", "jobs", "examples"])
def test_commands_in_the_readme_and_in_docstrings_are_understood(place: str) -> None:
    path = pages.ROOT / place
    if path.is_file():
        texts = re.findall(r"^```$(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    else:
        texts = [str(ast.get_docstring(ast.parse(one.read_text()))) for one in path.glob("*.py")]
    found = [words for text in texts for words in pages.commands(text)]
    assert len(found) >= 3
    for words in found:
        check_call(words)


def test_pages_with_commands_say_how_to_enter_the_environment() -> None:
    needed = [page for page in pages.PAGES if any("python " in one.text for one in pages.running(page))]
    assert {"tutorial.md", "how-to/train.md"} < set(needed)
    places = ["README.md", *(f"docs/{page}" for page in needed)]
    assert [one for one in places if "source .venv/bin/activate" not in (pages.ROOT / one).read_text()] == []


def test_no_page_writes_where_another_one_does() -> None:
    owners: dict[str, set[str]] = {}
    for page in pages.PAGES:
        for place in re.findall(r"\bout/([\w.]+)", "\n".join(one.text for one in pages.running(page))):
            owners.setdefault(place, set()).add(page)
    assert owners["drawn_captions"] == {"how-to/train.md"} and owners["resume"] == {"how-to/resume.md"}
    assert {place for place, found in owners.items() if len(found) > 1} == {"demo", "untrained"}  # the same each time


def check_imports(text: str) -> None:
    """Compile a block, and import what it imports."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
        elif isinstance(node, ast.Import):
            for alias in node.names:
                import_module(alias.name)


@pytest.mark.parametrize(
    "words",
    [
        ["python", "jobs/caption_corpus.py", "--input", "a", "--output", "b", "--modle", "tiny"],
        ["python", "jobs/curate_corpus.py", "--input", "a", "--output", "b", "--min-aspect", "3"],
        ["python", "examples/caption_s3.py", "--photos", "a"],
        ["ray", "job", "submit", "--working-dir", ".", "--", "python", "jobs/train.py", "--recipe", "llava"],
        ["make", "everything"],
        ["kubectl", "apply", "-k", "infra/nowhere"],
        ["python", "jobs/caption.py"],
        ["curl", "example.org"],
    ],
)
def test_a_wrong_command_is_found(words: list[str]) -> None:
    with pytest.raises((SystemExit, AssertionError, KeyError)):
        check_call(words)


def test_blocks_are_found_and_expanded_by_the_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    text = '# A\n\n```bash\npython jobs/x.py --prompt "a b" \\\n    ${NONE:-c}\n```\n\n```text\nmake\n```\n'
    (tmp_path / "a.md").write_text(text + '\n```python\n--8<-- "examples/curate.py"\n```\n')
    assert [(block.language, block.line) for block in pages.blocks("a.md")] == [
        ("bash", 3),
        ("text", 8),
        ("python", 12),
    ]
    assert pages.calls("a.md", tmp_path) == [["python", "jobs/x.py", "--prompt", "a b", "c"]]
    (tmp_path / "a.md").write_text("```bash\npyhton jobs/x.py\n```\n")
    with pytest.raises(AssertionError, match="pyhton"):
        pages.calls("a.md", tmp_path)


def test_every_job_is_documented() -> None:
    assert set(JOBS) == {path.stem for path in (pages.ROOT / "jobs").glob("*.py")} - {"demo"}
    assert JOBS["caption_corpus"] is CaptionConfig
    assert JOBS["export_checkpoint"].__module__ == "jobs.export_checkpoint"


@pytest.mark.parametrize("page", [page for page in pages.PAGES if not pages.starts_something(page)])
def test_pages_of_python_alone_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in pages.running(page):
        exec(compile(block.text, f"{page}:{block.line}", "exec"), names)


@pytest.fixture
def bucket(s3_server: str) -> S3Bucket:  # noqa: F811
    """The bucket of the pages: photos, one of them broken, and a tar."""
    made = S3Bucket(name="my-bucket", endpoint=s3_server)
    made.client().create_bucket(Bucket=made.name)
    for number in range(5):
        made.put(f"photos/{number}.jpg", photo(60 + number, 90, seed=number))
    made.put("photos/broken.jpg", photo(80, 90)[:500])
    return made


def put_tar(bucket: S3Bucket, folder: Path) -> None:
    """One tar of two images."""
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(photo(70, 50, seed=ord(name[0])))
    with tarfile.open(folder / "0.tar", "w") as archive:
        for name in ("a.jpg", "b.jpg"):
            archive.add(folder / name, name)
    bucket.put("tars/0.tar", (folder / "0.tar").read_bytes())


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("page", [page for page in pages.PAGES if pages.starts_something(page)])
def test_a_page_runs_as_it_is_written(page: str, tmp_path: Path, bucket: S3Bucket, ray_session: None) -> None:
    put_tar(bucket, tmp_path)
    folder = tmp_path / "checkout"
    folder.mkdir()
    if page != "tutorial.md":  # which begins with a clone
        for path in pages.ROOT.iterdir():
            if path.name not in ("out", ".git", ".venv"):
                (folder / path.name).symlink_to(path)
        (folder / ".venv").symlink_to(VENV)
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
    # every job joins the tests' Ray in place of starting its own
    keys |= {"AWS_ENDPOINT_URL": bucket.endpoint, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    said = pages.run(page, folder, VENV, keys)
    assert said.count(f"--- {page}, line ") == len(pages.running(page))
    sys.stdout.write(said)
