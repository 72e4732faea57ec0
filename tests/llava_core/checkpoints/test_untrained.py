"""The small model of random weights, the same on every machine; and the embedded one, which is trained."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from llava_core.checkpoints import load_model, load_tokenizer, read_config, resolve_model
from llava_core.checkpoints.untrained import byte_tokenizer, write_untrained
from tests.llava_core.checkpoints.cases import WEIGHTS


def test_the_same_seed_writes_the_same_model(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_untrained(tmp_path / name, seed)
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    first, third = load_file(tmp_path / "a" / WEIGHTS), load_file(tmp_path / "c" / WEIGHTS)
    assert first.keys() == third.keys()
    assert not any(first[name].equal(third[name]) for name in first)


def test_it_is_small_and_says_that_it_is_untrained(tmp_path: Path) -> None:
    write_untrained(tmp_path)
    model = load_model(tmp_path)
    assert model.config.trained is False
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 1_500_000
    assert (model.config.tiles.tile_size, model.config.patches_per_side, model.config.template) == (56, 4, "vicuna_v1")


def test_the_embedded_model_is_trained_and_small_and_has_a_card() -> None:
    folder = resolve_model("tiny")
    model = load_model(folder)
    assert model.config.trained
    assert (folder / WEIGHTS).stat().st_size <= 20e6
    assert "python jobs/train.py --recipe tiny" in (folder / "README.md").read_text()


@pytest.mark.parametrize("text", ["plain", "ünïcode ☃ 漢字", "a\n\tb  c", " leading", "<image>", "x</s>y"])
def test_every_text_survives_its_tokenizer(tmp_path: Path, text: str) -> None:
    write_untrained(tmp_path)
    for tokenizer in (byte_tokenizer(), load_tokenizer(tmp_path, read_config(tmp_path))):
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == 1
        assert tokenizer.decode(ids[1:]) == text
        specials = text.count("<image>") + text.count("</s>")
        rest = text.replace("<image>", "").replace("</s>", "")
        assert len(ids) == 1 + specials + len(rest.encode())
