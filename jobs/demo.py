"""Captions a handful of real photos, two broken files among them, by the same flow as `caption_corpus`.

    python jobs/demo.py

The photos come with the package scikit-image; nothing is downloaded. Everything lands in out/demo.
"""

import functools
import io
import sys
from pathlib import Path

import skimage.data
from deltalake import DeltaTable
from PIL import Image

from llava_core.images import decode_image
from pipelines import cli
from pipelines.inference import recipes
from pipelines.inference.flow import run_job

ROOT = Path("out/demo")
PACKAGED = Path(skimage.data.__file__).parent
AS_JPEG = ("astronaut", "brick", "chelsea", "coffee", "grass", "gravel", "moon", "motorcycle_left")
AS_THEY_ARE = ("camera.png", "coins.png", "hubble_deep_field.jpg", "ihc.png", "page.png", "retina.jpg", "rocket.jpg")


def photos() -> dict[str, bytes]:
    """File name → bytes: real photos, one JPEG cut off in the middle, one text file with an image's name."""
    files = {name: (PACKAGED / name).read_bytes() for name in AS_THEY_ARE}
    for name in AS_JPEG:
        file = io.BytesIO()
        Image.fromarray(decode_image((PACKAGED / f"{name}.png").read_bytes())).save(file, "JPEG", quality=92)
        files[f"{name}.jpg"] = file.getvalue()
    files["cut_off.jpg"] = files["coffee.jpg"][: len(files["coffee.jpg"]) // 2]
    return files | {"not_an_image.jpg": b"Shopping list: coffee, bricks, a rocket.\n"}


def main() -> int:
    """Write the photos, caption them, show a few captions, and return the exit code."""
    say = functools.partial(print, flush=True)
    folder = ROOT / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in photos().items():
        # a file that is touched is a changed file: it would be captioned again
        if not (folder / name).exists() or (folder / name).read_bytes() != data:
            (folder / name).write_bytes(data)
    config = recipes.demo(photos=str(folder), output=str(ROOT / "captions"))
    code = cli.run(lambda: run_job(config, say))
    captions = DeltaTable(ROOT / "captions").to_pyarrow_table(columns=["uri", "text"], filters=[("status", "=", "ok")])
    for row in captions.sort_by("uri").slice(length=5).to_pylist():
        say(f"\n{Path(row['uri']).name}: {row['text']!r}")
    return code


if __name__ == "__main__":
    sys.exit(main())
