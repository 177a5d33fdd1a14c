"""The tab of the autoencoder: a clip and what comes back, its latents, and the memory of both ways to decode."""

import gradio as gr

from wan_jax.app import autoencoding, history, markup
from wan_jax.app.buttons import Report, on_click, stop_on_click
from wan_jax.app.explorer import Explorer
from wan_jax.errors import WanError

_ABOUT = (
    "The autoencoder makes a video small, and whole again: {time} frames and {side}×{side} pixels become one latent of "
    "{channels} numbers. It is causal: a frame depends on those before it alone, so a clip of any length goes through "
    "it piece by piece, with a cache of what the convolutions still need."
)

_HEIGHT = 236  # pixels of the pictures
_STRIP = "Latents: a row a channel, a column a frame"
_HOW = "Add a clip; without one, the newest video made here is taken."


def build(explorer: Explorer):
    """Adds the widgets and what they do to the tab that is being built."""
    config = explorer.config.vae
    gr.Markdown(_ABOUT.format(time=config.temporal_factor, side=config.spatial_factor, channels=config.z_dim))
    with gr.Row():
        clip = gr.Video(label="A clip", sources=["upload"], height=_HEIGHT, elem_id="clip")
        again = gr.Video(
            label="What comes back",
            interactive=False,
            buttons=["download"],
            autoplay=True,
            height=_HEIGHT,
            elem_id="again",
        )
        strip = gr.Image(label=_STRIP, interactive=False, buttons=["fullscreen"], height=_HEIGHT, elem_id="strip")
    with gr.Row():
        with gr.Column(scale=1):
            facts = gr.HTML(elem_id="vae-facts", padding=False)
            status = gr.HTML(markup.said(_HOW), elem_id="vae-status", padding=False, min_height=28)
            with gr.Row():
                frames = gr.Slider(5, 81, 33, step=4, label="Frames at most")
                side = gr.Dropdown([128, 256, 512], value=128, label="Longest side, in pixels")
            with gr.Row():
                start = gr.Button("Reconstruct", variant="primary", elem_id="reconstruct", scale=3)
                measure = gr.Button("Compare memory", elem_id="memory", scale=3)
                stop = gr.Button("Stop", scale=1, min_width=80)
        with gr.Column(scale=1):
            memory = gr.HTML(elem_id="vae-memory", padding=False)
    shown = [clip, again, status, facts, strip]

    def shows(report: Report) -> autoencoding.Show:
        return lambda said, done: report({status: markup.progress(said, done)})

    def reconstruct(report: Report, path: str | None, most: int, longest: int) -> dict:
        source = path or _newest(explorer)
        found = autoencoding.reconstruct(explorer, source, int(most), int(longest), shows(report))
        return {
            clip: source,
            again: str(found.path),
            strip: found.strip,
            facts: markup.facts(found.facts),
            status: markup.said(f"{found.frames} frames of {found.width}×{found.height}"),
        }

    def compare(report: Report, longest: int) -> dict:
        found = autoencoding.decoding_memory(explorer, int(longest), shows(report))
        plot = markup.lines(found, f"frames of {longest}×{longest}", "MiB to decode")
        return {memory: plot + markup.said(autoencoding.MEASURED), status: markup.said("")}

    running = [
        on_click(start, reconstruct, [clip, frames, side], shown, status),
        on_click(measure, compare, side, [memory, status], status),
    ]
    stop_on_click(stop, running, status)


def _newest(explorer: Explorer) -> str:
    paths = history.videos(explorer.folder)
    if not paths:
        raise WanError("There is no clip: add one, or make a video first")
    return str(paths[0])
