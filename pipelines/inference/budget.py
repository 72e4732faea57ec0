"""`--visual-budget`: tiles where an image has detail to show, so that a corpus costs what it may on average.

    window of rows ─ detail of each image ─▶ each starts with its base tile ─▶ tiles go where a token buys most detail

The average is kept in every window of rows, so it is kept in the corpus, and a row's tiles depend on its window alone:
not on the worker, not on what else runs. What this does *not* do: count tokens otherwise than `plan_tiles` does.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_core.config import ModelConfig, plan_tiles
from llava_core.geometry import Size
from llava_core.image_headers import DecodeLimits
from llava_core.resolution import lost_detail
from pipelines.decoder_process import Decoder

DETAIL = "pipelines.inference.budget:measure_detail"
"""The task that a decoding process runs for `Look`."""
WORTH = 1.25
"""How much more than the step before a higher bound has to show."""


@dataclass(frozen=True, slots=True)
class Look:
    """What is known of one row before its tiles are chosen."""

    sizes: tuple[Size, ...]
    """Of its images, pixels; none where it will be refused."""
    detail: int
    """Of all of them together: `lost_detail` by area, in hundredths of a level times megapixels."""


def measure_detail(
    data: bytes, limits: DecodeLimits, decoder: Decoder, options: Mapping[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """The task: what the base tile alone would lose of an image."""
    image = decoder(data, limits=limits)
    return {"detail": lost_detail(image, options["tile_side"])}, b""


def spend(looks: Sequence[Look], config: ModelConfig, budget: int, most: int | None) -> list[int]:
    """Choose the bound on tiles of each row, so that their image tokens are at most `budget` on average for an image.

    Args:
        looks: of each row of a window.
        config: the model's.
        budget: image tokens of an image, on average.
        most: a bound that no row exceeds.

    Returns:
        `max_tiles` of each row.

    Example:
        >>> tower = {"model_type": "clip_vision_model", "hidden_size": 1024, "image_size": 336, "patch_size": 14}
        >>> from llava_core.config import ConnectorConfig, TileConfig, VisionConfig
        >>> pinpoints = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
        >>> config = ModelConfig(vision=VisionConfig(tower=tower), text_dim=4096,
        ...                      connector=ConnectorConfig(image_newline=True), tiles=TileConfig(pinpoints=pinpoints))
        >>> looks = [Look((Size(672, 672),), 10), Look((Size(672, 672),), 900), Look((Size(300, 300),), 0)]
        >>> spend(looks, config, 1600, None)
        [0, 4, 0]
    """
    ladders = [_ladder(one, config, most) for one in looks]
    chosen = [0] * len(looks)
    room = budget * sum(len(one.sizes) for one in looks) - sum(ladder[0][1] for ladder in ladders if ladder)
    offers = [offer for row, ladder in enumerate(ladders) if (offer := _offer(row, 0, ladder, looks[row]))]
    heapq.heapify(offers)
    while offers:
        _, row, step = heapq.heappop(offers)
        ladder = ladders[row]
        cost = ladder[step][1] - ladder[chosen[row]][1]
        if cost <= room:
            room -= cost
            chosen[row] = step
            if offer := _offer(row, step, ladder, looks[row]):
                heapq.heappush(offers, offer)
    return [ladder[step][0] if ladder else 0 for ladder, step in zip(ladders, chosen, strict=True)]


def _ladder(look: Look, config: ModelConfig, most: int | None) -> list[tuple[int, int, int]]:
    """(bound, tokens, power) of a row, from the base tile alone up, only where a higher bound makes it see more.

    *Power*: tokens of the base tile or of the grid, whichever are more; a wide grid for a square image is mostly
    padding, and shows no more than the base tile does.
    """
    if not look.sizes:
        return []
    steps: list[tuple[int, int, int]] = []
    base = [plan_tiles(size, config, num_images=len(look.sizes), max_tiles=0).num_image_tokens for size in look.sizes]
    highest = max(plan_tiles(size, config, num_images=len(look.sizes), max_tiles=most).num_tiles for size in look.sizes)
    for bound in range(highest + 1):
        if most is not None and bound > most:
            break
        plans = [plan_tiles(size, config, num_images=len(look.sizes), max_tiles=bound) for size in look.sizes]
        tokens = sum(plan.num_image_tokens for plan in plans)
        power = sum(max(low, plan.num_image_tokens - low) for plan, low in zip(plans, base, strict=True))
        if not steps or power >= WORTH * steps[-1][2]:
            steps.append((bound, tokens, power))
    return steps


def _offer(row: int, step: int, ladder: Sequence[tuple[int, int, int]], look: Look) -> tuple[float, int, int] | None:
    """The best next step of a row as (−detail that a token buys, row, step); None at the top or without detail.

    What is left of the detail falls as one over the power.
    """
    if not ladder or not look.detail:
        return None
    _, now, have = ladder[step]
    best = max(
        (
            (look.detail * (1 / have - 1 / power) / (tokens - now), place)
            for place, (_, tokens, power) in enumerate(ladder[step + 1 :], step + 1)
        ),
        default=None,
    )
    return None if best is None or best[0] <= 0 else (-best[0], row, best[1])
