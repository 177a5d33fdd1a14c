"""A run from its first batch, or its last checkpoint, to a component of a model folder."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from tqdm import tqdm

from wan_jax import __version__, checkpoint, compiler, lora, sharding
from wan_jax.cache import enable_compilation_cache
from wan_jax.cluster import is_leader, wait_for_all
from wan_jax.data.loader import Batch, Dataset, batches, validation_clips
from wan_jax.errors import WanError
from wan_jax.train.checkpoints import Checkpoints
from wan_jax.train.config import TrainConfig
from wan_jax.train.journal import Journal
from wan_jax.train.meter import Meter
from wan_jax.train.models import (
    export,
    find_tokenizer,
    frozen_weights,
    starting_weights,
    trained_shapes,
    trains_text_encoder,
    whole_weights,
)
from wan_jax.train.preemption import Preemption
from wan_jax.train.samples import make_samples
from wan_jax.train.state import TrainState, abstract_state, new_state
from wan_jax.train.step import Clips, Report, lower_step
from wan_jax.train.validation import validate
from wan_jax.typing import Params

_FINISHED, _CONFIG, LORA_FILE = "finished.json", "config.json", "lora.safetensors"
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


def train(config: TrainConfig, profile: bool = False) -> Result:
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

        # ---- Data ----
        dataset = Dataset(config.data)
        encodes = _encodes(config, dataset)
        tokenizer = find_tokenizer(config) if encodes else None
        no_caption = tuple(map(jnp.asarray, tokenizer([""]))) if encodes else jnp.asarray(dataset.no_text)
        held_out = validation_clips(
            dataset, config.validation_clips, batch=config.batch // config.accumulate, tokenizer=tokenizer
        )
        validation = [_clips(batch, config) for batch in held_out] if config.validate_every else []

        # ---- State ----
        _write_json(folder / _CONFIG, {"wan_jax": __version__} | dataclasses.asdict(config))
        checkpoints = Checkpoints(folder / "checkpoints", config.keep, config.keep_every)
        stack.callback(checkpoints.close)
        state, frozen = _begin(config, encodes, checkpoints, mesh)
        first = step = int(state.step)
        stream = batches(dataset, batch=config.batch, seed=config.seed, start=int(state.samples), tokenizer=tokenizer)
        journal = Journal(folder, step)
        stack.callback(journal.close)
        watch = _Watch(config, state.params, journal)
        meter = Meter(config.model.transformer)
        steps = {}  # compiled, by the shape of the latents
        kind = mesh.devices.flat[0].device_kind
        bar = stack.enter_context(
            tqdm(total=config.steps, initial=step, desc=config.name, unit="step", disable=not is_leader())
        )

        def due(every: int) -> bool:
            return every > 0 and step % every == 0

        def check_up():
            """Losses and videos."""
            watch.settle()
            meter.pause()
            if validation and due(config.validate_every):
                watch.validation_loss = _validate(config, state, frozen, validation, journal, step)
            if config.sample_prompts and due(config.sample_every):
                make_samples(config, whole_weights(config, state.best, frozen), mesh, folder / "samples", step)

        # ---- Loop ----
        stopped = False
        if step == 0:
            check_up()
        while step < config.steps and not stopped:
            batch = next(stream)
            clips = _clips(batch, config)
            shape = clips.latents.shape
            if shape not in steps:
                meter.pause()
                lowered = lower_step(config, state, frozen, clips, no_caption)
                steps[shape] = compiler.compile(lowered, kind, "train_step")
            if profile and is_leader() and step - first == _PROFILED.start:
                jax.profiler.start_trace(str(folder / "profile"))
            state, report = steps[shape](state, frozen, clips, no_caption)
            step += 1
            meter.step(shape)
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
        output = _finish(config, whole_weights(config, state.best, frozen), state, folder)
        result = Result(config.name, step, True, output, watch.loss, watch.validation_loss)
        _write_json(folder / _FINISHED, dataclasses.asdict(result))
        return result


def train_mesh(config: TrainConfig) -> Mesh:
    """The mesh of a run: as it says, or all accelerators (of a CPU, one device) with the weights in pieces."""
    if config.mesh is not None:
        return sharding.as_mesh(config.mesh)
    devices = jax.devices() if jax.devices()[0].platform != "cpu" else jax.devices()[:1]
    return sharding.make_mesh(fsdp=len(devices), devices=devices)


def _finished(folder: epath.Path, config: TrainConfig) -> Result | None:
    """What became of a run that is complete already."""
    if not (folder / _FINISHED).exists():
        return None
    result = Result(**checkpoint.read_json(folder / _FINISHED))
    return result if result.step >= config.steps else None


def _encodes(config: TrainConfig, dataset: Dataset) -> bool:
    """Whether umT5 runs in every step: it is trained, or the dataset holds no states."""
    return not dataset.config["text"] or trains_text_encoder(config)


def _begin(config: TrainConfig, encodes: bool, checkpoints: Checkpoints, mesh: Mesh) -> tuple[TrainState, Params]:
    """The state of the newest checkpoint, or a new one; and the frozen weights."""
    abstract = abstract_state(config, trained_shapes(config, encodes), mesh)
    state = checkpoints.restore(abstract)
    if state is not None:
        return state, frozen_weights(config, encodes, mesh)
    trained, frozen = starting_weights(config, encodes, mesh)
    where = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(lambda params: new_state(config, params), out_shardings=where)(trained), frozen


def _clips(batch: Batch, config: TrainConfig) -> Clips:
    channels = batch.latents.shape[-1]
    if channels != config.model.vae.z_dim:
        raise WanError(
            f"data={config.data!r} holds latents of {channels} channels, those of {config.model.name} have "
            f"{config.model.vae.z_dim}: build it with this model's autoencoder"
        )
    return Clips(batch.latents, batch.captions)


def _validate(
    config: TrainConfig, state: TrainState, frozen: Params, validation: Sequence[Clips], journal: Journal, step: int
) -> float:
    losses = validate(state.best, frozen, validation, config)
    journal.add(step, losses)
    return losses["validation/loss"]


def _finish(config: TrainConfig, weights: Params, state: TrainState, folder: epath.Path) -> str:
    """Writes what a run was for, and says where."""
    source = {"run": config.name, "steps": int(state.step), "clips": int(state.samples), "wan_jax": __version__}
    if config.lora is None:
        return str(export(config, weights, source))
    update = (state.ema or state.params)[config.component]
    lora.save(folder / LORA_FILE, update, config.lora, config.model.transformer, {k: str(v) for k, v in source.items()})
    return str(folder / LORA_FILE)


def _write_json(path: epath.Path, content: dict):
    if is_leader():
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(path, json.loads(json.dumps(content, default=str)))
    wait_for_all(path.name)


class _Watch:
    """Reads what steps report, one step late: so the device has the next one before it is done with this."""

    def __init__(self, config: TrainConfig, params: Params, journal: Journal):
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
        scalars = {"loss": report.loss, "grad_norm": report.grad_norm, "learning_rate": report.learning_rate}
        self._journal.add(step, {f"train/{name}": float(value) for name, value in scalars.items()}, ids)
