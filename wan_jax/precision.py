"""The dtypes of computation, and which parameters stay in float32 when the rest is bfloat16.

The official code computes norms, modulation, the time embedding and the head in float32 from the float32 weights of
the checkpoint (Wan2.2, wan/modules/model.py).  They are small, so we store them that way too.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wan_jax.errors import WanError

_FLOAT32_PREFIXES = ("norm", "modulation", "time_", "head")


def parse_dtype(name: Any) -> np.dtype:
    """A dtype to compute in, from its name or anything that NumPy takes for one.

    Raises:
        WanError: it is none of bfloat16, float16 and float32.
    """
    try:
        dtype = jnp.dtype(name)
    except TypeError:
        dtype = None
    if dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
        raise WanError(f"dtype={name!r} is unknown; use 'bfloat16', 'float16' or 'float32'")
    return dtype


def default_vae_dtype() -> str:
    """Exact where it is cheap: on a TPU float32 costs six bfloat16 passes."""
    return "bfloat16" if jax.default_backend() == "tpu" else "float32"


def stays_float32(path: str) -> bool:
    """Whether the parameter at `path` ("blocks/self_attn/norm_q/scale") is kept in float32."""
    return any(part.startswith(_FLOAT32_PREFIXES) for part in path.split("/"))


def storage_dtype(path: str, dtype) -> np.dtype:
    """The dtype in which the parameter at `path` is stored when `dtype` is asked for."""
    return np.dtype(jnp.float32 if stays_float32(path) else dtype)


def matmul_precision(dtype) -> jax.lax.Precision | None:
    """Exact float32 where float32 is asked for: a TPU would otherwise multiply in bfloat16, a GPU in TF32.

    JAX's own switch goes first: JAX_DEFAULT_MATMUL_PRECISION=tensorfloat32 makes a GPU as fast and as inexact as
    PyTorch's convolutions are.
    """
    chosen = jax.config.jax_default_matmul_precision is not None
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 and not chosen else None
