"""Each rule drops what lies beyond its threshold, by its own reason, and nothing on it."""

import dataclasses
from typing import Any

import pytest

from llava_core.errors import ConfigError
from pipelines.curation.rules import Rule, RulesConfig, active_rules, columns_of, fails, measured, unmeasured
from pipelines.errors import TableError
from schemas.selection import DropReason
from tests.pipelines.curation.score_cases import scores

TRIPS: list[tuple[str, Any, DropReason, dict[str, Any], dict[str, Any]]] = [
    ("min_side", 200, DropReason.TOO_SMALL, {"height": 199, "width": 900}, {"height": 900, "width": 200}),
    ("max_side", 900, DropReason.TOO_LARGE, {"height": 901, "width": 20}, {"height": 20, "width": 900}),
    ("max_aspect", 3.0, DropReason.ASPECT, {"aspect": 3.01}, {"aspect": 3.0}),
    ("formats", ("jpeg", "png"), DropReason.FORMAT, {"format": "gif"}, {"format": "png"}),
    ("min_blur", 80.0, DropReason.BLURRED, {"blur": 79.9}, {"blur": 80.0}),
    ("min_bright_end", 0.32, DropReason.TOO_DARK, {"brightness_p99": 0.31}, {"brightness_p99": 0.32}),
    ("max_dark_end", 0.95, DropReason.TOO_BRIGHT, {"brightness_p05": 0.96}, {"brightness_p05": 0.95}),
    ("min_contrast", 0.1, DropReason.LOW_CONTRAST, {"contrast": 0.09}, {"contrast": 0.1}),
    ("min_entropy", 3.0, DropReason.LOW_ENTROPY, {"entropy": 2.9}, {"entropy": 3.0}),
    ("max_saturation", 0.5, DropReason.OVERSATURATED, {"saturation": 0.6}, {"saturation": 0.5}),
    ("max_blockiness", 2.0, DropReason.BLOCKY, {"blockiness": 2.1}, {"blockiness": 2.0}),
    ("max_border", 0.5, DropReason.BORDER, {"border": 0.51}, {"border": 0.5}),
    ("min_text_chars", 6, DropReason.TEXT_TOO_SHORT, {"text_chars": 5}, {"text_chars": 6}),
    ("min_text_words", 3, DropReason.TEXT_TOO_FEW_WORDS, {"text_words": 2}, {"text_words": 3}),
    ("max_text_chars", 99, DropReason.TEXT_TOO_LONG, {"text_chars": 100}, {"text_chars": 99}),
    ("max_text_repetition", 0.4, DropReason.TEXT_REPETITIVE, {"repetition": 0.5}, {"repetition": 0.4}),
    ("scripts", ("Latin",), DropReason.TEXT_SCRIPT, {"script": "Cyrillic"}, {"script": "Latin"}),
    ("max_url_share", 0.2, DropReason.TEXT_URLS, {"url_share": 0.3}, {"url_share": 0.2}),
    (
        *("max_boilerplate_share", 0.2, DropReason.TEXT_BOILERPLATE),
        *({"boilerplate_share": 0.21}, {"boilerplate_share": 0.2}),
    ),
    ("max_flagged_share", 0.0, DropReason.TEXT_FLAGGED, {"flagged_share": 0.01}, {"flagged_share": 0.0}),
    ("min_clip_score", 0.28, DropReason.CLIP_SCORE, {"clip_score": 0.27}, {"clip_score": 0.28}),
    ("min_aesthetic", 5.0, DropReason.AESTHETIC, {"aesthetic": 4.9}, {"aesthetic": 5.0}),
    ("max_nsfw", 0.5, DropReason.NSFW, {"nsfw": 0.6}, {"nsfw": 0.5}),
    ("max_watermark", 0.8, DropReason.WATERMARK, {"watermark": 0.81}, {"watermark": 0.8}),
    (
        *("min_model_scores", {"clip": 0.3}, DropReason.MODEL_SCORE),
        *({"model_scores": [("other", 1.0), ("clip", 0.29)]}, {"model_scores": [("clip", 0.3), ("other", 0.0)]}),
    ),
    ("min_quality", 0.5, DropReason.LOW_QUALITY, {"quality": 0.4}, {"quality": 0.5}),
    ("max_image_tokens", 2000, DropReason.TOO_MANY_TOKENS, {"n_image_tokens": 2001}, {"n_image_tokens": 2000}),
]


@pytest.mark.parametrize(("name", "value", "reason", "bad", "good"), TRIPS, ids=[trip[0] for trip in TRIPS])
def test_a_threshold_drops_what_is_beyond_it(
    name: str, value: Any, reason: DropReason, bad: dict[str, Any], good: dict[str, Any]
) -> None:
    (rule,) = active_rules(RulesConfig(**{name: value}))
    assert rule.reason == reason
    assert fails(scores(good, bad, good), rule, "keep").tolist() == [False, True, False]


def test_every_field_has_a_trip_and_every_rule_a_reason_in_the_funnels_order() -> None:
    names = {one.name for one in dataclasses.fields(RulesConfig)} - {"missing"}
    assert names == {trip[0] for trip in TRIPS}
    rules = active_rules(RulesConfig(**{trip[0]: trip[1] for trip in TRIPS if trip[0] not in ("max_side",)}))
    places = [list(DropReason).index(rule.reason) for rule in rules]
    assert places == sorted(places)
    assert len(set(places)) == len(TRIPS) - 1


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_row_without_the_value_goes_as_the_config_says(value: float | None) -> None:
    (rule,) = active_rules(RulesConfig(min_clip_score=0.28))
    table = scores({"clip_score": value}, {"clip_score": 0.5})
    assert fails(table, rule, "keep").tolist() == [False, False]
    assert fails(table, rule, "drop").tolist() == [True, False]
    assert unmeasured(table, [rule]) == {DropReason.CLIP_SCORE: 1}


def test_text_values_may_be_missing_too() -> None:
    (rule,) = active_rules(RulesConfig(scripts=("Latin",)))
    table = scores({"script": None}, {"script": "Han"})
    assert fails(table, rule, "keep").tolist() == [False, True]
    assert fails(table, rule, "drop").tolist() == [True, True]
    assert unmeasured(scores({}), [rule]) == {}


def test_columns_are_named_once_and_missing_ones_refused() -> None:
    rules = active_rules(RulesConfig(min_side=1, max_aspect=2, min_blur=3, min_text_chars=1, max_text_chars=9))
    assert columns_of(rules) == ["width", "height", "aspect", "blur", "text_chars"]
    with pytest.raises(TableError, match=r"short_side needs the columns \['height'\]"):
        measured(scores({}).drop_columns(["height"]), "short_side")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_aspect": 0.5}, "max_aspect is 0.5; expected at least 1"),
        ({"min_side": 300, "max_side": 200}, "no row can meet both"),
        ({"min_blur": float("nan")}, "min_blur is nan"),
        ({"min_model_scores": {"clip": float("inf")}}, "min_model_scores is inf"),
        ({"missing": "maybe"}, "missing is 'maybe'"),
    ],
)
def test_wrong_thresholds_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RulesConfig(**values)


def test_a_rule_says_what_it_wants() -> None:
    assert Rule(reason=DropReason.NSFW, measure="nsfw", most=0.5).wanted == "nsfw ≤ 0.5"
