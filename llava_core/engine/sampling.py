"""How the next token is chosen: greedy for most rows at once, drawn from its own generator where a request asks for it.

The order of the filters is transformers': repetition penalty, temperature, top-k, top-p. The log-probability reported
is of the distribution that the token was drawn from.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from llava_core.engine.types import SamplingConfig


def choose(
    logits: Tensor,
    samplings: Sequence[SamplingConfig],
    generated: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator | None],
) -> tuple[list[int], list[float]]:
    """Choose one token for each row.

    Args:
        logits: float[B, V].
        samplings: one for each row.
        generated: ids that each row has generated so far, for the repetition penalty.
        generators: one for each row that draws; None for greedy rows.

    Returns:
        token ids and their natural-log probabilities, one for each row; NaN where a row's logits are no numbers.
    """
    scores = logits.float()
    for row, (sampling, ids) in enumerate(zip(samplings, generated, strict=True)):
        if sampling != _GREEDY and not _is_plain(sampling):
            scores[row] = _warped(scores[row], sampling, ids)
    logprobs = torch.log_softmax(scores, dim=-1)
    best = logprobs.max(dim=-1)
    tokens, chosen = best.indices.tolist(), best.values.tolist()
    drawing = {row: logprobs[row].cpu() for row, generator in enumerate(generators) if generator is not None}
    # From here on nothing is asked of the device: a step that runs out of memory there has not drawn.
    for row, known in drawing.items():
        if math.isfinite(chosen[row]):
            tokens[row] = int(torch.multinomial(known.exp(), 1, generator=generators[row]))
            chosen[row] = float(known[tokens[row]])
    return tokens, chosen


class YesNo:
    """Reads how much more likely yes is than no from the logits of an answer's first token.

    Args:
        encode: text → token ids, without special tokens.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]]) -> None:
        self.yes = self._first_tokens(encode, "yes")
        # A byte or a prefix that begins both words says nothing.
        no = self._first_tokens(encode, "no")
        self.yes, self.no = self.yes - no, no - self.yes

    @staticmethod
    def _first_tokens(encode: Callable[[str], Sequence[int]], word: str) -> set[int]:
        spellings = [lead + form for lead in ("", " ") for form in (word, word.capitalize(), word.upper())]
        space = {ids[0] for ids in (encode(" "),) if len(ids) == 1}
        return {ids[0] for ids in map(encode, spellings) if len(ids)} - space

    def margins(self, logits: Tensor) -> list[float | None]:
        """log p(yes) − log p(no) for each row of float[B, V]; None without such tokens."""
        if not self.yes or not self.no:
            return [None] * logits.shape[0]
        yes, no = (torch.logsumexp(logits[:, sorted(ids)].float(), dim=-1) for ids in (self.yes, self.no))
        return list((yes - no).tolist())


_GREEDY = SamplingConfig()


def _is_plain(sampling: SamplingConfig) -> bool:
    """Whether greedy choice needs no change of the scores."""
    return sampling.temperature == 0 and sampling.repetition_penalty == 1


def _warped(scores: Tensor, sampling: SamplingConfig, generated: Sequence[int]) -> Tensor:
    """float32[V] after penalty, temperature, top-k and top-p."""
    if sampling.repetition_penalty != 1 and generated:
        seen = torch.tensor(sorted(set(generated)), device=scores.device)
        value = scores[seen]
        penalty = sampling.repetition_penalty
        scores = scores.index_copy(0, seen, torch.where(value < 0, value * penalty, value / penalty))
    if sampling.temperature == 0:
        return scores
    scores = scores / sampling.temperature
    if 0 < sampling.top_k < scores.shape[0]:
        least = torch.topk(scores, sampling.top_k).values[-1]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if sampling.top_p < 1:
        ordered, places = torch.sort(scores, descending=True)
        mass = torch.softmax(ordered, dim=-1).cumsum(-1)
        # A token stays while the mass before it is below top_p, so the first one always stays.
        beyond = torch.cat([mass.new_zeros(1), mass[:-1]]) >= sampling.top_p
        scores = scores.masked_fill(torch.zeros_like(beyond).scatter(0, places, beyond), -torch.inf)
    return scores
