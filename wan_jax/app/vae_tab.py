"""The tab of the autoencoder: a clip and what comes back, its latents, and the memory of both ways to decode."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from wan_jax.app import autoencoding, history, markup
from wan_jax.app.explorer import Explorer
from wan_jax.app.jobs import DEVICE, stream
from wan_jax.errors import WanError

_ABOUT = (
    "The autoencoder makes a video small, and whole again: {time} frames and {side}×{side} pixels become one latent of "
    "{channels} numbers. It is causal: a frame depends on those before it alone, so a clip of any length goes through "
    "it piece by piece, with a cache of what the convolutions still need."
)

_HOW = "Add a clip; without one, the newest video made here is taken."


def build(explorer: Explorer):
    """Adds the widgets and what they do to the tab that is being built."""
    config = explorer.config.vae
    gr.Markdown(_ABOUT.format(time=config.temporal_factor, side=config.spatial_factor, channels=config.z_dim))
    with gr.Row():
        clip = gr.Video(label="A clip", sources=["upload"], height=220, elem_id="clip")
        again = gr.Video(label="What comes back", interactive=False, autoplay=True, height=220, elem_id="again")
    with gr.Row():
        frames = gr.Slider(5, 81, 33, step=4, label="Frames at most")
        side = gr.Dropdown([128, 256, 512], value=128, label="Longest side, in pixels")
    with gr.Row():
        start = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct", scale=3)
        measure = gr.Button("Compare memory", elem_id="memory", scale=2)
        stop = gr.Button("Stop", scale=1)
    status = gr.HTML(markup.said(_HOW), elem_id="vae-status", padding=False, min_height=28)
    facts = gr.HTML(elem_id="vae-facts", padding=False)
    with gr.Row():
        strip = gr.Image(
            label="Latents: a row for each channel, a column for each frame", interactive=False, height=420
        )
        memory = gr.HTML(elem_id="vae-memory", padding=False)
    shown = [again, status, facts, strip]

    async def reconstruct(path: str | None, most: int, longest: int):
        def work(report: Callable[[dict], None]) -> dict:
            def show(said: str, done: float):
                report({status: markup.progress(said, done)})

            found = autoencoding.reconstruct(explorer, path or _newest(explorer), int(most), int(longest), show)
            return {
                again: str(found.path),
                strip: found.strip,
                facts: markup.facts(found.facts),
                status: markup.said(f"{found.frames} frames of {found.width}×{found.height}"),
            }

        async for update in stream(work, _failed):
            yield update

    async def compare(longest: int):
        def work(report: Callable[[dict], None]) -> dict:
            def show(said: str, done: float):
                report({status: markup.progress(said, done)})

            found = autoencoding.decoding_memory(explorer, int(longest), show)
            plot = markup.lines(found, f"frames of {longest}×{longest}", "MiB to decode")
            return {memory: plot + markup.said(autoencoding.MEASURED), status: markup.said("")}

        async for update in stream(work, _failed):
            yield update

    def _failed(line: str) -> dict[Any, str]:
        return {status: markup.said(line, error=True)}

    options = {"show_progress": "full", "show_progress_on": status} | DEVICE
    running = [
        start.click(reconstruct, [clip, frames, side], shown, **options),
        measure.click(compare, side, [memory, status], **options),
    ]
    stop.click(lambda: markup.said("Stopped."), outputs=status, cancels=running, queue=False)


def _newest(explorer: Explorer) -> str:
    paths = history.videos(explorer.folder)
    if not paths:
        raise WanError("There is no clip: add one, or make a video first")
    return str(paths[0])
