"""Forward passes of the packed engine: rows of many sequences through transformers' layers, and one token for each.

A prompt that is longer than one pass may be is prefilled in several, so that a pass never takes more memory than its
budget, and what its layers hand on stays in the processor's caches.

What this does *not* do: decide which sequences run (`packed`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llava_core.engine.attention import Span, Step
from llava_core.engine.decoder import asked_logits
from llava_core.engine.features import FeatureCache, image_features
from llava_core.engine.kv import SequenceCache
from llava_core.engine.lanes import Lanes
from llava_core.engine.requests import Running, end_token_ids
from llava_core.engine.sampling import YesNo, choose
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor

LEAST_JOB_TOKENS = 512
"""Rows are not spread over lanes in jobs smaller than this: a product over fewer rows waits for its weights."""


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence's tokens, to be run."""

    ids: list[int]
    """New tokens."""
    cache: SequenceCache
    """Where their keys and values go."""
    prefix: SequenceCache | None = None
    """What comes before them, shared with others."""
    features: tuple[Tensor, ...] = ()
    """Of the image tokens among the ids."""
    wanted: bool = True
    """Whether the logits of its last token are asked for."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a row that one pass takes."""

    row: Row
    """The row."""
    start: int
    """First of its tokens."""
    stop: int
    """Token after the last."""

    @property
    def ends_row(self) -> bool:
        """Whether the row has been run with it."""
        return self.stop == len(self.row.ids)


