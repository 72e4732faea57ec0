"""Photos, kept rows and shards that the tests of sharding, exporting and reporting share."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from llava_core.config import ConnectorConfig, ModelConfig, TileConfig, VisionConfig, plan_tiles
from llava_core.geometry import Size
from llava_core.images import decode_image
from pipelines.corpus import read_fragment
from pipelines.corpus_settings import DEFAULT_COLUMNS, CorpusColumns, CorpusSettings
from pipelines.curation.shard import ShardSettings, write_shard
from pipelines.curation.shard_plan import ShardSize, plan_shards
from pipelines.curation.shard_stage import shard_work
from pipelines.fragments import Fragment
from pipelines.parts import Receipt
from schemas.selection import SELECTION

TOWER = {"model_type": "clip_vision_model", "hidden_size": 32, "image_size": 28, "patch_size": 14}
MODEL = ModelConfig(
    vision=VisionConfig(tower=TOWER),
    text_dim=16,
    connector=ConnectorConfig(image_newline=True),
    tiles=TileConfig(tile_size=28, pinpoints=(Size(28, 56), Size(56, 28), Size(28, 84))),
)
SIZE = ShardSize(least_bytes=12_000, most_bytes=40_000, group_rows=4, group_bytes=4_850)
SETTINGS = ShardSettings(run_id="shards0", model=MODEL.to_dict(), size=SIZE)


def photo(height: int, width: int, seed: int, form: str = "JPEG") -> bytes:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def talk(*turns: str) -> str:
    """Canonical JSON of turns, the human first."""
    return json.dumps([{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)])


def write_corpus(folder: Path, count: int) -> None:
    """Photos with captions, of several sizes."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        (folder / f"{number:03d}.jpg").write_bytes(photo(20 + number % 7, 30 + number % 5, number))
        (folder / f"{number:03d}.txt").write_text(f"photo {number}")


def kept_rows(fragments: list[Fragment], *, every: int = 1, columns: CorpusColumns = DEFAULT_COLUMNS) -> pa.Table:
    """SELECTION of a corpus: every n-th row kept, the others dropped."""
    rows = []
    for fragment in fragments:
        for row in read_fragment(fragment, columns=columns):
            keep = len(rows) % every == 0
            sizes = [Size(*decode_image(data).shape[:2]) for data in row.images]
            plans = [plan_tiles(size, MODEL, num_images=len(sizes)) for size in sizes]
            rows.append(
                {
                    "uid": row.uid,
                    "uri": row.uri,
                    "fragment_id": "block-00000",
                    "run_id": "sel",
                    "status": "ok" if keep else "rejected",
                    "source": "web",
                    "corpus_fragment": fragment.fragment_id,
                    "row_index": row.index,
                    "file_bytes": sum(map(len, row.images)),
                    "n_tiles": sum(plan.num_tiles for plan in plans),
                    "n_image_tokens": sum(plan.num_image_tokens for plan in plans),
                    "n_text_tokens": 3,
                    "failed": [] if keep else ["BLURRED"],
                    "error": None if keep else "BLURRED",
                }
            )
    return pa.Table.from_pylist(rows, schema=SELECTION)


def write_all(
    out: Path, fragments: list[Fragment], kept: pa.Table, *, columns: CorpusColumns = DEFAULT_COLUMNS
) -> list[Receipt]:
    """Write all shards of a selection, in this process."""
    by_id = {one.fragment_id: one for one in fragments}
    return [
        write_shard(
            shard_work(plan, by_id),
            SETTINGS,
            table_uri=str(out),
            storage_options={},
            columns=columns,
            corpus=CorpusSettings(),
        )
        for plan in plan_shards(kept, fragments, SIZE)
    ]


def files_of(receipts: list[Receipt]) -> list[str]:
    """Paths of all part files, sorted."""
    return sorted(file.path for receipt in receipts for file in receipt.files)
