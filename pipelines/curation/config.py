"""Settings of the curation job; its command line is made from them.

What this does *not* do: look at the corpus or the cluster (`job` and `flow` do).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

import tyro

from llava_core.config import check_at_least, check_choice
from llava_core.errors import ConfigError
from pipelines.corpus_settings import CorpusColumns, CorpusSettings
from pipelines.curation import recipes
from pipelines.curation.balance import BalanceConfig
from pipelines.curation.dedupe import DedupeConfig
from pipelines.curation.probe import Quality
from pipelines.curation.report import Forecast
from pipelines.curation.rules import RulesConfig
from pipelines.curation.select import SelectConfig
from pipelines.curation.shard import Pixels
from pipelines.curation.shard_plan import ShardSize

Recipe = Literal["permissive", "datacomp_basic", "llava_highres"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurateConfig:
    """Turn a raw image-text corpus into training shards: probe, dedupe, select, shard, report."""

    input: tuple[str, ...]
    """Folders, Parquet files, WebDataset tars, JSONL or LLaVA JSON; local paths, s3:// or gs:// URIs."""
    output: str
    """Folder of the tables `scores`, `clusters`, `selection`, `shards` and (of `--against`) `references`, and of
    `report.html` and `diff.html`."""
    recipe: Recipe = "permissive"
    """Which rows are kept, as a whole; the thresholds below change it."""
    rules: Annotated[RulesConfig, tyro.conf.arg(name="")] = field(default_factory=RulesConfig)
    """Thresholds that differ from the recipe's."""
    without: tuple[str, ...] = ()
    """Thresholds of the recipe that are not asked for, by name, such as `min-blur`."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    """Caps and shares of sources, in place of the recipe's if any is set."""
    dedupe: DedupeConfig = field(default_factory=DedupeConfig)
    """What counts as a duplicate, and which copy survives."""
    against: tuple[str, ...] = ()
    """Evaluation images: rows that show one of them are dropped and reported. Inputs as above, or a table `scores`."""
    overrides: str | None = None
    """File of people's decisions, as the report saves it."""
    model: str = "llava-next"
    """Whose tiles and tokens are planned: "llava-next" (336-pixel tiles), "tiny", a checkpoint folder, the URI of
    one, a hub name."""
    model_revision: str | None = None
    """Revision of a hub name."""
    scorers: tuple[str, ...] = ()
    """Models that score images: `module:Class` or `module:Class=argument`, such as
    `pipelines.curation.scorers:ClipScorer=openai/clip-vit-base-patch32`."""
    quality: Quality = "blockiness"
    """What decides between copies of equal size: least blocky, or a score that the corpus or a scorer gives."""
    source_key: str = "source"
    """Metadata that names a row's source; else the first folder below its input does."""
    flagged_words: str | None = None
    """A list of words, one a line; their share of each text is measured."""
    pixels: Pixels = "encoded"
    """"encoded": shards hold the bytes as found. "tiles": uint8 tiles beside them."""
    size: ShardSize = field(default_factory=ShardSize)
    """Of shards and their row groups."""
    decoder_seconds: float = 20.0
    """Processor time for one image, above which it is refused (TIMEOUT)."""
    decoder_bytes: int = 2 * 2**30
    """Memory of a decoder, above which an image is refused (MEMORY)."""
    forecast: Forecast = field(default_factory=Forecast)
    """How the report estimates GPU-hours."""
    limit: int | None = None
    """Stop after this many rows of the corpus; all if left out."""
    plan: bool = False
    """Probe a sample, print rows, images/s and the time that the whole would take, and stop."""
    diff: bool = False
    """Say what these settings would drop and add, with pictures in `diff.html`, and stop; of what has been probed."""
    retry_rejected: bool = False
    """Try this run's rejected rows again, once, beside what is missing; what becomes of them takes their place."""
    overwrite: bool = False
    """Remove rows of probes with other settings from `scores` once this run is complete."""
    num_workers: int | None = None
    """Probes, one in each actor; one for each CPU if left out."""
    ray_address: str | None = None
    """A running Ray cluster; without one, and outside of `ray job submit`, Ray starts on this machine."""
    stall_timeout: float = 1800.0
    """Seconds without a finished fragment after which the job gives up rather than hang."""
    corpus: Annotated[CorpusSettings, tyro.conf.arg(name="")] = field(default_factory=CorpusSettings)
    """How the inputs are listed, cut and read."""
    columns: CorpusColumns = field(default_factory=CorpusColumns)
    """Where a table's rows keep their images and texts."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ConfigError("input is empty; expected at least one folder, file or URI to curate")
        for name in ("output", "model"):
            if not str(getattr(self, name)).strip():
                raise ConfigError(f"{name} is empty; expected text")
        check_choice("curate", "recipe", self.recipe, get_args(Recipe))
        check_choice("curate", "quality", self.quality, get_args(Quality))
        check_choice("curate", "pixels", self.pixels, get_args(Pixels))
        for name in ("limit", "num_workers"):
            check_at_least("curate", name, 1 if getattr(self, name) is None else getattr(self, name), 1)
        if self.stall_timeout <= 0:
            raise ConfigError(f"curate.stall_timeout is {self.stall_timeout}; expected more than 0 seconds")
        given, set_by_recipe = _set(self.rules), _set(getattr(recipes, self.recipe)().rules)
        for name in self._left_out:
            if name in given or name not in set_by_recipe:
                raise ConfigError(
                    f"without names {name}, which is {'given a value too' if name in given else 'not in the recipe'}; "
                    f"{self.recipe} has {', '.join(set_by_recipe)}"
                )

    @property
    def select(self) -> SelectConfig:
        """The recipe, with the thresholds that were changed and without those that were left out."""
        recipe: SelectConfig = getattr(recipes, self.recipe)()
        left_out = {name: getattr(RulesConfig(), name) for name in self._left_out}
        rules = dataclasses.replace(recipe.rules, **left_out, **_set(self.rules))
        balance = recipe.balance if self.balance == BalanceConfig() else self.balance
        return dataclasses.replace(recipe, rules=rules, balance=balance)

    @property
    def _left_out(self) -> list[str]:
        """`without`, spelled as fields are."""
        return [name.replace("-", "_") for name in self.without]


def _set(rules: RulesConfig) -> dict[str, Any]:
    """The thresholds that ask for something."""
    plain = RulesConfig()
    values = {one.name: getattr(rules, one.name) for one in dataclasses.fields(rules)}
    return {name: value for name, value in values.items() if value != getattr(plain, name)}
