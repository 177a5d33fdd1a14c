"""Datasets as batches on the mesh, in an order that depends on the seed and the sample counter alone.

The order is grain's: the clips of a size are shuffled anew for every pass, its batch n takes the samples n·B to
n·B + B − 1, and sizes take turns as often as they have clips.  So a run may go on from any sample, on any number of
processes, and each process reads only the rows that its own devices hold.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jax.sharding import NamedSharding, Sharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from wan_jax import sharding
from wan_jax.data import shards
from wan_jax.data.buckets import Bucket
from wan_jax.data.units import StoredUnit
from wan_jax.errors import WanError
from wan_jax.tokenizer import Tokenizer
from wan_jax.typing import Bool, Float, Int, UInt8

_READING = grain.ReadOptions(num_threads=8, prefetch_buffer_size=8)  # batches that are read ahead
_KEPT_SHARE = 0.2  # of the host's memory: a split up to this size stays there

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Batch:
    """Clips of one size; as it is handed out, on the ambient mesh.

    Attributes:
        ids: of the clips in the rows that this process holds, in order.
        latents: float32.
        captions: umT5 states, float32, zero past the end of a caption; or ids and mask of the tokens.
        unit: what a model is shown of each clip, where the dataset holds that.
    """

    ids: list[str]
    latents: Float["b f h w c"]
    captions: Float["b s d"] | tuple[Int["b s"], Bool["b s"]]
    unit: StoredUnit | None = None


@dataclass(frozen=True)
class FrameBatch:
    """Clips of one size as pixels; as it is handed out, on the ambient mesh.

    Attributes:
        ids: of the clips in the rows that this process holds, in order.
        frames: as they are stored.
    """

    ids: list[str]
    frames: UInt8["b f h w 3"]


Window = tuple[int, int, int]  # width, height and frames
Stack = Callable[[Sequence[Record], Sequence[int]], Any]  # records and their sample numbers → a batch on the host


class Dataset:
    """A folder that `data build` made.

    Attributes:
        config: the content of its wan_jax.json.
    """

    def __init__(self, folder: epath.PathLike):
        """Raises a WanError if there is no finished dataset."""
        self.folder = epath.Path(folder)
        self.config = shards.read_config(self.folder)
        self._builder = tfds.builder_from_directory(self.folder)

    def splits(self, part: str) -> dict[str, tuple[Bucket, int]]:
        """The size and number of clips of each split of "train" or "validation"; those without clips are left out."""
        return {
            name: (Bucket(entry["width"], entry["height"], entry["frames"]), entry["clips"])
            for name, entry in self.config["splits"].items()
            if name.startswith(f"{part}_") and entry["clips"]
        }

    def source(self, split: str) -> Sequence[Record]:
        """The records of a split: bytes `id` and `caption`, and arrays `frames`, or `latents` and `text`."""
        records = self._builder.as_data_source(split)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return _Kept(records) if self._builder.info.splits[split].num_bytes <= _KEPT_SHARE * memory else records

    @cached_property
    def no_text(self) -> Float["1 s d"] | None:
        """The umT5 states of the empty caption, as `Batch.captions` would hold them; None if there are no states."""
        if not self.config["text"]:
            return None
        with (self.folder / shards.NO_TEXT).open("rb") as file:
            return _padded([np.load(file)], self.config["text_len"])


class _Kept(Sequence):
    """Records that stay in memory once read: to parse a batch of them takes longer than a small model's step."""

    def __init__(self, records: Sequence[Record]):
        self._records = records
        self._kept: dict[int, Record] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Record:
        i = range(len(self))[i]  # IndexError, which ends a loop, where array_record has a ValueError
        if i not in self._kept:
            self._kept[i] = self._records[i]
        return self._kept[i]


