"""Skipped steps: the rule against one written in NumPy, and what skipping must never change."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compare import relative_error
from wan_jax import WanPipeline, executables
from wan_jax.config import DiTConfig
from wan_jax.diffusion import sampling
from wan_jax.diffusion.guidance import guided_velocity
from wan_jax.diffusion.inputs import impose, network_inputs
from wan_jax.diffusion.solvers import SolverState, make_steps, solver_step
from wan_jax.diffusion.step_cache import MAX_SKIPPED, METHODS, StepCache, begin_cache
from wan_jax.models.dit import Context, DiT, Head, abstract_params, unpatchify
from wan_jax.pipelines import wan
from wan_jax.sharding import as_mesh

PLAIN = DiTConfig(num_layers=2, num_attention_heads=2, attention_head_dim=12, ffn_dim=40, text_dim=16)
VACE = replace(PLAIN, vace_layers=(0,), vace_in_channels=20)
STEPS, SCALE, SHAPE = 25, 3.0, (2, 3, 4, 6, 16)
_, TABLE = make_steps("unipc", STEPS, 3.0)


def random(key: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(key), shape)


def random_params(config: DiTConfig) -> dict:
    """Weights with a standard deviation of 0.2: with small ones no step would matter to the next.

    Those that read the timestep are a tenth of that, or nothing would be like it was a step before.
    """
    leaves, tree = jax.tree.flatten(abstract_params(config))
    params = tree.unflatten(0.2 * random(i, *leaf.shape) for i, leaf in enumerate(leaves))
    return params | {"time_in": jax.tree.map(lambda x: x / 10, params["time_in"])}


class Run:
    """Guided or not, with clean frames (which makes two timesteps a sample) or context."""

    def __init__(self, config: DiTConfig = PLAIN, guided: bool = True, clean: bool = False):
        self.config, self.params = config, random_params(config)
        self.scale = SCALE if guided else None
        self.rows = SHAPE[0] * (1 + guided)
        self.text = random(1001, self.rows, 7, config.text_dim)
        self.clean = random(1002, *SHAPE[:1], 1, *SHAPE[2:]) if clean else None
        self.context = Context(random(1003, 1, *SHAPE[1:4], 20), jnp.ones(())) if config.vace_layers else None
        self.static = {"config": config, "dtype": jnp.float32}
        self.kv = sampling.encode_text(self.params, self.text, **self.static)

    def start(self) -> SolverState:
        return SolverState.init(impose(random(1000, *SHAPE), self.clean))

    def cache(self, tolerance: float, method: str) -> StepCache:
        """Of any tolerance: networks of random weights are rough."""
        cache = begin_cache(random(0, *SHAPE), 0.5, method, STEPS, self.rows, self.config.dim)
        return cache.replace(tolerance=jnp.float32(tolerance))

    def denoise(self, cache, pieces=((0, STEPS),)):
        """The final sample and the cache, after steps in so many pieces."""
        state = self.start()
        for start, stop in pieces:
            state, cache = sampling.denoise(
                self.params,
                state,
                self.kv,
                TABLE,
                start,
                stop,
                self.scale,
                self.clean,
                context=self.context,
                cache=cache,
                **self.static,
            )
        return state.sample, cache

    def predictions(self, latents, timestep, halves, method="velocity") -> list[np.ndarray]:
        """Of the prompts, and of the negative prompts, each by itself."""
        return [np.asarray(self.network(latents, timestep, rows, method), np.float64) for rows in halves]

    @partial(jax.jit, static_argnames=("self", "method"))
    def network(self, latents, timestep, rows, method):
        timestep = jnp.full(len(latents), timestep, jnp.float32)
        kv = jax.tree.map(lambda x: x[:, rows], self.kv)
        latents, timestep, row = network_inputs(latents, timestep, self.clean, None)
        context = (self.context,) if method == "velocity" else ()
        return DiT(self.config, jnp.float32).apply(
            {"params": self.params}, latents, timestep, kv, row, *context, method=method
        )


def by_hand(run: Run, tolerance: float, method: str) -> tuple[np.ndarray, list[bool]]:
    """The final sample, and which steps were computed: with Newton's divided differences, one prediction at a time."""
    state, known, spent, computed = run.start(), [], 0.0, []
    halves = [np.arange(SHAPE[0]) + i for i in range(0, run.rows, SHAPE[0])]
    for i, (sigma, timestep) in enumerate(zip(TABLE.sigma.astype(np.float64), TABLE.timestep)):
        predictions = partial(run.predictions, state.sample, timestep)
        first = np.concatenate(predictions(halves, "first_block")) if method == "first_block" else None
        if method == "guidance":
            (cond,) = predictions(halves[:1])
        skip, in_a_row = False, len(computed) - max(np.flatnonzero(computed), default=-1) - 1
        if i >= STEPS // 5 and len(known) >= 3 and in_a_row < MAX_SKIPPED:
            (s0, v0, _), (s1, v1, f1), (s2, v2, f2) = known[-3:]
            slope = (v2 - v1) / (s2 - s1)
            if method == "first_block":
                off = worst(f2 + (f2 - f1) / (s2 - s1) * (sigma - s2) - first, first)
            else:
                bend = (slope - (v1 - v0) / (s1 - s0)) / (s2 - s0)
                off = spent + worst(bend, v2) * (sigma - s2) * (sigma - s1)
            skip = off <= tolerance
        computed.append(not skip)
        if skip:
            value, spent = v2 + slope * (sigma - s2), off
        else:
            spent = 0.0
            if method == "guidance":
                value = cond - predictions(halves[1:])[0]
            else:
                cond, *uncond = predictions(halves)
                value = uncond[0] + SCALE * (cond - uncond[0]) if uncond else cond
            known.append((sigma, value, first))
        velocity = cond + (SCALE - 1) * value if method == "guidance" else value
        state = solver_step(state, jnp.asarray(velocity, jnp.float32), TABLE, i)
        state = state.replace(sample=impose(state.sample, run.clean))
    return state.sample, computed


