"""PyTorch checkpoint → our directory: file by file, a few tensors in memory, resumable after a kill anywhere.

The work is done in `DST.partial`, which is renamed at the end (in a bucket, which has no atomic rename: in DST itself,
which is no model before its `model_index.json`, the last file written).  `progress.json` in there lists the layers
that are written.  Whatever it does not list is written again, over what may be there, into the same chunk files: a
resumed conversion ends as an uninterrupted one.
"""

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from huggingface_hub.constants import HF_HOME
from tqdm import tqdm

from convert.components import Component, components
from convert.folders import Folder
from convert.progress import Progress
from convert.sources import Source, open_source
from convert.tensor_files import TensorInfo
from wan_jax import checkpoint, room
from wan_jax.errors import WanError

_RECORD_BYTES = 1 << 30  # converted between two records of the progress
_COPIES = 2  # of a tensor at least: as it is read, and as it is laid out


def convert(
    src: str,
    dst: str,
    *,
    dtype: str = "bfloat16",
    quantize: str | None = None,
    revision: str | None = None,
    keep_source: bool = False,
    quiet: bool = False,
):
    """Converts a checkpoint, or finishes what a killed call with the same arguments began.

    Args:
        src: a directory or a hub id; see `open_source`.
        dst: the directory or bucket to make; it appears when complete.
        dtype: of the transformers and the text encoder; norms, modulation and the VAE stay in float32.
        quantize: how to keep the matrices of the transformers: one of `config.QUANTIZATIONS`, or None.
        revision: of the hub repository; pinned to a commit by the first call.
        keep_source: keep what is fetched from the hub, in the cache that all tools of the hub share.
        quiet: no progress bar.

    Raises:
        WanError: the source does not fit, the disk is too small, or `dst` is taken.
    """
    target = epath.Path(dst)
    # Only a local rename is atomic.
    work = target if "://" in dst else target.parent / f"{target.name}.partial"
    progress = Progress.load(work)
    if progress and progress.source["id"] == src:
        revision = revision or progress.source["revision"]
    downloads = None if keep_source else _download_folder(target, src)
    source = open_source(src, revision, downloads)
    transformer = dataclasses.replace(source.config.transformer, quantization=quantize)
    source = dataclasses.replace(source, config=dataclasses.replace(source.config, transformer=transformer))
    origin = _origin(source, dtype)
    if progress:
        progress.require(origin, source.folder.sizes)
    if checkpoint.is_checkpoint(target):
        if checkpoint.read_source(target) != origin:
            raise WanError(f"{dst}: holds another model already; delete it or choose another --dst")
    elif work != target and target.exists():
        raise WanError(f"{dst}: exists and is not a checkpoint of ours; delete it or choose another --dst")
    elif not checkpoint.is_checkpoint(work):
        progress = progress or Progress(work, origin, source.folder.sizes)
        _convert_weights(source, progress, dtype, downloads if source.folder.revision else None, quiet)
        _copy_tokenizer(source, work)
        checkpoint.write_model_index(work, source.config, origin)
    if progress:
        progress.remove()
    if work != target and work.exists():
        work.rename(target)
    if downloads and downloads.exists():
        shutil.rmtree(downloads)


def _origin(source: Source, dtype: str) -> dict[str, Any]:
    local, quantization = source.folder.revision is None, source.config.transformer.quantization
    return {
        "id": Path(source.folder.name).resolve().name if local else source.folder.name,
        "revision": source.folder.revision,
        "layout": source.layout,
        "dtype": dtype,
    } | ({} if quantization is None else {"quantization": quantization})


def _download_folder(target: epath.Path, src: str) -> Path:
    """Beside a local destination, so that it is the disk whose space was checked."""
    if "://" in str(target):
        return Path(HF_HOME) / "wan_jax" / src.replace("/", "--")
    return Path(f"{target}.download")


@dataclass(frozen=True)
class _Job:
    """The tensors of one file that are still to be converted."""

    component: Component
    file: str
    header: dict[str, TensorInfo]

    @property
    def nbytes(self) -> int:
        return sum(info.nbytes for info in self.header.values())


