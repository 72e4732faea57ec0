"""Docstrings and values as Markdown.

What this does *not* do: know what is documented (`job_pages`, `table_pages`, `core_pages`).
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Source", "Example")
_SECTION = re.compile(rf"({'|'.join(SECTIONS)}):\s*(.*)")
_ITEM = re.compile(r"(\*{0,2}[\w., ]+): (.*)")


def prose(text: str) -> str:
    """Escape what Markdown would take for its own outside of `code`.

    Example:
        >>> print(prose("an <image> is no tag, `<image>` is code"))
        an &lt;image&gt; is no tag, `<image>` is code
    """
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else _escape(part) for part in parts)


def cell(text: str) -> str:
    """Text for one cell of a table.

    Example:
        >>> print(cell("a | b\\nc"))
        a \\| b c
    """
    return prose(" ".join(text.split())).replace("|", "\\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown already."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def docstring(text: str | None) -> str:
    """A Google docstring: sections become lists and paragraphs, examples become code."""
    lines = inspect.cleandoc(text or "").splitlines()
    starts = [0, *(n for n, line in enumerate(lines) if n and _SECTION.fullmatch(line)), len(lines)]
    return "\n\n".join(part for start, end in pairwise(starts) if (part := _part(lines[start:end])))


def _part(lines: list[str]) -> str:
    found = _SECTION.fullmatch(lines[0]) if lines else None
    if found is None:
        return _body(lines)
    name, first = found.groups()
    rest = inspect.cleandoc("\n".join(["", *lines[1:]])).splitlines()
    # what follows a one-line section after a blank line is text again
    blank = next((n for n, line in enumerate(rest) if not line.strip()), len(rest)) if first else len(rest)
    inside, after = rest[:blank], rest[blank:]
    listed = name in ("Args", "Raises")
    body = "\n".join(_items(inside)) if listed else _body(([first] if first else []) + inside)
    heading = f"**{name}**" + (" " if name == "Source" and first else "\n\n")
    return f"{heading}{body}" + (f"\n\n{_body(after)}" if after else "")


def _items(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        found = _ITEM.fullmatch(line)
        if found and not line.startswith(" "):
            yield f"- `{found[1]}` — {prose(found[2])}"
        elif line.strip():
            yield f"    {prose(line.strip())}"


def _body(lines: Sequence[str]) -> str:
    """Paragraphs; lines from `>>>` to the next blank line are code, and so are blocks that are indented."""
    out: list[str] = []
    for block in re.split(r"\n\s*\n", "\n".join(lines)):
        rows = block.splitlines()
        if all(row.startswith("    ") for row in rows if row.strip()):
            out.append(f"```text\n{inspect.cleandoc('x' + chr(10) + block)[2:]}\n```" if block.strip() else "")
            continue
        code = next((n for n, row in enumerate(rows) if row.startswith(">>>")), len(rows))
        if rows[:code]:
            out.append("\n".join(map(prose, rows[:code])))
        if rows[code:]:
            out.append("```pycon\n" + "\n".join(rows[code:]) + "\n```")
    return "\n\n".join(part for part in out if part)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("[", "\\[").replace("_", "\\_")