def batches(
    dataset: Dataset,
    *,
    batch: int,
    seed: int,
    start: int = 0,
    tokenizer: Tokenizer | None = None,
) -> Iterator[Batch]:
    """Batches of training clips without end, on the mesh around the caller.

    Args:
        dataset: of latents.
        batch: clips in a batch, over all processes.
        seed: of the order.
        start: the samples that were consumed before, over all processes.
        tokenizer: yields the tokens of captions instead of their states.

    Raises:
        WanError: `start` lies inside of a batch, or the dataset does not hold what is asked for.
    """
    _check_contents(dataset, "latents")
    return _stream(dataset, batch, seed, start, _latents(dataset, tokenizer))


def frame_batches(
    dataset: Dataset, *, batch: int, seed: int, start: int = 0, windows: tuple[Window, ...] = ()
) -> Iterator[FrameBatch]:
    """As `batches`, of a dataset of frames.

    Args:
        windows: width, height and frames of a random part of each clip, which is shown instead of all of it; batches
            take them in turn.

    Raises:
        WanError: also if a clip is smaller than the window.
    """
    _check_contents(dataset, "frames")
    for (bucket, _), window in product(dataset.splits("train").values(), windows):
        if any(has < wanted for has, wanted in zip((bucket.width, bucket.height, bucket.frames), window)):
            wanted = "{}x{}x{}".format(*window)
            raise WanError(f"a window of {wanted} does not fit into the clips of {bucket} in {dataset.folder}")
    return _stream(dataset, batch, seed, start, partial(_parts, seed=seed, batch=batch, windows=windows))


def validation_clips(
    dataset: Dataset, count: int, *, batch: int, tokenizer: Tokenizer | None = None
) -> Iterator[Batch]:
    """The first `count` clips of the validation splits, always in the same order.

    Args:
        dataset: of latents.
        count: at most so many.
        batch: at most so many at a time; fewer where the clips of a size run out.
        tokenizer: yields the tokens of captions instead of their states.

    Raises:
        WanError: the dataset does not hold what is asked for.
    """
    _check_contents(dataset, "latents")
    return _held_out(dataset, count, batch, _latents(dataset, tokenizer))


def validation_frames(dataset: Dataset, count: int, *, batch: int) -> Iterator[FrameBatch]:
    """As `validation_clips`, of a dataset of frames."""
    _check_contents(dataset, "frames")
    return _held_out(dataset, count, batch, _frames)


