"""Make the small untrained LLaVA-NeXT: every part of the real one, random weights, under a megabyte.

    python -m llava_core.checkpoints.untrained PATH

It knows nothing, and its config says so (`trained` is false); it is there so that every job and test runs without a
download. Weights come from NumPy's generator, whose numbers are the same on every machine, unlike torch's.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from llava_core.checkpoints.save import save_model
from llava_core.checkpoints.standard import standard_config
from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VisionConfig
from llava_core.geometry import Size

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
TILE = 56
PINPOINTS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""As the released ones, in tiles."""


def byte_tokenizer(words: Sequence[str] = (), pieces: str | None = None) -> PreTrainedTokenizerFast:
    """A tokenizer of the 256 bytes and the special tokens, which come first; it needs no training and loses nothing.

    Args:
        words: more tokens, as byte-level BPE spells them ("Ġ" for a space); each stands for itself alone.
        pieces: pattern of what can be such a token; needed for words.

    Example:
        >>> tokenizer = byte_tokenizer()
        >>> tokenizer.decode(tokenizer("né <image>", add_special_tokens=False)["input_ids"])
        'né <image>'
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*SPECIAL_TOKENS, *letters, *words])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", ignore_merges=bool(words)))
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = [pre_tokenizers.Split(Regex(pieces), "isolated")] if pieces else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, to_bytes]) if split else to_bytes
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast: Any = PreTrainedTokenizerFast
    return fast(  # type: ignore[no-any-return]
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def untrained_config() -> ModelConfig:
    """The settings: CLIP and Llama of 2 layers and width 64, tiles of 56 pixels with 4×4 patches, vicuna_v1 prompts."""
    tower = standard_config(
        {
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": TILE,
            "patch_size": 14,
            "projection_dim": 64,
        }
    )
    text = standard_config(
        {
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "vocab_size": 320,
            "bos_token_id": SPECIAL_TOKENS.index("<s>"),
            "eos_token_id": SPECIAL_TOKENS.index("</s>"),
            "pad_token_id": SPECIAL_TOKENS.index("<pad>"),
        }
    )
    return ModelConfig(
        family="llava_next",
        vision=VisionConfig(tower=tower),
        text=text,
        text_dim=64,
        connector=ConnectorConfig(image_newline=True),
        tiles=TileConfig(tile_size=TILE, pinpoints=tuple(Size(h * TILE, w * TILE) for h, w in PINPOINTS)),
        image_token_id=SPECIAL_TOKENS.index("<image>"),
        template="vicuna_v1",
        trained=False,
    )


def write_untrained(path: str | Path, seed: int = 0) -> None:
    """Write the untrained model and its tokenizer in our own layout; equal seeds give equal bytes.

    Args:
        path: the folder, made if absent.
        seed: of the weights.
    """
    from llava_core.model import LLaVANeXT  # the model delegates to this package, so not at the top

    model = LLaVANeXT(untrained_config())
    fill(model, seed)
    save_model(model, path, tokenizer=byte_tokenizer())


def fill(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter random values: matrices scaled by their inputs, norms about one, biases small.

    Args:
        model: changed in place.
        seed: of NumPy's generator.
    """
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.from_numpy(generator.standard_normal(tuple(parameter.shape)).astype(np.float32))
            if parameter.ndim > 1:
                scale = 1.0 if "embed" in name else parameter[0].numel() ** -0.5
                parameter.copy_(noise * scale)
            else:
                parameter.copy_(noise * 0.1 + (1.0 if "norm" in name and name.endswith("weight") else 0.0))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m llava_core.checkpoints.untrained PATH")
    write_untrained(sys.argv[1])
