"""From segments to token ids and labels, through any fast tokenizer.

    segments ─ split at placeholders ─▶ chunks ─ tokenise each whole ─▶ ids, offsets ─ offsets in segments ─▶ labels

A chunk is tokenised in one piece, so the ids are those of the released `tokenizer_image_token`, which splits at
`<image>` and nowhere else. So that special tokens which users spell out stay text, the tokenizer that does it is a
copy whose special tokens are renamed to Unicode noncharacters, and only the template's segments get the new names.

What this does *not* do: decide what is trainable (`prompts`), how many tokens an image has (`config.plan_tiles`).

Source: `tokenizer_image_token` in `llava/mm_utils.py` of haotian-liu/LLaVA@c121f04.
"""

import copy
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer
from transformers import AddedToken, PreTrainedTokenizerBase

from llava_core.config import ModelConfig
from llava_core.conversations import IMAGE_PLACEHOLDER, SURROGATES, VIDEO_PLACEHOLDER
from llava_core.errors import ConfigError, PromptReason, PromptRefused
from llava_core.prompts import Segment

IGNORE_INDEX = -100
"""Label of tokens that the loss leaves out."""

_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_NONCHARACTERS = re.compile("[\ufdd0-\ufdef]")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenised prompt."""

    input_ids: list[int]
    """Placeholders already repeated, one id for each image or video token."""
    labels: list[int]
    """The id where it is trained on, else `IGNORE_INDEX`."""


class PromptTokenizer:
    """Tokenises segments; special tokens exist only where the template put them.

    Args:
        tokenizer: a fast tokenizer of transformers.
        image_token_id: placeholder id of image tokens.
        video_token_id: placeholder id of video tokens; None where there are none.

    Raises:
        ConfigError: the tokenizer has no `tokenizers` backend.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, image_token_id: int, video_token_id: int | None = None
    ) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ConfigError(f"{type(tokenizer).__name__} is not a fast tokenizer; save it as tokenizer.json first")
        self.image_token_id = image_token_id
        self.video_token_id = video_token_id
        self.bos = _bos_of(tokenizer)
        self._literal, self._aliases = _rename_specials(backend, {image_token_id, video_token_id})
        names = sorted(self._aliases, key=len, reverse=True)
        self._specials = re.compile("|".join(map(re.escape, names)) or "(?!)")

    def __call__(
        self, segments: Sequence[Segment], image_tokens: Sequence[int] = (), video_tokens: Sequence[int] = ()
    ) -> Tokens:
        """Tokenise a prompt.

        Args:
            segments: from `prompts.render`.
            image_tokens: number of tokens of each image, in order.
            video_tokens: number of tokens of each video, in order.

        Returns:
            Ids and labels of equal length, the tokenizer's beginning-of-sequence token included.

        Raises:
            PromptRefused: TOKEN_MISMATCH where placeholders and counts differ in number; BAD_CONVERSATION for text
                that cannot be encoded.
        """
        ids = list(self.bos)
        labels = [IGNORE_INDEX] * len(ids)
        left = {self.image_token_id: list(image_tokens), self.video_token_id: list(video_tokens)}
        for chunk in _chunks(segments):
            if isinstance(chunk, Segment):
                token = self.video_token_id if chunk.text == VIDEO_PLACEHOLDER else self.image_token_id
                if token is None or not left[token]:
                    raise PromptRefused(PromptReason.TOKEN_MISMATCH, f"more {chunk.text} places than were given")
                count = left[token].pop(0)
                ids += [token] * count
                labels += [IGNORE_INDEX] * count
            else:
                chunk_ids, chunk_labels = self._tokenise(chunk)
                ids += chunk_ids
                labels += chunk_labels
        if any(left.values()):
            raise PromptRefused(PromptReason.TOKEN_MISMATCH, "fewer <image> or <video> places than were given")
        return Tokens(ids, labels)

    def _tokenise(self, chunk: Sequence[Segment]) -> tuple[list[int], list[int]]:
        """Ids and labels of segments without placeholders, tokenised in one piece."""
        texts = [self._aliased(segment) for segment in chunk]
        # trained_before[i]: how many of the first i characters are trained on
        trained_before = [0]
        for segment, text in zip(chunk, texts, strict=True):
            step, last = int(segment.trainable), trained_before[-1]
            trained_before += [last + step * (i + 1) for i in range(len(text))]
        joined = "".join(texts)
        if SURROGATES.search(joined):
            raise PromptRefused(PromptReason.BAD_CONVERSATION, "text has half of a surrogate pair")
        encoding = self._literal.encode(joined, add_special_tokens=False)
        labels = []
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            # A token made by a tokenizer out of nothing (a prefix space) has an empty span: it goes with what follows.
            end = min(max(end, start + 1), len(trained_before) - 1)
            start = min(start, end - 1)
            # A token across a border is not trained on: generation never begins or ends inside it.
            trained = trained_before[end] - trained_before[start] == end - start
            labels.append(token if trained else IGNORE_INDEX)
        return list(encoding.ids), labels

    def _aliased(self, segment: Segment) -> str:
        """A segment's text with the template's special tokens, and nobody else's, under their new names."""
        if not segment.special:
            return _NONCHARACTERS.sub("\ufffd", segment.text)
        return self._specials.sub(lambda match: self._aliases[match[0]], segment.text)


