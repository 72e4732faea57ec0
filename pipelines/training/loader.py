"""Loading: images of this worker's rows decoded and tiled ahead of the step, by threads; and rows as tensors.

    StepStream ─ plan_rounds ─▶ this rank's rows ─ decode, tile (threads) ─▶ MicroBatch ─ queue ─▶ the loop

An image that turns out to be unreadable only now takes its sample out of the row, counted with its reason; the others
stay. What this does *not* do: choose or pack samples.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava_core.collation import Encoded, visual_tensors
from llava_core.errors import ImageRefused, PromptReason, PromptRefused
from llava_core.geometry import Size
from llava_core.labels import IGNORE_INDEX
from llava_core.media_inputs import load_image
from llava_core.processor import LLaVAProcessor
from llava_core.resampling import resample
from llava_core.video import sample_frames
from pipelines.training.data import Cursor, StepStream
from pipelines.training.packing import Cost, Round, Row, plan_rounds
from pipelines.training.samples import Sample, Unusable, fewer


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One packed row as tensors."""

    samples: tuple[Sample, ...]
    """In the row's order."""
    input_ids: Tensor
    """int64[1, T]."""
    labels: Tensor
    """int64[1, T]; the first token of each sample is never a target."""
    position_ids: Tensor
    """int64[1, T]: from 0 in each sample."""
    borders: tuple[int, ...]
    """0, then one past the last token of each sample."""
    visual: dict[str, Any]
    """pixel_values, image_sizes, image_grids, num_images_per_sample, pixel_values_videos, as the model takes them."""
    tower: bool
    """The tower runs in this round, if only for another worker's images."""

    @property
    def num_targets(self) -> int:
        """Tokens that the loss counts."""
        return int((self.labels != IGNORE_INDEX).sum())

    def to(self, device: torch.device) -> "MicroBatch":
        """The same row, its tensors on a device."""
        visual = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) and "pixel" in name else value
            for name, value in self.visual.items()
        }
        moved = {name: getattr(self, name).to(device) for name in ("input_ids", "labels", "position_ids")}
        return replace(self, visual=visual, **moved)


@dataclass(frozen=True, slots=True)
class Step:
    """What one optimiser step runs on this worker."""

    rounds: tuple[MicroBatch, ...]
    """In order, as many on every worker."""
    uids: tuple[str, ...]
    """Of the whole step's samples, all workers'."""
    unusable: tuple[Unusable, ...]
    """Rows that could not become samples: the same on every worker."""
    unreadable: tuple[Unusable, ...]
    """Samples whose images this worker could not decode."""
    cursor: Cursor
    """Where the data stands after this step."""


class Loader:
    """Loads the steps of one worker, some ahead.

    Args:
        stream: the steps' samples.
        processor: of the model.
        cost: of samples, to balance rows.
        rank: of this worker.
        world_size: workers.
        threads: that decode.
        ahead: steps that are loaded before they are asked for.
    """

    def __init__(
        self,
        stream: StepStream,
        processor: LLaVAProcessor,
        cost: Cost,
        *,
        rank: int,
        world_size: int,
        threads: int = 2,
        ahead: int = 2,
    ) -> None:
        self.stream, self.processor, self.cost = stream, processor, cost
        self.rank, self.world_size = rank, world_size
        self.threads, self.ahead = threads, ahead

    def steps(self, cursor: Cursor) -> Iterator[Step]:
        """Give the steps from a cursor on; closing the iterator ends its threads."""
        ready: queue.Queue[Any] = queue.Queue(maxsize=self.ahead)
        left = threading.Event()
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="decode")
        planner = threading.Thread(target=self._plan, args=(cursor, ready, left, pool), name="plan", daemon=True)
        planner.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield self._finish(*item)
        finally:
            left.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _plan(self, cursor: Cursor, ready: "queue.Queue[Any]", left: threading.Event, pool: ThreadPoolExecutor) -> None:
        try:
            for samples, unusable, after in self.stream.steps(cursor):
                rounds = plan_rounds(samples, self.world_size, self.sampler_tokens, self.cost)
                futures = [pool.submit(self._load_row, one) for one in rounds]
                if not _put(ready, (samples, unusable, after, futures), left):
                    return
            _put(ready, None, left)
        except BaseException as error:
            # Raised again in the thread that asked.
            _put(ready, error, left)

    @property
    def sampler_tokens(self) -> int:
        """Most tokens of a row."""
        return self.stream.sampler.stage.row_tokens

    def _finish(
        self,
        samples: Sequence[Sample],
        unusable: Sequence[Unusable],
        after: Cursor,
        futures: Sequence["Future[tuple[MicroBatch, list[Unusable]]]"],
    ) -> Step:
        loaded = [future.result() for future in futures]
        return Step(
            rounds=tuple(batch for batch, _ in loaded),
            uids=tuple(sample.row.uid for sample in samples),
            unusable=tuple(unusable),
            unreadable=tuple(one for _, lost in loaded for one in lost),
            cursor=after,
        )

    def _load_row(self, one: Round) -> tuple[MicroBatch, list[Unusable]]:
        return load_row(one.rows[self.rank], self.processor, self.stream.sampler.stage.max_tiles, tower=one.has_images)


