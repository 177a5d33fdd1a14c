"""`app`: the Explorer, a page to try and to watch a model."""

import importlib.util
import os
import shutil
import signal
from pathlib import Path
from typing import Annotated

from wan_jax.cli.options import Model, Switch, flag
from wan_jax.errors import WanError


def app(
    *,
    model: Model = "wan_mini",
    folder: Annotated[Path | None, flag("DIR", "videos, in the cache")] = None,
    dtype: Annotated[str | None, flag("NAME", "bfloat16; float32 on CPU")] = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    share: Switch = False,
):
    """Opens the Explorer: a page in the browser where a model can be tried, and watched while it works.

    python -m wan_jax app

    python -m wan_jax app --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --folder videos

    ssh -L 7860:127.0.0.1:7860 MACHINE python -m wan_jax app

    Needs Gradio: pip install ".[app]".  The last line is for a machine elsewhere; then open
    http://127.0.0.1:7860 here.

    Args:
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, a name from configs/, or wan_mini.
        folder: where videos are kept, and found again.
        dtype: of the weights: bfloat16, float16 or float32.
        host: the address to listen at; 0.0.0.0 lets every machine of the network in.
        port: to listen at.
        share: also open Gradio's tunnel to the internet, which lets in everybody who has its link.
    """
    if importlib.util.find_spec("gradio") is None:
        raise WanError('the Explorer needs Gradio: pip install ".[app]"')
    from wan_jax.app import planning
    from wan_jax.app.explorer import Explorer
    from wan_jax.app.server import serve

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    explorer = Explorer.open(model, folder, dtype)
    serve(explorer, host, port, share)  # until it is interrupted
    planning.stop()
    shutil.rmtree(explorer.scratch, ignore_errors=True)
    os._exit(0)  # without waiting for a job in the middle of a program, which nothing can interrupt
