"""A stage of training: what is unfrozen and how fast it learns, on which samples, for how long.

    parts   image_processor.* ─ vision_tower      projector.* ─ projector
            image_newline, start and end tokens, temporal_encoder.* ─ projector    language_model.* ─ language_model

What this does *not* do: name the stages that belong together (`recipes`), freeze or optimise anything (`optimizer`).
"""

from dataclasses import dataclass, field
from typing import Literal, get_args

from llava_core.config import check_at_least, check_choice
from llava_core.errors import ConfigError
from llava_core.losses import LossConfig
from llava_core.prompts import ImagePlacement

Part = Literal["vision_tower", "projector", "newline", "language_model", "extra"]
"""What has a learning rate of its own. "newline" is `image_newline` with the document's start and end tokens, which the
released code trains at the language model's rate; "extra" are the heads of extra losses."""
Normalisation = Literal["global", "device", "square"]
Optimizer = Literal["adamw", "muon"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters in the language model's linear layers; everything else there stays frozen."""

    rank: int = 128
    """Width of an adapter; 128 in LLaVA 1.5's own recipe."""
    alpha: int = 256
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = 0.05
    """Of the adapter's input."""

    def __post_init__(self) -> None:
        check_at_least("lora", "rank", self.rank, 1)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout is {self.dropout}; expected 0 <= dropout < 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage."""

    name: str
    """Names its folder in the output; the document's are `align`, `instruct` and `highres`."""
    learning_rates: dict[Part, float]
    """Peak learning rate of each part that trains; a part that is not named is frozen."""
    batch_size: int
    """Samples of one optimiser step, over all workers."""
    row_tokens: int = 4096
    """Most tokens of one packed row, the unit that a worker runs at once; a longer sample is refused (TOO_LONG)."""
    epochs: float = 1.0
    """Times that the samples are seen."""
    max_steps: int | None = None
    """Stop after so many steps, although samples are left; the learning rate then falls to 0 over these."""
    warmup_ratio: float = 0.03
    """Part of the stage over which the learning rate rises from 0."""
    warmup_steps: int | None = None
    """Steps over which it rises, in place of the ratio."""
    weight_decay: float = 0.0
    """Of matrices; biases, norms and single vectors never decay."""
    optimizer: Optimizer = "adamw"
    """"muon" moves the matrices of linear layers and convolutions by Muon, the rest by AdamW; see `muon`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    eps: float = 1e-8
    """Of AdamW."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm; None leaves them."""
    normalisation: Normalisation = "global"
    """"global": the loss is the mean over all answer tokens of the step. "device": the mean over workers and rows of
    their own means, as the released code has it. "square": a weighted mean over the step, in which each token of an
    answer of n weighs 1/√n, so that long answers do not drown short ones (InternVL 2.5's "square averaging")."""
    losses: LossConfig = field(default_factory=LossConfig)
    """Weights of language, description and alignment losses."""
    extra_losses: tuple[str, ...] = ()
    """Losses of others' making, `module:Class`; see `module.ExtraLoss`."""
    max_tiles: int | None = None
    """Most tiles of an image beyond its base tile; 0 trains on the base tile alone, None on all that the model has."""
    template: str | None = None
    """Prompt template of this stage; None for the model's own."""
    image_placement: ImagePlacement = "front"
    """Where a turn's only image goes; see `prompts.render`."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of matrix products, by autocast; weights, gradients and the optimiser stay float32."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass rather than keep them."""
    lora: LoraConfig | None = None
    """Train adapters in the language model in place of its weights; "language_model" must then have a rate."""
    inputs: tuple[str, ...] = ()
    """What this stage reads, in place of the job's inputs."""
    weights: tuple[float, ...] = ()
    """Of each input: times that each of its samples is seen in an epoch; () for 1 each."""

    def __post_init__(self) -> None:
        for part in self.learning_rates:
            check_choice(f"stage {self.name}", "learning_rates", part, get_args(Part))
        if not self.learning_rates or min(self.learning_rates.values()) <= 0:
            raise ConfigError(f"stage {self.name}: learning_rates is {self.learning_rates}; nothing would train")
        check_choice(f"stage {self.name}", "normalisation", self.normalisation, get_args(Normalisation))
        check_choice(f"stage {self.name}", "optimizer", self.optimizer, get_args(Optimizer))
        check_choice(f"stage {self.name}", "precision", self.precision, ("float32", "bfloat16"))
        for name in ("batch_size", "row_tokens"):
            check_at_least(f"stage {self.name}", name, getattr(self, name), 1)
        if self.max_steps is not None:
            check_at_least(f"stage {self.name}", "max_steps", self.max_steps, 1)
        if self.epochs <= 0:
            raise ConfigError(f"stage {self.name}: epochs is {self.epochs}; expected more than 0")
        if self.lora is not None and "language_model" not in self.learning_rates:
            raise ConfigError(f"stage {self.name}: lora needs a learning rate for language_model; none is set")

    @property
    def trainable(self) -> frozenset[Part]:
        """The parts that are not frozen."""
        return frozenset(self.learning_rates)


def part_of(name: str) -> Part:
    """The part that a tensor of the model belongs to.

    Args:
        name: as `LLaVANeXT.named_parameters` gives it.

    Example:
        >>> part_of("projector.projector.0.weight"), part_of("image_newline")
        ('projector', 'newline')
    """
    first = name.split(".", 1)[0]
    parts: dict[str, Part] = {
        "image_processor": "vision_tower",
        "projector": "projector",
        "temporal_encoder": "projector",
        "image_newline": "newline",
        "image_start_token": "newline",
        "image_end_token": "newline",
        "language_model": "language_model",
    }
    if first not in parts:
        raise ConfigError(f"{name} belongs to no part that a stage can train; known are {', '.join(parts)}")
    return parts[first]
