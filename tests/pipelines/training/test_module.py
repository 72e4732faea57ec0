"""Packed rows against the same samples one by one: loss, gradients, what trains; fp32."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from llava_core.checkpoints.load import load_model
from llava_core.checkpoints.untrained import untrained_config
from llava_core.labels import IGNORE_INDEX
from llava_core.losses import LossConfig, language_loss
from llava_core.model import LLaVANeXT
from pipelines.training.loader import MicroBatch, encode, load_row, micro_batch
from pipelines.training.module import TrainModule
from pipelines.training.optimizer import freeze, make_optimizer, parameter_groups
from pipelines.training.packing import Row, cost_of, plan_rounds
from pipelines.training.samples import Sample
from pipelines.training.stages import Normalisation, Stage
from tests.pipelines.training import cases

TOLERANCE = 1e-5
"""Measured: 0 of the loss, 1.1e-7 of gradients, on one and two threads."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cases.write_both(tmp_path_factory.mktemp("module"), 24, wrong=False)


def setting(folder: Path, one: Stage) -> tuple[list[Sample], LLaVANeXT, list[MicroBatch]]:
    samples, processor, cost = cases.samples_of(str(folder / "corpus/data.json"), folder / "untrained", one)
    chosen = samples[:9]
    rounds = plan_rounds(chosen, 1, one.row_tokens, cost)
    batches = [load_row(each.rows[0], processor, one.max_tiles, tower=each.has_images)[0] for each in rounds]
    return chosen, load_model(folder / "untrained").train(), batches


def gradients(model: LLaVANeXT) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_packed_rows_have_the_loss_and_gradients_of_samples_run_one_by_one(folder: Path) -> None:
    one = cases.stage(row_tokens=900)
    samples, model, batches = setting(folder, one)
    assert 1 < len(batches) < len(samples) and {len(b.samples) for b in batches} != {1}
    module = TrainModule(model, one.losses)
    total = sum(sample.num_targets for sample in samples)
    packed = sum(module(batch)[0][0] for batch in batches) / total
    packed.backward()
    own = gradients(model)
    model.zero_grad()
    _, processor, _ = cases.samples_of(str(folder / "corpus/data.json"), folder / "untrained", one)
    alone = torch.zeros(())
    # transformers' own attention and the loss of the model itself, on one sample at a time
    model.language_model.config.get_text_config()._attn_implementation = "eager"
    for sample in samples:
        inputs = processor.collate([encode(sample, processor, one.max_tiles)], with_labels=True)
        labels = inputs.pop("labels")
        alone = alone + language_loss(model(**inputs).logits, labels, num_targets=total)
    alone.backward()
    assert abs(packed.item() - alone.item()) < TOLERANCE
    apart = gradients(model)
    assert own.keys() == apart.keys()
    worst = max((own[name] - apart[name]).abs().max().item() for name in own)
    assert worst < TOLERANCE, worst


def test_costs_are_the_operations_that_the_language_model_runs(folder: Path) -> None:
    one = cases.stage(row_tokens=900)
    _, model, batches = setting(folder, one)
    batch = max(batches, key=lambda row: row.num_targets)
    assert 0 < batch.num_targets < batch.input_ids.shape[1] / 2
    cost = cost_of(model.config, model.image_processor.num_layers_run)
    with FlopCounterMode(display=False) as counter:
        TrainModule(model, one.losses)(batch)
    parts = counter.get_flop_counts()
    # Attention in the fused kernel of CPUs is not counted.
    linear = dataclasses.replace(cost, per_pair=0.0, per_target_pair=0.0)
    expected = sum(linear.text(sample) for sample in batch.samples)
    # Targets' rows make keys and values a second time.
    keys = 2.0 * model.config.text_dim**2
    again = batch.num_targets * keys
    own = sum(parts["TrainModule.model.language_model"].values())
    assert own == pytest.approx(expected + again, rel=1e-6)


def test_one_sample_of_a_row_cannot_see_another(folder: Path) -> None:
    one = cases.stage(row_tokens=900)
    _, model, batches = setting(folder, one)
    module = TrainModule(model.eval(), one.losses)
    batch = next(b for b in batches if len(b.samples) > 1)
    first = batch.borders[1]
    changed = batch.input_ids.clone()
    text = [i for i in range(first) if changed[0, i] != model.config.image_token_id and batch.labels[0, i] < 0]
    changed[0, text[1:]] = 77
    with torch.no_grad():
        before = per_target(module, batch)
        after = per_target(module, dataclasses.replace(batch, input_ids=changed))
    at = (batch.labels[0] != IGNORE_INDEX).nonzero()[:, 0]
    assert not torch.equal(before[at < first], after[at < first])
    assert torch.equal(before[at >= first], after[at >= first])


