"""The probe: one row out for each row in, the right facts in it, hashes that are a function of the bytes."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from llava_core.config import plan_tiles
from llava_core.errors import ConfigError
from llava_core.geometry import Size
from pipelines.corpus import plan_corpus
from pipelines.curation.clusters import ROWS
from pipelines.curation.config import CurateConfig
from pipelines.curation.dedupe import DedupeConfig, dedupe_table
from pipelines.curation.hashes import content_hash, phash, pixel_hash
from pipelines.curation.job import freeze
from pipelines.curation.look import look, probe_size
from pipelines.curation.looker import Looker
from pipelines.curation.models import LLAVA_NEXT
from pipelines.curation.probe import ProbeSettings, probe_rows, source_of
from pipelines.curation.probe_stage import ProbeStage
from pipelines.curation.recipes import llava_highres
from pipelines.curation.rules import active_rules, fails
from pipelines.curation.scorers import load_scorers
from pipelines.sandbox import SandboxSettings
from pipelines.tables import check_schema
from schemas.score import SCORE
from tests.pipelines.curation.pictures import encoded, row, scene
from tests.pipelines.hostile import hostile

SETTINGS = ProbeSettings(run_id="run0", model=LLAVA_NEXT)
BOX = SandboxSettings(decoder="tests.pipelines.hostile:decode")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Looker]:
    with Looker(BOX) as made:
        yield made


def probed(rows: list[Any], sandbox: Looker, settings: ProbeSettings = SETTINGS, **others: Any) -> list[dict[str, Any]]:
    table = probe_rows(rows, sandbox, settings, fragment_id="f0", root="/corpus", **others)
    assert table.schema.equals(SCORE)
    return list(table.to_pylist())


def test_every_row_comes_out_once_in_order_with_its_reason(sandbox: Looker) -> None:
    good = encoded(scene(1, 90, 130))
    rows = [
        row(0, good),
        row(1, b""),
        row(2, hostile(good, "crash")),
        row(3, error="NOT_FOUND", error_detail="gone"),
        row(4, good[:600]),
        row(5, encoded(scene(2, 40, 2100), "PNG")),
        row(6, good, b"<html>"),
        row(7, encoded(scene(7, 33, 47), "PNG")),
    ]
    found = probed(rows, sandbox)
    assert [one["uid"] for one in found] == [f"uid{number}" for number in range(8)]
    assert [one["error"] for one in found] == [
        None, "EMPTY", "DECODER_CRASH", "NOT_FOUND", "TRUNCATED", "ASPECT", "NOT_IMAGE", None,
    ]  # fmt: skip
    assert [one["status"] for one in found] == ["ok" if one["error"] is None else "rejected" for one in found]
    identity = {"uid", "uri", "fragment_id", "row_index", "run_id", "status", "source", "error", "error_detail"}
    for one in found[1:7]:
        assert {name for name, value in one.items() if value is not None} <= identity
    assert found[3]["error_detail"] == "gone"
    assert "SIGSEGV" in found[2]["error_detail"]


def test_what_is_in_a_row(sandbox: Looker) -> None:
    pixels = scene(3, 480, 640)
    data = encoded(pixels, "PNG")
    (found,) = probed([row(5, data, metadata={"Aesthetic_Score": 5.5, "punsafe": 0.25, "pwatermark": "no"})], sandbox)
    hashed = int(str(imagehash.phash(Image.fromarray(pixels))), 16)
    plan = plan_tiles(Size(480, 640), LLAVA_NEXT)
    expected = {
        "uri": "/corpus/web/5.jpg", "fragment_id": "f0", "row_index": 5, "run_id": "run0", "source": "web",
        "content_hash": content_hash(data), "pixel_hash": pixel_hash(pixels),
        "phash": hashed - (1 << 64 if hashed >> 63 else 0), "low_information": False,
        "num_images": 1, "file_bytes": len(data), "format": "PNG", "width": 640, "height": 480, "probe_scale": 1.0,
        "text": "Caption number 5", "text_words": 3, "script": "Latin", "num_turns": None, "n_text_tokens": 4,
        "aesthetic": 5.5, "nsfw": 0.25, "watermark": None, "clip_score": None, "model_scores": None,
        "grid_rows": 2, "grid_cols": 2, "canvas_h": 672, "canvas_w": 672, "n_tiles": 5,
        "n_image_tokens": plan.num_image_tokens,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert plan.num_image_tokens == 2340
    assert found["aspect"] == pytest.approx(4 / 3)
    assert found["quality"] == pytest.approx(-found["blockiness"], rel=1e-5)


def test_quality_follows_the_setting_and_signed_hashes_round_trip(sandbox: Looker) -> None:
    settings = ProbeSettings(run_id="r", model=LLAVA_NEXT, quality="aesthetic")
    rows = [row(n, encoded(scene(n)), metadata={"aesthetic": n / 4} if n else {}) for n in range(6)]
    found = probe_rows(rows, sandbox, settings, fragment_id="f", root="/corpus")
    assert found["quality"].to_pylist() == [None, 0.25, 0.5, 0.75, 1.0, 1.25]
    unsigned = found["phash"].combine_chunks().view(pa.uint64()).to_pylist()
    assert unsigned == [look(encoded(scene(n)))[0].phash for n in range(6)]
    assert any(value >> 63 for value in unsigned)


def test_orientation_is_applied_before_hashing(sandbox: Looker) -> None:
    from tests.llava_core.image_files import exif

    pixels = scene(4, 60, 100)
    turned = encoded(pixels, "PNG", exif=exif(6)[6:])
    found = probed([row(0, turned), row(1, encoded(np.rot90(pixels, -1).copy(), "PNG"))], sandbox)
    assert (found[0]["height"], found[0]["width"]) == (100, 60)
    assert found[0]["pixel_hash"] == found[1]["pixel_hash"]
    assert found[0]["phash"] == found[1]["phash"]
    assert found[0]["content_hash"] != found[1]["content_hash"]


def test_large_jpegs_are_decoded_reduced_and_both_hashes_are_of_those_pixels() -> None:
    data = encoded(scene(5, 1500, 2200), quality=90)
    facts, pixels = look(data)
    assert (facts.size, pixels.shape) == (Size(1500, 2200), (375, 550, 3))
    assert facts.scale == pytest.approx(0.25)
    assert facts.phash == phash(pixels).bits
    assert facts.pixel_hash != pixel_hash(pixels)
    whole = phash(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).bits
    assert (facts.phash ^ whole).bit_count() <= 2
    commented = data[:2] + b"\xff\xfe\x00\x06abcd" + data[2:]
    again = look(commented)[0]
    assert again.pixel_hash == facts.pixel_hash
    assert again.content_hash != facts.content_hash
    assert probe_size(Size(1023, 10)) is None
    assert probe_size(Size(10, 1024)) == Size(5, 512)


def test_several_images_share_a_row_and_have_no_phash(sandbox: Looker) -> None:
    one, two = encoded(scene(1, 50, 70)), encoded(scene(2, 80, 60))
    turns = [{"from": "human", "value": "<image><image>\nWhich?"}, {"from": "gpt", "value": "The first."}]
    rows = [
        row(n, *images, text=None, conversations=json.dumps(turns)) for n, images in enumerate([(one, two), (two, one)])
    ]
    found = probed(rows, sandbox)
    assert [row["error"] for row in found] == [None, None]
    assert (found[0]["num_images"], found[0]["file_bytes"]) == (2, len(one) + len(two))
    assert (found[0]["height"], found[1]["height"], found[0]["num_turns"]) == (50, 80, 2)
    assert found[0]["phash"] is None
    assert found[0]["pixel_hash"] != found[1]["pixel_hash"]
    plans = [plan_tiles(size, LLAVA_NEXT, num_images=2) for size in (Size(50, 70), Size(80, 60))]
    assert found[0]["n_image_tokens"] == sum(plan.num_image_tokens for plan in plans)


@pytest.mark.parametrize(
    ("turns", "error"),
    [
        ([("human", "<image>\nWhat?"), ("gpt", "A cat.")], None),
        ([("human", "<image><image>\nWhat?"), ("gpt", "A cat.")], "TOKEN_MISMATCH"),
        ([("human", "What?"), ("gpt", "A cat.")], "TOKEN_MISMATCH"),
        ([("gpt", "A cat."), ("human", "<image>\nWhat?")], "BAD_CONVERSATION"),
        ([("human", "<image>\nWhat?"), ("human", "What?")], "BAD_CONVERSATION"),
        ([("human", "<image>\nWhat?"), ("gpt", "")], "EMPTY_TEXT"),
        ([("human", "<image>\nWhat?"), ("gpt", "A cat."), ("human", "And?")], "BAD_CONVERSATION"),
        ([("human", "<image>\nWhat?"), ("gpt", "A cat."), ("human", "And?"), ("gpt", "A dog.")], None),
    ],
)
def test_conversations_that_cannot_be_trained_on_are_refused(
    sandbox: Looker, turns: list[tuple[str, str]], error: str | None
) -> None:
    conversations = json.dumps([{"from": speaker, "value": value} for speaker, value in turns])
    (found,) = probed([row(0, encoded(scene(1)), text=None, conversations=conversations)], sandbox)
    assert found["error"] == error


def test_the_probe_gives_what_deduplication_reads(sandbox: Looker) -> None:
    check_schema(SCORE)
    assert set(ROWS.names) <= set(SCORE.names)
    pixels = scene(8, 200, 260)
    rows = [
        row(0, encoded(pixels, quality=95)),
        row(1, encoded(pixels, quality=60)),
        row(2, encoded(scene(9, 200, 260))),
    ]
    scores = probe_rows(rows, sandbox, SETTINGS, fragment_id="f", root="/corpus")
    clusters, _ = dedupe_table(scores, DedupeConfig())
    assert clusters["survivor_uid"].to_pylist() == ["uid0", "uid0", "uid2"]
    assert clusters["kind"].to_pylist() == [None, "near", None]


class Mean:
    """A scorer: the mean of the red channel, and the length of the text."""

    def __init__(self, side: str = "16") -> None:
        self.side = int(side)

    def __call__(self, squares: Any, texts: Any) -> dict[str, Any]:
        assert squares.shape[1:] == (self.side, self.side, 3)
        reds = squares[..., 0].mean(axis=(1, 2))
        vectors = np.stack([reds, 255 - reds], axis=1)
        return {"red": reds, "embedding": vectors, "chars": np.array([len(text) or np.nan for text in texts])}


def test_scorers_are_any_class_and_skip_rejected_rows() -> None:
    scorers = load_scorers(["tests.pipelines.curation.test_probe:Mean=20"])
    reds = [np.full((30, 50, 3), (value, 9, 200), np.uint8) for value in (10, 200)]
    rows = [row(0, encoded(reds[0], "PNG")), row(1, b"no"), row(2, encoded(reds[1], "PNG"), text="")]
    with Looker(SandboxSettings(), square=20) as sandbox:
        found = probed(rows, sandbox, scorers=scorers)
    assert dict(found[0]["model_scores"]) == {"red": 10.0, "chars": 16.0}
    assert found[0]["embedding"] == [10.0, 245.0]
    assert found[1]["model_scores"] is None
    assert found[1]["embedding"] is None
    assert dict(found[2]["model_scores"]) == {"red": 200.0, "chars": None}
    for name in ("nowhere:Thing", "json:dumps", "tests.pipelines.curation.test_probe"):
        with pytest.raises(ConfigError, match=r"scorer"):
            load_scorers([name])
    with pytest.raises(ConfigError, match=r"\[16, 20\] pixels"):
        load_scorers(["tests.pipelines.curation.test_probe:Mean", "tests.pipelines.curation.test_probe:Mean=20"])


def test_clip_similarity_is_the_cosine_of_transformers_own_embeddings(tmp_path: Path) -> None:
    import torch
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    from tests.tiny_tokenizers import byte_level

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = byte_level()
    end = ("</s>", tokenizer.convert_tokens_to_ids("</s>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[end])
    tokenizer.pad_token = "</s>"
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 12, "eos_token_id": end[1]}
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 28, "patch_size": 7}, projection_dim=16)
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (scorer,) = load_scorers([f"pipelines.curation.scorers:ClipEmbedder={tmp_path}"])
    squares = np.stack([scene(1, 28, 28), scene(2, 28, 28), scene(3, 28, 28)])
    texts = ["a red fox", "", "a very long caption " * 9]
    answer = scorer(squares, texts)
    found = answer["clip_similarity"]
    assert scorer.side == 28
    assert np.isnan(found).tolist() == [False, True, False]
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    for at in (0, 2):
        pixels = processor(images=Image.fromarray(squares[at]), return_tensors="pt")["pixel_values"]
        words = tokenizer([texts[at]], truncation=True, max_length=12, return_tensors="pt")
        with torch.no_grad():
            out = model(**words, pixel_values=pixels)
        expected = float(out.logits_per_image.detach() / model.logit_scale.detach().exp())
        unit = out.image_embeds[0].detach().numpy()
        assert answer["embedding"][at] == pytest.approx(unit, abs=1e-5)
        # measured: below 1e-6
        assert found[at] == pytest.approx(expected, abs=1e-5)


def test_the_corpus_own_embedding_is_taken_over_and_goes_before_a_scorers() -> None:
    scorers = load_scorers(["tests.pipelines.curation.test_probe:Mean"])
    good = encoded(np.full((30, 50, 3), (10, 9, 200), np.uint8), "PNG")
    rows = [row(0, good, embedding=(0.25, -3.0)), row(1, good), row(2, good[:60], embedding=(1.0, 2.0))]
    with Looker(BOX, square=scorers[0].side) as looker:
        found = probed(rows, looker, scorers=scorers)
        plain = probed(rows, looker)
    assert [one["embedding"] for one in found] == [[0.25, -3.0], [10.0, 245.0], None]
    assert [one["embedding"] for one in plain] == [[0.25, -3.0], None, None]


class Cosine:
    """A scorer of image and text as `ClipScorer` names it: a hundredth of the first pixel's red; NaN without text."""

    side = 16

    def __call__(self, squares: np.ndarray[Any, Any], texts: list[str]) -> dict[str, np.ndarray[Any, Any]]:
        blank = np.array([not text for text in texts])
        return {"clip_similarity": np.where(blank, np.nan, squares[:, 0, 0, 0] / 100)}


