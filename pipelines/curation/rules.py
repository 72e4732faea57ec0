"""Which rows a selection wants: thresholds over the columns of `scores`, each with a reason of its own.

    RulesConfig(min_side=200) ─ active_rules ─▶ Rule(TOO_SMALL, "short_side", least=200) ─ fails ─▶ bool[N]

A threshold that is None is not looked at. A row *without* the measurement (null or NaN) passes or fails by
`RulesConfig.missing`, never by accident. What this does *not* do: know duplicates (`select`) or shares (`balance`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llava_core.config import check_choice
from llava_core.errors import ConfigError
from pipelines.errors import TableError
from schemas.selection import DropReason

Bools = NDArray[np.bool_]
Missing = Literal["keep", "drop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RulesConfig:
    """Thresholds; a row has to meet all of them. None, or an empty tuple, asks for nothing."""

    min_side: int | None = None
    """Shorter side, pixels."""
    max_side: int | None = None
    """Longer side, pixels."""
    max_aspect: float | None = None
    """Longer side divided by the shorter, ≥ 1."""
    formats: tuple[str, ...] = ()
    """Formats that are wanted, as `scores.format` spells them; all if empty."""
    min_blur: float | None = None
    """Variance of the Laplacian on grey, longest side scaled to 512; sharp photos have hundreds."""
    min_bright_end: float | None = None
    """Brightness, 0 to 1, that 1 % of the pixels exceed (`brightness_p99`): below it the image is dark."""
    max_dark_end: float | None = None
    """Brightness, 0 to 1, that 5 % of the pixels do not exceed (`brightness_p05`): above it the image is washed out."""
    min_contrast: float | None = None
    """Standard deviation of grey, 0 to 0.5."""
    min_entropy: float | None = None
    """Of the grey histogram, bits, 0 to 8."""
    max_saturation: float | None = None
    """Mean distance of the strongest from the weakest channel, 0 to 1."""
    max_blockiness: float | None = None
    """Steps at JPEG's 8-pixel grid relative to steps elsewhere, 1 for none."""
    max_border: float | None = None
    """Share of the image that is a uniform border, 0 to 1."""
    min_text_chars: int | None = None
    """Characters of the caption or of all turns; a row without text has 0."""
    min_text_words: int | None = None
    """Words of it."""
    max_text_chars: int | None = None
    """Characters of it."""
    max_text_repetition: float | None = None
    """Share of the text that repeats itself, 0 to 1."""
    scripts: tuple[str, ...] = ()
    """Scripts that are wanted, as `scores.script` spells them ("Latin"); all if empty."""
    max_url_share: float | None = None
    """Share of characters in web and mail addresses, 0 to 1."""
    max_boilerplate_share: float | None = None
    """Share of characters in file names and stock phrases, 0 to 1."""
    max_flagged_share: float | None = None
    """Share of words that are in the user's list, 0 to 1."""
    min_clip_score: float | None = None
    """Cosine of image and text embeddings, as the corpus gives it, or a scorer of the probe."""
    min_aesthetic: float | None = None
    """Aesthetic score, as the corpus gives it."""
    max_nsfw: float | None = None
    """Probability of unsafe content, as the corpus gives it."""
    max_watermark: float | None = None
    """Probability of a watermark, as the corpus gives it."""
    min_model_scores: Mapping[str, float] = field(default_factory=dict)
    """Least score of each scorer that the probe ran, by its name in `scores.model_scores`."""
    min_quality: float | None = None
    """As `scores.quality`; what it means is the probe's to say."""
    max_image_tokens: int | None = None
    """Image tokens of the row's tile plans."""
    missing: Missing = "keep"
    """What becomes of a row that has no value for a threshold: "keep" passes that threshold, "drop" fails it."""

    def __post_init__(self) -> None:
        check_choice("rules", "missing", self.missing, ("keep", "drop"))
        for one in fields(self):
            value = getattr(self, one.name)
            for number in value.values() if isinstance(value, Mapping) else (value,):
                if isinstance(number, float | int) and not np.isfinite(number):
                    raise ConfigError(f"rules.{one.name} is {number}; expected a finite number")
        if self.max_aspect is not None and self.max_aspect < 1:
            raise ConfigError(f"rules.max_aspect is {self.max_aspect}; expected at least 1, longer by shorter side")
        for least, most in (("min_side", "max_side"), ("min_text_chars", "max_text_chars")):
            low, high = getattr(self, least), getattr(self, most)
            if low is not None and high is not None and low > high:
                raise ConfigError(f"rules.{least} is {low} and rules.{most} is {high}; no row can meet both")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One threshold."""

    reason: DropReason
    """What a row that fails it is dropped for."""
    measure: str
    """What it looks at: a column of `scores`, a key of `MEASURES`, or `model_scores.` and the name of a scorer."""
    least: float | None = None
    """Smallest value that passes."""
    most: float | None = None
    """Largest value that passes."""
    allowed: tuple[str, ...] = ()
    """Values that pass, for texts."""

    @property
    def wanted(self) -> str:
        """What a row has to be, for people.

        >>> Rule(reason=DropReason.BLURRED, measure="blur", least=80).wanted
        'blur ≥ 80'
        """
        if self.allowed:
            return f"{self.measure} is {' or '.join(self.allowed)}"
        return f"{self.measure} ≥ {self.least:g}" if self.least is not None else f"{self.measure} ≤ {self.most:g}"


_FIELDS: tuple[tuple[str, DropReason, str], ...] = (
    ("min_side", DropReason.TOO_SMALL, "short_side"),
    ("max_side", DropReason.TOO_LARGE, "long_side"),
    ("max_aspect", DropReason.ASPECT, "aspect"),
    ("formats", DropReason.FORMAT, "format"),
    ("min_blur", DropReason.BLURRED, "blur"),
    ("min_bright_end", DropReason.TOO_DARK, "brightness_p99"),
    ("max_dark_end", DropReason.TOO_BRIGHT, "brightness_p05"),
    ("min_contrast", DropReason.LOW_CONTRAST, "contrast"),
    ("min_entropy", DropReason.LOW_ENTROPY, "entropy"),
    ("max_saturation", DropReason.OVERSATURATED, "saturation"),
    ("max_blockiness", DropReason.BLOCKY, "blockiness"),
    ("max_border", DropReason.BORDER, "border"),
    ("min_text_chars", DropReason.TEXT_TOO_SHORT, "text_chars"),
    ("min_text_words", DropReason.TEXT_TOO_FEW_WORDS, "text_words"),
    ("max_text_chars", DropReason.TEXT_TOO_LONG, "text_chars"),
    ("max_text_repetition", DropReason.TEXT_REPETITIVE, "repetition"),
    ("scripts", DropReason.TEXT_SCRIPT, "script"),
    ("max_url_share", DropReason.TEXT_URLS, "url_share"),
    ("max_boilerplate_share", DropReason.TEXT_BOILERPLATE, "boilerplate_share"),
    ("max_flagged_share", DropReason.TEXT_FLAGGED, "flagged_share"),
    ("min_clip_score", DropReason.CLIP_SCORE, "clip_score"),
    ("min_aesthetic", DropReason.AESTHETIC, "aesthetic"),
    ("max_nsfw", DropReason.NSFW, "nsfw"),
    ("max_watermark", DropReason.WATERMARK, "watermark"),
    ("min_model_scores", DropReason.MODEL_SCORE, "model_scores"),
    ("min_quality", DropReason.LOW_QUALITY, "quality"),
    ("max_image_tokens", DropReason.TOO_MANY_TOKENS, "n_image_tokens"),
)
"""Field of `RulesConfig`, reason, measure; in the order of `DropReason`."""


def _short_side(scores: pa.Table) -> Any:
    return pc.min_element_wise(scores["width"], scores["height"], skip_nulls=False)


def _long_side(scores: pa.Table) -> Any:
    return pc.max_element_wise(scores["width"], scores["height"], skip_nulls=False)


MEASURES: dict[str, tuple[tuple[str, ...], Callable[[pa.Table], Any]]] = {
    "short_side": (("width", "height"), _short_side),
    "long_side": (("width", "height"), _long_side),
}
"""Measures that are not columns: the columns that they are made of, and how."""


def active_rules(config: RulesConfig) -> tuple[Rule, ...]:
    """The thresholds that a config sets, in the order of their reasons.

    Example:
        >>> [rule.wanted for rule in active_rules(RulesConfig(max_aspect=3, formats=("jpeg", "png")))]
        ['aspect ≤ 3', 'format is jpeg or png']
    """
    rules = []
    for name, reason, measure in _FIELDS:
        value = getattr(config, name)
        if isinstance(value, Mapping):
            rules += [Rule(reason=reason, measure=f"{measure}.{key}", least=least) for key, least in value.items()]
        elif isinstance(value, tuple):
            rules += [Rule(reason=reason, measure=measure, allowed=value)] if value else []
        elif value is not None:
            low, high = (value, None) if name.startswith("min_") else (None, value)
            rules.append(Rule(reason=reason, measure=measure, least=low, most=high))
    return tuple(rules)


def columns_of(rules: Iterable[Rule]) -> list[str]:
    """Columns of `scores` that rules look at, each once."""
    return list(dict.fromkeys(name for rule in rules for name in _sources(rule.measure)))


def _sources(measure: str) -> tuple[str, ...]:
    return MEASURES[measure][0] if measure in MEASURES else (measure.partition(".")[0],)


def measured(scores: pa.Table, measure: str) -> pa.ChunkedArray:
    """The values of a measure, one for each row.

    Raises:
        TableError: the table lacks the columns.
    """
    if missing := [name for name in _sources(measure) if name not in scores.column_names]:
        raise TableError(f"the measure {measure} needs the columns {missing}; there are {scores.column_names}")
    if measure in MEASURES:
        return MEASURES[measure][1](scores)
    column, _, key = measure.partition(".")
    return pc.map_lookup(scores[column], key, "first") if key else scores[column]


def fails(scores: pa.Table, rule: Rule, missing: Missing) -> Bools:
    """Which rows do not meet a rule: bool[N].

    Example:
        >>> rule = Rule(reason=DropReason.TEXT_TOO_LONG, measure="text_chars", most=40)
        >>> fails(pa.table({"text_chars": [40, 41, None]}), rule, "drop").tolist()
        [False, True, True]
    """
    values = measured(scores, rule.measure)
    if rule.allowed:
        bad = pc.invert(pc.is_in(values, value_set=pa.array(rule.allowed, values.type)))
    else:
        # In the column's own precision: 0.3 as float32 is above 0.3, and a value on the threshold passes.
        kind = values.type if pa.types.is_floating(values.type) else pa.float64()
        least = rule.least is not None
        bad = (pc.less if least else pc.greater)(values, pa.scalar(rule.least if least else rule.most, kind))
    return to_bools(pc.if_else(pc.is_null(values, nan_is_null=True), missing == "drop", bad))


def to_bools(values: pa.ChunkedArray | pa.Array) -> Bools:
    """bool[N] of Arrow booleans without nulls."""
    found: Bools = np.asarray(
        values.to_numpy(**({} if isinstance(values, pa.ChunkedArray) else {"zero_copy_only": False}))
    )
    return found


def unmeasured(scores: pa.Table, rules: Sequence[Rule]) -> dict[DropReason, int]:
    """Rows that have no value for a rule, by its reason; rules that all rows have values for are left out."""
    nulls = {
        rule.reason: pc.sum(pc.is_null(measured(scores, rule.measure), nan_is_null=True)).as_py() for rule in rules
    }
    return {reason: count for reason, count in nulls.items() if count}