def per_target(module: TrainModule, batch: MicroBatch) -> torch.Tensor:
    at = (batch.labels[0] != IGNORE_INDEX).nonzero()[:, 0]
    found: torch.Tensor = module.model(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        borders=batch.borders,
        logits_to_keep=at - 1,
        use_cache=False,
        **batch.visual,
    ).logits[0]
    return found


def test_square_normalisation_weighs_each_answer_by_the_root_of_its_length(folder: Path) -> None:
    one = cases.stage(row_tokens=900)
    _, model, batches = setting(folder, one)
    batch = max(batches, key=lambda row: row.num_targets)
    labels = batch.labels[0].tolist()
    with torch.no_grad():
        each = F.cross_entropy(
            per_target(TrainModule(model, one.losses), batch).float(),
            batch.labels[0][batch.labels[0] != IGNORE_INDEX],
            reduction="none",
        ).tolist()
        sums, counts = TrainModule(model, one.losses, normalisation="square")(batch)
    total = weight = 0.0
    lengths = []
    for is_answer, run in itertools.groupby(labels, key=lambda label: label != IGNORE_INDEX):
        count = len(list(run))
        if is_answer:
            total += sum(each[:count]) / count**0.5
            weight += count**0.5
            lengths.append(count)
            del each[:count]
    assert len(set(lengths)) > 1 and not each
    assert abs(sums[0].item() - total) < 1e-4 and abs(counts[0].item() - weight) < 1e-4


@pytest.mark.parametrize("normalisation", ["global", "square"])
def test_a_row_without_samples_gives_zero_gradients_to_what_the_others_train(
    folder: Path, normalisation: Normalisation
) -> None:
    one = cases.stage()
    _, model, batches = setting(folder, one)
    module = TrainModule(model, one.losses, normalisation=normalisation)
    freeze(module, one)
    sums, counts = module(micro_batch([], tower=True))
    sums.sum().backward()
    nothing = gradients(model)
    assert counts.tolist() == [0, 0, 0] and sums.tolist() == [0, 0, 0]
    assert all(not grad.any() for grad in nothing.values())
    model.zero_grad()
    module(batches[0])[0].sum().backward()
    assert nothing.keys() == gradients(model).keys()


@pytest.mark.parametrize(
    ("part", "settings"),
    [("video", {"temporal_encoder": True}), ("connector", {"cross_image_attention": True}), ("packing", "flat")],
    ids=["temporal encoder", "attention across images", "newline without use"],
)
def test_every_kind_of_row_gives_gradients_to_the_same_parameters(tmp_path: Path, part: str, settings: Any) -> None:
    config = untrained_config()
    changed = settings if isinstance(settings, str) else dataclasses.replace(getattr(config, part), **settings)
    model_folder = cases.write_video_model(tmp_path, **{part: changed})
    one = cases.stage(row_tokens=3000)
    samples, processor, _ = cases.samples_of(cases.write_mixed(tmp_path / "mixed"), model_folder, one)
    model = load_model(model_folder).train()
    module = TrainModule(model, one.losses)
    freeze(module, one)
    kinds = {(len(sample.row.sizes), bool(sample.num_frames)): sample for sample in samples}
    assert set(kinds) == {(3, True), (5, True), (2, False), (1, False), (0, False)}
    wanted = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for kind, sample in [*kinds.items(), ("none", None)]:
        model.zero_grad()
        module(load_row(Row((sample,) if sample else (), 0.0), processor, None, tower=True)[0])[0].sum().backward()
        assert gradients(model).keys() == wanted, kind


def test_a_row_of_any_samples_runs_the_tower_once(tmp_path: Path) -> None:
    """Workers of a round gather each of its layers together, so that one more run would wait for them for ever."""
    model_folder, one = cases.write_video_model(tmp_path), cases.stage(row_tokens=3000)
    samples, processor, cost = cases.samples_of(cases.write_mixed(tmp_path / "mixed"), model_folder, one)
    model = load_model(model_folder).train()
    seen: list[int] = []
    model.image_processor.register_forward_hook(lambda *_: seen.append(1))
    module = TrainModule(model, one.losses)
    runs = []
    for each in plan_rounds(samples, 2, one.row_tokens, cost):
        for row in each.rows:
            seen.clear()
            module(load_row(row, processor, None, tower=each.has_images)[0])
            runs.append((each.has_images, len(seen)))
    assert set(runs) <= {(True, 1), (False, 0)} and (True, 1) in runs


