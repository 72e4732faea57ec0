"""The model that engine benchmarks run: a LlavaNext of about 80 M parameters with random weights, for both sides.

CLIP 384×12 at 336/14 and a Llama of width 512 with 8 layers and grouped queries, vocabulary 32,064: the shapes of the
real one at a size that two CPU cores can run. Both sides read the same folder.
"""

import io
import tempfile

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


def build() -> tuple[LlavaNextForConditionalGeneration, LlavaNextProcessor, LLaVANeXT, LLaVAProcessor]:
    """Both sides with the same weights: transformers' model and processor, and ours."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=12,
            num_attention_heads=6,
            image_size=336,
            patch_size=14,
            projection_dim=384,
        ),
        text_config=LlamaConfig(
            hidden_size=512,
            intermediate_size=1376,
            num_hidden_layers=8,
            num_attention_heads=8,
            num_key_value_heads=2,
            vocab_size=32064,
            max_position_embeddings=8192,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=PINPOINTS,
    )
    theirs = LlavaNextForConditionalGeneration(config).eval()
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, image_grid_pinpoints=PINPOINTS
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        processor.save_pretrained(folder)
        return theirs, processor, load_model(folder), LLaVAProcessor.from_pretrained(folder)


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


def size_in_millions(model: torch.nn.Module) -> float:
    """Parameters, in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6
