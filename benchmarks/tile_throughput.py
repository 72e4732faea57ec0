"""JPEG bytes → tiles ready for the device, on one core, against transformers' `LlavaNextImageProcessorPil`.

    python benchmarks/tile_throughput.py

Both sides get the same bytes in the same process and thread, turn and turn about; what counts is processor time.
Ours: `decode_image`, `plan_tiles`, `tile_image`. Theirs: `PIL.Image.open`, then the processor with the same pinpoints,
up to `pixel_values`. 24 photos of 300 to 4,000 pixels on their longer side, of five aspect ratios, half with 4:2:0
and half with 4:4:4 chroma. Theirs ends with normalised float32, ours with uint8, which the model normalises where it
is: that is part of the first claim, so the last figure says how it stands without.

The second claim is about `decode_image(at_least=…)`, which lets libjpeg shrink while decoding; its pixels are not
Pillow's, so it is off by default.
"""

import io
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from report import report
from skimage import data
from transformers import LlavaNextImageProcessorPil

from llava_core.config import ModelConfig, TileConfig, VisionConfig, plan_tiles
from llava_core.geometry import Size, fit_inside
from llava_core.images import decode_image, read_header
from llava_core.tiling import tile_image

PASSES = 5
LONGER_SIDES = (300, 400, 500, 640, 800, 1024, 1280, 1600, 1920, 2560, 3200, 4000)
ASPECTS = ((3, 4), (4, 3), (2, 3), (9, 16), (1, 1))
SIDE = 336


def make_jpegs() -> list[bytes]:
    """24 JPEGs of real photos: upscaled, with a grain of noise so that large ones compress as large photos do."""
    rng = np.random.default_rng(0)
    photos = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    files = []
    for index, longer in enumerate(LONGER_SIDES * 2):
        rows, cols = ASPECTS[index % len(ASPECTS)]
        height, width = longer * rows // max(rows, cols), longer * cols // max(rows, cols)
        photo = Image.fromarray(photos[index % len(photos)]).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 4, (height, width, 1))
        pixels = np.clip(np.asarray(photo) + grain, 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90, subsampling=2 * (index % 2))
        files.append(file.getvalue())
    return files


def ours(files: list[bytes], config: ModelConfig, *, scaled: bool = False) -> list[NDArray[np.uint8]]:
    """uint8[N, 3, S, S] for each file."""
    tiled = []
    for file in files:
        least = None
        if scaled:
            size = read_header(file).size
            inner = fit_inside(size, plan_tiles(size, config).canvas)
            least = Size(max(inner.height, SIDE), max(inner.width, SIDE))
        pixels = decode_image(file, at_least=least)
        size = read_header(file).size if scaled else Size(*pixels.shape[:2])
        tiled.append(tile_image(pixels, plan_tiles(size, config), config.tiles))
    return tiled


def theirs(files: list[bytes], processor: LlavaNextImageProcessorPil, **settings: bool) -> list[torch.Tensor]:
    """float32[N, 3, S, S] for each file."""
    return [
        processor(Image.open(io.BytesIO(file)), return_tensors="pt", **settings)["pixel_values"][0] for file in files
    ]


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one run: with one thread, its wall time on a machine that does nothing else."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> int:
    """Compare, and print the claims."""
    torch.set_num_threads(1)
    processor = LlavaNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    pinpoints = tuple(Size(*pinpoint) for pinpoint in processor.image_grid_pinpoints)
    config = ModelConfig(
        vision=VisionConfig(tower={"hidden_size": 64, "image_size": SIDE, "patch_size": 14}),
        text_dim=64,
        tiles=TileConfig(tile_size=SIDE, pinpoints=pinpoints, axis_order="hf"),
    )
    files = make_jpegs()
    megapixels = sum(size.height * size.width for size in (read_header(file).size for file in files)) / 1e6
    print(f"{len(files)} JPEGs, {megapixels:.0f} megapixels, {sum(map(len, files)) / 1e6:.0f} MB; {PASSES} passes")

    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    worst = 0.0
    for mine, other in zip(ours(files, config), theirs(files, processor), strict=True):
        worst = max(worst, float(((other * std + mean) * 255 - torch.from_numpy(mine)).abs().max()))
    print(f"largest difference between their tiles and ours: {worst:.2f} levels of 255")

    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(files, config),
        "ours, at_least": lambda: ours(files, config, scaled=True),
        "theirs": lambda: theirs(files, processor),
        "theirs, uint8": lambda: theirs(files, processor, do_rescale=False, do_normalize=False),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(PASSES):
        for name, run in runs.items():
            times[name].append(seconds(run))
    for name, taken in times.items():
        rate = len(files) / statistics.median(taken)
        print(f"{name:16} {rate:6.1f} images/s  ({min(taken):.2f}-{max(taken):.2f} s a pass)")

    def ratio(slow: str, fast: str) -> float:
        return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))

    peer = "LlavaNextImageProcessorPil, same bytes, one core"
    holds = [
        report("JPEG bytes to tiles", ratio("theirs", "ours"), "x", ">= 4", peer),
        report("JPEG bytes to tiles, decoding at a reduced size", ratio("theirs", "ours, at_least"), "x", ">= 4", peer),
        report("JPEG bytes to tiles, peer without normalising", ratio("theirs, uint8", "ours"), "x", "", peer),
    ]
    return int(worst > 1.01 or not all(holds))


if __name__ == "__main__":
    sys.exit(main())
