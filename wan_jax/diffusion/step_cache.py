"""Step caching: at some steps the velocity is extrapolated from earlier ones, and the network does not run.

Once the scene is laid out, the guided velocity follows a smooth curve over the noise level σ.  A skipped step takes it
from the straight line through the last two computed ones (first-order TaylorSeer, arXiv:2503.06923), so the solver goes
on as if the network had run.  Lines through the residual of all blocks, which caches usually keep, foresee no better,
and it has the size of the tokens: eighty times the latents in a 14B model.  Whether a step is skipped is decided on
the device, by one of two rules:

magnitude    From the past, as MagCache does (arXiv:2506.09045), but without its table of ratios, calibrated for each
             model: by how much the line missed the last computed velocity says how bent the curve is, and thereby how
             far the line will be off at the steps to come.  These errors add up until the network runs again.
first_block  From the present: the first block runs at every step, and where it contradicts a line of its own, all run
             (arXiv:2508.02240; the first-block cache of ParaAttention and Diffusers knows no line, and compares with
             the last computed step).  Two of its results are kept, which do have the size of the tokens.

A third way skips less:

guidance     The prompt's own prediction is always computed, and the rule of magnitudes applied to the guidance
             difference, cond − uncond: steps that are skipped do without the negative prompt.

Errors are relative to what is extrapolated, and of a batch the worst counts: its samples are computed or skipped
together.  The curve of one expert says nothing of the other's: each begins anew.
"""

from collections.abc import Callable
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from wan_jax import sharding
from wan_jax.models.dit import PATCH, constrain_tokens, pad_tokens
from wan_jax.typing import Float, Int, typechecked

METHODS = ("magnitude", "first_block", "guidance")
WARM_UP = 0.2  # the first share of the steps, which lays out the scene: no error there is small
MAX_SKIPPED = 6  # steps in a row


@flax.struct.dataclass
class Line:
    """The last two computed values of a quantity, and the straight line through them."""

    older: jax.Array
    newer: jax.Array

    def at(self, along: Float[""]) -> jax.Array:
        """0 is the older value, 1 the newer one, and beyond lies the future."""
        return self.older + along * (self.newer - self.older)

    def followed_by(self, value: jax.Array) -> "Line":
        return Line(self.newer, value)


@flax.struct.dataclass
class StepCache:
    """What is remembered of one expert's steps, beside the solver's state.

    Attributes:
        tolerance: the relative error that a skipped step may have.
        warm_up: the steps before this one are all computed.
        computed: so many of this expert's steps were.
        skipped: so many were not, since the last of them.
        sigma: of the last two computed.
        value: the guided velocities, or guidance differences, there, [b f h w c].
        bend: the relative error of the line at the last of them, over h · (h + H), where H is the distance in σ of the
            two points that the line went through and h that to the third; it is half the relative second derivative.
        error: what the line is thought to be off by now.
        block: for the rule "first_block" alone, what the first block added to the tokens there, [b n d] or [2·b n d].
    """

    tolerance: Float[""]
    warm_up: Int[""]
    computed: Int[""]
    skipped: Int[""]
    sigma: Line
    value: Line
    bend: Float[""]
    error: Float[""]
    block: Line | None
    method: str = flax.struct.field(pytree_node=False)


def begin_cache(
    sample: Float["b f h w c"], quality: float, method: str, num_steps: int, rows: int, width: int
) -> StepCache | None:
    """The cache of an expert that has done nothing yet; None where every step is to be computed.

    Args:
        sample: of the solver's state.
        quality: 1 − the relative error that a skipped step may have; with 1, none is skipped.
        method: one of `METHODS`.
        num_steps: of the whole run.
        rows: predictions at each step: one for each sample, or two if guided.
        width: of the model.
    """
    unguided = rows == len(sample)
    if quality == 1 or (method == "guidance" and unguided):
        return None
    return _empty(sample, 1 - quality, round(WARM_UP * num_steps), method=method, rows=rows, width=width)


@partial(jax.jit, static_argnames=("method", "rows", "width"))
def _empty(
    sample: Float["b f h w c"], tolerance: float, warm_up: int, *, method: str, rows: int, width: int
) -> StepCache:
    def no_tokens() -> Float["b n d"]:
        _, f, h, w, _ = sample.shape
        return pad_tokens(jnp.zeros((rows, f * h * w // PATCH**2, width)), rows)

    # Distinct buffers: the cache is donated, and one buffer cannot be donated twice.
    return _constrained(
        StepCache(
            tolerance=jnp.float32(tolerance),
            warm_up=jnp.int32(warm_up),
            computed=jnp.int32(0),
            skipped=jnp.int32(0),
            sigma=Line(jnp.float32(3), jnp.float32(2)),  # any two that differ
            value=Line(jnp.zeros_like(sample), jnp.zeros_like(sample)),
            bend=jnp.float32(0),
            error=jnp.float32(0),
            block=Line(no_tokens(), no_tokens()) if method == "first_block" else None,
            method=method,
        )
    )


@typechecked
def cached(
    cache: StepCache, compute: Callable, first_block: Callable, sigma: Float[""], step: Int[""]
) -> tuple[Float["b f h w c"], StepCache]:
    """The value at one step, computed or extrapolated.

    Args:
        cache: as the steps before have left it.
        compute: () → the value, by the network.
        first_block: () → what its first block adds to the tokens.
        sigma: the noise level.
        step: its number in the run.
    """
    line = cache.sigma
    along = (line.older - sigma) / (line.older - line.newer)
    distance = (line.newer - sigma) * (line.older - sigma)
    guess = cache.value.at(along)
    if cache.block is None:
        block, error = None, cache.error + cache.bend * distance
    else:
        block = first_block()
        error = _relative_error(cache.block.at(along), block)
    # Of fewer than three points nothing says how well a line fits.  An error of NaN is not within the tolerance.
    usable = (step >= cache.warm_up) & (cache.computed >= 3) & (cache.skipped < MAX_SKIPPED)

    def skip() -> tuple[jax.Array, StepCache]:
        return guess, cache.replace(skipped=cache.skipped + 1, error=error)

    def run() -> tuple[jax.Array, StepCache]:
        value = compute()
        return value, cache.replace(
            computed=cache.computed + 1,
            skipped=jnp.zeros_like(cache.skipped),
            sigma=line.followed_by(sigma),
            value=cache.value.followed_by(value),
            bend=_relative_error(guess, value) / distance,
            error=jnp.zeros_like(cache.error),
            block=None if block is None else cache.block.followed_by(block),
        )

    value, cache = jax.lax.cond(usable & (error <= cache.tolerance), skip, run)
    return value, _constrained(cache)


def _constrained(cache: StepCache) -> StepCache:
    """The cache, lying on the mesh as the latents and tokens do."""
    return cache.replace(
        value=jax.tree.map(sharding.constrain_latents, cache.value),
        block=jax.tree.map(constrain_tokens, cache.block),
    )


def _relative_error(guess: Float["b ..."], truth: Float["b ..."]) -> Float[""]:
    """‖guess − truth‖ / ‖truth‖, of the worst sample."""
    norm = lambda x: jnp.sqrt(jnp.sum(jnp.square(x), axis=range(1, x.ndim)))  # noqa: E731
    return jnp.max(norm(guess - truth) / norm(truth))
