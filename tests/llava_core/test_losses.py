"""Losses, against numbers worked out by hand and against torch's own cross entropy."""

import math

import pytest
import torch
from torch.nn import functional as F

from llava_core.errors import ConfigError
from llava_core.losses import LossConfig, alignment_loss, combine_losses, language_loss


def test_only_labelled_tokens_count_and_each_is_predicted_by_the_token_before() -> None:
    logits = torch.zeros(1, 4, 3)
    logits[0, 1] = torch.tensor([0.0, 2.0, 0.0])  # predicts the label at position 2
    logits[0, 0] = logits[0, 2] = logits[0, 3] = torch.tensor([9.0, -9.0, 5.0])
    loss = language_loss(logits, torch.tensor([[-100, -100, 1, -100]]))
    assert loss.item() == pytest.approx(math.log(2 + math.exp(2)) - 2, abs=1e-6)
    assert language_loss(logits, torch.tensor([[1, -100, 1, -100]])) == loss, "nothing predicts the first token"


def test_mean_is_over_tokens_not_over_samples() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 6, 11), torch.full((2, 6), -100)
    labels[0, 1:6] = torch.tensor([3, 4, 5, 6, 7])
    labels[1, 5] = 8
    per_token = F.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:].clamp(min=0), reduction="none")
    expected = per_token[labels[:, 1:] != -100].mean()
    assert torch.allclose(language_loss(logits, labels), expected, atol=1e-6)
    assert torch.allclose(language_loss(logits, labels, num_targets=3), expected * 2, atol=1e-6)


def test_nothing_labelled_is_zero_with_zero_gradient() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    loss = language_loss(logits, torch.full((1, 3), -100))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_loss_is_float32_from_bfloat16_logits() -> None:
    logits = torch.randn(1, 4, 300).to(torch.bfloat16)
    labels = torch.tensor([[-100, 7, 200, 3]])
    loss = language_loss(logits, labels)
    assert loss.dtype == torch.float32
    assert loss == language_loss(logits.float(), labels)


def test_alignment_compares_means_of_different_lengths() -> None:
    visual = [torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([[5.0, 1.0]])]
    captions = [torch.tensor([[0.0, 4.0]]), torch.tensor([[5.0, 0.0], [5.0, 0.0], [5.0, 6.0]])]
    # means (2, 0) and (0, 4); (5, 1) and (5, 2): (4 + 16 + 0 + 1) / 4
    assert alignment_loss(visual, captions).item() == pytest.approx(5.25)


def test_alignment_refuses_what_has_no_mean() -> None:
    with pytest.raises(ValueError, match="1 samples have image features, but 2 have captions"):
        alignment_loss([torch.ones(1, 2)], [torch.ones(1, 2)] * 2)
    with pytest.raises(ValueError, match="empty caption"):
        alignment_loss([torch.ones(1, 2)], [torch.ones(0, 2)])


def test_weights() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 7)
    answer, description = torch.tensor([[-100, -100, -100, 3, 4]]), torch.tensor([[-100, 1, 2, -100, -100]])
    visual, captions = [torch.randn(3, 2)], [torch.randn(4, 2)]
    config = LossConfig(text_weight=2.0, visual_weight=0.5, alignment_weight=3.0)
    losses = combine_losses(logits, answer, config, description_labels=description, visual=visual, captions=captions)
    text, described = language_loss(logits, answer), language_loss(logits, description)
    aligned = alignment_loss(visual, captions)
    assert torch.equal(losses.total, 2 * text + 0.5 * described + 3 * aligned)
    assert (losses.text, losses.visual, losses.alignment) == (text, described, aligned)
    parts = {"description_labels": description, "visual": visual, "captions": captions}
    plain = combine_losses(logits, answer, LossConfig(), **parts)
    assert torch.equal(plain.total, text)
    assert plain.visual is plain.alignment is None


def test_a_weighted_part_must_have_what_it_is_made_of() -> None:
    logits, labels = torch.zeros(1, 2, 3), torch.tensor([[-100, 1]])
    with pytest.raises(ValueError, match="description_labels are missing"):
        combine_losses(logits, labels, LossConfig(visual_weight=0.1))
    with pytest.raises(ValueError, match="0 samples have image features"):
        combine_losses(logits, labels, LossConfig(alignment_weight=0.1))
    with pytest.raises(ConfigError, match=r"loss\.visual_weight is -1"):
        LossConfig(visual_weight=-1)
