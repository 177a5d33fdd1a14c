"""Hours of video to a file of latents and back, in constant memory; a killed run goes on where it was.

Nothing but the output is kept for going on: `wan_jax.models.reach` says how much before the cut is done again.  The
bytes are those of an uninterrupted run.
"""

import hashlib
import itertools
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

import wan_jax
from wan_jax.config import VAEConfig
from wan_jax.errors import WanError
from wan_jax.models.reach import restart_chunk
from wan_jax.pipelines import latents_file, segments
from wan_jax.pipelines.autoencoder import Autoencoder, fetch, open_autoencoder, to_pixels
from wan_jax.pipelines.latents_file import LatentsFile, LatentsWriter, read_latents
from wan_jax.pipelines.loading import read_vae_config
from wan_jax.pipelines.segments import SegmentedVideo
from wan_jax.video_io import check_output, read_video

_SEGMENT = 64  # latent frames: long enough for H.264, short enough to do again


def encode_file(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    model: str,
    dtype: Any = None,
    max_frames: int | None = None,
    mesh: Mesh | str | None = None,
    tile: int | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Encodes a video into `dst`, a file of latents; see `wan_jax.pipelines.latents_file`.

    Args:
        src: any video file.
        dst: a name that ends in .safetensors.
        model, dtype, mesh, tile: see `open_autoencoder`.
        max_frames: stop after so many.
        restart: drop what an earlier run left, instead of going on with it.

    Returns:
        a dict of `out`, `frames` of the video, `latents` (frames of them), `begun_at` (the latent frame), `fps` (frames
        per second) and `peak_memory_bytes`.

    Raises:
        WanError: a file cannot be read or written, there is no such model, or an earlier run had other settings.
    """
    dst = Path(dst)
    check_frames(max_frames)
    if dst.suffix != ".safetensors":
        raise WanError(f"cannot write {dst}: latents go to a .safetensors file")
    _check_place(dst)
    video = read_video(src)
    coder = open_autoencoder(model, dtype, mesh, tile)
    settings = _settings(coder, src) | {"max_frames": max_frames}
    latents_file.begin(dst, latents_file.part_settings(dst), settings, restart)
    unit, time_factor = coder.config.spatial_factor, coder.config.temporal_factor
    writer = LatentsWriter(dst, (-(-video.height // unit), -(-video.width // unit), coder.config.z_dim), settings)
    # The last one may have been filled up, or be incomplete: it is done again.
    done = max(writer.frames - 1, 0)
    writer.keep(done)
    first = restart_chunk(coder.config, "encode", done)
    seen = first * time_factor  # frames of the video
    started = time.monotonic()
    with tqdm(unit="frame", initial=seen, total=max_frames) as bar:

        def counted() -> Iterator[np.ndarray]:
            nonlocal seen
            for frame in itertools.islice(video.frames(seen), None if max_frames is None else max_frames - seen):
                seen += 1
                bar.update()
                yield frame

        for number, latents in enumerate(coder.encode(counted()), first):
            if number >= done:
                writer.append(latents)
    metadata = {
        "frames": seen,
        "height": video.height,
        "width": video.width,
        "fps": video.fps,
        "source": settings["source"],
        "model": coder.name,
        "autoencoder": coder.latents_fingerprint(),
        "dtype": settings["dtype"],
    }
    latents = writer.frames
    writer.finish(metadata)
    frames = seen - first * time_factor
    return {"out": str(dst), "frames": seen, "latents": latents, "begun_at": first} | _costs(coder, frames, started)


def decode_file(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    model: str,
    dtype: Any = None,
    mesh: Mesh | str | None = None,
    tile: int | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Decodes a file of latents into `dst`, an .mp4 file with the frames, size and rate of the encoded video.

    Args:
        src: what `encode_file` made.
        dst: a name that ends in .mp4.
        model, dtype, mesh, tile: see `open_autoencoder`.
        restart: drop what an earlier run left, instead of going on with it.

    Returns:
        a dict as that of `encode_file`.

    Raises:
        WanError: as there; or another autoencoder made the latents.
    """
    dst = Path(dst)
    if dst.suffix.lower() != ".mp4":
        raise WanError(f"cannot write {dst}: decoded videos go to an .mp4 file")
    latents = read_latents(src)
    frames, height, width, fps = _video_of(latents, read_vae_config(model))
    check_output(dst, (height, width))
    coder = open_autoencoder(model, dtype, mesh, tile)
    made_by = latents.metadata.get("autoencoder")
    if made_by != coder.latents_fingerprint():
        raise WanError(
            f"{src} was made by another autoencoder ({latents.metadata.get('model')}, {made_by}) than that of "
            f"{model} ({coder.latents_fingerprint()}): name the model that it was made with"
        )
    settings = _settings(coder, src)
    latents_file.begin(dst, segments.part_settings(dst), settings, restart)
    output = SegmentedVideo(dst, fps, settings)
    done = output.count * _SEGMENT  # latent frames
    first = restart_chunk(coder.config, "decode", done)
    factor = coder.config.temporal_factor
    started = time.monotonic()

    def pixels() -> Iterator[np.ndarray]:
        """Of one latent frame each, without what was added to fill the last one."""
        seen = first * factor
        with tqdm(unit="frame", initial=seen, total=frames) as bar:
            for number, chunk in enumerate(coder.decode(latents.pieces(first)), first):
                # A stream's first chunk is one frame, also where that is the last of a latent frame.
                begin = max((number - 1) * factor + 1, 0)
                if number >= done:
                    yield fetch(*to_pixels(chunk, height, width))[: frames - begin]
                bar.update(min(chunk.shape[1], frames - seen))
                seen = min(seen + chunk.shape[1], frames)

    chunks = pixels() if done < latents.shape[0] else iter(())
    for chunk in chunks:
        output.append(itertools.chain([chunk], itertools.islice(chunks, _SEGMENT - 1)))
    output.finish({"model": coder.name, "source": os.path.basename(src)})
    worked = frames - first * factor
    return {"out": str(dst), "frames": frames, "latents": latents.shape[0], "begun_at": first} | _costs(
        coder, worked, started
    )


def check_frames(max_frames: int | None):
    """Raises WanError unless it is a number of frames."""
    if max_frames is not None and max_frames < 1:
        raise WanError(f"frames={max_frames} must be at least 1")


def peak_memory_bytes(mesh: Mesh) -> int:
    """The most that a device of the mesh has held so far; where devices do not tell, as CPUs, this process."""
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return max(peaks) if peaks else resident * (1 if sys.platform == "darwin" else 1024)


def _settings(coder: Autoencoder, src: str | os.PathLike) -> dict[str, Any]:
    """What the output's bytes depend on."""
    with open(src, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "source": os.path.basename(src),
        "source_sha256": content,
        "model": coder.name,
        "weights": coder.fingerprint(),
        "dtype": coder.vae.dtype.name,
        "tile": coder.tiling and coder.tiling.side,
        "devices": f"{coder.mesh.size} {coder.mesh.devices.flat[0].device_kind}",
        "wan_jax": wan_jax.__version__,
        "jax": jax.__version__,
    }


def _check_place(dst: Path):
    try:
        dst.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WanError(f"cannot write {dst}: {error.strerror}") from error
    if dst.is_dir() or not os.access(dst.parent, os.W_OK | os.X_OK):
        raise WanError(f"cannot write {dst}: {'it is a folder' if dst.is_dir() else 'no permission'}")


def _video_of(latents: LatentsFile, config: VAEConfig) -> tuple[int, int, int, float]:
    """Frames, height, width and rate of the encoded video.

    Raises:
        WanError: the metadata does not go with the latents.
    """
    frames, height, width, fps = (latents.metadata.get(name) for name in ("frames", "height", "width", "fps"))
    whole = all(type(n) is int and n > 0 for n in (frames, height, width)) and isinstance(fps, int | float)
    time_factor, unit = config.temporal_factor, config.spatial_factor
    shape = (
        (-(-(frames - 1) // time_factor) + 1, -(-height // unit), -(-width // unit), config.z_dim) if whole else None
    )
    if latents.shape != shape or not 0 < fps < math.inf:
        raise WanError(
            f"cannot read {latents.path}: for this model its latents {list(latents.shape)} are not those of "
            f"{frames} frames of {width}x{height} at {fps} per second; name the model that they were made with"
        )
    return frames, height, width, float(fps)


def _costs(coder: Autoencoder, frames: int, started: float) -> dict[str, Any]:
    return {"fps": frames / (time.monotonic() - started), "peak_memory_bytes": peak_memory_bytes(coder.mesh)}
