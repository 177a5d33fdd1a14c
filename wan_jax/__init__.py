"""Wan2.2 video generation in JAX.

    from wan_jax import WanPipeline, export_to_video

Read next: `pipelines/wan.py` (what a call does), then `models/dit.py` (the network).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wan_jax.errors import WanError as WanError
    from wan_jax.pipelines.wan import WanPipeline as WanPipeline
    from wan_jax.sharding import make_mesh as make_mesh
    from wan_jax.video_io import export_to_video as export_to_video

__version__ = "0.1.0"

_PUBLIC = {
    "WanPipeline": "wan_jax.pipelines.wan",
    "WanError": "wan_jax.errors",
    "export_to_video": "wan_jax.video_io",
    "make_mesh": "wan_jax.sharding",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    # Imported on first use, so that `--help` and small tools do not wait for JAX.
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
