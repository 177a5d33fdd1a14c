"""A conversion that is killed, and the same command again."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from convert import export
from convert.conversion import convert
from tests.convert.hub import COMMIT, serve
from tests.convert.tiny import CONFIG, assert_same_model, write_model
from wan_jax import checkpoint

ROOT = Path(__file__).parents[2]


def run(*args, **env) -> int:
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | env).returncode


def killed_at(n: int, *args, **env):
    assert run("tests/convert/killed.py", n, *args, **env) == -signal.SIGKILL


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """In six shards of the transformers, with what an uninterrupted conversion makes of it."""
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "SHARD_BYTES", 60_000)
        write_model(folder / "source")
    convert(str(folder / "source"), str(folder / "whole"), quiet=True)
    return folder


def test_the_model_has_several_shards(model):
    shards = list((model / "source").glob("transformer*/*.safetensors"))
    assert len(shards) == 6
    assert sum(len(load_file(shard)) for shard in shards) == 2 * (15 + 27 * CONFIG.transformer.num_layers)


def test_killed_again_and_again(model, tmp_path):
    command = ["--src", model / "source", "--dst", tmp_path / "ours"]
    killed_at(1, *command)  # nothing is recorded yet
    killed_at(50, *command)  # in the second shard
    killed_at(130, *command)
    assert not (tmp_path / "ours").exists()
    assert (tmp_path / "ours.partial" / "progress.json").exists()
    assert run("-m", "convert", *command) == 0
    # The folders are written under other names, and the origin is the same.
    assert_same_model(tmp_path / "ours", model / "whole")
    assert not (tmp_path / "ours.partial").exists()
    assert run("-m", "convert", *command) == 0  # nothing left to do


def test_killed_while_the_arrays_are_laid_out(model, tmp_path, monkeypatch):
    """What `create` leaves behind half-made is made anew."""
    calls, create = [], checkpoint.create

    def dies(folder, *args):
        create(folder, *args)
        calls.append(folder)
        if len(calls) == 2:
            (folder / "config.json").unlink()
            (folder.parent / "vae.orbax-checkpoint-tmp").mkdir()
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "create", dies)
    with pytest.raises(KeyboardInterrupt):
        convert(str(model / "source"), str(tmp_path / "ours"), quiet=True)
    monkeypatch.undo()
    convert(str(model / "source"), str(tmp_path / "ours"), quiet=True)
    assert_same_model(tmp_path / "ours", model / "whole")


def test_killed_before_the_rename(model, tmp_path, monkeypatch):
    monkeypatch.setattr("convert.progress.Progress.remove", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        convert(str(model / "source"), str(tmp_path / "ours"), quiet=True)
    monkeypatch.undo()
    convert(str(model / "source"), str(tmp_path / "ours"), quiet=True)
    assert_same_model(tmp_path / "ours", model / "whole")


def test_from_a_hub(model, tmp_path):
    """Killed twice; meanwhile the disk never holds more than the output and two shards."""
    peak, stop = [0], threading.Event()

    def watch():
        while not stop.is_set():
            peak[0] = max(peak[0], _size(tmp_path / "ours.partial") + _size(tmp_path / "ours.download"))
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with serve(model / "source") as (endpoint, requests):
        env = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret", "HF_HOME": str(tmp_path / "home")}
        command = ["--src", "owner/model", "--dst", tmp_path / "ours"]
        killed_at(40, *command, **env)
        killed_at(60, *command, **env)
        assert run("-m", "convert", *command, **env) == 0
    stop.set()
    watcher.join()
    for name in checkpoint.components(CONFIG):
        assert checkpoint.read_manifest(tmp_path / "ours" / name) == checkpoint.read_manifest(model / "whole" / name)
    checkpoint.verify(tmp_path / "ours")
    assert checkpoint.read_source(tmp_path / "ours")["revision"] == COMMIT
    assert {token for _, path, token in requests if "owner/model" in path} == {"Bearer hf_secret"}
    largest = sorted(path.stat().st_size for path in (model / "source").rglob("*.safetensors"))[-2:]
    small = 100_000  # progress and headers
    assert peak[0] <= _size(tmp_path / "ours") + sum(largest) + small
    assert not (tmp_path / "ours.download").exists()


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # renamed or deleted meanwhile
                total += os.stat(os.path.join(parent, name)).st_size
    return total
