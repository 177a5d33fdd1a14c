"""Datasets of videos: what is in them, and what is left of them when the work is interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.data.building import OPTIONS, SHARD_BYTES, run
from tests.data.made import CAPTIONS, GOOD, LAYOUTS, REASONS, numbered, tree, write_dataset, write_videos
from tests.ports import free_port
from wan_jax import WanPipeline, checkpoint, cli
from wan_jax.data import build, shards
from wan_jax.data.buckets import Bucket
from wan_jax.data.contents import Frames
from wan_jax.data.loader import Dataset
from wan_jax.data.sources import VideoFolder
from wan_jax.data.videos import read_clip
from wan_jax.errors import WanError
from wan_jax.video_io import export_to_video

ROOT = Path(__file__).parents[2]
FLAGS = ["--size", "32x32", "--frames", "5,9", "--validation", "2"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Without captions."""
    folder = tmp_path_factory.mktemp("videos")
    write_videos(folder)
    return folder


@pytest.fixture(scope="module")
def src(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("src") / "clips"
    shutil.copytree(videos, folder)
    LAYOUTS["beside"](folder)
    return folder


@pytest.fixture(scope="module")
def frames(src, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "frames"
    run(src, out)
    return out


@pytest.fixture(scope="module")
def latents(src, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "latents"
    _encode(src, out)
    return out


def _encode(src, out):
    """In a process of its own: only with equally many devices are all bytes the same."""
    assert _python("-m", "tests.data.building", 0, 1, 0, *NEVER, src, out, "untrained").wait() == 0


def records(folder: Path) -> dict[str, dict]:
    """All of a dataset by id, each with its `split`."""
    dataset = Dataset(folder)
    return {
        record["id"].decode(): {**record, "split": split}
        for part in ("train", "validation")
        for split in dataset.splits(part)
        for record in dataset.source(split)
    }


def test_records(src, frames):
    found = records(frames)
    assert sorted(found) == GOOD
    lengths = {name: len(record["frames"]) for name, record in found.items()}
    assert lengths == {name: 5 if name in ("d.mp4", "g.mp4") else 9 for name in GOOD}
    for name, record in found.items():
        assert record["caption"].decode() == CAPTIONS[name].strip()
        bucket = Bucket(32, 32, lengths[name])
        assert record["split"].endswith(f"_{bucket}") and record["frames"].dtype == np.uint8
        np.testing.assert_array_equal(record["frames"], read_clip(src / name, 16, bucket))
    assert sum(record["split"].startswith("validation_") for record in found.values()) == 2


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"beside"}))
def test_every_layout_makes_the_same(videos, frames, tmp_path, layout):
    shutil.copytree(videos, tmp_path / "src")
    LAYOUTS[layout](tmp_path / "src")
    run(tmp_path / "src", tmp_path / "out")
    assert tree(tmp_path / "out") == tree(frames)


def test_bad_clips_are_listed(frames, src, tmp_path, capsys):
    skipped = shards.read_config(frames)["skipped"]
    assert sorted(skipped) == sorted(REASONS)
    assert all(skipped[name].startswith(reason) for name, reason in REASONS.items())
    entries = [f"{src / 'b.mp4'},b", f"{src / 'e.mp4'},e", f"{src / 'gone.mp4'},g", f"{src / 'zero.mp4'},z"]
    metadata = src.parent / "metadata.csv"  # of a folder around it
    metadata.write_text("\n".join(["video,prompt", *entries]))
    cli.main(
        ["data", "build", "--src", str(src.parent), "--out", str(tmp_path / "out"), *FLAGS[:4], "--validation", "1"]
    )
    metadata.unlink()
    output = capsys.readouterr()
    assert output.out.splitlines()[:2] == [
        "size             train  validation",
        "32x32x9              1           1",
    ]
    assert "skipped 2 clips: 1 No such file or directory, 1 Invalid data found when processing input" in output.err
    assert shards.read_config(tmp_path / "out")["skipped"]["clips/gone.mp4"] == "No such file or directory"


