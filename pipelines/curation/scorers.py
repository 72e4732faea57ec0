"""Model-based scores as a plug: any class that is called with squares and texts and answers with named numbers.

A scorer is named `module:Class` or `module:Class=argument` on the command line; a worker makes one and keeps it. The
squares are the centres of the images, at the side that the scorer asks for. What this does *not* do: decode.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llava_core.errors import ConfigError

EMBEDDING = "embedding"
"""Name under which a scorer gives vectors; dedupe compares them, see `semantic`."""


@runtime_checkable
class Scorer(Protocol):
    """What the probe needs of a scorer."""

    side: int
    """Side of the squares that it wants, pixels."""

    def __call__(self, squares: NDArray[np.uint8], texts: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Score B images.

        Args:
            squares: uint8[B, S, S, 3], RGB.
            texts: B captions, "" where there is none.

        Returns:
            Name → float32[B]; NaN where there is no score. `EMBEDDING` → float32[B, D]; the first
            scorer's that gives it is taken.
        """
        ...


def load_scorers(names: Sequence[str]) -> tuple[Scorer, ...]:
    """Make scorers.

    Args:
        names: `module:Class` or `module:Class=argument` of each.

    Raises:
        ConfigError: one of them is not there, is not a scorer, or wants squares of another side than the others.
    """
    scorers = tuple(_load(name) for name in names)
    sides = sorted({scorer.side for scorer in scorers})
    if len(sides) > 1:
        raise ConfigError(f"the scorers {', '.join(names)} want squares of {sides} pixels; expected one side for all")
    return scorers


def _load(name: str) -> Scorer:
    place, has_argument, argument = name.partition("=")
    module, _, attribute = place.partition(":")
    try:
        made: Any = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"no scorer {name!r}: {error}; expected module:Class or module:Class=argument") from error
    scorer = made(*[argument] if has_argument else []) if isinstance(made, type) else None
    if not isinstance(scorer, Scorer):
        raise ConfigError(f"{name!r} is no scorer; expected a class whose objects have `side` and can be called")
    return scorer


class ClipScorer:
    """How well image and text agree, by a CLIP model: the cosine of their embeddings, as `clip_similarity`.

    Args:
        model: folder or hub name of a transformers CLIP model.

    Source: CLIPScore without its rescaling (arXiv 2104.08718); DataComp's `clip_b32_similarity_score`.
    """

    def __init__(self, model: str) -> None:
        import torch  # only workers with a scorer pay for it
        from transformers import AutoTokenizer, CLIPModel

        from llava_core.config import CLIP_MEAN, CLIP_STD

        # a model from `from_pretrained` is in evaluation mode
        self._model: Any = CLIPModel.from_pretrained(model, trust_remote_code=False)
        self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        self._mean, self._std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
        settings: Any = self._model.config
        self.side: int = settings.vision_config.image_size
        self._length: int = settings.text_config.max_position_embeddings

    def __call__(self, squares: NDArray[np.uint8], texts: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Score B images; NaN where the text is empty."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(squares)).permute(0, 3, 1, 2).float() / 255
        words = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._length, return_tensors="pt"
        )
        with torch.inference_mode():
            found = self._model(
                input_ids=words["input_ids"],
                attention_mask=words["attention_mask"],
                pixel_values=(pixels - self._mean) / self._std,
            )
            cosines = (found.image_embeds * found.text_embeds).sum(-1)
        self._last = found.image_embeds.float().numpy()
        blank = np.array([not text.strip() for text in texts])
        return {"clip_similarity": np.where(blank, np.float32("nan"), cosines.float().numpy())}


class ClipEmbedder(ClipScorer):
    """`ClipScorer` that gives the embeddings of images too, so that semantic duplicates are found.

    Args:
        model: folder or hub name of a transformers CLIP model.
    """

    def __call__(self, squares: NDArray[np.uint8], texts: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """Score and embed B images."""
        return {**super().__call__(squares, texts), EMBEDDING: self._last}