def _stream(dataset: Dataset, batch: int, seed: int, start: int, stack: Stack) -> Iterator:
    if start % batch:
        raise WanError(f"the run stopped after {start} samples, which batch={batch} does not divide; keep the batch")
    parts = dataset.splits("train")
    if not parts:
        raise WanError(f"{dataset.folder} holds no clips to train on")
    rows = _rows(batch)
    streams = []
    for name in parts:
        records = grain.MapDataset.source(dataset.source(name)).shuffle(seed).repeat()
        read = partial(_read, records, rows, batch, stack)
        streams.append(grain.MapDataset.range(sys.maxsize // batch).map(read))
    mixed = grain.MapDataset.mix(streams, [count for _, count in parts.values()])
    return (_on_mesh(held, rows, batch) for held in mixed[start // batch :].to_iter_dataset(_READING))


def _held_out(dataset: Dataset, count: int, batch: int, stack: Stack) -> Iterator:
    for name, (_, size) in dataset.splits("validation").items():
        source, size = dataset.source(name), min(size, count)
        count -= size
        for first in range(0, size, batch):
            length = min(batch, size - first)
            rows = _rows(length)
            yield _on_mesh(stack([source[first + row] for row in rows], rows), rows, length)


def _check_contents(dataset: Dataset, wanted: str):
    if dataset.config["contents"] == wanted:
        return
    if wanted == "latents":
        raise WanError(f"{dataset.folder} holds frames; encode them: data build --src {dataset.folder} --model …")
    raise WanError(f"{dataset.folder} holds latents; build it from the videos again, without --model")


def _read(records: grain.MapDataset, rows: list[int], batch: int, stack: Stack, n: int) -> Any:
    """The rows of batch `n` that this process holds; grain's threads do it ahead."""
    samples = [n * batch + row for row in rows]
    return stack([records[sample] for sample in samples], samples)


def _latents(dataset: Dataset, tokenizer: Tokenizer | None) -> Stack:
    if tokenizer is None and not dataset.config["text"]:
        raise WanError(f"{dataset.folder} was built with --no-text: train the text encoder too, or build it again")

    def stack(records: Sequence[Record], _: Sequence[int]) -> Batch:
        def stacked(name: str) -> np.ndarray:
            return np.stack([record[name] for record in records])

        if tokenizer is None:
            captions = _padded([record["text"] for record in records], dataset.config["text_len"])
        else:
            captions = tokenizer([record["caption"].decode() for record in records])
        unit = StoredUnit(stacked("unit"), stacked("unit_mask")) if dataset.config.get("units") else None
        return Batch(_ids(records), stacked("latents"), captions, unit)

    return stack


def _frames(records: Sequence[Record], _: Sequence[int]) -> FrameBatch:
    return FrameBatch(_ids(records), np.stack([record["frames"] for record in records]))


def _parts(
    records: Sequence[Record], samples: Sequence[int], seed: int, batch: int, windows: tuple[Window, ...]
) -> FrameBatch:
    if not windows:
        return _frames(records, samples)
    window = windows[samples[0] // batch % len(windows)]
    rngs = (np.random.default_rng((seed, sample)) for sample in samples)
    return FrameBatch(_ids(records), np.stack([_part(x["frames"], window, rng) for x, rng in zip(records, rngs)]))


def _part(clip: UInt8["f h w 3"], window: Window, rng: np.random.Generator) -> UInt8["g i j 3"]:
    """A random part of a clip, mirrored or not."""
    width, height, frames = window
    f, y, x = (rng.integers(has - wanted + 1) for has, wanted in zip(clip.shape, (frames, height, width)))
    part = clip[f : f + frames, y : y + height, x : x + width]
    return part[:, :, ::-1] if rng.integers(2) else part


def _ids(records: Sequence[Record]) -> list[str]:
    return [record["id"].decode() for record in records]


def _on_mesh(held: Any, rows: list[int], batch: int) -> Any:
    """A batch of which this process holds some rows, as arrays on the mesh."""

    def place(x: np.ndarray) -> jax.Array:
        clips = x.ndim == 5
        spec = sharding.latent_spec((batch, *x.shape[1:])) if clips else _batch_spec(batch)
        placed = _place(x, rows, batch, spec)
        return placed.astype(jnp.float32) if placed.dtype == jnp.float16 else placed  # there: less to send

    arrays = {name: value for name, value in vars(held).items() if name != "ids"}
    return replace(held, **jax.tree.map(place, arrays))


def _padded(states: Sequence[Float["s d"]], length: int) -> Float["b n d"]:
    padded = np.zeros((len(states), length, states[0].shape[-1]), np.float32)
    for row, state in zip(padded, states):
        row[: len(state)] = state
    return padded


def _rows(batch: int) -> list[int]:
    """The rows of a batch that the devices of this process hold."""
    pieces = _sharding(_batch_spec(batch)).addressable_devices_indices_map((batch,)).values()
    return sorted({row for (piece,) in pieces for row in range(batch)[piece]})


def _batch_spec(batch: int) -> P:
    return P(sharding.split(batch).batch or None)


def _place(held: np.ndarray, rows: list[int], batch: int, spec: P) -> jax.Array:
    """The array of which this process holds some rows."""
    position = {row: i for i, row in enumerate(rows)}

    def piece(index: tuple[slice, ...]) -> np.ndarray:
        wanted = [position[row] for row in range(batch)[index[0]]]
        return held[(slice(None), *index[1:])][wanted]

    return jax.make_array_from_callback((batch, *held.shape[1:]), _sharding(spec), piece)


def _sharding(spec: P) -> Sharding:
    mesh = jax.sharding.get_mesh()
    return SingleDeviceSharding(jax.local_devices()[0]) if mesh.empty else NamedSharding(mesh, spec)
