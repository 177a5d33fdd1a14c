"""A second start compiles nothing, and nothing that another could have placed is ever opened."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from wan_jax import WanError, WanPipeline, cache, compiler, executables, sharding
from wan_jax.pipelines import loading

SMALL = dict(height=32, width=32, num_frames=5, num_inference_steps=2)
START = """
import collections, hashlib, json, sys
import jax
events = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: events.update([event]))
jax.monitoring.register_event_duration_secs_listener(lambda event, seconds, **_: events.update([event]))
from wan_jax import WanPipeline, executables
pipe = WanPipeline.from_pretrained("untrained", dtype="float32")
frames = pipe("a cat", **json.loads(sys.argv[1])).frames
counts = {event.rsplit("/", 1)[1]: count for event, count in events.items()}
video = hashlib.sha256(frames[0].tobytes()).hexdigest()
print(json.dumps(counts | {"video": video, "first_step_s": pipe.first_step_s} | vars(executables.tally)))
"""


def start(cache_folder) -> tuple[dict, str]:
    """What a new process counts while it makes a video, and what it tells the user."""
    env = os.environ | {"WAN_JAX_CACHE": str(cache_folder), "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", START, json.dumps(SMALL)], env=env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_second_start_compiles_nothing(tmp_path):
    first, _ = start(tmp_path)
    assert first["cache_misses"] > 0 and first["built"] == 5 and first["restored"] == 0
    second, told = start(tmp_path)
    # JAX reports a compilation whether or not its cache has the program: all must be hits.
    assert second["backend_compile_duration"] == second["cache_hits"] > 0 and "cache_misses" not in second
    assert second["built"] == 0 and second["restored"] == 5
    assert second["video"] == first["video"]
    assert f"first step after {second['first_step_s']:.1f} s (waiting for weights" in told

    # A program that JAX's own cache had is not stored again: written twice, it would fail when it runs.
    for file in (tmp_path / "executables").iterdir():
        file.unlink()
    third, _ = start(tmp_path)
    assert third["built"] == 5 and "cache_misses" not in third
    assert not any((tmp_path / "executables").iterdir())
    assert third["video"] == first["video"]


@flax.struct.dataclass
class State:
    x: jax.Array


@partial(jax.jit, static_argnames="power", donate_argnames="state")
def advance(state: State, weight, count, scale, *, power):
    return State(sharding.constrain(state.x**power * weight * count, "data") + (0 if scale is None else scale))


def mesh_of(count: int, first: int = 0, **axes: int):
    return sharding.make_mesh(**axes or {"data": count}, devices=jax.devices()[first : first + count])


def run(**changes):
    arguments = dict(state=State(jnp.arange(8.0)), weight=np.full(8, 2.0), count=3, scale=None) | changes
    return executables.call(advance, {"power": 2}, **arguments).x


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, as a new process would find it."""
    monkeypatch.setenv("WAN_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(executables, "tally", executables.Tally())
    monkeypatch.setattr(executables, "_loaded", {})
    before = jax.config.jax_compilation_cache_dir
    _use_compilation_cache(None)
    yield tmp_path / "executables"
    _use_compilation_cache(before)


def _use_compilation_cache(folder: str | None):
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()


def restart():
    executables._loaded.clear()
    executables.tally.__init__()


def stored(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.name != "key"]


@pytest.mark.parametrize("mesh", [(1, 3), (4, 2), (8, 0)])
def test_restored_executable(fresh, mesh):
    """On part of the devices, donating as the function itself does, its own results as arguments."""
    with jax.set_mesh(mesh_of(*mesh)):
        for again in range(2):
            state = State(jnp.arange(8.0))
            after = State(run(state=state))
            np.testing.assert_array_equal(after.x, np.arange(8.0) ** 2 * 6)
            assert set(after.x.devices()) == set(jax.devices()[mesh[1] :][: mesh[0]])
            twice = run(state=after, scale=1.5)
            assert after.x.is_deleted()
            np.testing.assert_array_equal(twice, (np.arange(8.0) ** 2 * 6) ** 2 * 6 + 1.5)
            counted = (executables.tally.built, executables.tally.restored)
            assert counted == ((0, 2) if again else (2, 0))
            run(count=4)  # a number is an argument, not another program
            assert sum(counted) == executables.tally.built + executables.tally.restored
            restart()


def test_without_mesh_and_under_a_trace_it_is_just_the_call(fresh):
    assert run().tolist() == (np.arange(8.0) ** 2 * 6).tolist()
    with jax.set_mesh(mesh_of(1)):
        slope = jax.grad(lambda x: run(state=State(x)).sum())(jnp.arange(8.0))
    assert slope.tolist() == (12 * np.arange(8.0)).tolist()
    assert executables.tally == executables.Tally()


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_only_sealed_files_are_opened(fresh, tmp_path):
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Bomb(marker))
    with jax.set_mesh(mesh_of(1)):
        expected = run()
        (file,) = stored(fresh)
        good = file.read_bytes()
        altered = bytearray(good)
        altered[len(good) // 2] ^= 1
        for wrong in (b"", good[:20], bytes(altered), good + b"x", bomb, good[:32] + bomb, bytes(32) + bomb):
            file.write_bytes(wrong)
            restart()
            np.testing.assert_array_equal(run(), expected)
            assert (executables.tally.built, executables.tally.restored) == (1, 0) and not marker.exists()
            assert len(file.read_bytes()) == len(good)  # overwritten
        restart()
        run()
        assert executables.tally.restored == 1
        # Sealed for another program; the same seal under the right name shows that the bomb would work.
        folder = cache.SealedFolder(fresh, 2**30)
        folder.write("another", bomb)
        file.write_bytes((fresh / "another").read_bytes())
        restart()
        run()
        assert executables.tally.built == 1 and not marker.exists()
        folder.write(file.name, bomb)
        restart()
        run()
        assert marker.exists()


def test_what_others_could_write_is_not_read(fresh):
    with jax.set_mesh(mesh_of(1)):
        run()
        (file,) = stored(fresh)
        for path, mode, usual in ((file, 0o620, 0o600), (file, 0o602, 0o600), (fresh / "key", 0o660, 0o600)):
            path.chmod(mode)
            restart()
            run()
            assert executables.tally.restored == 0, path
            path.chmod(usual)
        for mode in (0o770, 0o707):
            before = file.read_bytes()
            fresh.chmod(mode)
            restart()
            with pytest.warns(UserWarning, match="chmod 700"):
                run()
            assert executables.tally.built == 1 and file.read_bytes() == before
            fresh.chmod(0o700)
        moved = fresh.rename(fresh.with_name("elsewhere"))
        fresh.symlink_to(moved)
        restart()
        with pytest.warns(UserWarning, match="chmod 700"):
            run()
        assert executables.tally.built == 1


def test_files_of_another_user(fresh, monkeypatch):
    with jax.set_mesh(mesh_of(1)):
        run()
        restart()
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        with pytest.warns(UserWarning, match="chmod 700"):
            run()
    assert executables.tally.restored == 0


def test_cache_of_another_user_is_refused(monkeypatch):
    monkeypatch.setattr(Path, "chmod", lambda *_: (_ for _ in ()).throw(PermissionError()))
    with pytest.raises(WanError, match="let WAN_JAX_CACHE name a folder"):
        cache.cache_dir()


def test_least_recently_used_go_first(tmp_path):
    tmp_path.chmod(0o700)
    folder = cache.SealedFolder(tmp_path, limit_bytes=350)
    for i, name in enumerate("abc"):
        folder.write(name, bytes(68))  # and a seal of 32
        os.utime(tmp_path / name, (i, i))
    assert folder.read("a") is not None
    folder.write("d", bytes(68))
    assert sorted(file.name for file in stored(tmp_path)) == ["a", "c", "d"]


def test_key_holds_all_that_changes_a_program(fresh, tmp_path, monkeypatch):
    mesh = mesh_of(8, data=2, context=4)
    arguments = dict(state=State(jnp.arange(8.0)), weight=np.full(8, 2.0), count=3, scale=None)

    def key(mesh=mesh, jitted=advance, power=2, **changes):
        executables.machine.cache_clear()
        with jax.set_mesh(mesh):
            return executables.key(jitted, {"power": power}, arguments | changes)

    def placed(*spec, memory="device", devices=mesh):
        return jax.device_put(np.full(8, 2.0, np.float32), NamedSharding(devices, P(*spec), memory_kind=memory))

    same = key()
    assert key(weight=np.full(8, 5.0), count=4) == same  # values are no part of a program
    assert key(weight=placed("data")) == key(weight=placed(("data", "fsdp")))  # two names of one sharding
    keys = {
        "nothing": same,
        "static": key(power=3),
        "function": key(jitted=jax.jit(run, static_argnames="power")),
        "shape": key(weight=np.ones(1)),
        "dtype": key(weight=np.ones(8, np.int32)),
        "weak type": key(count=np.int32(3)),
        "tree": key(scale=1.0),
        "type": key(state={"x": arguments["state"].x}),
        "uncommitted": key(weight=jnp.ones(8)),
        "committed": key(weight=jax.device_put(jnp.ones(8), jax.devices()[0])),
        "replicated": key(weight=placed()),
        "sharding": key(weight=placed("data")),
        "order of devices": key(weight=placed("data", devices=mesh_of(8, data=4, context=2))),
        "memory": key(weight=placed(memory="pinned_host")),
        "axes": key(mesh_of(8, data=4, context=2)),
        "devices": key(mesh_of(8, 8, data=2, context=4)),
    }
    with jax.default_matmul_precision("highest"):
        keys["config"] = key()
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ANYTHING"):
        with monkeypatch.context() as patch:
            patch.setenv(name, os.environ.get(name, "") + " --xla_anything=1")
            keys[name] = key()
    for name, value in {"source_digest": lambda _: "x", "_versions": lambda: [], "_cpu_features": lambda: ""}.items():
        with monkeypatch.context() as patch:
            patch.setattr(executables, name, value)
            keys[name] = key()
    assert len(set(keys.values())) == len(keys), keys
    assert key() == same


def test_source_digest(tmp_path):
    digests = []
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b/c.json", "{}"), ("b/c.json", "[]")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        digests.append(executables.source_digest(tmp_path))
    (tmp_path / "notes.txt").write_text("no program")
    digests.append(executables.source_digest(tmp_path))
    assert len(set(digests)) == 4 and digests[-1] == digests[-2]


class Lowered:
    """Compiles unless given an option that this compiler refuses."""

    def __init__(self, message: str, refused: str):
        self.message, self.refused = message, refused

    def compile(self, options):
        if self.refused in options:
            raise jax.errors.JaxRuntimeError(self.message)
        self.options = dict(options)
        return self


def test_unknown_options_are_left_out():
    tiles = "xla_tpu_scoped_vmem_limit_kib"
    refusing = Lowered(f"INVALID_ARGUMENT: No such compile option: '{tiles}'", tiles)
    compiled = compiler.compile(refusing, "TPU v6 lite", "denoise")
    assert set(compiler.compiler_options("TPU v6 lite", "denoise")) - set(compiled.options) == {tiles}


def test_other_errors_of_the_compiler_pass():
    options = compiler.compiler_options("TPU v6 lite", "denoise")
    for message in ("RESOURCE_EXHAUSTED: Ran out of memory", "INVALID_ARGUMENT: No such compile option: 'other'"):
        with pytest.raises(jax.errors.JaxRuntimeError):
            compiler.compile(Lowered(message, next(iter(options))), "TPU v6 lite", "denoise")
    assert compiler.compiler_options("cpu", "denoise") == {}


def test_second_expert_is_read_while_the_first_works(monkeypatch):
    """The first need not wait for it, and it is there before anybody asks."""
    go, read = threading.Event(), loading._TorchModel.read

    def slow_read(self, name, *args):
        if name == "transformer_2":
            assert go.wait(600)
        return read(self, name, *args)

    monkeypatch.setattr(loading._TorchModel, "read", slow_read)
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32")
    assert pipe.first_step_s is None
    boundary = pipe.config.boundary_ratio * 1000
    ready = []

    def watch(pipe, step, timestep, tensors):
        if step == 1:
            go.set()
            limit = time.monotonic() + 600
            while not pipe.weights.ready("transformer_2") and time.monotonic() < limit:
                time.sleep(0.01)
        ready.append((timestep >= boundary, pipe.weights.ready("transformer_2")))

    pipe("a cat", callback_on_step_end=watch, **SMALL | {"num_inference_steps": 6})
    assert ready[:2] == [(True, False), (True, True)]
    assert not ready[-1][0] and pipe.first_step_s > 0
