"""The models that travel with the package: they are whole, small, and do what their cards say."""

import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from wan_jax import WanPipeline, weights
from wan_jax.data.worlds import World
from wan_jax.errors import WanError
from wan_jax.pipelines.loading import load_vae
from wan_jax.pipelines.reconstruct import reconstruct_file
from wan_jax.pipelines.vae_files import decode_file, encode_file
from wan_jax.sharding import make_mesh
from wan_jax.video_io import export_to_video, read_video


def test_the_autoencoder_reconstructs_a_clip(tmp_path):
    clip = World(1, seed=9, side=64, frames=9, validation=0).read("train_64x64x9", 0).frames
    export_to_video(clip, tmp_path / "clip.mp4", fps=16)
    report = reconstruct_file(tmp_path / "clip.mp4", tmp_path / "again.mp4", "vae_small", perceptual=False)
    assert report["frames"] == 9 and report["psnr"] > 27


def test_latents_that_it_makes_are_those_it_reads(tmp_path):
    clip = World(1, seed=9, side=64, frames=9, validation=0).read("train_64x64x9", 0).frames
    export_to_video(clip, tmp_path / "clip.mp4", fps=16)
    encode_file(tmp_path / "clip.mp4", tmp_path / "clip.safetensors", "vae_small")
    decode_file(tmp_path / "clip.safetensors", tmp_path / "again.mp4", "vae_small")
    again = np.stack(list(read_video(tmp_path / "again.mp4").frames()))
    assert again.shape == clip.shape and np.abs(again.astype(int) - clip).mean() < 6


def test_an_autoencoder_is_no_whole_model():
    with pytest.raises(WanError, match="vae_small holds an autoencoder alone"):
        WanPipeline.from_pretrained("vae_small")


def test_the_autoencoder_takes_7_megabytes():
    _, _, params = load_vae("vae_small", "bfloat16", make_mesh(devices=jax.devices()[:1]))
    assert sum(x.nbytes for x in jax.tree.leaves(params)) < 8e6


def test_all_files_are_tracked_and_small():
    root = Path(weights.__file__).parent
    assert weights.names() == ["vae_small"]
    tracked = subprocess.run(["git", "ls-files", "."], cwd=root, capture_output=True, text=True).stdout.split()
    found = {
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert not tracked or found == set(tracked)
    assert sum((root / name).stat().st_size for name in found) < 30e6