def worst(error: np.ndarray, of: np.ndarray) -> float:
    return max(np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(error, of))


@pytest.mark.parametrize(
    "run, method, tolerance",
    [
        (Run(), "magnitude", 0.3),
        (Run(), "magnitude", 0.5),
        (Run(guided=False, clean=True), "magnitude", 0.3),
        (Run(VACE), "first_block", 0.15),
        (Run(clean=True), "first_block", 0.1),
        (Run(VACE), "guidance", 0.3),
    ],
)
def test_the_rule(run, method, tolerance):
    """By steps and by whole stretches; with it, some steps are skipped and others are not."""
    expected, computed = by_hand(run, tolerance, method)
    sample, cache = run.denoise(run.cache(tolerance, method))
    assert int(cache.computed) == sum(computed) and 8 < sum(computed) < STEPS - 3
    assert relative_error(sample, expected) <= 1e-4
    alone, each = run.denoise(run.cache(tolerance, method), [(i, i + 1) for i in range(STEPS)])
    np.testing.assert_array_equal(alone, sample)
    assert jax.tree.all(jax.tree.map(np.array_equal, each, cache))


def test_without_a_cache_nothing_changes():
    """Bit for bit the loop that knows of no cache."""
    run = Run()
    dit = DiT(PLAIN, jnp.float32)

    @jax.jit
    def loop(params, state, text, steps, start, stop):
        def step(i, state):
            def predict(latents):
                timestep = jnp.full(len(latents), steps.timestep[i], jnp.float32)
                return dit.apply({"params": params}, latents, timestep[:, None], text, method="velocity")

            return solver_step(state, guided_velocity(predict, state.sample, SCALE), steps, i)

        return jax.lax.fori_loop(start, stop, step, state)

    assert begin_cache(random(0, *SHAPE), 1.0, "magnitude", STEPS, run.rows, PLAIN.dim) is None
    sample, cache = run.denoise(None)
    assert cache is None
    np.testing.assert_array_equal(sample, loop(run.params, run.start(), run.kv, TABLE, 0, STEPS).sample)


@pytest.mark.parametrize("method", METHODS)
def test_without_tolerance_every_step_is_computed(method):
    run = Run()
    sample, cache = run.denoise(run.cache(0.0, method))
    assert int(cache.computed) == STEPS
    assert relative_error(sample, run.denoise(None)[0]) <= 1e-4


def test_first_block_is_that_of_a_denoiser_of_one_block():
    one = replace(PLAIN, num_layers=1)
    params = random_params(PLAIN)
    params_of_one = params | {"blocks": jax.tree.map(lambda x: x[:1], params["blocks"])}
    latents, timestep, text = random(0, *SHAPE), jnp.array([[900.0], [300.0]]), random(1, SHAPE[0], 7, one.text_dim)
    apply = partial(DiT(PLAIN, jnp.float32).apply, {"params": params}, latents, timestep)
    kv = DiT(PLAIN, jnp.float32).apply({"params": params}, text, method="encode_text")
    x, time, *_ = apply(None, method="_embed")
    tokens = x + apply(kv, method="first_block")
    velocity = unpatchify(Head(PLAIN).apply({"params": params["head"]}, tokens, time, None), (3, 2, 3))
    expected = DiT(one, jnp.float32).apply({"params": params_of_one}, latents, timestep, text)
    assert relative_error(velocity, expected) <= 1e-6


SMALL = dict(height=48, width=80, num_frames=9, num_inference_steps=40, seed=3, output_type="latent", quality=0.5)


@pytest.fixture
def tolerant(monkeypatch) -> list[int]:
    """Has the pipeline's caches tolerate any error, and tells how far they are after every call of the denoiser."""
    call, seen = executables.call, []

    def spy(jitted, static, **arguments):
        result = call(jitted, static, **arguments)
        if jitted is sampling.denoise:
            seen.append(int(result[1].computed))
        return result

    monkeypatch.setattr(executables, "call", spy)
    patched = lambda *args: begin_cache(*args).replace(tolerance=jnp.float32(np.inf))  # noqa: E731
    monkeypatch.setattr(wan, "begin_cache", patched)
    return seen


def pipeline(mesh: str) -> WanPipeline:
    devices = jax.devices("cpu")[: int(np.prod([int(part.split("=")[1]) for part in mesh.split(",")]))]
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32", mesh=as_mesh(mesh, devices))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_each_expert_begins_anew(tolerant):
    """A fifth of the run is computed, and three steps of either expert; then no more than six in a row are skipped."""
    pipe = pipeline("data=1")
    out = pipe("a", callback_on_step_end=lambda *_: None, **SMALL)
    high, low = [*range(1, 9), *[8] * 6, 9, 9, 9], [1, 2, 3, *[3] * 6, 4, *[4] * 6, 5, *[5] * 6]
    assert tolerant == [*high, *low]
    assert out.computed_steps == 9 + 5
    assert (out.settings[0]["quality"], out.settings[0]["step_cache"]) == (0.5, "magnitude")
    np.testing.assert_array_equal(pipe("a", **SMALL).frames, out.frames)


@pytest.mark.parametrize("method", METHODS)
def test_meshes_agree(method, tolerant):
    one, four = (pipeline(mesh)("a", step_cache=method, **SMALL) for mesh in ("data=1", "data=2,context=2"))
    assert one.computed_steps == four.computed_steps < 40
    assert relative_error(four.frames, one.frames) <= 1e-5
