"""The tab that tells whether a model fits a chip, and how long a video should take there."""

import importlib.util
from typing import Any

import gradio as gr

from wan_jax.app import markup, planning
from wan_jax.app.buttons import Report, on_click, stop_on_click
from wan_jax.app.explorer import Explorer

_ABOUT = (
    "The real TPU compiler compiles the programs of a video for chips that are not here, and tells what they need. "
    "Memory is what it plans; times are modelled from its own estimates, not measured."
)
_MISSING = "**The TPU compiler is not installed.** It works without a TPU: `pip install libtpu`, then start again."
_TOPOLOGIES = [
    "v5e:1x1",
    "v6e:1x1",
    "v6e:2x2",
    "v6e:2x4",
    "v5e:2x4",
    "v5e:4x4",
    "v5p:2x2x1",
    "v5p:2x2x2",
    "tpu7x:2x2x1",
]
_SIZES = ["832x480", "1280x704", "1280x720"]
_RESIDENT = "none"


def build(explorer: Explorer):
    """Adds the widgets and what they do to the tab that is being built."""
    from wan_jax.config import model_names
    from wan_jax.pipelines.presets import PRESETS

    gr.Markdown(_ABOUT)
    if importlib.util.find_spec("libtpu") is None:
        gr.Markdown(_MISSING, elem_id="plan-missing")
    with gr.Row():
        chips = gr.Dropdown(_TOPOLOGIES, value="v6e:2x4", label="Chips", allow_custom_value=True, elem_id="chips")
        model = gr.Dropdown(model_names(), value="wan22_t2v_a14b", label="Model", elem_id="plan-model")
        size = gr.Dropdown(_SIZES, value="832x480", label="Size", allow_custom_value=True, elem_id="plan-size")
        frames = gr.Number(81, label="Frames, 4n + 1", precision=0)
        preset = gr.Dropdown([_RESIDENT, *PRESETS], value=_RESIDENT, label="Preset")
    with gr.Row():
        start = gr.Button("Plan", variant="primary", elem_id="plan", scale=3)
        stop = gr.Button("Stop", scale=1)
    status = gr.HTML(markup.said(""), elem_id="plan-status", min_height=28, padding=False)
    answer = gr.HTML(elem_id="plan-answer", padding=False)
    with gr.Accordion("The whole report", open=False):
        whole = gr.JSON(show_label=False)

    def plan(report: Report, chips: str, model: str, size: str, frames: int | None, preset: str) -> dict:
        arguments = ["--topology", chips, "--model", model, "--size", size]
        arguments += [] if frames is None else ["--frames", str(frames)]
        arguments += [] if preset == _RESIDENT else ["--preset", preset]
        found = planning.plan(arguments, lambda said: report({status: markup.said(said)}))
        return {answer: _answer(found), whole: found, status: markup.said(_said(found))}

    running = on_click(start, plan, [chips, model, size, frames, preset], [status, answer, whole], status)
    stop_on_click(stop, running, status)


def _answer(report: dict[str, Any]) -> str:
    limit = report["hbm_gib"]
    bars = markup.bars(planning.memory(report), planning.PARTS, "GiB", limit, "memory of a device")
    return markup.facts(planning.facts(report)) + bars


def _said(report: dict[str, Any]) -> str:
    """What was planned, and where it fits if it does not here."""
    what = (
        f"{report['model']}, {report['size']}, {report['frames']} frames on {report['topology']}, mesh {report['mesh']}"
    )
    other = report["alternative"]
    return what if not other else f"{what}: does not fit; {other['topology']} with mesh {other['mesh']} does"
