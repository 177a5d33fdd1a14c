"""The tab where one small network learns the plane as flow matching and as diffusion, before your eyes."""

from typing import TYPE_CHECKING

import gradio as gr

from wan_jax.app import markup
from wan_jax.app.buttons import Report, on_click, stop_on_click
from wan_jax.app.explorer import Explorer
from wan_jax.explain.plane import DATA

if TYPE_CHECKING:
    from wan_jax.explain.comparison import Comparison

_ABOUT = (
    "Wan is trained by flow matching: a network learns the velocity that carries noise to data. Here the same small "
    "network learns points in the plane, once so and once as diffusion, which learns the noise; three of each, from "
    "three seeds. Then flow matching is trained again on the pairs of noise and data that it has made itself "
    "(rectified flow). What is said below is measured in your run, whichever way it turns out."
)
_PLOTS = {"losses": "Training", "qualities": "Steps to quality", "straightnesses": "Straightness"}


def build(explorer: Explorer):
    """Adds the widgets and what they do to the tab that is being built."""
    gr.Markdown(_ABOUT)
    with gr.Row():
        data = gr.Radio(list(DATA), value=next(iter(DATA)), label="Data", elem_id="flow-data", scale=3)
        start = gr.Button("Train", variant="primary", elem_id="flow-train", scale=1)
        stop = gr.Button("Stop", scale=1)
    status = gr.HTML(markup.said(""), elem_id="flow-status", padding=False, min_height=28)
    ways = _figure("From noise to data", "flow-ways")
    with gr.Row():
        plots = {name: _figure(said, f"flow-{name}") for name, said in _PLOTS.items()}
    found = gr.Markdown(elem_id="flow-finding")

    def train(report: Report, data: str) -> dict:
        from wan_jax.explain import figures
        from wan_jax.explain.comparison import compare
        from wan_jax.explain.finding import finding

        report({status: markup.progress("Compiling the training", 0.0)})
        for known in compare(data, reports=3):
            report(
                {
                    status: markup.progress(_said(known), known.done),
                    ways: figures.picture(figures.ways(known)),
                    plots["losses"]: figures.picture(figures.losses(known)),
                }
            )
        drawn = {plots[name]: figures.picture(getattr(figures, name)(known)) for name in _PLOTS}
        sentences = "\n".join(f"- {sentence}" for sentence in finding(known))
        return {status: markup.said("Trained and measured."), found: sentences} | drawn

    def begin() -> dict:
        return {found: "", plots["qualities"]: None, plots["straightnesses"]: None}

    running = on_click(start, train, data, [status, ways, found, *plots.values()], status, begin=begin)
    stop_on_click(stop, running, status)


def _figure(said: str, name: str) -> gr.Image:
    return gr.Image(label=said, show_label=False, interactive=False, buttons=["fullscreen"], elem_id=name)


def _said(known: "Comparison") -> str:
    name, one = list(known.learned.items())[-1]
    return f"{name}: {one.losses.shape[1]} training steps of three networks"
