"""Any-res arithmetic against transformers, against an independent transcription of the released code, and by hand.

`Published` below is that transcription: it makes real arrays and slices them, as `unpad_image` does, where `geometry`
computes with integers.
"""

import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
)
from transformers.image_processing_utils import select_best_resolution

from llava_core.geometry import (
    Box,
    Size,
    fit_inside,
    padding_inside,
    select_canvas,
    select_grid,
    shrunk_size,
    square_plan,
    unpadded_box,
)
from tests.tiny_tokenizers import byte_level

NEXT_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
OPEN_PINPOINTS = [[672, 672], [336, 1008], [1344, 336], [672, 336], [1008, 672], [336, 672]]
"""Not closed under transposition, and the first is not the smallest: a swapped axis or a wrong tie shows."""
ONEVISION_PINPOINTS = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]
OPEN_ONEVISION_PINPOINTS = [[768, 384], [384, 384], [384, 1152], [1536, 768], [1152, 1152], [2304, 384]]

NEXT, ONEVISION = (336, 24), (384, 27)
"""(tile side, patches along it)."""


def sizes(seed: int, count: int, largest: int, aspect: float) -> list[Size]:
    """Small sizes, where pinpoints tie, multiples of patches and tiles, where rounding bites, and any others."""
    rng = random.Random(seed)
    found: list[Size] = []
    while len(found) < count:
        kind = rng.randrange(4)
        step = (1, 14, 27, 112)[kind]
        top = 340 if rng.random() < 0.3 else largest
        height, width = (rng.randint(1, max(top // step, 1)) * step for _ in "hw")
        if max(height, width) <= aspect * min(height, width):
            found.append(Size(height, width))
    return found


def transformers_next(pinpoints: list[list[int]]) -> LlavaNextProcessor:
    images = LlavaNextImageProcessorPil(image_grid_pinpoints=pinpoints)
    return LlavaNextProcessor(
        images, byte_level(), patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )


def transformers_onevision(pinpoints: list[list[int]]) -> LlavaOnevisionProcessor:
    # Made without its `__init__`, which wants a video processor, and so torchvision; counting needs neither.
    processor = object.__new__(LlavaOnevisionProcessor)
    processor.image_processor = LlavaOnevisionImageProcessorPil(image_grid_pinpoints=pinpoints)
    processor.num_image_tokens, processor.vision_aspect_ratio = 729, "anyres_max_9"
    return processor


def our_tokens(
    size: Size, pinpoints: list[list[int]], tower: tuple[int, int], order: str, anyres_max: int | None = None
) -> int:
    side, patches = tower
    canvas = select_canvas(size, pinpoints, order)
    full = Size(canvas.height // side * patches, canvas.width // side * patches)
    box = unpadded_box(full, size, order)
    grid = Size(box.bottom - box.top, box.right - box.left)
    grid = grid if anyres_max is None else shrunk_size(grid, patches, anyres_max)
    return patches**2 + grid.height * (grid.width + 1)


class Published:
    """The released arithmetic, (width, height) first, on real arrays."""

    @staticmethod
    def best_resolution(image_wh: tuple[int, int], pinpoints: list[list[int]]) -> tuple[int, int]:
        best, most, least = (0, 0), 0, float("inf")
        for wide, high in pinpoints:
            scale = min(wide / image_wh[0], high / image_wh[1])
            down_w, down_h = int(image_wh[0] * scale), int(image_wh[1] * scale)
            effective = min(down_w * down_h, image_wh[0] * image_wh[1])
            wasted = wide * high - effective
            if effective > most or (effective == most and wasted < least):
                best, most, least = (wide, high), effective, wasted
        return best

    @staticmethod
    def unpad(grid: np.ndarray, image_wh: tuple[int, int]) -> np.ndarray:
        high, wide = grid.shape
        if image_wh[0] / image_wh[1] > wide / high:
            padding = (high - int(image_wh[1] * (wide / image_wh[0]))) // 2
            return grid[padding : high - padding, :]
        padding = (wide - int(image_wh[0] * (high / image_wh[1]))) // 2
        return grid[:, padding : wide - padding]

    @classmethod
    def tokens(
        cls, size: Size, pinpoints: list[list[int]], tower: tuple[int, int], anyres_max: int | None = None
    ) -> int:
        side, patches = tower
        image_wh = (size.width, size.height)
        wide, high = cls.best_resolution(image_wh, pinpoints)
        grid = cls.unpad(np.zeros((high // side * patches, wide // side * patches), np.int8), image_wh)
        rows, cols = grid.shape
        if anyres_max is not None:
            times = math.sqrt(rows * cols / (anyres_max * patches**2))
            if times > 1.1:
                rows, cols = int(rows // times), int(cols // times)
        return patches**2 + rows * cols + rows


@pytest.mark.parametrize("pinpoints", [NEXT_PINPOINTS, OPEN_PINPOINTS], ids=["released", "open"])
def test_next_token_counts_equal_transformers(pinpoints: list[list[int]]) -> None:
    processor = transformers_next(pinpoints)
    for size in sizes(1, 2500, 2600, aspect=20):
        theirs = processor._get_number_of_features(size.height, size.width, 336, 336) - 1
        assert our_tokens(size, pinpoints, NEXT, "hf") == theirs, size


@pytest.mark.parametrize("pinpoints", [ONEVISION_PINPOINTS, OPEN_ONEVISION_PINPOINTS], ids=["released", "open"])
def test_onevision_token_counts_equal_transformers(pinpoints: list[list[int]]) -> None:
    processor = transformers_onevision(pinpoints)
    for size in [*sizes(2, 2500, 3000, aspect=20), Size(784, 1323), Size(1323, 784)]:
        theirs = processor._get_number_of_features(size.height, size.width, 384, 384)
        assert our_tokens(size, pinpoints, ONEVISION, "hf", 9) == theirs, size


@pytest.mark.parametrize("pinpoints", [NEXT_PINPOINTS, OPEN_PINPOINTS], ids=["released", "open"])
def test_next_token_counts_equal_the_released_code(pinpoints: list[list[int]]) -> None:
    for size in sizes(3, 2500, 2600, aspect=20):
        assert our_tokens(size, pinpoints, NEXT, "original") == Published.tokens(size, pinpoints, NEXT), size


@pytest.mark.parametrize("pinpoints", [ONEVISION_PINPOINTS, OPEN_ONEVISION_PINPOINTS], ids=["released", "open"])
def test_onevision_token_counts_equal_the_released_code(pinpoints: list[list[int]]) -> None:
    for size in [*sizes(4, 2500, 3000, aspect=20), Size(784, 1323)]:
        ours = our_tokens(size, pinpoints, ONEVISION, "original", 9)
        assert ours == Published.tokens(size, pinpoints, ONEVISION, 9), size


def test_canvas_equals_transformers_at_any_aspect_ratio() -> None:
    rng = random.Random(5)
    for _ in range(2000):
        size = Size(rng.choice([1, 2, 3, rng.randint(1, 9000)]), rng.choice([1, 2, rng.randint(1, 30000)]))
        assert select_canvas(size, OPEN_PINPOINTS, "hf") == tuple(select_best_resolution(tuple(size), OPEN_PINPOINTS))
        wide, high = Published.best_resolution((size.width, size.height), OPEN_PINPOINTS)
        assert select_canvas(size, OPEN_PINPOINTS) == Size(high, wide)


def test_small_images_tie_and_the_axis_order_decides() -> None:
    # facts of the released checkpoints: with both sides <= 336 the first entry wins, and it means two different things
    for size in (Size(336, 336), Size(198, 324), Size(10, 300)):
        assert select_canvas(size, NEXT_PINPOINTS, "original") == Size(672, 336)
        assert select_canvas(size, NEXT_PINPOINTS, "hf") == Size(336, 672)
    small = Size(198, 324)
    assert our_tokens(small, NEXT_PINPOINTS, NEXT, "original") == 926
    assert our_tokens(small, NEXT_PINPOINTS, NEXT, "hf") == 1560


def test_axis_orders_agree_on_few_small_sizes() -> None:
    """The share that the released lists and transformers have in common: 281 of 5,929 sizes up to 336 in steps of 4."""
    steps = range(32, 337, 4)
    pairs = [Size(h, w) for h in steps for w in steps]
    same = sum(
        our_tokens(size, NEXT_PINPOINTS, NEXT, "original") == our_tokens(size, NEXT_PINPOINTS, NEXT, "hf")
        for size in pairs
    )
    assert (len(pairs), same) == (5929, 281)


def test_rounding_differs_where_the_exact_product_is_an_integer() -> None:
    size = Size(784, 1323)
    for rounding, rows, tokens in (("original", 63, 7596), ("hf", 65, 7814)):
        canvas = select_canvas(size, ONEVISION_PINPOINTS, "hf")
        box = unpadded_box(Size(canvas.height // 384 * 27, canvas.width // 384 * 27), size, rounding)
        assert (box.bottom - box.top, our_tokens(size, ONEVISION_PINPOINTS, ONEVISION, rounding, 9)) == (rows, tokens)


@settings(max_examples=400, deadline=None)
@given(
    height=st.integers(1, 20000), width=st.integers(1, 20000), rows=st.integers(1, 6), cols=st.integers(1, 6),
    patches=st.integers(1, 27), rounding=st.sampled_from(["original", "hf"]),
)  # fmt: skip
def test_unpadding_never_leaves_nothing(
    height: int, width: int, rows: int, cols: int, patches: int, rounding: str
) -> None:
    full = Size(rows * patches, cols * patches)
    box = unpadded_box(full, Size(height, width), rounding)
    assert 0 <= box.top < box.bottom <= full.height
    assert 0 <= box.left < box.right <= full.width
    assert box.top == full.height - box.bottom and box.left == full.width - box.right  # the cut is symmetric
    assert box.top == 0 or box.left == 0  # on one axis only
    shrunk = shrunk_size(Size(box.bottom - box.top, box.right - box.left), patches, 1)
    assert min(shrunk) >= 1
    if min(shrunk) > 1:
        assert shrunk.height * shrunk.width <= 1.21 * patches**2 + 1e-6


@pytest.mark.parametrize("size", [Size(1, 9000), Size(9000, 1), Size(3, 4000), Size(2500, 2), Size(1, 1)])
@pytest.mark.parametrize("order", ["original", "hf"])
def test_extreme_aspect_ratios_have_rows(size: Size, order: str) -> None:
    assert our_tokens(size, NEXT_PINPOINTS, NEXT, order) > 576
    assert our_tokens(size, ONEVISION_PINPOINTS, ONEVISION, order, 9) > 729


def test_unpadded_box_by_hand() -> None:
    # 640x480 (W×H) on 2×2 tiles: 480 · 48/640 = 36 rows kept, (48 − 36) / 2 = 6 off each side
    assert unpadded_box((48, 48), (480, 640)) == Box(6, 42, 0, 48)
    # an odd remainder keeps one more: 33 rows kept of 48, 15 // 2 = 7 off each side
    assert unpadded_box((48, 48), (440, 640)) == Box(7, 41, 0, 48)
    assert unpadded_box((24, 72), (1000, 1000)) == Box(0, 24, 24, 48)
    # as wide as the canvas, so neither side is cut
    assert unpadded_box((24, 48), (300, 600)) == Box(0, 24, 0, 48)


def test_shrinking_by_hand() -> None:
    # √(135·108 / (9·729)) = 1.4907 > 1.1: 135 // 1.4907 = 90, 108 // 1.4907 = 72
    assert shrunk_size((135, 108), 27, 9) == Size(90, 72)
    # 89·89 = 7921 = 1.2073 · 6561 is within 1.21; 90·90 = 8100 = 1.2346 · 6561 is not
    assert shrunk_size((89, 89), 27, 9) == Size(89, 89)
    # ... and in doubles 90 // 1.1111111111111112 is 80, as in the released code
    assert shrunk_size((90, 90), 27, 9) == Size(80, 80)
    assert shrunk_size((1, 4000), 27, 1) == Size(1, 1707)


def test_fit_and_padding_equal_transformers() -> None:
    from transformers.models.llava_next.image_processing_pil_llava_next import get_patch_output_size

    rng = random.Random(6)
    for _ in range(1500):
        image = np.empty((rng.randint(1, 1500), rng.randint(1, 1500), 3), np.uint8)
        canvas = (336 * rng.randint(1, 4), 336 * rng.randint(1, 4))
        theirs = get_patch_output_size(image, canvas, input_data_format="channels_last")
        assert fit_inside(image.shape[:2], canvas) == tuple(theirs)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 6), st.integers(1, 6))
def test_fit_touches_one_side_and_stays_inside(height: int, width: int, rows: int, cols: int) -> None:
    canvas = Size(rows * 336, cols * 336)
    inner = fit_inside((height, width), canvas)
    assert 1 <= inner.height <= canvas.height and 1 <= inner.width <= canvas.width
    assert inner.height == canvas.height or inner.width == canvas.width
    box = padding_inside(inner, canvas)
    assert (box.bottom - box.top, box.right - box.left) == inner
    # what is left over differs by at most one pixel, the larger part below and right
    assert canvas.height - box.bottom - box.top in (0, 1) and canvas.width - box.right - box.left in (0, 1)


def objective(grid: tuple[int, int], H: int, W: int, most: int) -> Fraction:
    """The document's objective, written again: |cols/rows − W/H| + λ·(most − rows·cols)/most, λ = 0.1."""
    rows, cols = grid
    return abs(Fraction(cols, rows) - Fraction(W, H)) + Fraction(1, 10) * Fraction(most - rows * cols, most)


def test_select_grid_is_the_first_minimum_of_the_objective() -> None:
    rng = random.Random(7)
    for _ in range(1500):
        H, W, most = rng.randint(1, 3000), rng.randint(1, 3000), rng.randint(1, 14)
        every = [(rows, cols) for rows in range(1, most + 1) for cols in range(1, most + 1) if rows * cols <= most]
        best = min(objective(grid, H, W, most) for grid in every)
        # ties: fewer rows, then fewer columns
        expected = sorted(grid for grid in every if objective(grid, H, W, most) == best)[0]
        assert select_grid(H, W, most) == expected, (H, W, most)


@pytest.mark.parametrize(
    ("size", "most", "grid"),
    [((1080, 1920), 5, (1, 2)), ((2000, 400), 5, (5, 1)), ((400, 2000), 5, (1, 5)), ((336, 336), 5, (2, 2)),
     ((336, 336), 1, (1, 1)), ((1000, 3000), 3, (1, 3)), ((3000, 1000), 3, (3, 1)), ((1, 9000), 4, (1, 4))],
)  # fmt: skip
def test_select_grid_by_hand(size: tuple[int, int], most: int, grid: tuple[int, int]) -> None:
    assert select_grid(*size, most) == grid


def test_select_grid_weighs_waste() -> None:
    # aspect 1.4: (1, 1) is 0.4 off and wastes 3/4; (1, 2) is 0.6 off and wastes 1/2; (2, 2) is 0.4 off, wastes none
    assert select_grid(1000, 1400, 4) == (2, 2)
    # (1, 1), (1, 2) tie at 0.5 off when waste is free; fewer columns win; waste counted, (2, 2) wins and (1, 2) next
    assert select_grid(1000, 1500, 3, waste_weight=0) == (1, 1)
    assert select_grid(1000, 1500, 3) == (1, 2)


@pytest.mark.parametrize("bad", [(0, 5, 5), (5, 0, 5), (5, 5, 0)])
def test_select_grid_refuses_what_has_no_size(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="select_grid needs"):
        select_grid(*bad)


@pytest.mark.parametrize(("size", "pinpoints"), [((0, 5), [[1, 1]]), ((5, 5), [])])
def test_select_canvas_refuses_what_has_no_size(size: tuple[int, int], pinpoints: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="select_canvas needs"):
        select_canvas(size, pinpoints)


def test_square_plan() -> None:
    plan = square_plan(336, 577)
    assert (plan.canvas, plan.grid, plan.num_tiles) == (Size(336, 336), Size(0, 0), 1)
    assert (plan.features, plan.num_image_tokens) == (Size(0, 0), 577)
