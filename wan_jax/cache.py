"""The user's own cache: converted models and compiled programs."""

import os
from pathlib import Path

import jax


def cache_dir(*parts: str) -> Path:
    """A private folder below $WAN_JAX_CACHE (default `~/.cache/wan_jax`), created if need be."""
    root = Path(os.environ.get("WAN_JAX_CACHE", "~/.cache/wan_jax")).expanduser()
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    root.chmod(0o700)  # compiled programs run as the user: nobody else may place them
    return folder


def enable_compilation_cache():
    """Keeps compiled programs between runs, unless the user chose a place or switched it off."""
    if jax.config.jax_compilation_cache_dir is None and jax.config.jax_enable_compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir("xla")))
