"""Tokenizers that fit their model, and those that do not."""

import dataclasses
import json
from pathlib import Path

import pytest

from llava_core.checkpoints import load_tokenizer
from llava_core.checkpoints.files import write_json
from llava_core.checkpoints.untrained import byte_tokenizer, untrained_config
from llava_core.checkpoints.vocabulary import check_vocabulary, next_token_id, read_vocabulary
from llava_core.config import ModelConfig
from llava_core.errors import CheckpointReason, CheckpointRefused

SENTENCEPIECE = Path(__file__).parents[3].parent / "shared" / "data" / "tokenizers"


@pytest.fixture
def config() -> ModelConfig:
    return untrained_config()


def misfit(vocabulary: dict[str, int], config: ModelConfig, must_have_image: bool = True) -> str:
    with pytest.raises(CheckpointRefused) as caught:
        check_vocabulary(vocabulary, config, must_have_image=must_have_image)
    assert caught.value.reason is CheckpointReason.VOCABULARY
    return caught.value.detail


def test_ids_beyond_the_embedding(config: ModelConfig) -> None:
    check_vocabulary({"<image>": 4, "last": 319}, config, must_have_image=True)
    assert "'over' at 320, but the embedding has 320 rows" in misfit({"<image>": 4, "over": 320}, config)


def test_placeholder_may_lie_beyond(config: ModelConfig) -> None:
    beyond = dataclasses.replace(config, image_token_id=320)
    check_vocabulary({"<image>": 320, "a": 0}, beyond, must_have_image=True)
    check_vocabulary({"a": 0}, beyond, must_have_image=False)


def test_image_token_missing_elsewhere_or_taken(config: ModelConfig) -> None:
    assert "no <image> token" in misfit({"a": 0}, config)
    assert "<image> at 7, but the config says 4" in misfit({"<image>": 7}, config)
    assert "id 4 is 'x'" in misfit({"x": 4}, config, must_have_image=False)


def test_vocabularies_from_each_kind_of_file(tmp_path: Path) -> None:
    assert read_vocabulary(tmp_path) is None
    write_json(tmp_path / "vocab.json", {"a": 0, "b": 1})
    write_json(tmp_path / "added_tokens.json", {"<x>": 2})
    assert read_vocabulary(tmp_path) == {"a": 0, "b": 1, "<x>": 2}
    unigram = {"model": {"vocab": [["u", -1.5], ["v", -2.0]]}, "added_tokens": [{"id": 5, "content": "<image>"}]}
    write_json(tmp_path / "tokenizer.json", unigram)
    assert read_vocabulary(tmp_path) == {"u": 0, "v": 1, "<image>": 5, "<x>": 2}
    assert next_token_id({"u": 0, "v": 1}) == 2


@pytest.mark.parametrize("raw", [{}, {"model": {"vocab": 3}}, {"model": {"vocab": {}}, "added_tokens": [{"id": 1}]}])
def test_broken_tokenizer_file(tmp_path: Path, raw: dict[str, object]) -> None:
    write_json(tmp_path / "tokenizer.json", raw)
    with pytest.raises(CheckpointRefused) as caught:
        read_vocabulary(tmp_path)
    assert caught.value.reason is CheckpointReason.CORRUPT


def test_broken_sentencepiece_file(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no such thing")
    with pytest.raises(CheckpointRefused) as caught:
        read_vocabulary(tmp_path)
    assert caught.value.reason is CheckpointReason.CORRUPT


@pytest.mark.skipif(not SENTENCEPIECE.is_dir(), reason="real tokenizers are not beside this checkout")
def test_real_sentencepiece_file(tmp_path: Path) -> None:
    found = next(path for path in sorted(SENTENCEPIECE.rglob("*")) if path.is_file() and "model.v1" in path.name)
    (tmp_path / "tokenizer.model").write_bytes(found.read_bytes())
    vocabulary = read_vocabulary(tmp_path)
    assert vocabulary is not None
    assert (vocabulary["<s>"], vocabulary["</s>"], next_token_id(vocabulary)) == (1, 2, 32000)


def test_image_token_is_added_where_the_config_says(tmp_path: Path, config: ModelConfig) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "tokenizer.json").read_text())
    # An original folder has no <image>: give its place to another token.
    text = json.dumps(raw).replace("<image>", "<other>")
    (tmp_path / "tokenizer.json").write_text(text)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if "special_tokens" not in key}
    write_json(tmp_path / "tokenizer_config.json", settings)
    write_json(tmp_path / "config.json", {"model_type": "llava_llama"})
    added = dataclasses.replace(config, image_token_id=261)
    tokenizer = load_tokenizer(tmp_path, added)
    assert tokenizer("a<image>b", add_special_tokens=False)["input_ids"][1] == 261
    with pytest.raises(CheckpointRefused) as caught:
        load_tokenizer(tmp_path, dataclasses.replace(config, image_token_id=300))
    assert caught.value.reason is CheckpointReason.VOCABULARY
