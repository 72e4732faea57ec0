"""MkDocs' hook: pages, pictures and tables that the code says itself are made when the site is built.

    reference/…            whole pages, from dataclasses, schemas and docstrings
    pictures/…             PNG files
    <!-- generated: X -->  a table in a page; a name that is not known stops the build

What this does *not* do: keep anything; nothing that it makes is committed.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.generate import core_pages, figures, job_pages, pictures, table_pages

PARTS: Mapping[str, Callable[[], str]] = {
    "jobs": job_pages.jobs_table,
    "recall": figures.recall_table,
    "guarantees": figures.guarantee_table,
    "plans": figures.plans_table,
    "benchmarks": figures.benchmarks_table,
    "recipe document": lambda: job_pages.recipe_table("document"),
    "recipe llava_next": lambda: job_pages.recipe_table("llava_next"),
    "recipe onevision": lambda: job_pages.recipe_table("onevision"),
}
"""What a page may ask for."""
_MARK = re.compile(r"<!-- generated: (.*?) -->")


def made() -> dict[str, str | bytes]:
    """Every generated file by its place below `docs/`."""
    found: dict[str, str | bytes] = {f"reference/jobs/{name}.md": job_pages.job_page(name) for name in job_pages.JOBS}
    found["reference/tables.md"] = table_pages.tables_page()
    found |= {f"reference/{name}.md": core_pages.core_page(name) for name in core_pages.PAGES}
    found["pictures/tiles.png"] = pictures.tiles_picture()
    found["pictures/features.png"] = pictures.features_picture()
    return found | {"pictures/canvases.png": pictures.canvases_picture()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every job into the navigation, under "Jobs"."""

    def fill(entries: list[Any]) -> None:
        for entry in entries:
            for title, inside in entry.items() if isinstance(entry, dict) else ():
                if title == "Jobs":
                    entry[title] = [{name: f"reference/jobs/{name}.md"} for name in job_pages.JOBS]
                elif isinstance(inside, list):
                    fill(inside)

    fill(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated files to those of the folder."""
    for place, content in made().items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put tables where a page asks for them."""

    def part(found: re.Match[str]) -> str:
        if found[1] not in PARTS:
            raise PluginError(f"{page.file.src_uri} asks for {found[1]!r}; there are {', '.join(PARTS)}")
        return PARTS[found[1]]()

    return _MARK.sub(part, markdown)
