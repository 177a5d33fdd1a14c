"""The models that travel with the package: they are whole, small, and do what their cards say."""

import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from wan_jax import WanPipeline, weights
from wan_jax.data.worlds import World
from wan_jax.editing import box_mask, repaint
from wan_jax.errors import WanError
from wan_jax.pipelines.eval_editing import pixel_psnr
from wan_jax.pipelines.eval_mini import LANGUAGES, evaluate_prompts
from wan_jax.pipelines.known_words import note, unknown_words
from wan_jax.pipelines.loading import component_bytes, load_vae, open_model
from wan_jax.pipelines.reconstruct import reconstruct_file
from wan_jax.pipelines.vae_files import decode_file, encode_file
from wan_jax.sharding import make_mesh
from wan_jax.video_io import export_to_video, read_video


def test_the_autoencoder_reconstructs_a_clip(tmp_path):
    clip = World(1, seed=9, side=64, frames=9, validation=0).read("train_64x64x9", 0).frames
    export_to_video(clip, tmp_path / "clip.mp4", fps=16)
    report = reconstruct_file(tmp_path / "clip.mp4", tmp_path / "again.mp4", "wan_mini", perceptual=False)
    assert report["frames"] == 9 and report["psnr"] > 27


def test_latents_that_it_makes_are_those_it_reads(tmp_path):
    clip = World(1, seed=9, side=64, frames=9, validation=0).read("train_64x64x9", 0).frames
    export_to_video(clip, tmp_path / "clip.mp4", fps=16)
    encode_file(tmp_path / "clip.mp4", tmp_path / "clip.safetensors", "wan_mini")
    decode_file(tmp_path / "clip.safetensors", tmp_path / "again.mp4", "wan_mini")
    again = np.stack(list(read_video(tmp_path / "again.mp4").frames()))
    assert again.shape == clip.shape and np.abs(again.astype(int) - clip).mean() < 6


def test_an_autoencoder_is_no_whole_model(tmp_path):
    shutil.copytree(weights.folder("wan_mini") / "vae", tmp_path / "alone" / "vae")
    with pytest.raises(WanError, match="alone holds an autoencoder alone"):
        WanPipeline.from_pretrained(tmp_path / "alone")


def test_the_model_shows_what_it_is_told():
    """Prompts that it was never trained on; 200 in each language are right in 92 and 92 % (10 steps; its card)."""
    report = evaluate_prompts("wan-mini", prompts=4, steps=10, batch=4, dtype="float32")
    for language in LANGUAGES:
        assert report["right"][language]["all"] > 0.75 > 0.6 > report["shuffled"][language]["all"]


def test_the_model_begins_with_a_given_frame_and_keeps_what_a_mask_leaves():
    """At 20 steps 38 and 45 dB, over 50 clips each (its card)."""
    record = World(1, seed=9, side=128, frames=33, validation=0).read("train_128x128x33", 0)
    clip = record.frames / np.float32(255)
    pipe = WanPipeline.from_pretrained("wan_mini", dtype="float32")
    canvas = repaint(clip, box_mask(33, 128, 128, (32, 32, 64, 64)))
    red = record.caption.replace("green", "red")
    made = pipe(red, video=canvas.frames, mask=canvas.mask, num_inference_steps=4).frames[0]
    outside, inside = (pixel_psnr(made[part], clip[part]) for part in (~canvas.mask, canvas.mask))
    assert outside > 35 > 25 > inside
    made = pipe(record.caption, image=record.frames[0], num_inference_steps=4).frames[0]
    assert pixel_psnr(made[0], clip[0]) > 35


def test_words_from_outside_its_world_are_named():
    tokenizer = weights.folder("wan_mini") / "tokenizer"
    assert not unknown_words("Two small red balls bounce slowly; 夜晚，一个绿色的方块变大。", tokenizer)
    assert unknown_words("A cat named Zoë and a red ball. 一只猫", tokenizer) == ["cat", "named", "Zoë", "只", "猫"]
    assert "never heard of 'dragon'; for real videos add --model" in note("a red dragon", tokenizer)


def test_the_model_takes_26_megabytes():
    model = open_model("wan_mini", "bfloat16")
    model.verify()
    assert sum(component_bytes(model.config, "bfloat16", "bfloat16").values()) < 26.5e6  # norms are float32


def test_the_autoencoder_takes_7_megabytes():
    _, _, params = load_vae("wan_mini", "bfloat16", make_mesh(devices=jax.devices()[:1]))
    assert sum(x.nbytes for x in jax.tree.leaves(params)) < 8e6


def test_all_files_are_tracked_and_small():
    root = Path(weights.__file__).parent
    assert weights.names() == ["wan_mini"]
    tracked = subprocess.run(["git", "ls-files", "."], cwd=root, capture_output=True, text=True).stdout.split()
    found = {
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert not tracked or found == set(tracked)
    for name in weights.names():
        assert sum(path.stat().st_size for path in (root / name).rglob("*") if path.is_file()) < 30e6
