"""The document's usage examples, word for word apart from the import line.

What the examples leave undefined is defined here: `load_image`, `load_video`, `tokenize_and_embed`, small files, a
tokenizer. What they leave open, the tower's depth, is lowered to 2 layers by default here, so that the test takes
seconds; `make test-slow` runs them at the true depth of 24.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from llava_core import document_form
from llava_core.vision_tower import DynamicImageProcessor
from tests.tiny_models import text_config

TEXT_LENGTH = 7


def load_image(path: str) -> Tensor:
    """uint8[3, H, W]: a wide picture that is another for each name."""
    torch.manual_seed(sum(map(ord, path)))
    coarse = torch.randint(0, 256, (5, 9, 3), dtype=torch.uint8)
    picture = Image.fromarray(coarse.numpy()).resize((200, 100))
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(100, 200, 3).permute(2, 0, 1)


def load_video(path: str) -> Tensor:
    """float[1, 2, 3, H, W] in 0..1."""
    return torch.stack([load_image(path + str(frame)) / 255 for frame in range(2)])[None]


def tokenize_and_embed(text: str) -> Tensor:
    """float[1, L, 4096]."""
    torch.manual_seed(len(text))
    return torch.randn(1, TEXT_LENGTH, 4096)


@pytest.fixture(params=[2, pytest.param(24, marks=pytest.mark.slow)])
def depth(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setitem(document_form.DEFAULTS, "visual_encoder_layers", request.param)
    with torch.no_grad():
        yield request.param


def test_basic_single_image_and_multi_image(depth: int) -> None:
    from llava_core import LLaVANeXT

    # Initialize model
    model = LLaVANeXT(visual_encoder_dim=1024, language_model_dim=4096, num_visual_tokens=576, max_images=8)

    # Prepare inputs
    image = load_image("photo.jpg")  # [3, H, W]
    image = image.unsqueeze(0)  # [1, 3, H, W]

    # Get visual features
    output = model(images=image)
    visual_features = output["visual_features"]
    # Shape: [1, num_patches * 576, 4096]

    # Combine with text for generation
    text = "Describe this image in detail."
    text_embeds = tokenize_and_embed(text)  # [1, seq_len, 4096]

    output = model(images=image, text_embeds=text_embeds)
    multimodal_embeds = output["multimodal_embeds"]
    # Feed to language model for generation

    assert len(model.image_processor.encoder.encoder.layers) == depth
    assert visual_features.shape == (1, 3 * 576, 4096), "a base tile and a grid of (1, 2), nothing to unpad at 2:1"
    assert multimodal_embeds.shape == (1, 1 + 3 * 576 + 1 + TEXT_LENGTH, 4096)
    assert torch.equal(multimodal_embeds[:, 1 : -TEXT_LENGTH - 1], visual_features)
    assert torch.equal(multimodal_embeds[:, -TEXT_LENGTH:], text_embeds)
    assert visual_features.std() > 0.01

    # Multiple images in one sample
    images = [load_image("image1.jpg"), load_image("image2.jpg"), load_image("image3.jpg")]
    images = torch.stack(images)  # [3, 3, H, W]

    # Specify how many images per sample in batch
    output = model(
        images=images,
        text_embeds=text_embeds,
        num_images_per_sample=[3],  # One sample with 3 images
    )

    # Eight tiles a sample, base tiles counted: each of three images has its base tile alone.
    features = output["visual_features"]
    assert features.shape == (1, 3 * 576, 4096)
    assert output["multimodal_embeds"].shape == (1, 3 * 576 + 2 + TEXT_LENGTH, 4096)
    assert (features[:, :576] - features[:, 576:1152]).abs().max() > 1e-3, "each image should have its own features"


def test_video_understanding(depth: int) -> None:
    text_embeds = tokenize_and_embed("What happens?")
    from llava_core import LLaVAOneVision

    model = LLaVAOneVision(visual_encoder_dim=1024, language_model_dim=4096, max_frames=32)

    # Load video frames
    video = load_video("clip.mp4")  # [1, num_frames, 3, H, W]

    # Encode with temporal modeling
    output = model(video_frames=video, text_embeds=text_embeds)
    video_features = output["visual_features"]
    # Temporal encoder models relationships between frames

    assert len(model.image_processor.encoder.encoder.layers) == depth
    assert video_features.shape == (1, 2 * 576, 4096)
    assert output["multimodal_embeds"].shape == (1, 2 * 576 + 2 + TEXT_LENGTH, 4096)


def test_the_depth_left_open_is_clip_large() -> None:
    tower = document_form.document_config({}, "llava_next").vision.tower
    assert (tower["num_hidden_layers"], tower["hidden_size"], tower["num_attention_heads"]) == (24, 1024, 16)
    assert (tower["image_size"], tower["patch_size"], tower["intermediate_size"]) == (336, 14, 4096)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's constructors with small widths as defaults, for examples whose sizes do not matter."""
    for name, value in {
        "visual_encoder_dim": 32,
        "language_model_dim": 48,
        "num_visual_tokens": 4,
        "visual_encoder_layers": 2,
    }.items():
        monkeypatch.setitem(document_form.DEFAULTS, name, value)


