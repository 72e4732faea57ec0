"""A corpus of three images, and the settings of a job over it."""

from pathlib import Path
from typing import Any

from pipelines.curation.config import CurateConfig
from tests.pipelines.curation.pictures import encoded, scene


def three_images(folder: Path) -> Path:
    """Write them into a new folder of a folder."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number in range(3):
        (corpus / f"{number}.jpg").write_bytes(encoded(scene(number)))
    return corpus


def config(folder: Path, **changes: Any) -> CurateConfig:
    """Of a job over a corpus, its output beside it."""
    return CurateConfig(**({"input": (str(folder),), "output": str(folder.parent / "out")} | changes))
