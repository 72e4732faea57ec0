"""The order of samples, mixtures, what a sample is, packing and balance; without a model's weights."""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_core.errors import ConfigError
from llava_core.geometry import Size
from llava_core.labels import IGNORE_INDEX
from llava_core.processor import LLaVAProcessor
from pipelines import tables
from pipelines.corpus import plan_corpus
from pipelines.training.data import Cursor, Order, Place, StepStream, cursor_from
from pipelines.training.packing import Cost, plan_rounds
from pipelines.training.samples import Sample, Sampler, Unusable
from pipelines.training.sources import TrainRow, index_inputs, open_source
from schemas.shard import SHARD
from tests.pipelines.curation import shard_cases
from tests.pipelines.training import cases

COST = Cost(per_tile=100.0, per_token=1.0, per_pair=0.0, per_target=0.0, per_target_pair=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_both(tmp_path_factory.mktemp("data"), 24)


@pytest.fixture(scope="module")
def processor(folder: Path) -> LLaVAProcessor:
    return LLaVAProcessor.from_pretrained(folder / "untrained")


def places(order: Order) -> list[Place]:
    return [order[i] for i in range(len(order))]


def test_an_epoch_has_each_row_once_and_another_order_each_time() -> None:
    units = [[3, 5, 2, 4] * 5, [7, 1]]
    first, second = (places(Order(units, (1.0, 1.0), seed=3, epoch=epoch)) for epoch in (0, 1))
    every = {Place(s, u, r) for s, rows in enumerate(units) for u, count in enumerate(rows) for r in range(count)}
    assert Counter(first) == Counter(second) == Counter(every)
    assert first != second
    assert first == places(Order(units, (1.0, 1.0), seed=3, epoch=0))
    assert first != places(Order(units, (1.0, 1.0), seed=4, epoch=0))
    # units come shuffled, and not all of the first eight at the beginning
    assert {place.unit for place in first[:20] if place.source == 0} != set(range(8))


def test_weights_are_passes_and_every_stretch_has_the_mixture() -> None:
    units = [[50] * 4, [40]]
    order = places(Order(units, (0.5, 2.25), seed=0, epoch=0))
    counts = Counter(place.source for place in order)
    assert counts == {0: 100, 1: 90}
    seen = Counter((place.unit, place.row) for place in order if place.source == 1)
    assert Counter(seen.values()) == {2: 30, 3: 10}
    assert max(Counter((p.unit, p.row) for p in order if p.source == 0).values()) == 1
    for start in range(0, 180, 20):
        assert 9 <= sum(place.source for place in order[start : start + 20]) <= 10


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0)])
def test_weights_that_are_none_are_refused(weights: Sequence[float], processor: LLaVAProcessor, folder: Path) -> None:
    sources = [open_source(index_inputs([str(folder / "corpus/data.json")])[0])] * 2
    with pytest.raises(ConfigError, match=r"weights .* for 2 inputs"):
        StepStream(sources, weights, Sampler(processor, cases.stage()), batch_size=2, epochs=1, seed=0)


def stream(folder: Path, processor: LLaVAProcessor, **settings: Any) -> StepStream:
    source = open_source(index_inputs([str(folder / "corpus/data.json")])[0])
    values: dict[str, Any] = {"batch_size": 7, "epochs": 1.0, "seed": 0, **settings}
    return StepStream([source], (), Sampler(processor, cases.stage()), **values)


def test_steps_go_on_from_any_cursor_and_count_what_they_leave_out(folder: Path, processor: LLaVAProcessor) -> None:
    whole = list(stream(folder, processor, epochs=2.5).steps(Cursor()))
    uids = [[sample.row.uid for sample in samples] for samples, _, _ in whole]
    assert [len(one) for one in uids[:-1]] == [7] * (len(uids) - 1)
    end = whole[-1][2]
    # 26 rows, one of which cannot be read: two and a half times
    assert end.taken == 65 and end.used == sum(map(len, uids)) and end.epoch == 2
    assert end.rejected == {"NOT_FOUND": 65 - end.used} and 65 - end.used in (2, 3)
    for number in (0, 2, 5):
        cursor = cursor_from(json.loads(json.dumps(dataclasses.asdict(whole[number][2]))))
        rest = list(stream(folder, processor, epochs=2.5).steps(cursor))
        assert [[s.row.uid for s in samples] for samples, _, _ in rest] == uids[number + 1 :]
        assert rest[-1][2] == end


