"""A run from its first batch, or its last checkpoint, to a component of a model folder."""

import dataclasses
import json
from contextlib import ExitStack
from dataclasses import dataclass

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from tqdm import tqdm

from wan_jax import __version__, checkpoint, compiler, sharding
from wan_jax.cache import enable_compilation_cache
from wan_jax.cluster import is_leader, wait_for_all
from wan_jax.errors import WanError
from wan_jax.train.checkpoints import Checkpoints
from wan_jax.train.config import RunConfig, TrainConfig
from wan_jax.train.expert_task import ExpertTask
from wan_jax.train.journal import Journal
from wan_jax.train.meter import Meter
from wan_jax.train.preemption import Preemption
from wan_jax.train.step import Report
from wan_jax.train.task import Task
from wan_jax.train.vae_config import VAETrainConfig
from wan_jax.train.vae_task import VAETask
from wan_jax.typing import Params

_FINISHED, _CONFIG = "finished.json", "config.json"
_PROFILED = range(4, 7)  # steps after the start: what they do is as usual by then


@dataclass(frozen=True)
class Result:
    """What became of a run.

    Attributes:
        name: of the run.
        step: that it has come to.
        finished: or told to stop; then it goes on when it is started again.
        output: the model folder, or the file of a low-rank update; None of a run that is not finished.
        loss: of the last step; None where none was done.
        validation_loss: the last; None where there was none.
    """

    name: str
    step: int
    finished: bool
    output: str | None
    loss: float | None = None
    validation_loss: float | None = None


def train(config: RunConfig, profile: bool = False) -> Result:
    """Does a run, or the rest of one that was stopped.  Every process calls it.

    Args:
        config: the run.
        profile: record a few steps for TensorBoard's profiler.

    Raises:
        WanError: the config, data or weights do not fit, a gradient is not finite, or a checkpoint cannot be written.
    """
    config.check()
    folder = epath.Path(config.out) / config.name
    if (done := _finished(folder, config)) is not None:
        return done
    enable_compilation_cache()
    mesh = train_mesh(config)
    with ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        preemption = stack.enter_context(Preemption())

        task = open_task(config, mesh)
        checkpoints = Checkpoints(folder / "checkpoints", config.keep, config.keep_every)
        stack.callback(checkpoints.close)
        _write_json(folder / _CONFIG, {"wan_jax": __version__} | dataclasses.asdict(config))
        state = checkpoints.restore(task.abstract)
        if state is None:
            state = task.begin()
        else:
            task.resume()
        first = step = int(state.step)
        stream = task.batches(int(state.samples))
        journal = Journal(folder, step)
        stack.callback(journal.close)
        watch = _Watch(config, state.params, journal)
        meter = Meter()
        steps = {}  # compiled, by the size of the clips
        kind = mesh.devices.flat[0].device_kind
        bar = stack.enter_context(
            tqdm(total=config.steps, initial=step, desc=config.name, unit="step", disable=not is_leader())
        )

        def due(every: int) -> bool:
            return every > 0 and step % every == 0

        def check_up():
            """Losses, and what people may look at."""
            watch.settle()
            meter.pause()
            if due(config.validate_every) and (losses := task.validate(state)):
                watch.validation_loss = losses["validation/loss"]
                journal.add(step, losses)
            if due(config.sample_every):
                task.show(state, folder / "samples", step)

        # ---- Loop ----
        stopped = False
        if step == 0:
            check_up()
        while step < config.steps and not stopped:
            batch = next(stream)
            inputs, size = task.inputs(batch), task.size(batch)
            if size not in steps:
                meter.pause()
                steps[size] = compiler.compile(task.lower(state, *inputs), kind, "train_step")
            if profile and is_leader() and step - first == _PROFILED.start:
                jax.profiler.start_trace(str(folder / "profile"))
            state, report = steps[size](state, *inputs)
            step += 1
            meter.step(task.flops(batch))
            watch.add(step, batch.ids, report)
            meter.go()
            bar.update()
            if profile and is_leader() and step - first == _PROFILED.stop:
                jax.block_until_ready(state)
                jax.profiler.stop_trace()
            if due(config.log_every):
                speed = meter.read()
                if speed:
                    journal.add(step, speed)
                bar.set_postfix(loss=watch.loss, **{name.partition("/")[2]: value for name, value in speed.items()})
            if due(config.validate_every) or due(config.sample_every):
                check_up()
            stopped = preemption.reached(step)
            if due(config.save_every) or stopped or step == config.steps:
                watch.settle()
                meter.pause()
                journal.flush(step)
                checkpoints.save(step, state)

        # ---- End ----
        checkpoints.wait()
        if step < config.steps:
            return Result(config.name, step, False, None, watch.loss, watch.validation_loss)
        result = Result(config.name, step, True, task.finish(state, folder), watch.loss, watch.validation_loss)
        _write_json(folder / _FINISHED, dataclasses.asdict(result))
        return result


def open_task(config: RunConfig, mesh: Mesh) -> Task:
    """What a run does."""
    return {TrainConfig: ExpertTask, VAETrainConfig: VAETask}[type(config)](config, mesh)


def train_mesh(config: RunConfig) -> Mesh:
    """The mesh of a run: as it says, or all accelerators (of a CPU, one device) on the axis that suits the task."""
    if config.mesh is not None:
        return sharding.as_mesh(config.mesh)
    devices = jax.devices() if jax.devices()[0].platform != "cpu" else jax.devices()[:1]
    return sharding.make_mesh(**{config.MESH_AXIS: len(devices)}, devices=devices)


def _finished(folder: epath.Path, config: RunConfig) -> Result | None:
    """What became of a run that is complete already."""
    if not (folder / _FINISHED).exists():
        return None
    result = Result(**checkpoint.read_json(folder / _FINISHED))
    return result if result.step >= config.steps else None


def _write_json(path: epath.Path, content: dict):
    if is_leader():
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(path, json.loads(json.dumps(content, default=str)))
    wait_for_all(path.name)


class _Watch:
    """Reads what steps report, one step late: so the device has the next one before it is done with this."""

    def __init__(self, config: RunConfig, params: Params, journal: Journal):
        self.loss: float | None = None
        self.validation_loss: float | None = None
        self._names = ["/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        self._config = config
        self._journal = journal
        self._last: tuple[int, list[str], Report] | None = None

    def add(self, step: int, ids: list[str], report: Report):
        """Takes note of a step.

        Raises:
            WanError: the one before it had a gradient that is not finite.
        """
        last, self._last = self._last, (step, ids, report)
        if last is not None:
            self._read(*last)

    def settle(self):
        """Waits for the last step."""
        if self._last is not None:
            last, self._last = self._last, None
            self._read(*last)

    def _read(self, step: int, ids: list[str], report: Report):
        report = jax.device_get(report)
        self.loss = float(report.loss)
        if not (report.finite.all() and np.isfinite(report.loss)):
            names = [name for name, finite in zip(self._names, report.finite) if not finite]
            raise WanError(
                f"run {self._config.name}, step {step}: the loss is {self.loss} and {len(names)} of "
                f"{len(self._names)} gradients are not finite ({', '.join(names[:3])}{' …' if names[3:] else ''}); "
                "the last checkpoint is good: go on from it with a lower optimizer.learning_rate or another seed, "
                f"or look at the clips of this step ({', '.join(ids[:3])}{' …' if ids[3:] else ''})"
            )
        scalars = {"loss": report.loss, **report.scalars}
        self._journal.add(step, {f"train/{name}": float(value) for name, value in scalars.items()}, ids)
