"""Make the small model that training begins with: our own tower, a Llama of width 256, a vocabulary of its own.

    new_model(seed) ─▶ LLaVANeXT of 4.7 M parameters that knows nothing; its tokenizer

It is what `recipe tiny` trains into the embedded model. The vocabulary has the 256 bytes, so that any text can be said,
and the whole words of questions and answers about drawings, in lower case; capitals and digits are always single
tokens, so that drawn text is read a letter at a time.

What this does *not* do: train, or say that it is trained (`ModelConfig.trained` is false until training ends).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerFast

from llava_core.checkpoints.standard import standard_config
from llava_core.checkpoints.untrained import SPECIAL_TOKENS, byte_tokenizer, fill
from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VisionConfig
from llava_core.geometry import Size
from llava_core.stem_tower import StemNorm, StemVisionConfig, StemVisionModel

if TYPE_CHECKING:
    from llava_core.model import LLaVANeXT

TILE, WIDTH = 112, 256
PINPOINTS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""As the released ones, in tiles, (rows, columns)."""
WORDS = (
    "Is it there What does How many are Describe Read USER: ASSISTANT: "
    "a an the this that is of in to and at with from by on or not no yes it its does what how many there are "
    "image picture photo detail text word words sign say says read receipt total tax date number shop "
    "value values chart bar line title axis left right above below between largest smallest first last "
    "shape shapes things colour small large red orange yellow green blue purple black white "
    "circle square triangle star cross zero one two three four five six seven eight nine ten "
    "true false This statement about Answer question using single word phrase circles squares triangles item items "
    "block blocks box boxes tower towers top base bottom wall edge corner touching over under exactly least most each "
    "has have having which only all same different color colors object objects grey contains stacked closely any "
    "more than middle second side There as"
)
"""Tokens of their own, beginning a text and after a space."""


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes and some whole words.

    Example:
        >>> tokenizer = word_tokenizer()
        >>> tokenizer.tokenize("Is the sign red? TAX 4.50")
        ['Is', 'Ġthe', 'Ġsign', 'Ġred', '?', 'Ġ', 'T', 'A', 'X', 'Ġ', '4', '.', '5', '0']
        >>> tokenizer.decode(tokenizer("né <image>", add_special_tokens=False)["input_ids"])
        'né <image>'
    """
    words = [word for word in WORDS.split() if len(word) > 1]
    spaced = [f"Ġ{word}" for word in WORDS.split() if not word.endswith(":")]
    return byte_tokenizer([*words, *spaced], r"USER:|ASSISTANT:| ?[A-Z]?[a-z]+|[\s\S]")


def fresh_config(projector_layers: int = 2, pinpoints: Sequence[tuple[int, int]] = PINPOINTS) -> ModelConfig:
    """The settings: a stem tower on 112-pixel tiles, 49 tokens a tile, and a Llama of 4 layers and width 256.

    Args:
        projector_layers: linear layers of the connector.
        pinpoints: canvases, in tiles; none for the base tile alone.
    """
    tower = StemVisionConfig(hidden_size=WIDTH, image_size=TILE)
    settings = {name: getattr(tower, name) for name in _TOWER_FIELDS}
    text = standard_config(
        {
            "model_type": "llama",
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
            "vocab_size": len(word_tokenizer()),
            "tie_word_embeddings": True,
            "bos_token_id": SPECIAL_TOKENS.index("<s>"),
            "eos_token_id": SPECIAL_TOKENS.index("</s>"),
            "pad_token_id": SPECIAL_TOKENS.index("<pad>"),
        }
    )
    return ModelConfig(
        family="llava_next",
        vision=VisionConfig(
            tower={"model_type": "stem_vision_model", **settings, "stem_widths": list(tower.stem_widths)},
            select_layer=-1,
            select_feature="full",
        ),
        text=text,
        text_dim=WIDTH,
        connector=ConnectorConfig(image_newline=True, num_layers=projector_layers, position_embedding=True, max_grid=3),
        tiles=TileConfig(
            policy="pinpoints" if pinpoints else "single",
            tile_size=TILE,
            pinpoints=tuple(Size(h * TILE, w * TILE) for h, w in pinpoints),
            axis_order="hf",
            image_mean=(0.5, 0.5, 0.5),
            image_std=(0.25, 0.25, 0.25),
        ),
        image_token_id=SPECIAL_TOKENS.index("<image>"),
        template="short",
        trained=False,
    )


_TOWER_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
)


def new_model(
    seed: int = 0, projector_layers: int = 2, pinpoints: Sequence[tuple[int, int]] = PINPOINTS
) -> "LLaVANeXT":
    """The model before any training; equal seeds give equal weights on every machine.

    Args:
        seed: of NumPy's generator.
        projector_layers: linear layers of the connector.
        pinpoints: canvases, in tiles; none for the base tile alone.
    """
    from llava_core.model import LLaVANeXT  # the model delegates to this package, so not at the top

    model = LLaVANeXT(fresh_config(projector_layers, pinpoints))
    fill(model, seed)
    _start_small(model)
    return model


def _start_small(model: "LLaVANeXT") -> None:
    """Biases at zero, norms at one, what layers add to the residual small: a deep model begins as a shallow one."""
    import torch

    tower = model.image_processor.encoder
    assert isinstance(tower, StemVisionModel)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and "newline" not in name:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            elif "position" in name or "embed_tokens" in name:
                parameter.mul_(0.02 / parameter.std())
            elif name.endswith(("o_proj.weight", "down_proj.weight", "out.weight", "fc2.weight")):
                parameter.mul_(0.2)
            elif ".stem." in name or ".join." in name:
                # `fill` takes the tower's embeddings for a table. ReLU drops half of what a convolution gives.
                gain = 2**0.5 if ".stem." in name else 1.0
                parameter.mul_(gain * parameter[0].numel() ** -0.5)
        for layer in tower.embeddings.stem:
            if isinstance(layer, StemNorm):
                layer.weight.fill_(1.0)
        if model.image_newline is not None:
            model.image_newline.mul_(0.02 / model.image_newline.std())
