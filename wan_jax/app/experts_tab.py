"""The tab of the experts: who does which step, what each leaves behind, and what comes of changing them elsewhere."""

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np

from wan_jax.app import markup
from wan_jax.app.buttons import Report, on_click, stop_on_click
from wan_jax.app.explorer import Explorer
from wan_jax.explain import experts
from wan_jax.explain.experts import COLOURS, FACTS, NAMES, TASKS, Parameters, Step
from wan_jax.typing import Float, UInt8

_ABOUT = (
    "A video begins as noise (1.00) and ends as itself (0). The high-noise expert does the steps above the boundary, "
    "the low-noise expert those below: two transformers that take turns, one of which works at a time. Move the slider "
    "through the run. Then move the boundary and run again: what was made before stays beside what is made now."
)
_ONE = "This model has a single transformer, which does all steps."
_PROMPT = "a large red ball bounces on green grass"
_NOTHING = "Run it, and what the video was going to be at this noise level will be here."
_STYLE = """<style>
.wan-steps { display: flex; align-items: flex-end; gap: 2px; height: 84px; }
.wan-steps i { flex: 1; min-width: 2px; border-radius: 2px 2px 0 0; opacity: .35; }
.wan-steps i.at { opacity: 1; }
.wan-table { width: 100%; border-collapse: collapse; font-size: .92rem; }
.wan-table td, .wan-table th { text-align: left; vertical-align: top; padding: 6px 10px; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
.wan-tag { white-space: nowrap; border-radius: 9px; padding: 1px 8px; border: 1px solid var(--border-color-primary); }
.wan-tag.measured { background: var(--color-accent-soft); }
#noise input[type=range], #boundary input[type=range] { transform: scaleX(-1); }
#noise .slider_input_container, #boundary .slider_input_container { flex-direction: row-reverse; }
</style>"""


@dataclass(frozen=True)
class Run:
    """What is kept of a run."""

    wish: tuple[str, int, int]  # prompt, seed, steps
    boundary: float | None
    steps: list[Step]
    previews: Float["n f h w 3"]
    frames: UInt8["f h w 3"]


def build(explorer: Explorer):
    """Adds the widgets and what they do to the tab that is being built."""
    config, own = explorer.config, explorer.config.sampling
    two = config.boundary_ratio is not None
    size = experts.parameters(config)
    begun = experts.plan(config)
    gr.Markdown(_ABOUT if two else _ONE)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=380):
            prompt = gr.Textbox(_PROMPT, label="Prompt", elem_id="experts-prompt")
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, minimum=0)
                count = gr.Slider(4, 50, own.num_inference_steps, step=1, label="Steps", elem_id="experts-steps")
            boundary = gr.Slider(
                0,
                1,
                config.boundary_ratio or 0,
                step=0.005,
                label=f"Noise level where the experts change (the model's own: {config.boundary_ratio})",
                visible=two,
                elem_id="boundary",
            )
            with gr.Row():
                start = gr.Button("Run", variant="primary", elem_id="experts-run", scale=3)
                stop = gr.Button("Stop", scale=1)
            status = gr.HTML(markup.said(""), elem_id="experts-status", padding=False, min_height=28)
            noise = gr.Slider(0, 1, 1, step=0.01, label="Noise level: 1.00 noise → 0 video", elem_id="noise")
            told = gr.HTML(_told(begun, 1.0, size), elem_id="experts-facts", padding=False)
        with gr.Column(scale=4, min_width=320):
            stage = gr.HTML(markup.empty(_NOTHING), elem_id="experts-preview", padding=False)
    with gr.Row():
        before = gr.HTML(elem_id="experts-before", padding=False)
        after = gr.HTML(elem_id="experts-after", padding=False)
    difference = gr.HTML(elem_id="experts-difference", padding=False)
    gr.HTML(_STYLE + _table(), elem_id="experts-table", padding=False)
    last = gr.State(None)
    fps = own.fps

    def run(report: Report, prompt: str, seed: int, count: int, ratio: float, previous: Run | None) -> dict:
        def show(number: int, step: Step, preview: Float["f h w 3"]):
            name = f", {NAMES[step.expert]}" if two else ""
            said = markup.progress(f"Step {number + 1} of {int(count)}{name}", (number + 1) / count)
            report({status: said, stage: picture(preview)})

        report({status: markup.progress("Preparing; a new size is compiled first, which takes a while", 0.0)})
        made = _run(explorer, (prompt, int(seed), int(count)), ratio if two else None, show)
        same = two and previous is not None and previous.wish == made.wish
        return {
            last: made,
            noise: 1.0,
            told: _told(made.steps, 1.0, size),
            stage: picture(made.previews[0]),
            before: _video(previous, fps, "Before") if same else "",
            after: _video(made, fps, "Now"),
            difference: markup.said(compared(previous, made)) if same else "",
            status: markup.said("Move the slider from noise to video."),
        }

    def picture(preview: Float["f h w 3"]) -> str:
        return markup.picture(preview, fps / config.vae.temporal_factor)

    def look(level: float, count: int, ratio: float, made: Run | None) -> list[Any]:
        if made is None:
            planned = experts.plan(experts.with_boundary(config, ratio) if two else config, int(count))
            return [_told(planned, level, size), gr.skip()]
        return [_told(made.steps, level, size), picture(made.previews[_index(made.steps, level)])]

    def plan_anew(level: float, count: int, ratio: float) -> str:
        return look(level, count, ratio, None)[0]

    shown = [last, noise, told, stage, before, after, difference, status]
    running = on_click(start, run, [prompt, seed, count, boundary, last], shown, status)
    stop_on_click(stop, running, status)
    noise.input(look, [noise, count, boundary, last], [told, stage], show_progress="hidden", queue=False)
    for widget in (boundary, count):
        widget.input(plan_anew, [noise, count, boundary], told, show_progress="hidden", queue=False)


