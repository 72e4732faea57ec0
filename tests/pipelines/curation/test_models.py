"""Whose tiles are planned: settings and tokenizer of a model, wherever it is."""

from importlib import resources
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipelines.curation.models import find_model


def test_a_model_in_a_store_needs_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Path(str(resources.files("llava_core") / "assets/tiny"))
    store = fsspec.filesystem("memory")
    for name in ("config.json", "tokenizer.json"):
        store.pipe_file(f"/curated/{name}", (tiny / name).read_bytes())
    store.pipe_file("/curated/model.safetensors", b"not to be read")
    copied: list[str] = []
    plain = type(store).get_file

    def get_file(self: Any, path: str, *others: Any) -> None:
        copied.append(path)
        plain(self, path, *others)

    monkeypatch.setattr(type(store), "get_file", get_file)
    settings, tokenizer = find_model("memory://curated")
    assert sorted(copied) == ["/curated/config.json", "/curated/tokenizer.json"]
    assert (settings, tokenizer) == find_model("tiny") and settings.tiles.tile_size == 112
    assert tokenizer == (tiny / "tokenizer.json").read_text()
