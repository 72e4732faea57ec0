"""What a stranger does first: `make demo`."""

import sys
import time
from pathlib import Path

import polars
from deltalake import DeltaTable

from tests.e2e.caption_cases import ROOT, driver_environment
from tests.e2e.processes import started

DRAWN = [f"{kind}_{index}.png" for kind in ("chart", "receipt", "scene", "sign") for index in (0, 1)]


def test_the_demo_captions_drawings_and_photos_and_shows_its_rejections(tmp_path: Path) -> None:
    begun = time.monotonic()
    with started([sys.executable, str(ROOT / "jobs" / "demo.py")], driver_environment(), tmp_path) as demo:
        said, _ = demo.communicate(timeout=300)
    assert demo.returncode == 0, said
    assert time.monotonic() - begun < 240  # 35 s alone on 2 cores; CI may be busy
    output = tmp_path / "out" / "demo" / "captions"
    rows = DeltaTable(output).to_pyarrow_table().to_pylist()
    assert len({row["uri"] for row in rows}) == len(rows) == 25
    bad = {Path(row["uri"]).name: row["error"] for row in rows if row["error"]}
    assert bad == {"cut_off.jpg": "TRUNCATED", "not_an_image.jpg": "NOT_IMAGE"}
    assert said.splitlines()[0].startswith("model tiny")
    assert [line.split(" ")[0] for line in said.splitlines()[-8:]] == DRAWN
    assert (output / "gallery.html").read_text().count("<img ") == 23
    assert polars.read_delta(str(output)).filter(polars.col("status") == "ok")["text"].null_count() == 0