def test_latents_and_states(frames, latents):
    """The posterior's mean of the clip in one piece, and what the pipeline tells the transformer."""
    clips, encoded = records(frames), records(latents)
    assert sorted(encoded) == GOOD
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32")
    vae, params, config = pipe.vae, pipe.weights["vae"], pipe.config.vae
    video = clips["b.mp4"]["frames"][None].astype(np.float32) / 255 * 2 - 1
    (mean, _), _ = jax.jit(lambda params, video: vae.apply({"params": params}, video, method="moments"))(params, video)
    expected = (np.asarray(mean[0], np.float64) - config.latents_mean) / config.latents_std
    ours = encoded["b.mp4"]["latents"]
    assert ours.dtype == np.float16 and ours.shape == (3, 4, 4, 16)
    np.testing.assert_allclose(ours, expected, rtol=2**-11, atol=1e-4)
    for name in ("a/红球.mp4", "d.mp4", "g.mp4"):
        states = np.asarray(pipe.encode_prompts([CAPTIONS[name].strip()])[0])
        length = np.count_nonzero(states.any(1))
        assert encoded[name]["text"].dtype == np.float16 and length == (
            512 if name == "d.mp4" else len(encoded[name]["text"])
        )
        np.testing.assert_array_equal(encoded[name]["text"], states[:length].astype(np.float16))
    np.testing.assert_array_equal(Dataset(latents).no_text, np.asarray(pipe.encode_prompts([""])).astype(np.float16))


def test_a_dataset_of_frames_is_encoded_to_the_same(frames, latents, tmp_path):
    _encode(frames, tmp_path / "out")
    ours, theirs = tree(tmp_path / "out"), tree(latents)
    assert ours.keys() == theirs.keys()
    # How it was asked for differs.
    assert sorted(name for name in ours if ours[name] != theirs[name]) == ["plan/plan.json", "wan_jax.json"]


def test_from_the_command_line(src, latents, tmp_path):
    """Only JSON on standard output; and without the states."""
    command = ["data", "build", "--src", src, "--out", tmp_path / "out", "--model", "untrained", *FLAGS]
    done = _python("-m", "wan_jax", *command, "--no-text", "--json").communicate()[0]
    config = json.loads(done)
    assert config["splits"] == shards.read_config(latents)["splits"] and sorted(config["skipped"]) == sorted(REASONS)
    assert config["text"] is False and not (tmp_path / "out" / "no_text.npy").exists()
    with_text = records(latents)
    for name, record in records(tmp_path / "out").items():
        assert "text" not in record and record["caption"] == with_text[name]["caption"]
        np.testing.assert_array_equal(record["latents"], with_text[name]["latents"])


