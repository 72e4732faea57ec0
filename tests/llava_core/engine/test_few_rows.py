"""Linear layers over a few rows: the values of the usual product, whatever the number of rows."""

import pytest
import torch
from torch import Tensor, nn

from llava_core.engine import few_rows
from llava_core.engine.few_rows import MOST_ROWS, speed_up_few_rows


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 15, 16, 17, MOST_ROWS, MOST_ROWS + 1])
def test_values_and_shape_are_those_of_the_usual_product(count: int, bias: bool) -> None:
    torch.manual_seed(count)
    layer = nn.Linear(24, 37, bias=bias)
    hidden = torch.randn(1, count, 24)
    expected = nn.functional.linear(
        hidden.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double()
    )
    speed_up_few_rows(nn.Sequential(layer))
    made = layer(hidden)
    assert made.shape == (1, count, 37)
    assert made.is_contiguous()
    torch.testing.assert_close(made.double(), expected, rtol=0, atol=2e-6)


def test_a_row_from_the_middle_of_a_wider_tensor_is_read_right() -> None:
    layer = nn.Linear(5, 3)
    wide = torch.randn(4, 2, 9)
    hidden = wide[:, :, 2:7]
    expected = nn.functional.linear(hidden, layer.weight, layer.bias)
    speed_up_few_rows(layer)
    torch.testing.assert_close(layer(hidden), expected, rtol=0, atol=1e-6)


def test_gradients_are_those_of_the_usual_product() -> None:
    layer = nn.Linear(5, 3)
    hidden = torch.randn(9, 5)
    layer(hidden).square().sum().backward()
    expected = [parameter.grad for parameter in layer.parameters()]
    layer.zero_grad()
    speed_up_few_rows(layer)
    layer(hidden).square().sum().backward()
    for parameter, gradient in zip(layer.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=1e-5)


class _Quantised(nn.Linear):
    """As bitsandbytes' layers are: a linear layer whose weight is not what it multiplies by."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.new_full((*hidden.shape[:-1], self.out_features), 7.0)


def test_other_layers_and_precisions_keep_their_own_product(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[nn.Linear] = []
    usual = few_rows._forward
    monkeypatch.setattr(few_rows, "_forward", lambda layer, hidden: asked.append(layer) or usual(layer, hidden))
    model = nn.ModuleList([_Quantised(4, 2), nn.Linear(4, 2, dtype=torch.bfloat16), nn.Linear(4, 2)])
    speed_up_few_rows(model)
    assert model[0](torch.zeros(3, 4)).tolist() == [[7.0, 7.0]] * 3
    model[1](torch.zeros(3, 4, dtype=torch.bfloat16))
    assert asked == []
    model[2](torch.zeros(3, 4))
    assert asked == [model[2]]
