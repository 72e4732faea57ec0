"""Settings of the training job; its command line is made from them.

What this does *not* do: look at data, model or cluster (`job` and `flow` do, before any work starts).
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from llava_core.checkpoints import Layout
from llava_core.config import check_at_least, check_choice
from llava_core.errors import ConfigError
from pipelines.training.recipes import FRESH, RECIPES, Recipe, RecipeName
from pipelines.training.stages import LoraConfig, Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Train a model through the stages of a recipe; the same command again goes on where it was."""

    output: str = "out/trained"
    """Folder, or s3:// URI, of checkpoints, metrics, `train_report.html` and the trained model in `model`."""
    input: tuple[str, ...] = ()
    """Tables `shards` of curate_corpus, LLaVA JSON, any other corpus, or `module:Class`; a stage may name its own."""
    image_root: str | None = None
    """Folder that relative image URIs of a corpus start from and must stay in; that of the file with them if left
    out."""
    weights: tuple[float, ...] = ()
    """Of each input: times that each of its samples is seen in an epoch, fractions allowed; 1 each if left out."""
    model: str | None = None
    """What the first stage begins with: "tiny" (embedded), a local checkpoint folder, a hub name or a URI. Left out:
    "tiny"; for recipe `tiny`, a new model ("fresh")."""
    recipe: RecipeName = "document"
    """The stages, with all their settings; those below change them."""
    stages: tuple[str, ...] = ()
    """Names of the recipe's stages to run, in its order; all if left out."""
    limit_steps: int | None = None
    """Stop each stage after this many steps."""
    limit: int | None = None
    """Read about this many rows of each input; all if left out."""
    batch_size: int | None = None
    """Samples of one optimiser step over all workers, in place of the recipe's."""
    row_tokens: int | None = None
    """Most tokens of a packed row, in place of the recipe's."""
    epochs: float | None = None
    """Times that the samples are seen in each stage, in place of the recipe's."""
    precision: Literal["float32", "bfloat16"] | None = None
    """Of matrix products, in place of the recipe's."""
    optimizer: Optimizer | None = None
    """"adamw" or "muon" (matrices by Muon, the rest by AdamW), in place of the recipe's."""
    lora_rank: int | None = None
    """Train adapters of this rank (alpha twice as much) in place of the language model's weights, by peft (the `[lora]`
    extra)."""
    seed: int = 0
    """Of the order of samples, and of everything drawn."""
    layout: Layout | None = None
    """Of the trained model in `model`: "hf" is transformers', "own" keeps what that cannot say. Left out: "hf" where
    that can say the model, else "own", as for "tiny", whose tower is our own."""
    skip: tuple[str, ...] = ()
    """Ids of samples to leave out from here on, as a stop for a loss that is no good names them."""
    plan: bool = False
    """Run a few steps of each stage, print samples, steps, tokens/s and what the whole would take, and stop."""
    price_per_hour: float | None = None
    """Of one device (a GPU, or the cores of one worker), for the cost that --plan says; any currency."""
    checkpoint_steps: int = 500
    """Steps between checkpoints: what a crash can cost. A job that is asked to stop saves the step it is in."""
    keep_checkpoints: int = 2
    """Checkpoints of a stage that stay."""
    overwrite: bool = False
    """Where the output holds a run with other settings or data: train anew the stages that these change."""
    num_workers: int | None = None
    """Workers, one model or shard of it in each; one for each GPU, or one in all without, if left out."""
    min_workers: int | None = None
    """Begin and go on with as few as this where nodes are missing, and grow again (Ray Train's elastic training)."""
    gpus_per_worker: float | None = None
    """0 for CPU only; 1 where the cluster has GPUs if left out."""
    loader_threads: int = 2
    """Threads that decode images, on each worker."""
    max_failures: int = 3
    """Times that workers which died are started again, from the newest checkpoint; lost nodes do not count."""
    ray_address: str | None = None
    """A running Ray cluster; without one, and outside of `ray job submit`, Ray starts on this machine."""
    stall_timeout: float = 1800.0
    """Seconds without a finished step after which the job gives up rather than hang; reading, hashing and writing
    models, which may take hours, does not count."""

    def __post_init__(self) -> None:
        for name in ("output", "start"):
            if not str(getattr(self, name)).strip():
                raise ConfigError(f"{'model' if name == 'start' else name} is empty; expected text")
        check_choice("train", "recipe", self.recipe, get_args(RecipeName))
        if self.layout is not None:
            check_choice("train", "layout", self.layout, get_args(Layout))
        for name in ("limit_steps", "limit", "batch_size", "row_tokens", "num_workers", "min_workers", "lora_rank"):
            check_at_least("train", name, 1 if getattr(self, name) is None else getattr(self, name), 1)
        for name in ("checkpoint_steps", "keep_checkpoints", "loader_threads"):
            check_at_least("train", name, getattr(self, name), 1)
        for name in ("max_failures", "price_per_hour"):
            check_at_least("train", name, getattr(self, name) or 0, 0)
        if self.weights and len(self.weights) != len(self.input):
            raise ConfigError(
                f"weights has {len(self.weights)} numbers for {len(self.input)} inputs; give one for each"
            )
        if self.min_workers is not None and self.min_workers > (self.num_workers or self.min_workers):
            raise ConfigError(f"min_workers is {self.min_workers}, more than num_workers {self.num_workers}")
        for stage in self.chosen:
            if not stage.inputs and not self.input:
                raise ConfigError(
                    f"input is empty, and stage {stage.name} of recipe {self.recipe} names none of its own"
                )

    @property
    def start(self) -> str:
        """What the first stage begins with."""
        begins = FRESH if self.recipe == "tiny" else "tiny"
        return begins if self.model is None else self.model

    @property
    def chosen(self) -> Recipe:
        """The recipe's stages, with what was changed."""
        stages = RECIPES[self.recipe]()
        known = [stage.name for stage in stages]
        if unknown := sorted(set(self.stages) - set(known)):
            raise ConfigError(f"recipe {self.recipe} has no stage {', '.join(unknown)}; it has {', '.join(known)}")
        changed: dict[str, object] = {
            "batch_size": self.batch_size,
            "row_tokens": self.row_tokens,
            "epochs": self.epochs,
            "precision": self.precision,
            "optimizer": self.optimizer,
        }
        given = {name: value for name, value in changed.items() if value is not None}
        if self.lora_rank is not None:
            given["lora"] = LoraConfig(rank=self.lora_rank, alpha=2 * self.lora_rank)
        chosen = []
        for stage in stages:
            if self.stages and stage.name not in self.stages:
                continue
            own = {k: v for k, v in given.items() if k != "lora" or "language_model" in stage.trainable}
            steps = min((n for n in (stage.max_steps, self.limit_steps) if n is not None), default=None)
            inputs = {} if stage.inputs else {"inputs": self.input, "weights": self.weights}
            chosen.append(dataclasses.replace(stage, max_steps=steps, **own, **inputs))  # type: ignore[arg-type]
        return tuple(chosen)