class Runner:
    """Prefills and decodes sequences that have been admitted.

    Args:
        model: with a language model.
        processor: of the same checkpoint.
        features: image features that come again.
        lanes: what does not depend on each other runs side by side in them.
    """

    def __init__(self, model: LLaVANeXT, processor: LLaVAProcessor, features: FeatureCache, lanes: Lanes) -> None:
        self.model = model
        self.processor = processor
        self.features = features
        self.lanes = lanes
        self._yes_no = YesNo(processor.encode_words)
        self._end_token_ids = end_token_ids(model, processor)

    def prefill(self, sequences: Sequence[Running], tile_budget: int, pass_tokens: int) -> None:
        """Fill the caches of new requests, prefixes first, and choose the first token of each.

        Args:
            sequences: admitted, their caches allocated.
            tile_budget: most tiles in one pass of the tower.
            pass_tokens: most tokens in one pass of the language model.
        """
        features = image_features(sequences, self.model, self.features, tile_budget, self.lanes)
        whole = [sequence for sequence in sequences if sequence.prefix is None]
        sharing = [sequence for sequence in sequences if sequence.prefix is not None]
        unfilled = {id(s.prefix): s for s in sharing if s.prefix is not None and not s.prefix.filled}
        rows = []
        for sequence in unfilled.values():
            prefix = sequence.prefix
            assert prefix is not None and prefix.cache is not None
            rows.append(Row(prefix.ids, prefix.cache, features=tuple(features.get(sequence.key, ())), wanted=False))
        for sequence in whole:
            rows.append(Row(sequence.own_ids, cache_of(sequence), features=tuple(features.get(sequence.key, ()))))
        logits = self._run(rows, pass_tokens)
        for sequence in unfilled.values():
            assert sequence.prefix is not None
            sequence.prefix.filled = True
        self._take(whole, logits)
        own = [Row(s.own_ids, cache_of(s), None if s.prefix is None else s.prefix.cache) for s in sharing]
        self._take(sharing, self._run(own, pass_tokens))

    def decode(self, running: Sequence[Running]) -> None:
        """Choose one more token for each running request."""
        rows = [Row(s.generated[-1:], cache_of(s), None if s.prefix is None else s.prefix.cache) for s in running]
        # A model may say the word that stands for images; said, it is a word like any other.
        ids = torch.tensor([row.ids for row in rows], device=self.model.device)
        embeds = self.model.language_model.get_input_embeddings()(ids)
        step, logits = self._pass([Piece(row, 0, 1) for row in rows], embeds.transpose(0, 1))
        # A request that stays when memory has run out is where it was: nothing is counted before all is chosen.
        chosen = self._choose(running, logits)
        step.advance()
        self._append(running, chosen)

    def _run(self, rows: Sequence[Row], pass_tokens: int) -> Tensor:
        """Run rows in passes of at most so many tokens, and return float[R, V] of the last tokens that are wanted."""
        if not rows:
            return torch.empty(0, device=self.model.device)
        jobs = [rows] if self.lanes.count == 1 else list(share_out(rows))
        lengths = [count_tokens(job) for job in jobs]
        return torch.cat(self.lanes.map(lambda job: self._run_job(job, pass_tokens), jobs, lengths))

    def _run_job(self, rows: Sequence[Row], pass_tokens: int) -> Tensor:
        ids = torch.tensor([token for row in rows for token in row.ids], device=self.model.device)
        features = [feature for row in rows for feature in row.features]
        embeds, at, logits = self.model.place_features(ids[None], features), 0, []
        for pieces in cut(rows, pass_tokens):
            length = sum(piece.stop - piece.start for piece in pieces)
            step, asked = self._pass(pieces, embeds[:, at : (at := at + length)])
            step.advance()
            logits.append(asked)
        return torch.cat(logits)

    def _pass(self, pieces: Sequence[Piece], embeds: Tensor) -> tuple[Step, Tensor]:
        """Run the language model once, over pieces packed into one row float[1, T, D]; the step is to be advanced."""
        spans, at = [], 0
        for piece in pieces:
            spans.append(Span(at, at := at + piece.stop - piece.start, piece.row.cache, piece.row.prefix))
        asked = [piece.ends_row and piece.row.wanted for piece in pieces]
        rows = tuple(span.stop - 1 for span, ask in zip(spans, asked, strict=True) if ask)
        # transformers' attention does not run for no row at all
        step = Step(tuple(spans), rows or (spans[-1].stop - 1,))
        return step, asked_logits(self.model.language_model, embeds, step)[: len(rows)]

    def _take(self, sequences: Sequence[Running], logits: Tensor) -> None:
        """Append the first token of each sequence."""
        if not sequences:
            return
        margins = self._yes_no.margins(logits)
        self._append(sequences, self._choose(sequences, logits))
        for sequence, margin in zip(sequences, margins, strict=True):
            sequence.yes_no_margin = margin

    def _choose(self, sequences: Sequence[Running], logits: Tensor) -> tuple[list[int], list[float]]:
        return choose(
            logits,
            [sequence.request.sampling for sequence in sequences],
            [sequence.generated for sequence in sequences],
            [sequence.generator for sequence in sequences],
        )

    def _append(self, sequences: Sequence[Running], chosen: tuple[list[int], list[float]]) -> None:
        for sequence, token, logprob in zip(sequences, *chosen, strict=True):
            sequence.append(token, logprob, self._end_token_ids, self.processor)


def cache_of(sequence: Running) -> SequenceCache:
    """The cache of an admitted sequence."""
    assert sequence.cache is not None
    return sequence.cache


def count_tokens(rows: Iterable[Row]) -> int:
    """How many tokens some rows are."""
    return sum(len(row.ids) for row in rows)


def share_out(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Share rows out into jobs, in order: a long row by itself, short ones together, which then read weights once."""
    job: list[Row] = []
    for row in rows:
        if job and count_tokens(job) + len(row.ids) > LEAST_JOB_TOKENS:
            yield job
            job = []
        job.append(row)
    yield job


def cut(rows: Sequence[Row], pass_tokens: int) -> Iterator[list[Piece]]:
    """Cut rows, in order, into passes of `pass_tokens` tokens, the last one shorter."""
    pieces: list[Piece] = []
    room = pass_tokens
    for row in rows:
        start = 0
        while start < len(row.ids):
            stop = min(len(row.ids), start + room)
            pieces.append(Piece(row, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield pieces
                pieces, room = [], pass_tokens
    if pieces:
        yield pieces