def test_a_score_that_the_corpus_lacks_is_the_scorers() -> None:
    good = encoded(np.full((30, 50, 3), (25, 9, 200), np.uint8), "PNG")
    rows = [row(0, good), row(1, good, metadata={"similarity": 0.75}), row(2, good, text=""), row(3, b"no")]
    settings = ProbeSettings(run_id="run0", model=LLAVA_NEXT, quality="clip_score")
    with Looker(BOX, square=16) as looker:
        found = probed(rows, looker, settings, scorers=[Cosine()])
    assert [one["clip_score"] for one in found] == [0.25, 0.75, None, None]
    assert [one["quality"] for one in found] == [0.25, 0.75, None, None]
    assert dict(found[1]["model_scores"]) == {"clip_similarity": 0.25}, "what the scorer said stays"
    (rule,) = (one for one in active_rules(llava_highres().rules) if one.measure == "clip_score")
    assert fails(pa.Table.from_pylist(found[:2], SCORE), rule, "drop").tolist() == [False, False]


def test_sources(sandbox: Looker) -> None:
    assert source_of("/d/web/1.jpg", "/d/") == "web"
    assert source_of("s3://b/x/y.tar", "s3://b/x") == "x"
    rows = [row(number, metadata={"source": named}) for number, named in enumerate((" cc3m ", "  ", 7))]
    assert [one["source"] for one in probed(rows, sandbox)] == ["cc3m", "web", "web"]


