"""A small vision tower of our own, for models that learn to see from nothing: convolutions first, then a short ViT.

    tiles[N, 3, S, S] ─ stem: five 3×3 convolutions, stride 8 ─▶ [N, C, S/8, S/8] ─ 2×2 cells side by side (space to
    depth), one linear layer, position ─▶ [N, P², D] ─ pre-norm ViT layers ─▶ [N, P², D]

Legend: N tiles, S tile side (px), C stem width, P = S/16 patches along a side, D tower width. A cell is 8×8 pixels, a
patch four cells.

The stem's normalisation is by batch only where `learn_statistics` is on (the training of a tower from nothing);
otherwise, and always outside training, it uses the statistics that were learned then, so that a tile's features never
depend on other tiles.

What this does *not* do: choose layers or normalise pixels (`vision_tower`).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from llava_core.errors import ConfigError

CELL = 8
"""Side of a cell of the stem, pixels."""
STRIDES = (2, 2, 1, 2, 1)
"""Of the stem's convolutions; their product is `CELL`."""


class StemVisionConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Settings, in transformers' spelling.

    Args:
        hidden_size: tower width D.
        intermediate_size: of the layers' MLPs.
        num_hidden_layers: ViT layers.
        num_attention_heads: of each.
        image_size: tile side S, pixels; a multiple of 16.
        patch_size: 16, two cells.
        stem_widths: channels of the five convolutions; the last is the stem's width C.
    """

    model_type = "stem_vision_model"

    def __init__(
        self,
        hidden_size: int = 256,
        intermediate_size: int = 512,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        image_size: int = 112,
        patch_size: int = 16,
        stem_widths: tuple[int, ...] = (16, 64, 96, 160, 192),
        **options: Any,
    ) -> None:
        if patch_size != 2 * CELL or image_size % patch_size or len(stem_widths) != len(STRIDES):
            raise ConfigError(
                f"a stem tower has patch_size {patch_size}, image_size {image_size}, {len(stem_widths)} stem_widths; "
                f"expected {2 * CELL}, a multiple of it and {len(STRIDES)}"
            )
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.image_size = image_size
        self.patch_size = patch_size
        self.stem_widths = tuple(stem_widths)
        super().__init__(**options)


class StemVisionModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The tower; its parts have the names that `vision_tower` walks."""

    config_class = StemVisionConfig
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True

    def __init__(self, config: StemVisionConfig) -> None:
        super().__init__(config)
        self.embeddings = StemEmbeddings(config)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList([StemLayer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, pixel_values: Tensor) -> Tensor:
        """All layers: normalised tiles float[N, 3, S, S] to float[N, P², D]."""
        hidden: Tensor = self.embeddings(pixel_values)
        for layer in self.encoder.layers:  # type: ignore[union-attr]
            hidden = layer(hidden, None)
        return hidden

    def _init_weights(self, module: nn.Module) -> None:
        """Parts initialise themselves."""


class StemEmbeddings(nn.Module):
    """Convolutions, cells joined to patches, and the patches' places."""

    def __init__(self, config: StemVisionConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, stride in zip(config.stem_widths, STRIDES, strict=True):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), StemNorm(width), nn.ReLU(inplace=True)]
            before = width
        self.stem = nn.Sequential(*layers)
        self.join = nn.Linear(4 * before, config.hidden_size)
        patches = (config.image_size // config.patch_size) ** 2
        self.position = nn.Parameter(torch.randn(patches, config.hidden_size) * 0.02)

    def forward(self, tiles: Tensor) -> Tensor:
        """Normalised tiles float[N, 3, S, S] to float[N, P², D]."""
        # Channels last is a third faster on CPUs.
        cells = self.stem(tiles.contiguous(memory_format=torch.channels_last))
        patches = F.pixel_unshuffle(cells, 2).flatten(2).transpose(1, 2)
        joined: Tensor = self.join(patches) + self.position
        return joined


class StemNorm(nn.Module):
    """Batch normalisation that uses learned statistics unless it is told to learn them.

    Args:
        width: channels.
    """

    running_mean: Tensor
    """float[C]."""
    running_var: Tensor
    """float[C]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.learn_statistics = False

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of float[N, C, h, w]."""
        learn = self.training and self.learn_statistics
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, learn, momentum=0.05)


class StemLayer(GradientCheckpointingLayer):  # type: ignore[no-untyped-call]
    """A pre-norm transformer layer; both of its outputs start at zero, so a new tower is its stem."""

    def __init__(self, config: StemVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)
        for last in (self.out, self.fc2):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, hidden: Tensor, attention_mask: None = None) -> Tensor:
        """float[N, P², D] to the same; every patch of a tile sees every other."""
        count, patches, width = hidden.shape
        qkv = self.qkv(self.norm1(hidden)).view(count, patches, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        hidden = hidden + self.out(seen.transpose(1, 2).reshape(count, patches, width))
        mixed: Tensor = hidden + self.fc2(F.gelu(self.fc1(self.norm2(hidden)), approximate="tanh"))
        return mixed
