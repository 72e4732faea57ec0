"""Questions of a file, each brought to the image that it is about, on the driver, before any image is read.

    {"question_id": 7, "image": "a/1.jpg", "question": "…"} ─▶ row 3 of fragment 2
    {"question_id": 8, "question": "…"}                     ─▶ every row
    anything else                                           ─▶ a rejected row, whose `uri` is the line

What this does *not* do: read the file (`questions`), or the corpus: images are found by what the plan knows of them.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from llava_core.errors import ConfigError
from pipelines.corpus_sources import normalise
from pipelines.fragments import MAX_ROWS, CorpusRefused, Fragment, cut_evenly, make_fragment, printable
from pipelines.inference.questions import Line, Question
from pipelines.inference.work import Work, asking
from pipelines.row_refs import ObjectRef, RowRef
from schemas.reasons import CorpusReason, QuestionReason

log = logging.getLogger(__name__)

Place = tuple[int, int]
"""A row of the corpus: position of its fragment in the plan, row within the fragment."""
Name = tuple[str, str]
"""How a question names an image: "image", "uri" or "uid", and the value."""


def bind(lines: Iterable[Line], file: ObjectRef, fragments: Sequence[Fragment], *, limited: bool = False) -> list[Work]:
    """Bring each line of a file of questions to its image.

    Args:
        lines: of the file, in order.
        file: the file itself; lines that cannot be asked become rows of it.
        fragments: the frozen corpus.
        limited: whether the plan was cut by --limit: then questions about images that are not in it are left out.

    Returns:
        Work for each fragment that is asked anything, then for the refused lines. Their rows together: one for each
        line that is bound or refused, and for each line about every image as many as the corpus has rows.
    """
    lines = list(lines)
    binder = _Binder(find_images({line.binding for line in lines if line.binding is not None}, fragments))
    refused: list[tuple[Line, str, str]] = []
    left_out = 0
    for line in lines:
        if limited and line.error is None and line.binding is not None and line.binding not in binder.places:
            left_out += 1
            continue
        try:
            binder.take(line)
        except CorpusRefused as refusal:
            refused.append((line, refusal.reason, refusal.detail))
    if left_out:
        log.warning("%d questions are about images beyond --limit; not asked", left_out)
    return [*binder.works(fragments), *_refused_works(refused, file)]


class _Binder:
    """Takes questions one after the other, and knows which ids are taken.

    Args:
        places: where each name that a question uses leads; see `find_images`.
    """

    def __init__(self, places: dict[Name, list[Place]]) -> None:
        self.places = places
        self._everywhere: dict[str, Question] = {}
        self._here: dict[int, list[Question]] = {}
        self._ids: dict[str, set[Place]] = {}

    def take(self, line: Line) -> None:
        """Bind one line's question.

        Raises:
            CorpusRefused: it cannot be asked.
        """
        name = line.question.question_id
        if line.error is not None:
            raise CorpusRefused(line.error, line.error_detail or "")
        if name in self._everywhere or (line.binding is None and name in self._ids):
            raise CorpusRefused(CorpusReason.DUP_KEY, f"the id {printable(name)!r} belongs to an earlier question")
        if line.binding is None:
            self._everywhere[name] = line.question
            return
        place = self._find(line.binding)
        if place in self._ids.setdefault(name, set()):
            raise CorpusRefused(CorpusReason.DUP_KEY, f"the image has an earlier question {printable(name)!r}")
        self._ids[name].add(place)
        self._here.setdefault(place[0], []).append(replace(line.question, row=place[1]))

    def _find(self, name: Name) -> Place:
        found = self.places.get(name, [])
        if len(found) != 1:
            count = "more than one image" if found else "no image"
            detail = f"the corpus has {count} with the {name[0]} {printable(name[1])!r}"
            raise CorpusRefused(QuestionReason.UNKNOWN_IMAGE, detail)
        return found[0]

    def works(self, fragments: Sequence[Fragment]) -> Iterator[Work]:
        """Yield the work of each fragment that is asked anything."""
        for position, fragment in enumerate(fragments):
            own = self._here.get(position, [])
            if self._everywhere:
                yield asking(fragment, [*self._everywhere.values(), *own])
            elif own:
                yield _narrowed(fragment, own)


def find_images(names: Collection[Name], fragments: Sequence[Fragment]) -> dict[Name, list[Place]]:
    """Find the rows that some names lead to: for each name that leads anywhere, at most two places.

    "image" is a path below the input's folder, or the name of a sample in a tar, with or without its extension; "uri"
    what the table's `uri` would be, relative paths allowed; "uid" the table's `uid`.
    """
    spelled: dict[Name, list[Name]] = {}
    for name in names:
        spelled.setdefault((name[0], _normal(name[1])) if name[0] == "uri" else name, []).append(name)
    kinds = {kind for kind, _ in spelled}
    places: dict[Name, list[Place]] = {}
    for position, fragment in enumerate(fragments if kinds else ()):
        for row in range(fragment.num_rows):
            for key in _row_names(fragment, row, kinds):
                for name in spelled.get(key, ()):
                    known = places.setdefault(name, [])
                    if len(known) < 2 and (position, row) not in known:
                        known.append((position, row))
    return places


def _normal(uri: str) -> str:
    try:
        return normalise(uri)
    except ConfigError:
        # a scheme that no corpus can have, so that nothing will be found under it
        return uri


def _row_names(fragment: Fragment, row: int, kinds: Collection[str]) -> Iterator[Name]:
    """Yield what a row may be called, of the kinds that anybody asks for."""
    if "uid" in kinds:
        yield "uid", fragment.row_uid(row)
    uri = fragment.row_uri(row)
    if "uri" in kinds:
        yield "uri", uri
    if "image" not in kinds:
        return
    if fragment.kind == "files":
        yield "image", uri.removeprefix(fragment.root.rstrip("/") + "/")
    elif fragment.kind == "tar":
        ref = fragment.rows[row]
        yield "image", ref.key
        yield from (("image", f"{ref.key}.{member.name}") for member in ref.members)


def _narrowed(fragment: Fragment, questions: Sequence[Question]) -> Work:
    """Return the work of only those files of a fragment that are asked about; of a container, all."""
    if fragment.kind != "files":
        return asking(fragment, questions)
    asked = sorted({one.row for one in questions if one.row is not None})
    rows = tuple(fragment.rows[row] for row in asked)
    part = make_fragment(kind="files", source=fragment.source, root=fragment.root, rows=rows)
    return asking(part, [replace(one, row=asked.index(one.row)) for one in questions if one.row is not None])


def _refused_works(refused: Sequence[tuple[Line, str, str]], file: ObjectRef) -> Iterator[Work]:
    """Yield the work of refused lines: fragments of the questions' file, whose every row is refused already."""
    for run in cut_evenly(len(refused), MAX_ROWS):
        part = refused[run.start : run.stop]
        fragment = make_fragment(
            kind="jsonl",
            source=file.uri,
            root=file.uri.rpartition("/")[0],
            container=file,
            start=run.start,
            rows=tuple(
                RowRef(key=str(line.number), error=reason, error_detail=detail) for line, reason, detail in part
            ),
        )
        yield asking(fragment, [replace(line.question, row=row) for row, (line, _, _) in enumerate(part)])
