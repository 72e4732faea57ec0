"""Every value is Pillow's, whichever way it is reached; and where the compiled sums are kept."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data

from llava_core import vectors
from llava_core.geometry import Size
from llava_core.resampling import STRIP_VALUES, Kernel, resample
from llava_core.vectors import STRIP_LEVELS

PILLOW: dict[Kernel, Image.Resampling] = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


def pillow(image: np.ndarray, size: Size, kernel: Kernel) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size.width, size.height), PILLOW[kernel]))


def pictures(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Noise; hard edges, which overshoot and are clipped between the passes; a pattern, whose sums lie on the half."""
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rows, columns = np.indices(shape)[:2]
    return [noise, (noise // 128 * 255).astype(np.uint8), ((rows // 3 + columns // 2) % 2 * 255).astype(np.uint8)]


@pytest.mark.parametrize("kernel", ["bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((100, 150), (336, 336)),  # grows
        ((400, 300), (336, 336)),  # height shrinks, width grows: height first
        ((300, 400), (336, 336)),  # width shrinks, height grows: width first
        ((500, 500), (250, 374)),  # loses 250 rows and 126 columns: width first
        ((500, 500), (250, 376)),  # loses 250 rows and 124 columns: height first
        ((120, 77), (120, 50)),  # one pass
        ((120, 77), (60, 77)),
        ((2 * STRIP_VALUES + 1, STRIP_LEVELS + 5), (200, 171)),  # strips that are not whole
        ((1001, 1405), (504, 672)),
        ((1400, 1100), (504, 672)),
        ((512, 512), (504, 672)),
        ((700, 900), (671, 1008)),
        ((375, 500), (32, 32)),  # the pHash's
        ((32, 100), (32, 32)),
        ((7, 900), (32, 32)),
        ((1201, 640), (32, 32)),
        ((1700, 900), (672, 336)),
        ((2, 90), (28, 28)),
        ((90, 1), (7, 28)),
        ((1, 1), (3, 2)),
    ],
)
def test_every_value_is_that_of_pillow(size: tuple[int, int], wanted: tuple[int, int], kernel: Kernel) -> None:
    for shape in ((*size, 3), size):
        for image in pictures(shape):
            np.testing.assert_array_equal(resample(image, Size(*wanted), kernel), pillow(image, Size(*wanted), kernel))


side = st.integers(1, 140)


@settings(max_examples=150, deadline=None)
@given(side, side, side, side, st.sampled_from(["bicubic", "lanczos"]), st.integers(0, 2))
def test_any_size_to_any_size(height: int, width: int, tall: int, wide: int, kernel: Kernel, number: int) -> None:
    image = pictures((height, width, 3))[number]
    np.testing.assert_array_equal(resample(image, Size(tall, wide), kernel), pillow(image, Size(tall, wide), kernel))


def test_a_photo_made_much_smaller() -> None:
    """More than 60 inputs to an output, as of the largest pictures."""
    photo = data.astronaut()
    for wanted in (Size(32, 32), Size(31, 200), Size(8, 5)):
        np.testing.assert_array_equal(resample(photo, wanted, "lanczos"), pillow(photo, wanted, "lanczos"))


def test_views_and_read_only_arrays_are_taken_and_left_as_they_are() -> None:
    """Such arrays come from Pillow and from callers' slices."""
    image = pictures((60, 90, 3))[0]
    before = image.copy()
    expected = pillow(np.ascontiguousarray(image[::-1, ::2]), Size(20, 20), "bicubic")
    locked = image.copy()
    locked.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(resample(image[::-1, ::2], Size(20, 20)), expected)
        upside_down = pillow(np.ascontiguousarray(image[::-1]), Size(20, 90), "bicubic")
        np.testing.assert_array_equal(resample(image[::-1], Size(20, 90)), upside_down)
        np.testing.assert_array_equal(resample(locked, Size(20, 90)), resample(image, Size(20, 90)))
        assert resample(locked, Size(60, 90)) is locked
    assert image.flags.writeable and resample(image, Size(20, 20)).flags.writeable
    np.testing.assert_array_equal(image, before)
    compiled_for = getattr(vectors.weigh, "signatures")  # noqa: B009 — mypy knows the function that was compiled
    assert len(compiled_for) == 1, "seconds for each"


@pytest.mark.parametrize(
    ("shape", "kind", "wanted"),
    [
        ((0, 5, 3), np.uint8, (2, 2)),
        ((5, 4, 3), np.uint8, (0, 2)),
        ((5, 4, 3), np.uint8, (2, -1)),
        ((5, 4, 3), np.float32, (2, 2)),
        ((1, 5, 4, 3), np.uint8, (2, 2)),
    ],
)
def test_what_the_sums_cannot_take_is_refused(shape: tuple[int, ...], kind: type, wanted: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot resize"):
        resample(np.zeros(shape, kind), Size(*wanted))


@pytest.mark.parametrize("kept", [True, False])
def test_compiled_sums_are_kept_where_a_folder_can_be_written(tmp_path: Path, *, kept: bool) -> None:
    """A worker in an image with nothing writable compiles for itself, and does not fail."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "vectors.py").write_text(Path(vectors.__file__).read_text())
    if not kept:
        # root may write anywhere, so there is a file where the folder would be
        (package / "__pycache__").write_text("")
    script = (
        "import sys, vectors; sys.modules['llava_core.vectors'] = vectors; import numpy as np;"
        "from llava_core.geometry import Size; from llava_core.resampling import resample;"
        "print(resample(np.full((8, 8), 9, np.uint8), Size(2, 2)).tolist())"
    )
    home = str(tmp_path / "home") if kept else "/dev/null"
    settings_ = {"PYTHONPATH": f"{package}:{Path.cwd()}", "HOME": home, "XDG_CACHE_HOME": home}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PATH": os.environ["PATH"], **settings_},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "[[9, 9], [9, 9]]\n", done.stderr
    assert any(package.rglob("*.nbc")) == kept
