"""Videos to latents and back from file to file: killed, resumed, flat in memory; and what is refused."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.test_video_io import clip
from wan_jax import cli
from wan_jax.errors import WanError
from wan_jax.metrics import psnr, ssim
from wan_jax.pipelines.autoencoder import open_autoencoder
from wan_jax.pipelines.latents_file import read_latents
from wan_jax.pipelines.reconstruct import reconstruct_file
from wan_jax.pipelines.vae_files import decode_file, encode_file
from wan_jax.video_io import export_to_video, frame_times, read_video

MODEL = "untrained"
FRAMES = 450  # 28 s, 114 latents: two segments


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run of a size and a length that do not divide."""
    folder = tmp_path_factory.mktemp("whole")
    video = export_to_video(clip(FRAMES, 18, 30), folder / "in.mp4", 24)
    encode_file(video, folder / "a.safetensors", MODEL)
    decode_file(folder / "a.safetensors", folder / "out.mp4", MODEL)
    return folder


def test_frames_size_and_rate_are_kept(whole):
    out = read_video(whole / "out.mp4")
    assert (out.fps, out.height, out.width) == (24, 18, 30)
    assert frame_times(whole / "out.mp4") == pytest.approx(np.arange(FRAMES) / 24, abs=1e-4)
    assert sorted(path.name for path in whole.iterdir()) == ["a.safetensors", "in.mp4", "out.mp4"]


def test_the_numbers_are_those_of_the_autoencoder(whole, tmp_path):
    """The file as another program reads it; frames converted and padded by hand."""
    latents = load_file(whole / "a.safetensors")["latents"]
    assert latents.shape == (114, 3, 4, 16)
    coder = open_autoencoder(MODEL)
    frames = np.stack([f for f, _ in zip(read_video(whole / "in.mp4"), range(9))])
    padded = np.pad(frames / np.float32(127.5) - 1, ((0, 0), (0, 6), (0, 2), (0, 0)), mode="edge")[None]
    expected, _ = jax.jit(lambda p, x: coder.vae.apply({"params": p}, x, method="encode"))(coder.params, padded)
    np.testing.assert_allclose(latents[:3], expected[0], atol=1e-4)

    report = reconstruct_file(whole / "in.mp4", tmp_path / "out.mp4", MODEL, max_frames=8, perceptual=False)
    decoded, _ = jax.jit(lambda p, x: coder.vae.apply({"params": p}, x, method="decode"))(
        coder.params, latents[None, :3]
    )
    before, after = frames[:8] / np.float32(255), np.clip(decoded[0, :8, :18, :30] / 2 + 0.5, 0, 1)
    assert report["frames"] == len(list(read_video(tmp_path / "out.mp4"))) == 8
    assert report["psnr"] == pytest.approx(float(psnr(before, after)), rel=1e-4)
    assert report["ssim"] == pytest.approx(float(ssim(before, after)), rel=1e-3)


@pytest.mark.parametrize(
    "command, src, dst", [("encode", "in.mp4", "a.safetensors"), ("decode", "a.safetensors", "out.mp4")]
)
def test_killed_and_resumed_gives_the_same_bytes(whole, tmp_path, command, src, dst):
    at = np.random.default_rng().integers(60, 114) if command == "encode" else 2
    args = [command, str(whole / src), str(tmp_path / dst), "--model", MODEL]
    script = Path(__file__).with_name("killed.py")
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    killed = subprocess.run(
        [sys.executable, script, str(at), *args], env=os.environ | {"PYTHONPATH": path}, check=False
    )
    assert killed.returncode == 9 and [p.name for p in tmp_path.iterdir()] == [f"{dst}.part"]
    with pytest.raises(WanError, match=r"\.part was begun with dtype 'float32', not 'bfloat16': .*--restart"):
        resume(command, whole / src, tmp_path / dst, dtype="bfloat16")
    report = resume(command, whole / src, tmp_path / dst)
    assert report["begun_at"] > 0, at
    assert (tmp_path / dst).read_bytes() == (whole / dst).read_bytes(), at
    assert [p.name for p in tmp_path.iterdir()] == [dst]


def resume(command, src, dst, **options):
    return {"encode": encode_file, "decode": decode_file}[command](src, dst, MODEL, **options)


def test_memory_is_flat(whole):
    """No more bytes are alive later than early, on the way there and back."""
    coder = open_autoencoder(MODEL)
    live = []
    frames = (frame for frame in read_video(whole / "in.mp4"))
    for _ in zip(range(40), coder.decode(latents[None] for latents in coder.encode(frames))):
        live.append(sum(array.nbytes for array in jax.live_arrays()))
    assert max(live[10:]) <= max(live[:10])


