"""The checkpoints of a run: written in the background, and read back even where the newest is damaged."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from etils import epath
from jax.experimental import multihost_utils

from wan_jax.checkpoint import read_json, write_json
from wan_jax.cluster import is_leader, wait_for_all
from wan_jax.errors import WanError
from wan_jax.train.state import TrainState

_policies = ocp.training.preservation_policies


class Checkpoints:
    """A folder of checkpoints, one a step: the newest `keep`, and those at multiples of `keep_every`.

    Beside them, in sizes/, lies a list of the files of each, by which one that was cut short is known before it is
    read: all processes must turn to the same older one.
    """

    def __init__(self, folder: epath.PathLike, keep: int, keep_every: int = 0):
        self._folder = epath.Path(folder if "://" in str(folder) else os.path.abspath(folder))  # Orbax wants it whole
        kept = [_policies.LatestN(keep)] + ([_policies.EveryNSteps(keep_every)] if keep_every else [])
        self._orbax = ocp.training.Checkpointer(
            self._folder,
            preservation_policy=_policies.AnyPreservationPolicy(kept),
            cleanup_tmp_directories=True,
        )
        self._saving: int | None = None

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, the newest first."""
        return sorted((checkpoint.step for checkpoint in self._orbax.checkpoints), reverse=True)

    def save(self, step: int, state: TrainState):
        """Starts to write a checkpoint; returns once the arrays may be donated.

        Raises:
            WanError: this one, or the one before it, cannot be written.
        """
        self.wait()
        with self._writing(step):
            self._orbax.save_async(step, _storable(state), force=True)
        self._saving = step

    def wait(self):
        """Returns when what is being written is complete.

        Raises:
            WanError: it cannot be written.
        """
        if self._saving is None:
            return
        step, self._saving = self._saving, None
        with self._writing(step):
            self._orbax.wait()
            if is_leader():
                self._write_sizes(step)

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest checkpoint that is whole, on the mesh of `abstract`; None if there is none.

        A damaged one is set aside, with a warning.

        Raises:
            WanError: it is that of another architecture.
        """
        while (step := self._newest()) is not None:
            if problem := _agree(self._damage(step)):
                self._set_aside(step, problem)
                continue
            self._check_shapes(step, _storable(abstract))
            try:
                return _usable(self._orbax.load(step, _storable(abstract)))
            except Exception as error:  # Orbax raises whatever the storage does
                if jax.process_count() > 1:  # the others may have had no such trouble
                    raise WanError(
                        f"{self._folder / str(step)} cannot be read; move it away and start again"
                    ) from error
                self._set_aside(step, f"cannot be read ({_first_line(error)})")
        return None

    def close(self):
        """Completes what is being written."""
        self.wait()
        self._orbax.close()

    def _newest(self) -> int | None:
        return next(iter(self.steps), None)

    def _write_sizes(self, step: int):
        (self._folder / "sizes").mkdir(exist_ok=True)
        write_json(self._folder / "sizes" / f"{step}.json", _sizes(self._folder / str(step)))

    def _damage(self, step: int) -> str:
        """What is wrong with the files of a checkpoint; empty if nothing is, or a kill came before their list."""
        listed = self._folder / "sizes" / f"{step}.json"
        if not is_leader() or not listed.exists():
            return ""
        found = _sizes(self._folder / str(step))
        for name, size in read_json(listed).items():
            if name not in found:
                return f"{name} is missing"
            if found[name] != size:
                return f"{name} has {found[name]} bytes of {size}"
        return ""

    def _set_aside(self, step: int, problem: str):
        damaged = self._folder.parent / "damaged"
        if is_leader():
            warnings.warn(f"checkpoint {step} in {self._folder}: {problem}; set aside in {damaged}", stacklevel=2)
            damaged.mkdir(exist_ok=True)
            (self._folder / str(step)).rename(damaged / str(step))
        wait_for_all("set_aside")
        self._orbax.reload()

    def _check_shapes(self, step: int, abstract: dict):
        stored = {_name(path): x for path, x in _leaves(self._orbax.metadata(step).metadata)}
        wanted = {_name(path): x for path, x in _leaves(abstract)}
        problems = [
            f"  {name}: {list(stored[name].shape) if name in stored else 'missing'}, "
            f"this run's is {list(wanted[name].shape) if name in wanted else 'missing'}"
            for name in sorted(stored.keys() | wanted.keys())
            if name not in stored or name not in wanted or tuple(stored[name].shape) != tuple(wanted[name].shape)
        ]
        if problems:
            raise WanError(
                f"{self._folder / str(step)} is the checkpoint of another run: {len(problems)} arrays differ; "
                "give this run another name or out\n" + "\n".join(problems[:20])
            )

    @contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax raises whatever the storage does
            good = [known for known in self.steps if known != step]
            rest = f"the last good checkpoint is {good[0]}" if good else "there is no earlier one"
            raise WanError(
                f"checkpoint {step} cannot be written to {self._folder} ({_first_line(error)}); {rest}"
            ) from error


def _storable(state: TrainState) -> dict:
    """A state without empty parts and typed keys."""
    key = state.key
    if isinstance(key, jax.ShapeDtypeStruct):
        data = jax.eval_shape(jax.random.key_data, key)
        key = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=key.sharding)
    else:
        key = jax.random.key_data(key)
    return {name: value for name, value in vars(state.replace(key=key)).items() if value is not None}


def _usable(stored: dict) -> TrainState:
    return TrainState(**{"ema": None} | stored | {"key": jax.random.wrap_key_data(stored["key"])})


def _sizes(folder: epath.Path) -> dict[str, int]:
    """The bytes of every file below a folder."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            found |= {f"{path.name}/{name}": size for name, size in _sizes(path).items()}
        else:
            found[path.name] = path.stat().length
    return found


def _agree(problem: str) -> str:
    """What the leader says, in every process."""
    if jax.process_count() == 1:
        return problem
    text = np.zeros(200, np.uint8)
    encoded = problem.encode()[: len(text)]
    text[: len(encoded)] = list(encoded)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(text))).rstrip(b"\0").decode(errors="replace")


def _leaves(tree) -> list:
    return [leaf for leaf in jax.tree_util.tree_leaves_with_path(tree) if hasattr(leaf[1], "shape")]


def _name(path) -> str:
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
