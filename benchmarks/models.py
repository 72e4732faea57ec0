"""The model that engine benchmarks run: a LlavaNext of about 80 M parameters with random weights, for both sides.

CLIP 384×12 at 336/14 and a Llama of width 512 with 8 layers and grouped queries, vocabulary 32,064: the shapes of the
real one at a size that two CPU cores can run. Both sides read the same folder.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage import data
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
)

from llava_core.checkpoints import load_model
from llava_core.checkpoints.untrained import byte_tokenizer
from llava_core.model import LLaVANeXT
from llava_core.processor import LLaVAProcessor

PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ASPECTS = ((3, 4), (4, 3), (2, 3), (9, 16), (1, 1), (2, 1))


TOWER = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6}
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32064,
}
REAL_TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
REAL_TEXT = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32064,
}
"""CLIP-L and Mistral-7B, for benchmarks on a GPU."""


def build() -> tuple[LlavaNextForConditionalGeneration, LlavaNextProcessor, LLaVANeXT, LLaVAProcessor]:
    """Both sides with the same weights: transformers' model and processor, and ours."""
    with tempfile.TemporaryDirectory() as folder:
        theirs, processor = write_model(Path(folder), TOWER, TEXT)
        return theirs.eval(), processor, load_model(folder), LLaVAProcessor.from_pretrained(folder)


def write_model(
    folder: Path,
    tower: dict[str, int],
    text: dict[str, int],
    tile: int = 336,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> tuple[LlavaNextForConditionalGeneration, LlavaNextProcessor]:
    """Write a LlavaNext with random weights in transformers' layout, and return it with its processor.

    Args:
        folder: gets both.
        tower: of `CLIPVisionConfig`.
        text: of `LlamaConfig`.
        tile: its side, pixels; canvases are as many tiles as the released ones.
        device: that the weights are drawn on; 7 B of them take minutes on a CPU.
        dtype: that they are written in.
    """
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    pinpoints = [[side * tile // 336 for side in canvas] for canvas in PINPOINTS]
    vision = CLIPVisionConfig(image_size=tile, patch_size=14, projection_dim=tower["hidden_size"], **tower)
    language = LlamaConfig(
        max_position_embeddings=8192,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **text,
    )
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=language,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlavaNextForConditionalGeneration(config)
    torch.set_default_dtype(usual)
    side = {"height": tile, "width": tile}
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": tile}, crop_size=side, image_grid_pinpoints=pinpoints
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def photos(count: int, seed: int = 0) -> list[bytes]:
    """JPEGs of different real photos' crops between 300 and 1,600 pixels, of six aspect ratios."""
    rng = np.random.default_rng(seed)
    sources = [Image.fromarray(photo) for photo in (data.astronaut(), data.chelsea(), data.coffee(), data.rocket())]
    made = []
    for index in range(count):
        rows, cols = ASPECTS[index % len(ASPECTS)]
        longer = int(300 * (1600 / 300) ** rng.random())
        size = longer * cols // max(rows, cols), longer * rows // max(rows, cols)
        source = sources[index % len(sources)]
        left, top = rng.integers(0, 60, 2)
        file = io.BytesIO()
        source.crop((left, top, source.width - 5, source.height - 5)).resize(size).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def five_tiles(count: int, tile: int = 336) -> list[bytes]:
    """JPEGs of 4:3, each of which becomes a base tile and four others."""
    made = []
    for photo in photos(count):
        file = io.BytesIO()
        Image.open(io.BytesIO(photo)).convert("RGB").resize((2 * tile, 3 * tile // 2)).save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def size_in_millions(model: torch.nn.Module) -> float:
    """Parameters, in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6