def load_row(
    row: Row, processor: LLaVAProcessor, max_tiles: int | None, *, tower: bool
) -> tuple[MicroBatch, list[Unusable]]:
    """Decode a row's images, and make its tensors.

    Args:
        row: may be empty.
        processor: of the model.
        max_tiles: of the stage.
        tower: some worker has an image in this round.

    Returns:
        The row without the samples whose images cannot be read, and these.
    """
    encoded: list[tuple[Sample, Encoded]] = []
    lost: list[Unusable] = []
    for sample in row.samples:
        try:
            encoded.append((sample, encode(sample, processor, max_tiles)))
        except (ImageRefused, PromptRefused) as refusal:
            lost.append(Unusable(sample.row.uid, str(refusal.reason), refusal.detail))
    return micro_batch(encoded, tower=tower), lost


def encode(sample: Sample, processor: LLaVAProcessor, max_tiles: int | None) -> Encoded:
    """A sample with its images' tiles.

    Raises:
        ImageRefused: an image cannot be decoded, or has another size than was planned.
    """
    data = sample.row.load() if sample.num_tiles else ()
    images, videos = (data, []) if not sample.num_frames else ([], [frames_of(data, processor)])
    media = processor.load_media(images, videos, fewer(max_tiles, sample.row.max_tiles))
    planned = sum(media.image_tokens) + sum(media.video_tokens)
    config = processor.config
    places = sum(token in (config.image_token_id, config.video_token_id) for token in sample.input_ids)
    if planned != places:
        detail = f"its images are {planned} tokens, but {places} were planned from their headers"
        raise PromptRefused(PromptReason.TOKEN_MISMATCH, detail)
    return Encoded(
        input_ids=torch.tensor(sample.input_ids, dtype=torch.int64),
        labels=torch.tensor(sample.labels, dtype=torch.int64),
        tiles=media.tiles,
        image_sizes=media.sizes,
        image_grids=media.grids,
        num_image_tokens=planned,
        videos=media.videos,
    )


def frames_of(data: Sequence[bytes], processor: LLaVAProcessor) -> Any:
    """uint8[F, S, S, 3] of the frames that the model sees, each squashed to a tile, as it would squash them."""
    side = processor.config.tiles.tile_size
    chosen = sample_frames(len(data), processor.config.video.max_frames)
    return np.stack([resample(load_image(data[index]), Size(side, side)) for index in chosen])


def micro_batch(encoded: Sequence[tuple[Sample, Encoded]], *, tower: bool) -> MicroBatch:
    """Join samples to one row.

    Args:
        encoded: samples and what they became; none at all gives a row of one token without a target.
        tower: the tower runs in this round.
    """
    parts = [one for _, one in encoded]
    lengths = [len(one.input_ids) for one in parts] or [1]
    ids = torch.cat([one.input_ids for one in parts]) if parts else torch.zeros(1, dtype=torch.int64)
    labels = [one.labels.clone() for one in parts] or [torch.full((1,), IGNORE_INDEX)]
    for one in labels:
        # The token before it is another sample's.
        one[0] = IGNORE_INDEX
    return MicroBatch(
        samples=tuple(sample for sample, _ in encoded),
        input_ids=ids[None],
        labels=torch.cat(labels)[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        borders=(0, *accumulate(lengths)),
        visual=visual_tensors(parts),
        tower=tower,
    )


def _put(ready: "queue.Queue[Any]", item: Any, left: threading.Event) -> bool:
    """Put an item where there is room; False once nobody asks any more."""
    while not left.is_set():
        try:
            ready.put(item, timeout=0.2)
        except queue.Full:
            continue
        return True
    return False
