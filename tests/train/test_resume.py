"""Runs that are killed, told to stop, or damaged go on as if nothing had happened."""

import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest

from tests.ports import free_port
from tests.train import tiny
from wan_jax.cache import cache_dir
from wan_jax.errors import WanError
from wan_jax.pipelines.loading import locate
from wan_jax.train.journal import read_journal
from wan_jax.train.loop import train

# Quick to compile, not to run; and on CPU, collectives that do not depend on each other must keep one order, or devices
# wait for each other for ever.
_XLA_FLAGS = ("--xla_backend_optimization_level=0", "--xla_cpu_enable_concurrency_optimized_scheduler=false")
LONG, SHORT = 300, 12  # several processes on few cores are slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "data"
    tiny.write_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def base():
    """The untrained model, converted: several processes cannot do that together."""
    return locate("untrained", "float32", str(cache_dir("models")))


@pytest.fixture
def start(tmp_path_factory, data, base):
    """Starts a run, in a folder of its own or an earlier one, and returns that and its processes."""
    running = []

    def begin(processes=1, devices=1, *changes, folder=None):
        folder = folder or tmp_path_factory.mktemp("run")
        port = free_port()
        script = [sys.executable, "-m", "tests.train.in_processes"]
        arguments = [str(folder), f"data={data}", f"base={base}", *changes]
        environment = os.environ | {"XLA_FLAGS": " ".join(_XLA_FLAGS)}
        if processes * devices > 1:
            environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # which keeps another order of collectives
        started = [
            subprocess.Popen([*script, *map(str, (port, processes, i, devices)), *arguments], env=environment)
            for i in range(processes)
        ]
        running.extend(started)
        return folder, started

    yield begin
    for process in running:
        process.kill()


def succeed(folder, processes):
    assert [process.wait(900) for process in processes] == [0] * len(processes)
    return folder


def kill_after(step: int, folder, processes):
    """`kill -9` for all, once there is a checkpoint of `step` and a few steps more."""
    deadline = time.monotonic() + 600
    while not (folder / "runs/high/checkpoints" / str(step)).exists():
        assert time.monotonic() < deadline and not any(process.poll() for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def arrays(folder, step) -> dict[str, np.ndarray]:
    """All that a checkpoint holds."""
    path = folder / "runs/high/checkpoints" / str(step)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), ocp.metadata(path).metadata)
    tree = ocp.load(path, shapes)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def told(folder) -> list[dict]:
    """The journal, but for what the clock says."""
    entries = [{k: v for k, v in entry.items() if "speed" not in k} for entry in read_journal(folder / "runs/high")]
    return [entry for entry in entries if len(entry) > 1]


def assert_each_clip_is_seen_once_in_each_pass(folder, count):
    """In every step 8 clips, and in every three steps all 24, whoever read them."""
    steps = {}
    for entry in told(folder):
        steps.setdefault(entry["step"], set()).update(entry.get("ids", ()))
    assert list(steps) == list(range(1, count + 1))
    assert all(len(ids) == 8 for ids in steps.values())
    for first in range(1, count, 3):
        assert len(steps[first] | steps[first + 1] | steps[first + 2]) == tiny.CLIPS


@pytest.mark.parametrize("steps, processes, mesh", [(LONG, 1, "fsdp=1"), (SHORT, 4, "data=2,fsdp=2")])
def test_killed_run_is_the_same_bit_for_bit(start, steps, processes, mesh):
    changes = (f"steps={steps}", f"save_every={steps // 6}", "validate_every=0", "keep=9", f"mesh={mesh!r}")
    straight = succeed(*start(processes, 1, *changes))
    folder, running = start(processes, 1, *changes)
    kill_after(steps // 2, folder, running)
    succeed(*start(processes, 1, *changes, folder=folder))
    assert told(folder) == told(straight)
    assert_each_clip_is_seen_once_in_each_pass(folder, steps)
    found, expected = arrays(folder, steps), arrays(straight, steps)
    assert found.keys() == expected.keys() and len(expected) > 100
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, name)


