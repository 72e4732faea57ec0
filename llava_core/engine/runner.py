"""Forward passes of the packed engine: rows of many sequences through transformers' layers, and one token for each.

What this does *not* do: decide which sequences run (`packed`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava_core.engine.attention import Span, Step
from llava_core.engine.features import FeatureCache, image_features
from llava_core.engine.kv import SequenceCache
from llava_core.engine.requests import Running
from llava_core.engine.sampling import YesNo, choose
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's tokens in a forward pass."""

    ids: list[int]
    """New tokens."""
    cache: SequenceCache
    """Where their keys and values go."""
    prefix: SequenceCache | None = None
    """What comes before them, shared with others."""
    features: tuple[Tensor, ...] = ()
    """Of the image tokens among the ids."""


class Runner:
    """Prefills and decodes sequences that have been admitted.

    Args:
        model: with a language model.
        processor: of the same checkpoint.
        features: image features that come again.
    """

    def __init__(self, model: LLaVANeXT, processor: LLaVAProcessor, features: FeatureCache) -> None:
        self.model = model
        self.processor = processor
        self.features = features
        self._yes_no = YesNo(processor.encode_words)

    def prefill(self, sequences: Sequence[Running], tile_budget: int) -> None:
        """Fill the caches of new requests, prefixes first, and choose the first token of each.

        Args:
            sequences: admitted, their caches allocated.
            tile_budget: most tiles in one pass of the tower.
        """
        features = image_features(sequences, self.model, self.features, tile_budget)
        whole = [sequence for sequence in sequences if sequence.prefix is None]
        sharing = [sequence for sequence in sequences if sequence.prefix is not None]
        unfilled = {id(s.prefix): s for s in sharing if s.prefix is not None and not s.prefix.filled}
        rows = []
        for sequence in unfilled.values():
            prefix = sequence.prefix
            assert prefix is not None and prefix.cache is not None
            rows.append(Row(prefix.ids, prefix.cache, features=tuple(features.get(sequence.key, ()))))
        for sequence in whole:
            rows.append(Row(sequence.own_ids, cache_of(sequence), features=tuple(features.get(sequence.key, ()))))
        logits = self._forward(rows, first_kept=len(unfilled))
        for sequence in unfilled.values():
            assert sequence.prefix is not None
            sequence.prefix.filled = True
        self._take(whole, logits)
        own = [Row(s.own_ids, cache_of(s), None if s.prefix is None else s.prefix.cache) for s in sharing]
        self._take(sharing, self._forward(own))

    def decode(self, running: Sequence[Running]) -> None:
        """Choose one more token for each running request."""
        rows = [Row(s.generated[-1:], cache_of(s), None if s.prefix is None else s.prefix.cache) for s in running]
        self._take(running, self._forward(rows))

    def _forward(self, rows: Sequence[Row], first_kept: int = 0) -> Tensor:
        """Run the language model over packed rows, and return float[len(rows) - first_kept, V] of their last tokens."""
        device = self.model.device
        if not rows:
            return torch.empty(0, device=device)
        spans, at = [], 0
        for row in rows:
            spans.append(Span(at, at := at + len(row.ids), row.cache, row.prefix))
        step = Step(tuple(spans))
        ids = torch.tensor([token for row in rows for token in row.ids], device=device)
        features = [feature for row in rows for feature in row.features]
        # What is kept may be nothing: a step that only fills prefixes still needs its layers run.
        kept = torch.tensor([span.stop - 1 for span in spans[first_kept:]], dtype=torch.long, device=device)
        logits: Tensor = self.model.language_model(
            inputs_embeds=self.model.place_features(ids[None], features),
            position_ids=step.position_ids(device),
            use_cache=False,
            logits_to_keep=kept,
            step=step,
        ).logits
        step.advance()
        return logits[0]

    def _take(self, sequences: Sequence[Running], logits: Tensor) -> None:
        """Append the next token of each sequence."""
        if not sequences:
            return
        if not sequences[0].generated:
            for sequence, margin in zip(sequences, self._yes_no.margins(logits), strict=True):
                sequence.yes_no_margin = margin
        tokens, logprobs = choose(
            logits,
            [sequence.request.sampling for sequence in sequences],
            [sequence.generated for sequence in sequences],
            [sequence.generator for sequence in sequences],
        )
        for sequence, token, logprob in zip(sequences, tokens, logprobs, strict=True):
            sequence.append(token, logprob, self.processor)


def cache_of(sequence: Running) -> SequenceCache:
    """The cache of an admitted sequence."""
    assert sequence.cache is not None
    return sequence.cache
