"""The compiled loops against the same sums in NumPy and Pillow, every integer equal."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipelines.curation.measures import blur, saturation, to_grey
from pipelines.curation.pixel_loops import FLUSH_ROWS, laplacian_sums, spread_sum, step_sums

SIZES = ((1, 1), (1, 7), (9, 1), (3, 3), (37, 64), (65, 31), (2 * FLUSH_ROWS + 3, 130))


def noise(*shape: int) -> NDArray[np.uint8]:
    """Levels of every kind, the extremes most often: sums reach what they can reach."""
    generator = np.random.default_rng(sum(shape))
    levels = generator.integers(-200, 456, shape)
    image = np.clip(levels, 0, 255).astype(np.uint8)
    image.flags.writeable = False
    return image


@pytest.mark.parametrize("size", SIZES)
def test_grey_is_pillows(size: tuple[int, int]) -> None:
    """Every level, of whole arrays and of views."""
    image = noise(*size, 3)
    assert np.array_equal(to_grey(image), np.asarray(Image.fromarray(image).convert("L")))
    turned = image[:, ::-1].transpose(1, 0, 2)
    assert np.array_equal(to_grey(turned), np.asarray(Image.fromarray(np.ascontiguousarray(turned)).convert("L")))


def test_grey_of_every_colour_that_rounds_on_its_own() -> None:
    """All levels of each channel beside extremes of the others."""
    red, green, blue = np.meshgrid(np.arange(256), np.arange(0, 256, 5), np.arange(0, 256, 3), indexing="ij")
    image = np.stack([red, green, blue], axis=-1).astype(np.uint8).reshape(256, -1, 3)
    assert np.array_equal(to_grey(image), np.asarray(Image.fromarray(image).convert("L")))


@pytest.mark.parametrize("size", [size for size in SIZES if min(size) > 2])
def test_laplacian_sums(size: tuple[int, int]) -> None:
    """Against shifted arrays."""
    grey = noise(*size)
    wide = grey.astype(np.int64)
    around = wide[:-2, 1:-1] + wide[2:, 1:-1] + wide[1:-1, :-2] + wide[1:-1, 2:]
    laplacian = around - 4 * wide[1:-1, 1:-1]
    assert laplacian_sums(grey) == (laplacian.sum(), (laplacian**2).sum())


def test_squares_of_a_row_may_need_more_than_32_bits() -> None:
    """Columns of black and white beside each other: every square is as large as squares are."""
    grey = np.zeros((3, 5000), np.uint8)
    grey[1, ::2] = grey[::2, 1::2] = 255
    grey.flags.writeable = False
    total, squares = laplacian_sums(grey)
    assert (total, squares) == (0, 4998 * (4 * 255) ** 2)


@pytest.mark.parametrize("size", SIZES)
def test_step_sums(size: tuple[int, int]) -> None:
    """Beyond the rows that 16-bit sums hold, too."""
    grey = noise(*size)
    across, down = np.zeros(size[1] - 1, np.int32), np.zeros(size[0] - 1, np.int32)
    step_sums(grey, across, down)
    wide = grey.astype(np.int64)
    assert np.array_equal(across, np.abs(np.diff(wide, axis=1)).sum(axis=0))
    assert np.array_equal(down, np.abs(np.diff(wide, axis=0)).sum(axis=1))


def test_step_sums_of_stripes_have_room() -> None:
    """Every difference is as large as differences are."""
    grey = np.zeros((2 * FLUSH_ROWS + 3, 5), np.uint8)
    grey[:, 1::2] = 255
    grey.flags.writeable = False
    across, down = np.zeros(4, np.int32), np.zeros(len(grey) - 1, np.int32)
    step_sums(grey, across, down)
    assert across.tolist() == [255 * len(grey)] * 4 and not down.any()


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_spread_sum(size: tuple[int, int], every: int) -> None:
    """Rows that are looked at, and only those."""
    image = noise(*size, 3)
    levels = image[::every].astype(np.int64)
    wanted = (levels.max(axis=2) - levels.min(axis=2)).sum()
    assert spread_sum(image.reshape(size[0], -1), every) == wanted


def test_measures_leave_their_image_as_it_is() -> None:
    """The loops want read-only arrays; whoever owns the image may go on writing."""
    image = np.full((20, 30, 3), 7, np.uint8)
    saturation(image)
    grey = to_grey(image)
    blur(grey)
    assert image.flags.writeable and grey.flags.writeable
    image[0, 0], grey[0, 0] = 1, 2


def test_saturation_of_a_height_that_rows_do_not_divide() -> None:
    """131 rows are looked at by every second: 66 of them; the colour is in those alone."""
    image = np.zeros((131, 4, 3), np.uint8)
    image[::2, :, 0] = 51
    assert saturation(image) == 0.2