def test_going_on_with_other_processes(start, tmp_path):
    """One process with eight devices, then two with four and another mesh: the same curve."""
    one, two = "mesh='fsdp=4,context=2'", "mesh='data=2,fsdp=4'"
    few = ("steps=20", "save_every=10", "validate_every=0", "keep=2")
    straight = succeed(*start(1, 8, *few, one))
    folder = tmp_path / "stopped"  # as if the run had been killed before its last checkpoint
    shutil.copytree(straight, folder)
    shutil.rmtree(folder / "runs/high/checkpoints/20")
    (folder / "runs/high/finished.json").unlink()
    succeed(*start(2, 4, *few, two, folder=folder))
    curves = [{e["step"]: e["train/loss"] for e in told(f) if "train/loss" in e} for f in (straight, folder)]
    assert list(curves[0]) == list(curves[1]) == list(range(1, 21))
    np.testing.assert_allclose(*(list(curve.values()) for curve in curves), rtol=1e-5)


def test_told_to_stop(start):
    """SIGTERM to one of two: both save the same step and exit with 0, and go on from it."""
    changes = ("steps=4000", "save_every=0", "validate_every=0", "mesh='fsdp=2'")
    folder, running = start(2, 1, *changes)
    checkpoints = folder / "runs/high/checkpoints"
    while not checkpoints.exists():
        time.sleep(0.1)
    time.sleep(12)
    running[-1].send_signal(signal.SIGTERM)
    succeed(folder, running)
    (stopped,) = (int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
    assert 0 < stopped < 4000
    folder, running = start(2, 1, f"steps={stopped + 2}", *changes[1:], folder=folder)
    succeed(folder, running)
    assert [entry["step"] for entry in told(folder) if "train/loss" in entry] == list(range(1, stopped + 3))


def run_here(folder, data, **options):
    return train(tiny.run(folder, **dict(data=str(data), validate_every=0) | options))


@pytest.mark.parametrize("damage", ["truncated", "deleted"])
def test_damaged_newest_checkpoint(tmp_path, data, damage):
    """The one before it serves, with a warning, and the end is the same."""
    run_here(tmp_path, data, name="high", keep=3)
    expected = arrays(tmp_path, 12)
    files = (path for path in (tmp_path / "runs/high/checkpoints/12").rglob("*") if path.is_file())
    file = max(files, key=lambda path: path.stat().st_size)
    content = file.read_bytes()
    file.unlink()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    (tmp_path / "runs/high/finished.json").unlink()
    with pytest.warns(UserWarning, match=r"checkpoint 12 in .*set aside in .*damaged"):
        run_here(tmp_path, data, keep=3)
    assert (tmp_path / "runs/high/damaged/12").is_dir()
    for name, value in arrays(tmp_path, 12).items():
        np.testing.assert_array_equal(value, expected[name], name)


def test_kept_checkpoints(tmp_path, data):
    run_here(tmp_path, data, steps=20, save_every=2, keep=2, keep_every=6)
    found = {int(path.name) for path in (tmp_path / "runs/high/checkpoints").iterdir() if path.name.isdecimal()}
    assert found == {6, 12, 18, 20}


def test_checkpoint_of_another_model(tmp_path, data):
    run_here(tmp_path, data, steps=5)
    (tmp_path / "runs/high/finished.json").unlink()
    with pytest.raises(WanError, match=r"checkpoints/5 is the checkpoint of another run: .* arrays differ"):
        run_here(tmp_path, data, ema=None)


def test_full_disk(tmp_path, data, monkeypatch):
    """The run stops with one line, and the last good checkpoint is still there to go on from."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run_here(tmp_path, data, out=str(disk), steps=5)
    saved = os.stat(disk / "high/checkpoints/5")
    assert saved
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "none", disk]).returncode:
        pytest.skip("needs to mount a small disk")
    try:
        with pytest.raises(WanError, match=r"checkpoint \d+ cannot be written .*the last good checkpoint is \d+"):
            run_here(tmp_path, data, out=str(disk), steps=100, save_every=2, keep=50)
        good = max(int(path.name) for path in (disk / "high/checkpoints").iterdir() if path.name.isdecimal())
        shutil.rmtree(disk / "high/checkpoints/2")
        assert run_here(tmp_path, data, out=str(disk), steps=good + 2, save_every=0, keep=1).finished
    finally:
        subprocess.run(["umount", disk], check=True)
