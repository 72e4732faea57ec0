"""Objects that a caption names, and CHAIR: how many of them the image does not have.

As the published tool counts (Rohrbach et al. 2018, `utils/chair.py`): every mention counts, names of two words are
matched before those of one, and what reference captions name is there too. Singulars are found by English's common
rules rather than by the tool's dictionary. What this does *not* do: hold the tool's list of synonyms; its user does.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from llava_core.errors import ConfigError
from pipelines.evaluation.captions import tokenise
from pipelines.storage import read_bytes

log = logging.getLogger(__name__)

_IRREGULAR = {"men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose", "feet": "foot"}
_ANIMALS = {"bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub"}
_QUALIFIERS = {"baby": _ANIMALS, "adult": _ANIMALS, "passenger": {"jet", "train"}}
"""Words that would be a person by themselves, and what they may stand before."""
_NO_OBJECT = {("home", "plate"), ("train", "track")}
"""Words that together are no object; in any number, as the tool looks at singulars."""


def read_synonyms(uri: str) -> dict[str, str]:
    """Read a list of synonyms in the published tool's form: a line for each object, its own name first, commas between.

    Args:
        uri: of the file.

    Returns:
        Name → object, lowered. A name in two lines is the later one's, as in the tool.

    Raises:
        ConfigError: it is not there, or holds nothing.
    """
    try:
        lines = read_bytes(uri).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--synonyms {uri}: {error}") from error
    found: dict[str, str] = {}
    for line in lines:
        names = [" ".join(name.lower().split()) for name in line.split(",") if name.strip()]
        twice = [name for name in names if found.get(name, names[0]) != names[0]]
        if twice:
            log.warning("synonyms %s: %s now mean %s, no longer what an earlier line says", uri, twice, names[0])
        found |= dict.fromkeys(names, names[0] if names else "")
    if not found:
        raise ConfigError(f"--synonyms {uri} is empty; expected a line for each object, its names with commas between")
    return found


def mentions(caption: str, synonyms: Mapping[str, str]) -> list[str]:
    """Find every object that a caption names, in order, as often as it does; the longest name wins.

    Args:
        caption: any text.
        synonyms: name → object, of one or more words, lowered; plurals are found by themselves.

    Example:
        >>> mentions("Two hot dogs, a dog and a baby bird", {"dog": "dog", "hot dog": "hot dog", "baby": "person"})
        ['hot dog', 'dog']
    """
    words = tokenise(caption).split()
    if any("toilet" in singulars(word) for word in words):
        words = [word for word in words if "seat" not in singulars(word)]
    longest = max((len(name.split()) for name in synonyms), default=0)
    found: list[str] = []
    place = 0
    while place < len(words):
        size, name = _name_at(words, place, longest, synonyms)
        found += [] if name is None else [name]
        place += size
    return found


def _name_at(words: Sequence[str], place: int, longest: int, synonyms: Mapping[str, str]) -> tuple[int, str | None]:
    """Words taken at a place, and the object that they name."""
    following = words[place + 1] if place + 1 < len(words) else ""
    if not _NO_OBJECT.isdisjoint(itertools.product(singulars(words[place]), singulars(following))):
        return 2, None
    if not _QUALIFIERS.get(words[place], set()).isdisjoint(singulars(following)):
        return 1, None
    for size in range(min(longest, len(words) - place), 0, -1):
        *first, last = words[place : place + size]
        names = (" ".join([*first, one]) for one in singulars(last))
        name = next((synonyms[name] for name in names if name in synonyms), None)
        if name is not None:
            return size, name
    return 1, None


def singulars(word: str) -> Iterator[str]:
    """A word, and what it may be the plural of.

    Example:
        >>> list(singulars("knives")), list(singulars("men"))
        (['knives', 'knif', 'knife', 'kniv', 'knive'], ['men', 'man'])
    """
    yield word
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("ves"):
        yield word[:-3] + "f"
        yield word[:-3] + "fe"
    if word.endswith("es"):
        yield word[:-2]
    if word.endswith("s"):
        yield word[:-1]


def chair(captions: Sequence[str], truths: Sequence[Iterable[str]], synonyms: Mapping[str, str]) -> tuple[float, float]:
    """CHAIR: of all mentions of objects, the share that is not there; of the captions, the share that has any such.

    Args:
        captions: one for each image.
        truths: objects that are in each image.
        synonyms: see `mentions`.

    Returns:
        (CHAIR-i, CHAIR-s), 0 to 1 each.

    Source: Rohrbach et al. 2018, eq. 1 and 2, counted as their tool does.

    Example:
        >>> chair(["a dog and a cat", "a dog"], [{"dog"}, {"dog"}], {"dog": "dog", "cat": "cat"})
        (0.3333333333333333, 0.5)
    """
    named = wrong = bad = 0
    for caption, truth in zip(captions, truths, strict=True):
        there = set(truth)
        found = mentions(caption, synonyms)
        invented = sum(one not in there for one in found)
        named, wrong, bad = named + len(found), wrong + invented, bad + bool(invented)
    return (wrong / named if named else 0.0, bad / len(captions) if captions else 0.0)
