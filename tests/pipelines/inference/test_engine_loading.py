"""An engine as its process loads it: precision, quantisation, signs of life."""

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llava_core.checkpoints import resolve_model
from llava_core.engine.types import Request, SamplingConfig
from llava_core.errors import ConfigError
from pipelines.inference.config import CaptionConfig, Quantize
from pipelines.inference.engine_guard import EngineSpec
from pipelines.inference.engine_loading import load_engine
from pipelines.inference.job import freeze
from tests.pipelines.inference.fakes import photo

SPEC = EngineSpec(
    folder=str(resolve_model("tiny")),
    dtype="auto",
    quantize=None,
    engine="packed",
    batch_size=3,
    device="cpu",
    threads=torch.get_num_threads(),
    timeout=60.0,
)
REQUESTS = [
    Request(
        request_id=str(number),
        prompt="What is it?",
        images=(np.random.default_rng(number).integers(0, 256, (70, 40 + 30 * number, 3), np.uint8),),
        sampling=SamplingConfig(max_new_tokens=4),
    )
    for number in range(3)
]


def test_an_engine_of_the_command_line_generates_and_gives_signs_of_life() -> None:
    beats: list[int] = []
    engine = load_engine(dataclasses.asdict(SPEC), beats.append)
    results = engine.generate(REQUESTS)
    assert [(one.request_id, one.error) for one in results] == [("0", None), ("1", None), ("2", None)]
    # the tower first, then the prompts, then each further token; the last one that is chosen goes through no layer
    assert beats[0] == 0 and len(beats) >= 2 + 3 - 1
    assert sum(beats) == sum(one.num_prompt_tokens + len(one.token_ids) - 1 for one in results)


@pytest.mark.parametrize(("quantize", "dtype"), [("8bit", torch.int8), ("4bit", torch.uint8)])
def test_the_language_model_is_quantised_and_answers(quantize: Quantize, dtype: torch.dtype) -> None:
    for name in ("bitsandbytes", "accelerate"):
        pytest.importorskip(name, reason="the [quantize] extra is not installed")
    engine = load_engine(dataclasses.asdict(dataclasses.replace(SPEC, quantize=quantize)), lambda _: None)
    model = engine.model  # type: ignore[attr-defined]
    assert model.language_model.model.layers[0].mlp.up_proj.weight.dtype == dtype
    assert model.image_processor.encoder.encoder.layers[0].mlp.fc1.weight.dtype == torch.float32
    for result in engine.generate(REQUESTS):
        assert result.error is None and result.mean_logprob is not None and -20 < result.mean_logprob < 0


def test_quantising_without_the_extra_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError(f"No module named {name!r}")
        return plain(name, *rest)

    (tmp_path / "0.jpg").write_bytes(photo(20, 30))
    monkeypatch.setattr("llava_core.checkpoints.quantise.importlib.import_module", absent)
    config = CaptionConfig(input=(str(tmp_path),), output=str(tmp_path / "out"), quantize="4bit")
    with pytest.raises(ConfigError, match=r"install 'tessera\[quantize\]'"):
        freeze(config)
    assert not (tmp_path / "out").exists()
    assert freeze(dataclasses.replace(config, quantize=None)).run_id
