"""The site builds without a warning, and what it says of the code is what the code says."""

import html
import os
import re
import subprocess
import sys
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llava_core
from docs.generate import hook
from docs.generate.job_pages import JOBS
from docs.generate.rendering import cell, docstring, prose
from docs.generate.said import class_docs
from docs.generate.table_pages import ENUMS, REASONS, TABLES, tables_page
from pipelines import cli
from pipelines.curation.blocks import Blocks
from pipelines.evaluation.benchmarks import BENCHMARKS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    # the theme's advertisement of its successor
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def text_of(site: Path, page: str) -> str:
    """What a page shows, without tags."""
    found = re.search(r"<article.*?</article>", (site / page).read_text(), re.DOTALL)
    assert found
    return html.unescape(re.sub(r"<[^>]+>", "", found[0]))


def test_every_page_is_built_and_fetches_nothing(site: Path) -> None:
    for source in (ROOT / "docs").rglob("*.md"):
        assert (site / source.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    assert not (site / "generate").exists()
    for page in site.rglob("*.html"):
        fetched = re.findall(r'<(?:script|img|link)[^>]*?(?:src|href)="(https?:[^"]*)"', page.read_text())
        assert fetched == [], page
    for picture in ("tiles", "features", "canvases"):
        assert (site / f"pictures/{picture}.png").stat().st_size > 2000


@pytest.mark.parametrize("job", JOBS)
def test_flags_are_those_of_the_command_line(job: str, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse(JOBS[job], ["--help"])
    wanted = re.findall(r"^[│ ]*(--[a-z][\w.-]*)", capsys.readouterr().out, re.MULTILINE)
    page = (site / f"reference/jobs/{job}.html").read_text()
    # a set, because lines of help begin with flags that a text speaks of, too
    flags = re.findall(r"<td><code>(--[^<]*)</code></td>", page)
    assert set(flags) == set(wanted) and len(set(flags)) == len(flags)


def test_tables_have_every_column(site: Path) -> None:
    page = (site / "reference/tables.html").read_text()
    sections = dict(zip(*[iter(re.split(r'<h2 id="([^"]*)">', page)[1:])] * 2, strict=False))
    for name, module, constant in TABLES:
        section = sections[name.replace(" ", "-")]
        for field in getattr(module, constant):
            assert f"<td><code>{field.name}</code></td>" in section, (name, field.name)
    assert "An archive inside an archive." in page


@pytest.mark.parametrize("kind", [*REASONS, *ENUMS])
def test_every_reason_says_what_it_means(kind: type[StrEnum]) -> None:
    docs = class_docs(kind)
    assert [one.name for one in kind] == list(docs)
    section = tables_page().partition(f"### {kind.__name__}\n")[2].partition("\n### ")[0]
    for one in kind:
        assert f"| `{one.value}` | {cell(docs[one.name])} |" in section


def test_llava_core_has_every_public_name(site: Path) -> None:
    page = (site / "reference/llava_core.html").read_text()
    headings = re.findall(r"<h2 id=[^>]*>(\w+)", page)
    assert headings == list(llava_core.__all__)
    assert "&gt;&gt;&gt;" in page


def test_the_recall_table_is_computed(site: Path) -> None:
    rows = [line.split() for line in hook.PARTS["recall"]().splitlines() if line.startswith("| 10,000,000 ")]
    assert rows[0][3:9:2] == ["5", "2", "10"]
    cells = rows[0][9::2]
    assert [float(cell) for cell in cells] == [pytest.approx(Blocks(5, 2).recall(d), abs=5e-5) for d in range(3, 9)]
    assert f"{Blocks(5, 2).recall(4):.4g}" in text_of(site, "explanation/dedup.html")


def test_every_benchmark_that_needs_files_is_listed_with_one() -> None:
    rows = [line.split(" | ") for line in hook.PARTS["benchmarks"]().splitlines()[2:]]
    assert [row[0] for row in rows] == [f"| `{one.name}`" for one in BENCHMARKS if not one.name.startswith("drawn")]
    (pope,) = [row for row in rows if row[1] == "POPE"]
    assert pope[2:] == ["`coco`", "`coco_pope_random.json`", "<https://github.com/AoiDragon/POPE> |"]


def test_a_table_that_nobody_makes_stops_the_build() -> None:
    page: Any = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    nothing: Any = None
    with pytest.raises(Exception, match="asks for 'recal'; there are jobs, recall"):
        hook.on_page_markdown("<!-- generated: recal -->", page, nothing, nothing)


def test_docstrings_become_markdown() -> None:
    assert prose("a_b <image> `a_b <image>`") == r"a\_b &lt;image&gt; `a_b <image>`"
    text = """Do it.

    Args:
        a: first,
            goes on.
        b, c: others.

    Returns:
        A list.

    Source: a paper,
    its appendix.

    Example:
        Words.

        >>> do(1)
        1
    """
    assert docstring(text).splitlines() == [
        *("Do it.", "", "**Args**", "", "- `a` — first,", "    goes on.", "- `b, c` — others.", ""),
        *("**Returns**", "", "A list.", "", "**Source** a paper,", "its appendix.", ""),
        *("**Example**", "", "Words.", "", "```pycon", ">>> do(1)", "1", "```"),
    ]