def sources(stage: ProbeStage, *inputs: Path) -> dict[str, str]:
    """The source of each row, by the end of its uri."""
    fragments = plan_corpus([str(one) for one in inputs])
    rows = [one for fragment in fragments for one in stage.table(fragment).to_pylist()]
    return {one["uri"].rpartition("/")[2]: one["source"] for one in rows}


def test_sources_are_the_folders_below_an_input_also_where_it_is_a_glob(tmp_path: Path) -> None:
    corpus, bracketed = tmp_path / "corpus", tmp_path / "some [v1]"
    for place in ("web/a/1.jpg", "docs/2.jpg", "3.jpg", "web/4.jsonl"):
        (corpus / place).parent.mkdir(parents=True, exist_ok=True)
        (corpus / place).write_bytes(encoded(scene(1)) if place.endswith("g") else b'{"image": "a/1.jpg"}\n')
    tars = tmp_path / "tars"
    tars.mkdir()
    with tarfile.open(tars / "x.tar", "w") as archive:
        archive.add(corpus / "3.jpg", "shown/5.jpg")
    stage = ProbeStage(freeze(CurateConfig(input=(str(corpus),), output=str(tmp_path / "out"))).probe)
    try:
        images = {"1.jpg": "web", "2.jpg": "docs", "3.jpg": "corpus"}
        assert sources(stage, corpus) == images
        assert sources(stage, corpus / "*") == images | {"4.jsonl#0": "web"}
        assert sources(stage, tmp_path / "c*" / "*" / "**" / "*.jpg") == {"1.jpg": "corpus", "2.jpg": "corpus"}
        corpus.rename(bracketed)
        assert sources(stage, bracketed) == images | {"3.jpg": bracketed.name}
        # folders within a tar are no folders of the input
        assert sources(stage, tars) == sources(stage, tars / "*.tar") == {"5": "tars"}
        assert sources(stage, tars / "x.tar") == {"5": "x.tar"}
    finally:
        stage.looker.close()
