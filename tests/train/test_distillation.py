"""Distillation to few steps: its target against loops written out in NumPy, and runs of a small model."""

import dataclasses
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from tests.compare import relative_error
from tests.train import tiny
from wan_jax import WanPipeline
from wan_jax.conditioning import Conditioning
from wan_jax.data.loader import Dataset, batches
from wan_jax.diffusion.solvers import make_steps
from wan_jax.errors import WanError
from wan_jax.lora import LoraConfig
from wan_jax.sharding import make_mesh
from wan_jax.train import loop, step
from wan_jax.train.config import Optimizer
from wan_jax.train.distillation import Distil, distillation_loss, guided
from wan_jax.train.expert_task import clips_of
from wan_jax.train.journal import read_journal
from wan_jax.train.models import starting_weights
from wan_jax.train.objective import predicted_velocity
from wan_jax.train.recipes import load_recipe
from wan_jax.video_io import read_metadata

DISTIL = Distil(steps=4, flow_shift=5.0, substeps=3, guidance_scale=2.5)
BATCH, FRAMES, HEIGHT, WIDTH, CHANNELS = 4, 3, 4, 6, 5
INTERVAL = np.array([0, 1, 1, 0], np.int32)

# ---- The target -----------------------------------------------------------------------------------------------------


def predict(slope, latents, timestep, text, row, context):
    """A network that depends on all that it is told, on other frames and on the time of each too."""
    time = timestep if row is None else timestep[:, row][:, :: HEIGHT // 2 * WIDTH // 2]
    words = text.mean(axis=(1, 2))[:, None, None, None, None]
    others = 0.3 * latents.mean(axis=1, keepdims=True)
    return slope * jnp.tanh(latents) * words + others + time[..., None, None, None] / 1000


def by_hand(clean, noise, text, no_text, slope, sigmas, clean_frames):
    """Loss and its derivative by the student's slope, clip by clip, with the teacher's steps over these noise levels.

    Args:
        sigmas: those of the whole expert, [interval][teacher's step].
        slope: the student's; the teacher's is 1.
        clean_frames: of each clip, which are shown as they are.
    """

    def velocity(x, given, sigma, words, slope):
        x = np.concatenate([given, x[len(given) :]])
        time = np.full((len(x), 1, 1, 1), np.floor(1000 * sigma + 1e-6) / 1000)
        time[: len(given)] = np.nan  # nobody may look at what is predicted there
        return slope * np.tanh(x) * words.mean() + 0.3 * x.mean(axis=0) + time

    losses, slopes = [], []
    for x0, eps, words, number, count in zip(clean, noise, text, INTERVAL, clean_frames):
        given = x0[:count]
        x = (1 - sigmas[0][0]) * x0 + sigmas[0][0] * eps
        for levels in sigmas[:number]:
            x = x + (levels[-1] - levels[0]) * velocity(x, given, levels[0], words, slope)
        state, levels = x, sigmas[number]
        for sigma, until in pairwise(levels):
            cond, uncond = (velocity(x, given, sigma, told, 1.0) for told in (words, no_text[0]))
            x = x + (until - sigma) * (uncond + 2.5 * (cond - uncond))
        target = (x - state) / (levels[-1] - levels[0])
        error = (velocity(state, given, levels[0], words, slope) - target)[count:]
        losses.append(np.mean(error**2))
        slopes.append(np.mean(2 * error * np.tanh(state[count:]) * words.mean()))
    return np.array(losses), np.array(slopes)


@pytest.mark.parametrize("component", ["transformer", "transformer_2"])
@pytest.mark.parametrize("shown", [None, np.array([True, False, True, False])], ids=["", "first frames shown"])
def test_loss_and_gradient(component, shown):
    """Of both experts; the target and the states that the student itself leads to are constants to the gradient."""
    rng = np.random.default_rng(0)
    clean, noise = rng.standard_normal((2, BATCH, FRAMES, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    text, no_text = (1 + rng.standard_normal((n, 7, 8)).astype(np.float32) for n in (BATCH, 1))
    conditioning = Conditioning(text, clean=None if shown is None else clean[:, :1], shown=shown)
    grid = tiny.run(Path("nowhere"), component=component, distil=DISTIL).intervals

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def found(slope):
        teacher = guided(partial(predict, 1.0 + 0 * slope), conditioning, no_text, DISTIL.guidance_scale)
        student = partial(predicted_velocity, partial(predict, slope), conditioning=conditioning)
        losses = distillation_loss(student, teacher, clean, noise, INTERVAL, grid, conditioning)
        return losses.mean(), losses

    u = np.linspace(1, 0, 13)
    all_sigmas = 5 * u / (1 + 4 * u)
    first = 0 if component == "transformer" else 6
    sigmas = [all_sigmas[i : i + 4] for i in (first, first + 3)]
    wide = (x.astype(np.float64) for x in (clean, noise, text, no_text))
    losses, slopes = by_hand(*wide, 0.8, sigmas, np.zeros(BATCH, int) if shown is None else 1 * shown)
    (_, found_losses), gradient = found(jnp.float32(0.8))
    np.testing.assert_allclose(found_losses, losses, rtol=1e-5)
    np.testing.assert_allclose(gradient, slopes.mean(), rtol=1e-5)


# ---- Intervals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift, told", [(5.0, [1000, 937, 833, 625]), (3.0, [1000, 900, 750, 500])])
def test_two_steps_for_each_expert_of_wan_mini(shift, told):
    for run, mine in zip(load_recipe("train_wan_mini_lightning"), (told[:2], told[2:])):
        run = dataclasses.replace(run, distil=Distil(flow_shift=shift))
        assert run.intervals.timesteps[:, 0].tolist() == mine
        drawn = step._draw_levels(jax.random.key(0), 200, run)
        assert np.bincount(drawn).shape == (2,) and np.bincount(drawn).min() > 70


@pytest.mark.parametrize("steps, substeps, shift", [(4, 5, 5.0), (3, 11, 3.0), (1, 7, 12.0)])
def test_the_grids_are_the_samplers(steps, substeps, shift):
    """At the ends those of the student, to the bit; in between those of the teacher."""
    model = dataclasses.replace(tiny.MODEL, boundary_ratio=None)
    distil = Distil(steps=steps, substeps=substeps, flow_shift=shift)
    found = tiny.run(Path("nowhere"), model=model, distil=distil).intervals
    few, _ = make_steps("euler", steps, shift)
    many, _ = make_steps("euler", steps * substeps, shift)
    np.testing.assert_array_equal(found.sigmas[:, 0], few.sigmas[:-1])
    np.testing.assert_array_equal(found.sigmas[:, -1], few.sigmas[1:])
    np.testing.assert_array_equal(found.timesteps[:, 0], few.timesteps)
    np.testing.assert_allclose(found.sigmas[:, :-1].ravel(), many.sigmas[:-1], rtol=1e-6)
    assert np.abs(found.timesteps.ravel() - many.timesteps).max() <= 1


# ---- Runs -----------------------------------------------------------------------------------------------------------


def run(folder, **options):
    base = dict(init="untrained", lora=LoraConfig(rank=4, alpha=4.0), distil=DISTIL, caption_dropout=0.0)
    return tiny.run(folder, **base | options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distil")
    tiny.write_dataset(folder / "data")
    return folder


@pytest.mark.parametrize("component", ["transformer", "transformer_2"])
def test_a_new_student_is_its_teacher(folder, component):
    """In equal steps without guidance; otherwise it has something to learn."""
    config = run(folder, component=component, init_component=component)
    trained, frozen = starting_weights(config, False, make_mesh(devices=jax.devices("cpu")[:1]))
    dataset = Dataset(config.data)
    clips = clips_of(next(batches(dataset, batch=8, seed=0)), config)

    def loss(distil):
        changed = dataclasses.replace(config, distil=distil)
        compute = jax.jit(partial(step.loss, config=changed))
        return float(compute(trained, frozen, clips, jnp.asarray(dataset.no_text), jax.random.key(0)))

    assert loss(Distil(substeps=1, guidance_scale=1.0)) < 1e-10
    assert loss(Distil(substeps=1, guidance_scale=3.0)) > 1e-6
    assert loss(Distil(substeps=4, guidance_scale=1.0)) > 1e-6


def after_the_expert(pipe, steps, **options):
    """The latents where the other expert takes over, halfway through a run."""
    seen = []
    pipe.set_progress_bar_config(disable=True)
    pipe(
        ["a cat", "a dog"],
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=steps,
        flow_shift=5.0,
        solver="euler",
        negative_prompt="",
        callback_on_step_end=lambda pipe, i, timestep, given: seen.append(np.asarray(given["latents"])),
        output_type="latent",
        **options,
    )
    return seen[steps // 2 - 1]


def test_few_steps_come_near_many(folder, tmp_path):
    """The file that a run writes, in the pipeline; samples on the way are made in few steps, too."""
    config = run(
        folder,
        out=str(tmp_path),
        lora=LoraConfig(rank=16, alpha=16.0),
        steps=60,
        batch=24,
        ema=None,
        optimizer=Optimizer(learning_rate=0.01, schedule="cosine", warmup_steps=5, weight_decay=0.0),
        validate_every=60,
        sample_every=60,
        sample_prompts=("a cat",),
        sample_size=(32, 32, 5),
    )
    path = loop.train(config).output
    told = [entry for entry in read_journal(tmp_path / "high") if "validation/loss" in entry]
    for name in ("validation/loss_t1000", "validation/loss_t0937"):
        assert told[-1][name] < 0.5 * told[0][name]
    made = read_metadata(str(tmp_path / "high/samples/00000060_0.mp4"))
    asked = {"num_inference_steps": 4, "flow_shift": 5.0, "solver": "euler", "guidance_scale": 1.0}
    assert asked.items() <= made.items()
    with safetensors.safe_open(path, "np") as file:
        assert {name: str(value) for name, value in asked.items()}.items() <= file.metadata().items()

    pipe = WanPipeline.from_pretrained("untrained", dtype="float32")
    teacher = after_the_expert(pipe, 12, guidance_scale=2.5)
    before = relative_error(after_the_expert(pipe, 4, guidance_scale=1.0), teacher)
    pipe.load_lora_weights(path)
    assert relative_error(after_the_expert(pipe, 4, guidance_scale=1.0), teacher) < 0.7 * before


def test_meshes_agree(folder, tmp_path, monkeypatch):
    losses = []
    for axes in dict(data=1), dict(data=2, fsdp=2, context=2):
        count = int(np.prod(list(axes.values())))
        mesh = make_mesh(**axes, devices=jax.devices("cpu")[:count])
        monkeypatch.setattr(loop, "train_mesh", lambda config, mesh=mesh: mesh)
        out = tmp_path / str(count)
        loop.train(run(folder, out=str(out), steps=3, accumulate=2, validate_every=3))
        told = read_journal(out / "high")
        losses.append([entry[name] for entry in told for name in sorted(entry) if "loss" in name])
    assert len(losses[0]) == 3 + 2 * 3
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: dict(lora=None), "the teacher is the weights without an update; set lora="),
        (lambda: dict(distil=Distil(steps=0)), "distil.steps=0 and distil.substeps=5 must be at least 1"),
        (lambda: dict(distil=Distil(substeps=0)), "distil.substeps=0 must be at least 1"),
        (lambda: dict(distil=Distil(flow_shift=-5.0)), "distil.flow_shift=-5.0 must be positive"),
        (
            lambda: dict(distil=Distil(steps=1), component="transformer_2"),
            "distil.steps=1 with distil.flow_shift=5.0 leave no step to the transformer_2 of tiny: at timestep 875",
        ),
    ],
)
def test_mistakes(folder, change, message):
    with pytest.raises(WanError, match=message):
        run(folder, **change()).check()
