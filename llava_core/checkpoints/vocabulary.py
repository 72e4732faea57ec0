"""The tokenizer of a checkpoint folder: does it fit the embedding table, and where is `<image>`?

Vocabularies are read from the files themselves, which takes no tokenizer class and runs nothing. Original folders have
no `<image>` token: it gets the id after the last, by `load_tokenizer`, as the released conversions gave it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_core.checkpoints.files import CONFIG, read_json, read_optional_json, refuse_remote_code
from llava_core.config import ModelConfig
from llava_core.conversations import IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER
from llava_core.errors import CheckpointReason, CheckpointRefused

_TOKENIZER_OF = {"mistral": "llama"}
"""Mistral 7B has a Llama tokenizer; the class that transformers lists for it needs another package."""


def read_vocabulary(folder: Path) -> dict[str, int] | None:
    """Token → id from `tokenizer.json`, `tokenizer.model` or `vocab.json`, added tokens included; None without any.

    Raises:
        CheckpointRefused: CORRUPT for a file that is not what its name says.
    """
    added = {str(token): int(index) for token, index in read_optional_json(folder / "added_tokens.json").items()}
    listed = read_optional_json(folder / "tokenizer_config.json").get("added_tokens_decoder")
    if isinstance(listed, dict):
        added |= {str(entry["content"]): int(index) for index, entry in listed.items()}
    if (folder / "tokenizer.json").is_file():
        return _fast_vocabulary(folder / "tokenizer.json") | added
    if (folder / "tokenizer.model").is_file():
        return _sentencepiece_vocabulary(folder / "tokenizer.model") | added
    if (folder / "vocab.json").is_file():
        return {str(token): int(index) for token, index in read_json(folder / "vocab.json").items()} | added
    return None


def _fast_vocabulary(path: Path) -> dict[str, int]:
    try:
        raw = read_json(path)
        vocabulary = raw["model"]["vocab"]
        if isinstance(vocabulary, list):
            vocabulary = {entry[0]: index for index, entry in enumerate(vocabulary)}
        added = {entry["content"]: int(entry["id"]) for entry in raw.get("added_tokens") or []}
        return {str(token): int(index) for token, index in vocabulary.items()} | added
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        detail = f"{path} is no tokenizer file ({type(error).__name__}: {error}); copy it again"
        raise CheckpointRefused(CheckpointReason.CORRUPT, detail) from error


def _sentencepiece_vocabulary(path: Path) -> dict[str, int]:
    import sentencepiece  # costs 20 MB that folders with tokenizer.json never need

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        detail = f"{path} is no SentencePiece model ({error}); copy it again"
        raise CheckpointRefused(CheckpointReason.CORRUPT, detail) from error
    return {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}


def next_token_id(vocabulary: Mapping[str, int]) -> int:
    """The id of `<image>`: its own, or the one that adding it gives.

    Example:
        >>> next_token_id({"<unk>": 0, "a": 1}), next_token_id({"<image>": 0, "a": 1})
        (2, 0)
    """
    return vocabulary.get(IMAGE_PLACEHOLDER, max(vocabulary.values(), default=-1) + 1)


def check_vocabulary(vocabulary: Mapping[str, int], config: ModelConfig, *, must_have_image: bool) -> None:
    """Refuse a tokenizer that does not fit the model beside it.

    Args:
        vocabulary: token → id.
        config: the model's, with a language model.
        must_have_image: `<image>` must be there already, as in the hf layout.

    Raises:
        CheckpointRefused: VOCABULARY.
    """
    rows = int((config.text or {}).get("vocab_size") or 0)
    placeholders = {config.image_token_id, config.video_token_id}
    beyond = {token: index for token, index in vocabulary.items() if index >= rows and index not in placeholders}
    if beyond:
        token, index = max(beyond.items(), key=lambda pair: pair[1])
        raise _misfit(f"the tokenizer has {token!r} at {index}, but the embedding has {rows} rows")
    expected = config.image_token_id
    found = vocabulary.get(IMAGE_PLACEHOLDER)
    if found is not None and found != expected:
        raise _misfit(f"the tokenizer has {IMAGE_PLACEHOLDER} at {found}, but the config says {expected}")
    if found is None and must_have_image:
        raise _misfit(f"the tokenizer has no {IMAGE_PLACEHOLDER} token; the config expects it at {expected}")
    taken = next(
        (token for token, index in vocabulary.items() if index == expected and token != IMAGE_PLACEHOLDER), None
    )
    if taken is not None:
        raise _misfit(f"the image token's id {expected} is {taken!r} in the tokenizer")


def _misfit(detail: str) -> CheckpointRefused:
    return CheckpointRefused(CheckpointReason.VOCABULARY, f"{detail}; use the tokenizer that came with these weights")


def load_tokenizer(folder: str | Path, config: ModelConfig) -> Any:
    """Load a folder's tokenizer through transformers, with `<image>` (and `<video>`) at the ids the config says.

    Args:
        folder: with tokenizer files; code in it is never run.
        config: the model's.

    Returns:
        A transformers tokenizer; `<image>` is one special token.

    Raises:
        CheckpointRefused: VOCABULARY where adding `<image>` gives another id than the config's.
    """
    from transformers import CONFIG_MAPPING, AutoTokenizer  # half of transformers, which reading a config does not need

    refuse_remote_code(Path(folder))
    settings: Any = None
    if read_json(Path(folder) / CONFIG)["model_type"] not in CONFIG_MAPPING and config.text is not None:
        # transformers would look the tokenizer's class up by a model type that it does not know, and warn.
        settings = CONFIG_MAPPING[_TOKENIZER_OF.get(config.text["model_type"], config.text["model_type"])]()
    tokenizer = AutoTokenizer.from_pretrained(str(folder), config=settings, trust_remote_code=False)
    wanted = [(IMAGE_PLACEHOLDER, config.image_token_id)]
    if config.video_token_id is not None:
        wanted.append((VIDEO_PLACEHOLDER, config.video_token_id))
    for token, index in wanted:
        if token not in tokenizer.get_vocab():
            tokenizer.add_tokens([token], special_tokens=True)
        found = tokenizer.convert_tokens_to_ids(token)
        if found != index:
            raise _misfit(f"{token} has id {found} in the tokenizer, but the config says {index}")
    return tokenizer
