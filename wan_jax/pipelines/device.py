"""Whether JAX has found the accelerator that the machine has."""

import os
import warnings

import jax

from wan_jax.cluster import is_tpu_host

_TPU_VARIABLES = ("COLAB_TPU_ADDR", "TPU_ACCELERATOR_TYPE")  # what Colab and Cloud set on hosts of TPUs


def warn_of_idle_tpu():
    """Warns where JAX has silently fallen back to the CPU of a TPU host; not where the user asked for the CPU."""
    if not (_asked_for() or "").startswith("cpu") and jax.default_backend() == "cpu" and _has_tpu():
        warnings.warn(
            "this machine has a TPU, but JAX runs on its CPU, which is far slower: "
            'pip install -U "jax[tpu]", then restart the runtime; that also helps where another process holds the TPU',
            stacklevel=3,
        )


def _asked_for() -> str | None:
    return jax.config.jax_platforms  # which JAX_PLATFORMS sets too


def _has_tpu() -> bool:
    return is_tpu_host() or any(os.environ.get(name) for name in _TPU_VARIABLES)