def _python(*args) -> subprocess.Popen:
    command = [sys.executable, *map(str, args)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def test_killed_twice(src, frames, tmp_path):
    out = tmp_path / "out"
    for name, n in [("_serialized", 4), ("write_json", 2)]:  # within the second shard; between a shard and its note
        killed = _python("-m", "tests.data.building", 0, 1, 0, name, n, src, out)
        assert killed.wait() == -signal.SIGKILL
        assert not (out / shards.CONFIG).exists()
        assert bool(list(out.glob("*.tmp"))) == (name == "_serialized")
    notes, planned = list(out.glob("plan/clips-*")), checkpoint.read_json(out / "plan" / "plan.json")["shards"]
    assert 2 <= len(notes) < len(planned)
    run(src, out)
    assert tree(out) == tree(frames)
    run(src, out)  # nothing left to do
    assert tree(out) == tree(frames)


NEVER = ("_serialized", 0)


def test_two_processes_one_of_them_killed(src, frames, tmp_path):
    """Together, in vain; once more; and then the rest alone."""
    out = tmp_path / "out"
    for deaths in ((NEVER, ("_serialized", 2)), (("write_json", 1), NEVER)):
        running = _processes(*deaths, arguments=(src, out))
        killed = running[deaths.index(NEVER) - 1]
        assert killed.wait(600) == -signal.SIGKILL
        for process in running:
            process.kill()
            process.wait()
        assert not (out / shards.CONFIG).exists()
    run(src, out)
    assert tree(out) == tree(frames)


def test_two_processes_encode(src, latents, tmp_path):
    running = _processes(NEVER, NEVER, arguments=(src, tmp_path / "out", "untrained"))
    records_each = [int(process.communicate(timeout=600)[0].split()[-1]) for process in running]
    assert sum(records_each) == len(GOOD) and min(records_each) > 0  # they share the work
    assert tree(tmp_path / "out") == tree(latents)


def _processes(*deaths: tuple[str, int], arguments) -> list[subprocess.Popen]:
    script = ("-m", "tests.data.building", free_port(), len(deaths))
    return [_python(*script, i, *death, *arguments) for i, death in enumerate(deaths)]


def test_if_one_process_fails_all_do(monkeypatch):
    monkeypatch.setattr(build.multihost_utils, "process_allgather", lambda failed: np.array([failed, True]))
    with pytest.raises(WanError, match="process 1 of 2 failed"), build._together():
        pass
    with pytest.raises(WanError, match="mine"), build._together():
        raise WanError("mine")


def _half_a_plan(patch):
    """Killed within the first file that is written."""

    def dies(path, content):
        (path.parent / f"{path.name}.tmp").write_text("{")
        raise KeyboardInterrupt

    patch.setattr(checkpoint, "write_json", dies)


def _half_the_metadata(patch):
    write = shards.write_metadata

    def dies(folder, *args):
        write(folder, *args)
        (folder / "dataset_info.json").write_text('{"name": "clips", "splits": [{"name": "train"}]}')
        (folder / "features.json").write_text("{")
        raise KeyboardInterrupt

    patch.setattr(shards, "write_metadata", dies)


def _before_the_end(patch):
    write = checkpoint.write_json

    def dies(path, content):
        if path.name == shards.CONFIG:
            raise KeyboardInterrupt
        write(path, content)

    patch.setattr(checkpoint, "write_json", dies)


@pytest.mark.parametrize("moment", [_half_a_plan, _half_the_metadata, _before_the_end])
def test_interrupted_elsewhere(src, frames, tmp_path, monkeypatch, moment):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        moment(patch)
        run(src, tmp_path / "out")
    assert not (tmp_path / "out" / shards.CONFIG).exists()
    run(src, tmp_path / "out")
    assert tree(tmp_path / "out") == tree(frames)


@pytest.mark.parametrize("full", ["shard", "note"])
def test_the_disk_is_full(src, frames, tmp_path, monkeypatch, full):
    """What was finished stays."""
    out = tmp_path / "out"
    names = sorted(path.name for path in frames.glob("clips-*"))

    def then_full(*args):
        done = write_shard(*args)
        place = out / f"{names[1]}.tmp" if full == "shard" else out / "plan" / f"{names[1]}.json.tmp"
        if not place.exists():
            place.symlink_to("/dev/full")
        return done

    write_shard = shards.write_shard
    with monkeypatch.context() as patch, pytest.raises(WanError) as raised:
        patch.setattr(shards, "write_shard", then_full)
        run(src, out)
    assert "cannot write" in str(raised.value) and "No space left on device" in str(raised.value)
    assert "goes on from there" in str(raised.value) and "\n" not in str(raised.value)
    assert (out / "plan" / f"{names[0]}.json").exists()
    for link in (path for path in out.rglob("*.tmp") if path.is_symlink()):
        link.unlink()
    run(src, out)
    assert tree(out) == tree(frames)


def test_clips_that_are_found_out_while_they_are_read(tmp_path, monkeypatch):
    """A size of which none is left, and then no clip at all."""
    for name, count in [("a.mp4", 9), ("b.mp4", 5)]:
        export_to_video(numbered(count), tmp_path / "src" / name)
        (tmp_path / "src" / name).with_suffix(".txt").write_text(name)
    damaged = []

    def reads(path, fps, bucket):
        if path.name in damaged:
            raise WanError(f"cannot read {path}: damaged: 1 of 9 frames")
        return read_clip(path, fps, bucket)

    monkeypatch.setattr("wan_jax.data.videos.read_clip", reads)
    source = VideoFolder(tmp_path / "src", **OPTIONS | {"validation": 0})
    damaged += ["a.mp4"]
    config = build.build(source, Frames(), tmp_path / "one")
    assert config["skipped"] == {"a.mp4": "damaged: 1 of 9 frames"} and list(records(tmp_path / "one")) == ["b.mp4"]
    assert build.table(config).splitlines()[1:] == [
        "32x32x5              1           0",
        "32x32x9              0           0",
    ]
    damaged += ["b.mp4"]
    with pytest.raises(WanError, match="none of the 2 clips can be used: 2 damaged"):
        build.build(source, Frames(), tmp_path / "none")


def test_another_command_for_the_same_folder(src, frames, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(frames, out)
    with pytest.raises(
        WanError, match=r"begun with frames=\[5, 9\] and not \[5\]; name another folder, or .* --restart"
    ):
        build.build(VideoFolder(src, **OPTIONS | {"lengths": [5]}), Frames(), out, SHARD_BYTES)
    shutil.copytree(src, tmp_path / "src")
    (tmp_path / "src" / "b.txt").write_text("another caption")
    with pytest.raises(WanError, match="was begun with other clips"):
        run(tmp_path / "src", out)
    assert tree(out) == tree(frames)
    build.build(VideoFolder(src, **OPTIONS), Frames(), out, SHARD_BYTES, restart=True)
    assert tree(out) == tree(frames)


BUILD = ["data", "build", "--out", "{tmp}/out", "--src"]


@pytest.mark.parametrize(
    "args, message",
    [
        ([*BUILD, "{tmp}/nowhere"], "nowhere: no such folder"),
        ([*BUILD, "{tmp}/empty"], "holds no videos"),
        ([*BUILD, "{tmp}/mute", "--model", "untrained"], "holds no captions: add metadata.csv"),
        ([*BUILD, "{src}"], "none of the 12 clips can be used: 8 too short, 2 Invalid data found"),
        ([*BUILD, "{src}", "--frames", "80"], "frames=80 is not 4n + 1, such as 81"),
        ([*BUILD, "{src}", "--frames", "5.0"], "--frames '5.0' is not a whole number"),
        ([*BUILD, "{src}", "--size", "100x96"], "size 100x96: width and height must be multiples of 16"),
        ([*BUILD, "{src}", "--area", "big"], "--area 'big' is not WIDTHxHEIGHT"),
        ([*BUILD, "{src}", "--area", "64x64", "--size", "64x64"], "give one of them"),
        ([*BUILD, "{src}", "--fps", "nan"], "fps=nan is not a frame rate"),
        ([*BUILD, "{src}", "--validation", "half"], "--validation 'half' is not a number"),
        ([*BUILD, "{src}", "--validation", "nan"], "validation=nan is no number of clips"),
        ([*BUILD, "{src}", *FLAGS, "--validation", "7"], "--validation 7 of 7 clips leaves none to train on"),
        ([*BUILD, "{src}", "--shard-mib", "0"], "--shard-mib 0: a shard takes 1 MiB at least"),
        ([*BUILD, "{src}", "--model", "nowhere"], "no such folder, no hub id"),
        ([*BUILD, "{latents}"], "holds latents already"),
        ([*BUILD, "{frames}", "--fps", "8"], "--fps: {frames} is a dataset of frames, which are cut already"),
        (["data", "build", "--src", "{src}", "--out", "{src}", *FLAGS], "is not empty, and no dataset that was begun"),
        (["data", "build", "--src", "{src}", "--out", "{src}", *FLAGS, "--restart"], "is not empty, and no dataset"),
        (["data", "build", "--src", "{src}", "--out", "{src}/b.mp4/out", *FLAGS], "Not a directory"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_2(src, frames, tmp_path, capsys, args, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mute").mkdir()
    shutil.copy(src / "b.mp4", tmp_path / "mute")
    write_dataset(tmp_path / "latents")
    places = {"tmp": tmp_path, "src": src, "frames": frames, "latents": tmp_path / "latents"}
    before = sorted((*tmp_path.rglob("*"), *src.rglob("*")))
    with pytest.raises(SystemExit) as stopped:
        cli.main([arg.format(**places) for arg in args])
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 2 and len(errors) == 1 and captured.out == "" and "Traceback" not in captured.err
    assert message.format(**places) in errors[0]
    assert sorted((*tmp_path.rglob("*"), *src.rglob("*"))) == before  # nothing half-written