def row(*texts: str, sizes: Sequence[Size] = (), **values: Any) -> TrainRow:
    return TrainRow(uid="u", turns=cases.turns(*texts), sizes=tuple(sizes), **values)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (row("Hello?"), "BAD_CONVERSATION"),
        (row("<image>\nWhat?", "This."), "TOKEN_MISMATCH"),
        (row("What?", "This.", sizes=[Size(9, 9)]), "TOKEN_MISMATCH"),
        (row("What?", "long " * 200), "TOO_LONG"),
        (row(*["<image>" * 20, "Many."], sizes=[Size(90, 90)] * 20), "TOO_LONG"),
        (TrainRow(uid="u"), "EMPTY_TEXT"),
        (TrainRow(uid="u", turns="no list"), "BAD_CONVERSATION"),
        (row("What?", ""), "EMPTY_TEXT"),
        (TrainRow(uid="u", error="NOT_FOUND", detail="gone"), "NOT_FOUND"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(bad: TrainRow, reason: str, processor: LLaVAProcessor) -> None:
    made = Sampler(processor, cases.stage())(bad)
    assert isinstance(made, Unusable)
    assert made.reason == reason


@pytest.mark.parametrize(
    ("parts", "used"),
    [
        (("projector",), False),
        (("vision_tower", "projector", "newline"), False),
        (("projector", "language_model"), True),
        (("projector", "extra"), True),
    ],
)
def test_a_row_without_image_is_left_out_where_nothing_that_sees_it_learns(
    processor: LLaVAProcessor, parts: Sequence[str], used: bool
) -> None:
    one = cases.stage(learning_rates=dict.fromkeys(parts, 1e-3))
    made = Sampler(processor, one)(row("Hi?", "Yes."))
    assert isinstance(made, Sample) if used else isinstance(made, Unusable) and made.reason == "NO_IMAGE"
    assert isinstance(Sampler(processor, one)(row("<image>\nWhat?", "This.", sizes=[Size(30, 40)])), Sample)


def test_samples_without_with_several_images_and_video(processor: LLaVAProcessor) -> None:
    sampler = Sampler(processor, cases.stage(row_tokens=4000))

    def made(one: TrainRow) -> Sample:
        found = sampler(one)
        assert isinstance(found, Sample), found
        return found

    text = made(row("Hi?", "Yes."))
    two = made(row("<image> and <image>?", "Both.", sizes=[Size(56, 56), Size(60, 200)]))
    caption = made(TrainRow(uid="c", text="A dog.", sizes=(Size(30, 40),)))
    assert (text.num_tiles, two.num_tiles, caption.num_tiles) == (0, 3 + 4, 3)
    assert caption.is_caption and not two.is_caption
    decoded = processor.tokenizer.decode([label for label in two.labels if label != IGNORE_INDEX])
    assert decoded == " Both.</s>"
    with_video = dataclasses.replace(processor.config, video_token_id=len(processor.tokenizer))
    video_sampler = Sampler(LLaVAProcessor(processor.tokenizer, with_video), cases.stage())
    video = video_sampler(row("<video>\nWhat happens?", "It falls.", sizes=[Size(30, 40)] * 40))
    assert isinstance(video, Sample)
    # 32 of 40 frames, each 4×4 pooled to 2×2, and one newline
    assert (video.num_frames, video.num_tiles) == (32, 32)
    assert video.input_ids.count(with_video.video_token_id) == 32 * 4 + 1


def plain(tokens: int, tiles: int = 0, frames: int = 0) -> Sample:
    return Sample(TrainRow(uid=f"{tokens}-{tiles}"), [1] * tokens, [1] * tokens, tiles, frames)


def test_rows_keep_to_the_budget_are_few_and_alike() -> None:
    rng = np.random.default_rng(0)
    samples = [plain(int(n), int(n) // 40) for n in rng.integers(40, 400, 64)]
    total = sum(sample.num_tokens for sample in samples)
    for world in (1, 2, 4):
        rounds = plan_rounds(samples, world, 1000, COST)
        rows = [one for each in rounds for one in each.rows]
        assert Counter(id(s) for one in rows for s in one.samples) == Counter(map(id, samples))
        assert max(one.num_tokens for one in rows) <= 1000
        assert len(rows) % world == 0 and len(rows) <= -(-total // 1000) + 2 * world
        for each in rounds:
            costs = [one.cost for one in each.rows]
            assert max(costs) < 1.1 * min(costs)


def test_rounds_without_images_come_last_and_skip_the_tower_on_all_workers() -> None:
    samples = [plain(100, 3), *[plain(90) for _ in range(12)]]
    rounds = plan_rounds(samples, 2, 250, COST)
    assert [each.has_images for each in rounds] == [True] + [False] * (len(rounds) - 1)
    assert len(rounds) > 1
    fewer = plan_rounds(samples[:1], 4, 250, COST)
    assert [len(one.samples) for one in fewer[0].rows] == [1, 0, 0, 0]


def test_images_and_videos_of_each_length_have_rows_of_their_own_and_words_go_anywhere() -> None:
    videos = [plain(10, 4, 4), plain(10, 8, 8), plain(10, 4, 4)]
    rounds = plan_rounds([*videos, plain(10, 2), plain(10, 3), plain(10)], 1, 100, COST)
    rows = [[s.num_frames for s in each.rows[0].samples if s.num_tiles] for each in rounds]
    assert all(len(set(frames)) == 1 for frames in rows)
    assert sorted(n for frames in rows for n in frames) == [0, 0, 4, 4, 8]
    # one more than there are kinds, because rows of like cost come first; the words are in one of them
    assert len(rounds) == 4 and sum(len(each.rows[0].samples) for each in rounds) == 6


def shards(tmp_path: Path) -> str:
    """A table of shards as curation writes it."""
    shard_cases.write_corpus(tmp_path / "photos", 20)
    fragments = plan_corpus([str(tmp_path / "photos")])
    kept = shard_cases.kept_rows(fragments)
    receipts = shard_cases.write_all(tmp_path / "shards", fragments, kept)
    tables.create_table(str(tmp_path / "shards"), SHARD)
    tables.commit(str(tmp_path / "shards"), receipts, run_id="shards0", schema=SHARD)
    return str(tmp_path / "shards")


def test_shards_are_read_by_row_group_and_images_only_when_asked_for(tmp_path: Path) -> None:
    uri = shards(tmp_path)
    (index,) = index_inputs([uri])
    assert index.num_rows == 20 and len(index.rows) > 4
    source = open_source(index)
    rows = [one for unit in range(len(index.rows)) for one in source.read(unit)]
    assert not source._images  # type: ignore[attr-defined]
    for one in rows:
        name = next(path for path in (tmp_path / "photos").glob("*.txt") if path.read_text() == one.text)
        assert one.load() == [name.with_suffix(".jpg").read_bytes()]
        number = int(name.stem)
        assert one.sizes == (Size(20 + number % 7, 30 + number % 5),)


def test_another_limit_is_other_data_and_a_limit_beyond_all_rows_is_none(tmp_path: Path) -> None:
    uri = shards(tmp_path)
    ((whole,), (some,), (all_of_it,)) = (index_inputs([uri], limit=limit) for limit in (None, 4, 1000))
    assert 4 <= some.num_rows < whole.num_rows == 20
    assert some.rows == whole.rows[: len(some.rows)] and some.files == whole.files[: len(some.rows)]
    assert some.fingerprint != whole.fingerprint and all_of_it == whole


def test_images_of_a_corpus_may_lie_elsewhere(tmp_path: Path) -> None:
    images = {"coco/1.png": cases.png(20, 30, seed=1), "gqa/1.png": cases.png(30, 20, seed=2)}
    for name, data in {**images, "beside.png": b"outside"}.items():
        file = tmp_path / "playground/data" / name if name in images else tmp_path / "playground" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    names = [*images, "../beside.png"]
    rows = [{"id": n, "image": n, "conversations": cases.turns("<image>\nWhat?", f"This: {n}.")} for n in names]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/mix.json").write_text(json.dumps(rows))
    uri, root = str(tmp_path / "lists/mix.json"), str(tmp_path / "playground/data")
    (index,), (bare,), (other,) = (index_inputs([uri], image_root=one) for one in (root, None, str(tmp_path)))
    found = open_source(index).read(0)
    assert [one.error for one in found] == [None, None, "PATH_TRAVERSAL"]
    assert [one.load() for one in found[:2]] == [(images["coco/1.png"],), (images["gqa/1.png"],)]
    assert [one.error for one in open_source(bare).read(0)] == ["NOT_FOUND", "NOT_FOUND", "PATH_TRAVERSAL"]
    # the names are the same, the images are not
    assert len({one.fingerprint for one in (index, bare, other)}) == 3


def test_a_table_with_the_shards_of_two_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = shards(tmp_path)
    monkeypatch.setattr(shard_cases, "SETTINGS", dataclasses.replace(shard_cases.SETTINGS, run_id="shards1"))
    fragments = plan_corpus([str(tmp_path / "photos")])
    receipts = shard_cases.write_all(Path(uri), fragments, shard_cases.kept_rows(fragments))
    tables.commit(uri, receipts, run_id="shards1", schema=SHARD)
    with pytest.raises(ConfigError, match="holds the shards of 2 settings, so each row twice"):
        index_inputs([uri])


def test_a_missing_shard_and_a_table_of_something_else_stop_before_any_work(tmp_path: Path) -> None:
    uri = shards(tmp_path)
    next(Path(uri, "status=ok").iterdir()).unlink()
    with pytest.raises(ConfigError, match="which is missing; run curate_corpus again"):
        index_inputs([uri])
    tables.create_table(str(tmp_path / "other"), shard_cases.SELECTION)
    with pytest.raises(ConfigError, match="not of shards"):
        index_inputs([str(tmp_path / "other")])
    with pytest.raises(ConfigError, match="cannot be imported"):
        index_inputs(["nowhere.at.all:Source"])
