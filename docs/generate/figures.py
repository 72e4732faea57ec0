"""Tables of figures that pages quote, computed when the site is built.

What this does *not* do: measure anything; what is here follows from arithmetic alone.
"""

from collections.abc import Sequence

from docs.generate.pictures import SIZES
from docs.generate.rendering import table
from llava_core.config import plan_tiles
from llava_core.geometry import Size
from pipelines.curation.blocks import choose_blocks
from pipelines.curation.models import LLAVA_NEXT
from pipelines.curation.near import GREATEST_DISTANCE, NearConfig
from pipelines.evaluation.benchmarks import BENCHMARKS
from pipelines.evaluation.sources import Source

ROWS = (10**5, 10**6, 10**7, 10**8, 10**9)
"""Sizes of corpora whose tables of hashes are shown."""


def recall_table() -> str:
    """Share of pairs that share a bucket, by their distance and the size of the corpus, at the guarantee of a run."""
    guaranteed = NearConfig().guaranteed_distance
    beyond = range(guaranteed + 1, GREATEST_DISTANCE + 1)
    head = ["images", "blocks", "agree on", "tables", f"d ≤ {guaranteed}", *(f"d = {d}" for d in beyond)]
    rows = []
    for count in ROWS:
        blocks = choose_blocks(count, guaranteed)
        recall = (f"{blocks.recall(d):.4g}" for d in (guaranteed, *beyond))
        rows.append([f"{count:,}", f"{blocks.count}", f"{blocks.take}", f"{len(blocks.tables)}", *recall])
    return table(head, rows)


def guarantee_table() -> str:
    """What a farther guarantee costs among ten million images: tables, and candidate pairs of unlike images."""
    rows = []
    for distance in range(GREATEST_DISTANCE + 1):
        blocks = choose_blocks(10**7, distance)
        candidates = f"{blocks.candidates(10**7):.2g}"
        rows.append((f"{distance}", f"{blocks.count}", f"{blocks.take}", f"{len(blocks.tables)}", candidates))
    return table(("guaranteed distance", "blocks", "agree on", "tables", "candidate pairs by chance"), rows)


def plans_table() -> str:
    """Canvas, grid and tokens of some sizes."""
    rows = []
    for size in (*SIZES, Size(400, 600)):
        plan = plan_tiles(size, LLAVA_NEXT)
        low = plan_tiles(size, LLAVA_NEXT, max_tiles=0)
        rows.append(
            (
                _by(size),
                _by(plan.canvas),
                _by(plan.grid),
                f"{plan.num_tiles}",
                _by(plan.features),
                f"{plan.num_image_tokens:,}",
                f"{low.num_image_tokens:,}",
            )
        )
    head = ("image", "canvas", "grid", "tiles", "features kept", "image tokens", "with the base tile alone")
    return table(head, rows)


def _by(size: Size) -> str:
    return f"{size.height:,} × {size.width:,}"


class _Wanted(Exception):
    """The first files that a reader asks for, and where they come from."""


class _NoFolder(Source):
    def find(self, names: Sequence[str], where: str) -> str:
        """Say what is asked for, instead of looking for it."""
        raise _Wanted(names[0], where)


def benchmarks_table() -> str:
    """Every benchmark with official files, by the first one that its reader asks for."""
    rows = []
    for one in BENCHMARKS:
        if one.name.startswith("drawn"):
            continue
        try:
            one.read(_NoFolder(benchmark=one.name, folder="/nowhere", split=one.splits[0]))
        except _Wanted as wanted:
            name, where = wanted.args
            splits = ", ".join(f"`{split}`" for split in one.splits)
            address, _, rest = where.partition(" ")
            rows.append((f"`{one.name}`", one.title, splits, f"`{name}`", f"<{address}> {rest}".strip()))
    return table(("benchmark", "is", "splits, the default first", "looked for first", "comes from"), rows)