def _convert_weights(source: Source, progress: Progress, dtype: str, downloads: Path | None, quiet: bool):
    """Writes every array that `progress` does not list yet, and the manifests."""
    parts = components(source.config, dtype).values()
    # Every header is checked before anything is written, or fetched.
    headers = {part.name: source.headers(part) for part in parts}
    total = sum(_Job(part, file, header).nbytes for part in parts for file, header in headers[part.name].items())
    jobs = []
    for part in parts:
        places = part.places(source.layout)
        for file, header in headers[part.name].items():
            left = {t: info for t, info in header.items() if not progress.is_done(part.name, *_place(places, t))}
            if left:
                jobs.append(_Job(part, file, left))
            else:
                source.folder.release(file)  # killed between the record and the deletion
    left = sum(job.nbytes for job in jobs)
    need = sum(part.nbytes for part in parts) * left // total
    if downloads:
        need += sum(sorted(source.folder.sizes[job.file] for job in jobs)[-2:])
    _check_room(progress.folder, need, jobs, quiet)
    progress.folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        progress.begin(part)
    progress.save()
    with tqdm(total=total, initial=total - left, unit="B", unit_scale=True, disable=quiet, file=sys.stderr) as bar:
        for job, path in _fetched(source.folder, jobs):
            bar.set_description(job.file)
            _convert_file(source, job, path, progress, bar)
            if downloads:
                os.sync()  # what replaces the download must outlast it
            progress.save()
            source.folder.release(job.file)
    for part in parts:
        manifest = _manifest(part, source.layout, headers[part.name], progress.digests[part.name])
        checkpoint.write_manifest(progress.folder / part.name, manifest)


def _fetched(folder: Folder, jobs: list[_Job]) -> Iterator[tuple[_Job, Path]]:
    """The jobs with the local paths of their files; while one is converted, the next is fetched."""
    with ThreadPoolExecutor(1) as fetcher:
        ahead = fetcher.submit(folder.fetch, jobs[0].file) if jobs else None
        for n, job in enumerate(jobs):
            path = ahead.result()
            if n + 1 < len(jobs):
                ahead = fetcher.submit(folder.fetch, jobs[n + 1].file)
            yield job, path


def _convert_file(source: Source, job: _Job, path: Path, progress: Progress, bar: tqdm):
    name, places = job.component.name, job.component.places(source.layout)
    writer, unsaved = checkpoint.ArrayWriter(progress.folder / name), 0

    def store(path: str, layer: int | None, value: np.ndarray) -> dict[str, str]:
        return {part: writer.write(part, layer, x) for part, x in job.component.parts(path, value).items()}

    for tensor, digests in source.convert_file(job.component, path, job.header, store):
        progress.mark(name, places[tensor][1], digests)
        size = job.header[tensor].nbytes
        bar.update(size)
        unsaved += size
        if unsaved > _RECORD_BYTES:
            progress.save()
            unsaved = 0


def _place(places, tensor: str) -> tuple[str, int | None]:
    rule, layer = places[tensor]
    return rule.path, layer


def _manifest(component: Component, layout, headers, digests: dict[str, list[str]]) -> dict[str, dict[str, Any]]:
    """What loading checks, and the dtype each parameter came in: `export` writes it so again."""
    places, source_dtypes = component.places(layout), {}
    for header in headers.values():
        for tensor, info in header.items():
            source_dtypes[places[tensor][0].path] = info.dtype.name
    return {
        path: {
            "shape": list(x.shape),
            "dtype": x.dtype.name,
            "source_dtype": source_dtypes[component.source_path(path)],
            "sha256": digests[path],
        }
        for path, x in component.stored.items()
    }


def _copy_tokenizer(source: Source, work: epath.Path):
    (work / "tokenizer").mkdir(parents=True, exist_ok=True)
    for name in source.tokenizer:
        (work / "tokenizer" / Path(name).name).write_bytes(source.folder.fetch(name).read_bytes())


def _check_room(work: epath.Path, need: int, jobs: list[_Job], quiet: bool):
    """Raises a WanError where the disk is too small for `need` bytes, or the memory for the largest tensor."""
    largest = max((info.nbytes for job in jobs for info in job.header.values()), default=0)
    room.check_memory("converting the largest tensor", _COPIES * largest, "convert on a machine with more")
    if "://" in str(work):
        return
    here, free = room.free_disk_bytes(work)
    if not quiet:
        print(f"needs {need / 1e9:.1f} GB of disk; {free / 1e9:.1f} GB are free at {here}", file=sys.stderr)
    room.check_disk(work, need)