def _chunks(segments: Sequence[Segment]) -> Iterator[Segment | list[Segment]]:
    """Placeholders by themselves, and the runs of other segments between them."""
    run: list[Segment] = []
    for segment in segments:
        if segment.is_placeholder:
            if run:
                yield run
            yield segment
            run = []
        else:
            run.append(segment)
    if run:
        yield run


def _bos_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The beginning-of-sequence id, if the tokenizer puts one before a text by itself."""
    ids = list(tokenizer("a").input_ids)
    return (ids[0],) if ids and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else ()


def _rename_specials(backend: Tokenizer, media_ids: set[int | None]) -> tuple[Tokenizer, dict[str, str]]:
    """A copy that knows its special tokens under other names, and those names."""
    state: dict[str, Any] = json.loads(backend.to_str())
    specials = [token for token in state["added_tokens"] if token["special"] or token["id"] in media_ids]
    aliases = {token["content"]: f"{_OPEN}{index}{_CLOSE}" for index, token in enumerate(specials)}
    for token in specials:
        token["content"] = aliases[token["content"]]
    _rename_in_model(state["model"], aliases)
    # Offsets are wanted as they are, and no tokens that were not asked for.
    state["post_processor"], state["truncation"], state["padding"] = None, None, None
    literal = Tokenizer.from_str(json.dumps(state))
    for name, alias in aliases.items():
        if literal.token_to_id(alias) != backend.token_to_id(name):
            raise ConfigError(f"the tokenizer gives {name!r} another id when it is read back; its vocabulary has a gap")
    return literal, aliases


def _rename_in_model(model: dict[str, Any], aliases: dict[str, str]) -> None:
    """Rename in the vocabulary too: a model that has `</s>` as a piece would find it in text."""
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {aliases.get(piece, piece): index for piece, index in vocab.items()}
    else:
        model["vocab"] = [[aliases.get(piece, piece), score] for piece, score in vocab]
    if model.get("unk_token") in aliases:
        model["unk_token"] = aliases[model["unk_token"]]
    if "merges" in model:
        pairs = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
        model["merges"] = [list(pair) for pair in pairs if not aliases.keys() & {*pair, "".join(pair)}]


def with_placeholders(tokenizer: PreTrainedTokenizerBase, config: ModelConfig) -> PreTrainedTokenizerBase:
    """The tokenizer, or a copy with the placeholder tokens added, which the original checkpoints' have not.

    Args:
        tokenizer: of the checkpoint.
        config: names the ids; a missing token is added only where it gets the id that the config names.

    Returns:
        A tokenizer whose added tokens include the placeholders.

    Raises:
        ConfigError: the config's id is no added token.
    """
    wanted = [(config.image_token_id, IMAGE_PLACEHOLDER), (config.video_token_id, VIDEO_PLACEHOLDER)]
    for token_id, name in wanted:
        if token_id is None:
            continue
        if token_id == len(tokenizer) and name not in tokenizer.get_vocab():
            tokenizer = copy.deepcopy(tokenizer)
            tokenizer.add_tokens(AddedToken(name, special=True, normalized=False), special_tokens=True)
        if token_id not in tokenizer.get_added_vocab().values():
            known = tokenizer.get_added_vocab().get(name)
            raise ConfigError(
                f"the config's id for {name} is {token_id}, which is no added token of this tokenizer of "
                f"{len(tokenizer)} tokens ({name} has id {known} there); set the config's id to match"
            )
    return tokenizer
