"""The elementwise work between matrix products: a formula for every platform, and one pass over memory on TPU (Pallas).

Everything goes over rows [n c] of tokens and leaves c as the matrix products wrote it, heads side by side: on a TPU, to
part the heads is a copy.
"""

from collections.abc import Callable

import jax

from wan_jax import sharding

LANES = 128  # of a vector register, and features of a released model's head


def fused(formula: Callable, kernel: Callable, features: int) -> Callable:
    """On TPU `kernel`, with the gradient of `formula`; `formula` elsewhere, and where `features` do not fill lanes.

    Both take the same arrays.
    """
    if not sharding.is_tpu() or features % LANES:
        return formula

    @jax.custom_vjp
    def run(*args):
        return kernel(*args)

    def backward(args, cotangent):
        return jax.vjp(formula, *args)[1](cotangent)

    run.defvjp(lambda *args: (kernel(*args), args), backward)
    return run