def test_rows_without_images_leave_the_tower_alone(folder: Path) -> None:
    one = cases.stage()
    samples, model, _ = setting(folder, one)
    _, processor, _ = cases.samples_of(str(folder / "corpus/data.json"), folder / "untrained", one)
    text = tuple(sample for sample in samples if not sample.num_tiles)
    assert text
    seen = []
    model.image_processor.register_forward_hook(lambda *_: seen.append(1))
    module = TrainModule(model, one.losses)
    module(load_row(Row(text, 0.0), processor, None, tower=False)[0])
    assert not seen
    module(load_row(Row(text, 0.0), processor, None, tower=True)[0])
    assert seen == [1]


@pytest.mark.parametrize(
    "parts",
    [("projector",), ("projector", "newline"), ("projector", "language_model"), ("vision_tower", "projector")],
)
def test_a_stage_trains_its_parts_and_nothing_else(folder: Path, parts: tuple[str, ...]) -> None:
    one = cases.stage(learning_rates=dict.fromkeys(parts, 1e-2), weight_decay=0.1)
    _, model, batches = setting(folder, one)
    module = TrainModule(model, one.losses)
    freeze(module, one)
    optimizer = make_optimizer(module, one)
    heads = {"projector": "projector.", "newline": "image_newline", "language_model": "language_model."}
    heads |= {"vision_tower": "image_processor."}
    wanted = tuple(f"model.{heads[part]}" for part in parts)
    inside = {name for group in optimizer.param_groups for name in group["names"]}
    unused = {f"model.image_processor.{name}" for name, _ in model.image_processor.unused_parameters()}
    assert unused
    assert inside == {name for name, _ in module.named_parameters() if name.startswith(wanted)} - unused
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for group in optimizer.param_groups:
        group["lr"] = group["peak"]
    for _ in range(2):
        module(batches[0])[0][0].backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert moved == inside


def test_groups_have_the_rates_of_their_parts_and_decay_matrices_alone(folder: Path) -> None:
    one = cases.stage(weight_decay=0.1)
    _, model, _ = setting(folder, one)
    module = TrainModule(model, one.losses)
    freeze(module, one)
    found = {(g["part"], g["weight_decay"]): (g["peak"], set(g["names"])) for g in parameter_groups(module, one)}
    assert {key[0]: value[0] for key, value in found.items()} == one.learning_rates
    assert ("newline", 0.1) not in found
    assert found["projector", 0.1][1] == {f"model.projector.projector.{n}.weight" for n in (0, 2)}
    assert found["projector", 0.0][1] == {f"model.projector.projector.{n}.bias" for n in (0, 2)}
    assert "model.language_model.model.norm.weight" in found["language_model", 0.0][1]
    assert "model.language_model.model.embed_tokens.weight" in found["language_model", 0.1][1]


def test_the_alignment_and_description_losses_against_a_hand_computation(folder: Path) -> None:
    one = cases.stage(losses=LossConfig(text_weight=1.0, visual_weight=0.5, alignment_weight=2.0), row_tokens=2000)
    samples, model, _ = setting(folder, one)
    _, processor, _ = cases.samples_of(str(folder / "corpus/data.json"), folder / "untrained", one)
    two = [next(s for s in samples if len(s.row.sizes) == n) for n in (0, 1)]
    two[1] = dataclasses.replace(two[1], is_caption=True)
    batch, lost = load_row(Row(tuple(two), 0.0), processor, one.max_tiles, tower=True)
    assert not lost
    module = TrainModule(model.eval(), one.losses)
    with torch.no_grad():
        sums, counts = module(batch)
        features = model.encode_images(**batch.visual)[0]
        answer = [label for label in two[1].labels if label != IGNORE_INDEX]
        words = model.language_model.get_input_embeddings().weight[answer]
        by_hand = ((features.mean(0) - words.mean(0)) ** 2).mean()
        described = TrainModule(model, LossConfig())(
            micro_batch([(two[1], encode(two[1], processor, None))], tower=True)
        )
    assert counts.tolist() == [two[0].num_targets + two[1].num_targets, two[1].num_targets, 1]
    assert sums[2].item() == pytest.approx(by_hand.item(), rel=1e-5)  # measured 0
    assert sums[1].item() == pytest.approx(described[0][0].item(), rel=1e-5)
    assert module.weights().tolist() == [1.0, 0.5, 2.0]
