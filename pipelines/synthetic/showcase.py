"""The images of `make demo`: drawings of four kinds, real photos, and two files that are no image.

The embedded model knows drawings of these kinds, but none of these: their words and layouts are held out. The photos
come with the package scikit-image. What this does *not* do: caption them (`jobs/demo.py`).
"""

import io
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from llava_core.images import decode_image
from pipelines.synthetic.drawing import Kind
from pipelines.synthetic.drawn import DrawnConfig, draw_one

PACKAGED = Path(skimage.data.__file__).parent
AS_JPEG = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "moon", "motorcycle_left")
AS_THEY_ARE = ("camera.png", "coins.png", "hubble_deep_field.jpg", "ihc.png", "page.png", "retina.jpg", "rocket.jpg")
DRAWN = DrawnConfig(seed=20261126, split="held_out")
KINDS: tuple[Kind, ...] = ("scene", "receipt", "sign", "chart")
OF_EACH_KIND = 2


def drawings() -> dict[str, bytes]:
    """File name → PNG: two drawings of each kind, e.g. "sign_0.png"."""
    return {
        f"{kind}_{index}.png": _encoded(draw_one(index, DRAWN, kind).pixels, "PNG")
        for kind in KINDS
        for index in range(OF_EACH_KIND)
    }


def photos() -> dict[str, bytes]:
    """File name → bytes: real photos, one JPEG cut off in the middle, one text file with an image's name."""
    files = {name: (PACKAGED / name).read_bytes() for name in AS_THEY_ARE}
    for name in AS_JPEG:
        files[f"{name}.jpg"] = _encoded(decode_image((PACKAGED / f"{name}.png").read_bytes()), "JPEG")
    files["cut_off.jpg"] = files["coffee.jpg"][: len(files["coffee.jpg"]) // 2]
    return files | {"not_an_image.jpg": b"Shopping list: coffee, bricks, a rocket.\n"}


def _encoded(pixels: NDArray[np.uint8], form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, quality=92)
    return file.getvalue()