def with_language_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A document-form model that has a language model, as its training examples presume."""
    import dataclasses

    from llava_core import LLaVANeXT

    config = document_form.document_config({}, "llava_next")
    return LLaVANeXT(dataclasses.replace(config, text=text_config().to_dict()))


@pytest.mark.usefixtures("small")
def test_memory_examples() -> None:
    from llava_core import LLaVANeXT

    # Solution 1: Limit max patches
    model = LLaVANeXT(max_images=3)  # Reduce from 8

    assert [plan.num_tiles for plan in LLaVANeXT().plan_images([[30, 90]])] == [4]
    assert [plan.num_tiles for plan in model.plan_images([[30, 90]])] == [3]

    # Solution 2: Gradient checkpointing
    model.gradient_checkpointing_enable()

    # Solution 4: CPU offloading for inference
    model.image_processor = model.image_processor.cpu()
    # Process images on CPU, move features to GPU

    # Optimization 1: Reduce visual token count
    model = LLaVANeXT(compression_ratio=2)  # Compress visual features

    assert model(images=torch.rand(1, 3, 28, 56)).visual_features.shape == (1, 3, 48)


@pytest.mark.usefixtures("small")
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable.*:FutureWarning")
def test_gradient_checkpointing_example(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_language_model(monkeypatch).train()

    # Enable for vision encoder
    model.image_processor.encoder.gradient_checkpointing = True

    # Enable for language model
    model.language_model.gradient_checkpointing_enable()

    runs: list[str] = []
    for name, layers in (
        ("tower", model.image_processor.encoder.encoder.layers),
        ("text", model.language_model.model.layers),
    ):
        layers[0].self_attn.register_forward_hook(lambda *_, name=name: runs.append(name))
    output = model(images=torch.rand(1, 3, 28, 56), text_embeds=torch.randn(1, 3, 48))
    output.logits.sum().backward()
    assert sorted(runs) == ["text", "text", "tower", "tower"], "each should have run again in the backward pass"


@pytest.mark.usefixtures("small")
def test_mixed_precision_example_with_positional_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.cuda.amp` there is `torch.autocast(..., dtype=torch.bfloat16)` here (spec decision 14)."""
    model = with_language_model(monkeypatch)
    images, text_embeds = torch.rand(1, 3, 28, 56), torch.randn(1, 3, 48)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images, text_embeds)

    output.logits.float().square().mean().backward()
    assert model.image_start_token.grad.any()


@pytest.mark.usefixtures("small")
def test_sequential_patches_example() -> None:
    from llava_core import LLaVANeXT

    model = LLaVANeXT().eval()
    patches = torch.randn(9, 3, 28, 28)
    projected = model.process_patches_sequential(patches, max_memory_mb=4096)
    with torch.no_grad():
        assert torch.equal(projected, model.projector.projector(model.image_processor(patches)))


def test_components_of_the_document() -> None:
    from llava_core import AnyResolutionProjector

    processor = DynamicImageProcessor(base_size=28, max_patches=5, patch_size=14, hidden_dim=64, num_layers=1)
    projector = AnyResolutionProjector(visual_dim=64, text_dim=96, num_layers=2)
    assert projector(processor(torch.randn(2, 3, 28, 28))).shape == (2, 4, 96)


@pytest.mark.parametrize("make", [lambda m: m.LLaVANeXT, lambda m: m.LLaVAOneVision, lambda m: m.DynamicImageProcessor])
def test_public_names(make: Callable[[Any], type]) -> None:
    import llava_core

    assert issubclass(make(llava_core), torch.nn.Module)
    assert set(llava_core.__all__) >= {"AnyResolutionProjector", "Engine", "LLaVAProcessor", "Size", "decode_image"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llava_core.nothing
