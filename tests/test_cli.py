"""The command line as a user meets it: files, JSON, exit statuses, one line for a mistake."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import safetensors.numpy

from wan_jax import WanPipeline, cli
from wan_jax.pipelines import reconstruct
from wan_jax.sharding import as_mesh
from wan_jax.video_io import export_to_video, read_metadata, read_video

SMALL = ["--size", "48x32", "--frames", "5", "--steps", "4"]


def run(*args: str, cwd=None) -> subprocess.CompletedProcess:
    """The real thing, in a process of its own."""
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "wan_jax", *args],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path},
    )


def test_generate_and_repeat(tmp_path):
    """From an empty folder, and again from the file alone: the same bytes."""
    first = run(
        "generate", "--model", "untrained", "--prompt", "红色的球", *SMALL, "--seed", "9", "--json", cwd=tmp_path
    )
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["out"] == "out.mp4" and result["settings"]["seed"] == 9
    assert "untrained placeholder" in first.stderr and "high noise" in first.stderr
    video = read_video(tmp_path / "out.mp4")
    assert (video.width, video.height, len(list(video))) == (48, 32, 5)
    stored = read_metadata(tmp_path / "out.mp4")
    assert stored["prompt"] == "红色的球" and "untrained" in stored["note"]

    again = run("generate", "--from", "out.mp4", "--out", "again.mp4", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "out.mp4").read_bytes()


def test_weights_in_eight_bits_and_on_the_host(tmp_path):
    """What is repeated is as exact as it was, wherever the weights wait."""
    out, again = tmp_path / "out.mp4", tmp_path / "again.mp4"
    cli.main([*GENERATE, "--quantize", "int8", "--out", str(out)])
    assert read_metadata(out)["quantization"] == "int8"
    cli.main(["generate", "--from", str(out), "--offload", "model", "--out", str(again)])
    assert again.read_bytes() == out.read_bytes()


def test_from_a_video_and_repeat(tmp_path, capsys):
    clip = export_to_video(np.random.default_rng(0).random((5, 32, 48, 3)), tmp_path / "clip.mp4")
    out, again = tmp_path / "out.mp4", tmp_path / "again.mp4"
    cli.main([*GENERATE, "--video", str(clip), "--strength", "0.5", "--out", str(out)])
    assert read_metadata(out)["strength"] == 0.5
    cli.main(["generate", "--from", str(out), "--video", str(clip), "--out", str(again)])
    assert again.read_bytes() == out.read_bytes()
    with pytest.raises(SystemExit):
        cli.main(["generate", "--from", str(out), "--out", str(again)])
    assert "it was made with --video of digest" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "frames"])
def test_other_outputs(tmp_path, name):
    cli.main(["generate", "--model", "untrained", "--prompt", "a", *SMALL, "--out", str(tmp_path / name)])
    assert read_metadata(tmp_path / name)["prompt"] == "a"


def test_updates_of_the_weights(tmp_path, monkeypatch):
    """Of both experts, with strengths; a video that is repeated remembers them."""
    monkeypatch.chdir(tmp_path)
    name, zeros = "diffusion_model.blocks.0.self_attn.v", np.zeros((1, 64), np.float32)
    pair = {f"{name}.lora_A.weight": zeros + 1, f"{name}.lora_B.weight": zeros.T + 1}
    safetensors.numpy.save_file(pair, "a@b.safetensors")
    seen = []
    load = WanPipeline.load_lora_weights
    monkeypatch.setattr(WanPipeline, "load_lora_weights", lambda *a, **k: seen.append(k) or load(*a, **k))
    flags = ["--lora", "a@b.safetensors", "--lora-2", "a@b.safetensors@0.5", "--lora-2", "a@b.safetensors@-2"]
    cli.main(["generate", "--model", "untrained", "--prompt", "a", *SMALL, *flags, "--out", "a.mp4"])
    cli.main(["generate", "--from", "a.mp4", "--out", "b.mp4"])
    cli.main(["generate", "--model", "untrained", "--prompt", "a", *SMALL, "--out", "c.mp4"])
    asked = [("transformer", 1.0), ("transformer_2", 0.5), ("transformer_2", -2.0)]
    assert [(k["component"], k.get("strength", 1.0)) for k in seen] == 2 * asked
    frames = [list(read_video(out)) for out in ("a.mp4", "b.mp4", "c.mp4")]
    np.testing.assert_array_equal(frames[0], frames[1])
    assert np.not_equal(frames[0], frames[2]).any()


def test_metadata_can_be_left_out(tmp_path):
    cli.main(
        ["generate", "--model", "untrained", "--prompt", "a", *SMALL, "--out", str(tmp_path / "a.mp4"), "--no-metadata"]
    )
    assert read_metadata(tmp_path / "a.mp4") == {}


def test_reconstruct(tmp_path, capsys):
    cli.main(["generate", "--model", "untrained", "--prompt", "a", *SMALL, "--out", str(tmp_path / "a.mp4")])
    capsys.readouterr()
    cli.main(
        [
            "reconstruct",
            str(tmp_path / "a.mp4"),
            str(tmp_path / "b.mp4"),
            "--no-perceptual",
            "--frames",
            "3",
            "--model",
            "untrained",
            "--json",
        ]
    )
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == 3 and len(list(read_video(tmp_path / "b.mp4"))) == 3
    assert 0 < report["psnr"] < 100 and -1 <= report["ssim"] <= 1


def test_equal_frames_are_valid_json(tmp_path, monkeypatch, capsys):
    coder = SimpleNamespace(
        mesh=as_mesh(None),
        encode=lambda frames: (frame[None] / np.float32(127.5) - 1 for frame in frames),
        decode=lambda latents: map(jax.numpy.asarray, latents),
    )
    monkeypatch.setattr(reconstruct, "open_autoencoder", lambda *_: coder)
    black, again = export_to_video(np.zeros((3, 16, 16, 3)), tmp_path / "a.mp4"), tmp_path / "b.mp4"
    cli.main(["reconstruct", str(black), str(again), "--no-perceptual", "--model", "untrained", "--json"])
    report = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert report["psnr"] == 100 and report["ssim"] == pytest.approx(1)


GENERATE = ["generate", "--model", "untrained", "--prompt", "a", *SMALL]


@pytest.mark.parametrize(
    "args, message",
    [
        ([*GENERATE, "--frames", "80"], "num_frames=80 is not 4n+1; use 77 or 81"),
        ([*GENERATE, "--size", "100x100"], "height=100 is not a multiple of 16; use 96 or 112"),
        ([*GENERATE, "--size", "big"], "--size 'big' is not WIDTHxHEIGHT"),
        ([*GENERATE, "--solver", "heun"], "solver='heun' is unknown; use one of unipc, dpm++, euler"),
        ([*GENERATE, "--guidance", "a,b"], "--guidance 'a,b' is not HIGH or HIGH,LOW"),
        ([*GENERATE, "--model", "{empty}"], "the directory is empty"),
        ([*GENERATE, "--model", "{animate}"], "this is Wan2.2-Animate; it is not supported yet"),
        ([*GENERATE, "--model", "nowhere"], "no such folder, no hub id of the form owner/name"),
        ([*GENERATE, "--out", "{text}/out.mp4"], "cannot write"),
        ([*GENERATE, "--out", "out.avi"], "use .mp4, .webp or .gif"),
        (["generate"], "--prompt is missing"),
        (["generate", "--from", "{text}"], "notes.txt"),
        (["reconstruct", "{text}", "out.mp4", "--model", "untrained"], "notes.txt"),
        (["reconstruct", "missing.mp4", "out.mp4", "--model", "untrained"], "missing.mp4"),
        ([*GENERATE, "--lora", "{text}"], "notes.txt: no safetensors file that can be read"),
        ([*GENERATE, "--dtype", "int4"], "dtype='int4' is unknown"),
        ([*GENERATE, "--quantize", "int4"], "quantization='int4' is unknown"),
        ([*GENERATE, "--offload", "disk"], "offload='disk' is unknown; use 'model', 'blocks' or None"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not a video")
    animate = tmp_path / "animate"
    (animate / "transformer").mkdir(parents=True)
    (animate / "model_index.json").write_text(json.dumps({"_class_name": "WanAnimatePipeline"}))
    (animate / "transformer" / "config.json").write_text(json.dumps({"in_channels": 36, "motion_encoder_dim": 512}))
    places = {"empty": tmp_path / "empty", "text": tmp_path / "notes.txt", "animate": animate}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
        cli.main([arg.format(**places) for arg in args])
    captured = capsys.readouterr()
    assert stopped.value.code == 2
    assert message in captured.err.replace("\n", "") and captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written


@pytest.mark.parametrize(
    "command", ["generate", "reconstruct", "encode", "decode", "eval-vae", "plan", "data", "train"]
)
def test_help_shows_an_example(capsys, command):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"python -m wan_jax {command} " in capsys.readouterr().out