def _run(explorer: Explorer, wish: tuple[str, int, int], ratio: float | None, show: Callable) -> Run:
    from wan_jax.explain.trace import trace

    prompt, seed, steps = wish
    pipe, colours = explorer.pipeline(), explorer.colours()
    made = trace(pipe, prompt, seed=seed, num_inference_steps=steps, boundary=ratio, colours=colours, watch=show)
    return Run(wish, made.boundary, made.steps, made.previews, (made.frames * 255).round().astype(np.uint8))


def compared(old: Run, new: Run) -> str:
    """In words, how much two videos from the same noise differ."""
    from wan_jax.metrics import psnr, ssim

    steps = [sum(step.expert == 0 for step in run.steps) for run in (old, new)]
    if np.array_equal(old.frames, new.frames):
        return f"Not a pixel differs: the high-noise expert did {steps[0]} steps, and now {steps[1]}."
    a, b = (run.frames.astype(np.float32) / 255 for run in (old, new))
    changed = np.mean(np.abs(a - b).max(-1) > 0.1)
    return (
        f"The high-noise expert did {steps[0]} steps, and now {steps[1]}. Between both videos: PSNR "
        f"{_psnr(a, b, psnr):.1f} dB, SSIM {float(ssim(a, b)):.3f}; {100 * changed:.0f} % of the pixels changed by "
        "more than a tenth."
    )


def _psnr(a: Float["f h w 3"], b: Float["f h w 3"], psnr: Callable) -> float:
    """Over the frames that differ: equal ones have none."""
    differ = np.any(a != b, axis=(1, 2, 3))
    return float(psnr(a[differ], b[differ]))


def _video(run: Run, fps: float, name: str) -> str:
    changed = "" if run.boundary is None else f": the experts change at {run.boundary:g}"
    return markup.said(name + changed) + markup.picture(run.frames.astype(np.float32) / 255, fps)


def _index(steps: list[Step], level: float) -> int:
    """The step that the run is at when the noise has sunk to `level`."""
    return max(0, sum(step.sigma >= level for step in steps) - 1)


def _told(steps: list[Step], level: float, size: Parameters) -> str:
    at = _index(steps, level)
    step, high = steps[at], sum(s.expert == 0 for s in steps)
    two = size.total > size.active
    values = {"noise level, timestep": f"{step.sigma:.3f}, {step.timestep}"}
    if two:
        values = {TASKS[step.expert]: NAMES[step.expert].capitalize()} | values
    values["signal to noise"] = "none yet" if math.isinf(step.snr_db) else f"{step.snr_db:.1f} dB".replace("-", "−")
    values["parameters at work" + (", of both" if two else "")] = _millions(size, two)
    facts = markup.facts(values)
    bars = "".join(
        f'<i class="{"at" if i == at else ""}" title="step {i + 1}: {s.sigma:.3f}" '
        f'style="height:{100 * s.sigma:.1f}%;background:{COLOURS[s.expert]}"></i>'
        for i, s in enumerate(steps)
    )
    key = f"{high} steps of the high-noise expert, then {len(steps) - high} of the low-noise expert." if two else ""
    return f'{facts}<div class="wan-steps">{bars}</div>{markup.said(f"Step {at + 1} of {len(steps)}. {key}")}'


def _millions(size: Parameters, two: bool) -> str:
    def short(count: int) -> str:
        return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"

    return f"{short(size.active)} of {short(size.total)}" if two else short(size.active)


def _table() -> str:
    rows = "".join(
        f"<tr><td>{html.escape(fact.what)}</td>{_cells(fact.high, fact.low)}"
        f'<td><span class="wan-tag {"reported" if fact.reported else "measured"}">'
        f"{'reported' if fact.reported else 'measured here'}</span><br>{html.escape(fact.source)}</td></tr>"
        for fact in FACTS
    )
    head = "<tr><th>division of labour</th><th>high-noise expert</th><th>low-noise expert</th><th>source</th></tr>"
    return f'<table class="wan-table">{head}{rows}</table>'


def _cells(high: str, low: str) -> str:
    if not low:
        return f'<td colspan="2">{html.escape(high)}</td>'
    return f"<td>{html.escape(high)}</td><td>{html.escape(low)}</td>"