def test_two_frames(tmp_path, capsys):
    """They are filled up, and the result has two again."""
    export_to_video(clip(2, 16, 16), tmp_path / "in.mp4")
    cli.main(["encode", str(tmp_path / "in.mp4"), str(tmp_path / "a.safetensors"), "--model", MODEL, "--json"])
    report = json.loads(capsys.readouterr().out)
    assert (report["frames"], report["latents"]) == (2, 2) and report["peak_memory_bytes"] > 1e6
    cli.main(["decode", str(tmp_path / "a.safetensors"), str(tmp_path / "b.mp4"), "--model", MODEL])
    assert len(list(read_video(tmp_path / "b.mp4"))) == 2 and "2 frames" in capsys.readouterr().out


def test_tiles(tmp_path):
    export_to_video(clip(5, 48, 64), tmp_path / "in.mp4")
    encode_file(tmp_path / "in.mp4", tmp_path / "a.safetensors", MODEL, tile=32)
    decode_file(tmp_path / "a.safetensors", tmp_path / "b.mp4", MODEL, tile=32)
    assert np.stack(list(read_video(tmp_path / "b.mp4"))).shape == (5, 48, 64, 3)
    with pytest.raises(WanError, match="tile=30 must be a multiple of 8"):
        encode_file(tmp_path / "in.mp4", tmp_path / "c.safetensors", MODEL, tile=30)


def of_two_sizes(path):
    """An H.264 stream whose frames become smaller, as of a call in which the window changes."""
    with open(path, "wb") as file:
        for side in (64, 32):
            codec = av.CodecContext.create("libx264", "w")
            codec.width = codec.height = side
            codec.pix_fmt, codec.time_base = "yuv420p", Fraction(1, 16)
            frames = [av.VideoFrame(side, side, "yuv420p") for _ in range(3)]
            for number, frame in enumerate([*frames, None]):
                if frame is not None:
                    frame.pts = number
                for packet in codec.encode(frame):
                    file.write(bytes(packet))
    return path


def test_bad_input_leaves_nothing(whole, tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("hello")
    two_sizes = of_two_sizes(tmp_path / "two.h264")
    odd = export_to_video(clip(2, 17, 15), tmp_path / "odd.gif")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((whole / "a.safetensors").read_bytes()[:-1])
    bomb = tmp_path / "bomb.safetensors"
    bomb.write_bytes(b"\xff" * 64)
    nested = tmp_path / "nested.safetensors"
    nested.write_bytes((1 << 19).to_bytes(8, "little") + b"[" * (1 << 19))
    before = sorted(tmp_path.iterdir())
    for work, message in [
        (lambda: encode_file(text, tmp_path / "a.safetensors", MODEL), "cannot read .*text.mp4"),
        (lambda: encode_file(whole / "in.mp4", tmp_path / "a.npy", MODEL), "a .safetensors file"),
        (lambda: encode_file(whole / "in.mp4", tmp_path / "a.safetensors", MODEL, max_frames=0), "at least 1"),
        (lambda: reconstruct_file(odd, tmp_path / "b.mp4", MODEL), "even sizes, not 15x17"),
        (lambda: reconstruct_file(odd, tmp_path / "b.webp", MODEL), "15x17 cannot be measured, only 31x31 up; .*--no-"),
        (lambda: decode_file(cut, tmp_path / "a.mp4", MODEL), "cut short"),
        (lambda: decode_file(bomb, tmp_path / "a.mp4", MODEL), "no file of latents"),
        (lambda: decode_file(nested, tmp_path / "a.mp4", MODEL), "no file of latents"),
        (lambda: decode_file(whole / "a.safetensors", tmp_path / "a.webp", MODEL), "an .mp4 file"),
    ]:
        with pytest.raises(WanError, match=message) as info:
            work()
        assert "\n" not in str(info.value)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(WanError, match="changes from 64x64 to 32x32 at frame 3"):
        encode_file(two_sizes, tmp_path / "a.safetensors", MODEL)
    assert not (tmp_path / "a.safetensors").exists()
    # Latents can stand for an odd size, H.264 cannot.
    encode_file(whole / "in.mp4", tmp_path / "b.safetensors", MODEL, max_frames=2)
    file = read_latents(tmp_path / "b.safetensors")
    content = file.path.read_bytes().replace(b'\\"width\\": 30', b'\\"width\\": 29')
    file.path.write_bytes(content)
    with pytest.raises(WanError, match="even sizes, not 29x18"):
        decode_file(file.path, tmp_path / "b.mp4", MODEL)
    assert odd.exists() and not (tmp_path / "b.mp4").exists()
