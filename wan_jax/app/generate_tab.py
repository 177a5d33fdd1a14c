"""The tab where videos are made, and where those that were made are found again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from wan_jax.app import generation, history, markup
from wan_jax.app.buttons import Report, on_click, stop_on_click
from wan_jax.app.explorer import Explorer
from wan_jax.app.generation import EXTEND, FRAMES, INPAINT, REFERENCES, RESTYLE, Progress, Wish
from wan_jax.cli.generate import stored_settings
from wan_jax.cli.options import parse_number
from wan_jax.errors import WanError
from wan_jax.video_io import read_video

_EXAMPLES = {  # what each world is made of
    "wan_mini": [
        "a large red ball bounces on green grass",
        "two small blue cubes orbit over the blue sea",
        "three yellow stars move left at night",
        "一个红色的球在绿色草地上弹跳",
        "两个小蓝色方块在黄色沙滩上旋转",
    ],
    None: ["A corgi runs along a beach at sunset", "Two cats box on a lit stage", "一只猫在草地上奔跑"],
}
_STEP_CACHES = ["magnitude", "first_block", "guidance"]
_HEIGHT = 380  # pixels of the result
_HISTORY = "Your videos, the newest first. A click brings one back with its settings."
_WAITING = "The video will be here."


def build(explorer: Explorer):
    """Adds the widgets and what they do to the tab that is being built."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=380):
            form, places, source_button, start, stop = _form(explorer)
        with gr.Column(scale=6, min_width=420):
            stage = gr.HTML(markup.empty(_WAITING), padding=False)
            video = gr.Video(
                visible=False,
                interactive=False,
                buttons=["download"],
                autoplay=True,
                loop=True,
                show_label=False,
                height=_HEIGHT,
                elem_id="result",
            )
            status = gr.HTML(markup.said(""), elem_id="status", min_height=28, padding=False)
            gr.HTML(markup.said(_HISTORY), padding=False)
            gallery = gr.Gallery(
                show_label=False,
                buttons=[],
                columns=8,
                height=96,
                allow_preview=False,
                interactive=False,
                elem_id="history",
            )
            with gr.Accordion("Settings of this video, as its file has them", open=False):
                shown = gr.JSON(show_label=False, elem_id="settings")
    names = gr.State([])
    made = [stage, video, status, shown, gallery, names]

    def begin() -> dict:
        return {video: gr.update(visible=False), stage: gr.update(visible=True), shown: None}

    def generate(report: Report, *values: Any) -> dict:
        wish = _wish(dict(zip(form, values)))

        def show(at: Progress):
            update = {status: markup.progress(at.said, at.done)}
            if at.preview is not None:
                update[stage] = markup.picture(at.preview, explorer.config.sampling.fps / _factor(explorer))
            report(update)

        path, settings = generation.generate(explorer, wish, show)
        return _result(path, settings, strange=generation.strange_words(explorer, wish.prompt)) | listed()

    def listed() -> dict:
        paths = history.videos(explorer.folder)
        return {gallery: [(history.poster(path), None) for path in paths], names: [path.name for path in paths]}

    def _result(path: Path, settings: dict, strange: list[str] | None = None) -> dict:
        line = f"{path.name}, seed {settings['seed']}"
        if strange:
            line += f". This small model has never heard of {', '.join(strange)}."
        return {
            stage: gr.update(value=markup.empty(_WAITING), visible=False),
            video: gr.update(value=str(path), visible=True),
            status: markup.said(line),
            shown: settings,
        }

    def bring_back(names: list[str], event: gr.SelectData) -> dict:
        path = explorer.folder / names[event.index]
        settings = stored_settings(path)
        update = _result(path, settings)
        if again := history.missing(settings):
            update[status] = markup.said(f"{path.name}: to make it again, add {' and '.join(again)} once more.")
        return update | {form[name]: value for name, value in _values(explorer, settings).items() if name in form}

    nothing = {stage: markup.empty(_WAITING)}
    running = on_click(start, generate, list(form.values()), made, status, begin=begin, failed=nothing)
    stop_on_click(stop, running, status)
    gallery.select(bring_back, names, [*made, *form.values()], show_progress="hidden")
    source_button.click(lambda path: path, video, form["source"])
    form["preset"].input(lambda name: _own(explorer, name), form["preset"], [form[n] for n in _OWN if n in form])
    if INPAINT in generation.tasks_of(explorer.config):
        form["source"].change(_to_paint_on, form["source"], form["painted"], show_progress="hidden")
    form["task"].change(_visible(places), form["task"], list(places))
    return listed, [gallery, names]


_OWN = ("num_inference_steps", "guidance_scale", "guidance_scale_2", "flow_shift", "solver")  # of a preset


def _form(explorer: Explorer) -> tuple[dict[str, Any], dict[Any, set[str]], gr.Button, gr.Button, gr.Button]:
    """The widgets by the names of fields of `Wish` and its options; those of some tasks alone; and the buttons."""
    tasks, config = generation.tasks_of(explorer.config), explorer.config
    own, form, places = config.sampling, {}, {}

    def only_for(*names: str):
        group = gr.Group(visible=tasks[0] in names)
        places[group] = set(names)
        return group

    form["task"] = gr.Radio(tasks, value=tasks[0], label="From", visible=len(tasks) > 1, elem_id="task")
    form["prompt"] = gr.Textbox(
        label="Prompt, in English or Chinese", lines=2, value=_examples(explorer)[0], elem_id="prompt"
    )
    with only_for(FRAMES), gr.Row():
        form["image"] = _picture("First frame")
        form["last_image"] = _picture("Last frame")
    with only_for(INPAINT, EXTEND, RESTYLE):
        form["source"] = gr.Video(label="Source video", sources=["upload"], height=180, elem_id="source")
        source_button = gr.Button("Use the video on the right", size="sm")
    with only_for(INPAINT):
        form["painted"] = _canvas(brush=own.height // 12)
        form["mask"] = gr.File(label="or a mask, white where it is painted anew (picture or video)", height=110)
    with only_for(EXTEND), gr.Row():
        form["added"] = gr.Number(16, label="Frames to add", precision=0, minimum=1)
        form["before"] = gr.Radio([("after", False), ("before", True)], value=False, label="Where")
    with only_for(RESTYLE):
        form["strength"] = gr.Slider(0.05, 1, 0.8, step=0.05, label="How much changes")
    with only_for(REFERENCES):
        form["references"] = gr.File(label="Up to three pictures", file_count="multiple", height=140)
    gr.Examples([[text] for text in _examples(explorer)], form["prompt"], label="Examples")
    with gr.Row():
        form["preset"] = gr.Dropdown(_presets(), value="auto", label="Preset", scale=3)
        form["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, scale=2, elem_id="seed")
        dice = gr.Button("Random seed", scale=1, min_width=110, size="sm", elem_classes="wan-low")
        dice.click(generation.random_seed, outputs=form["seed"], queue=False)
    with gr.Row():
        start = gr.Button("Generate", variant="primary", elem_id="generate", scale=3)
        stop = gr.Button("Stop", elem_id="stop", scale=1)
    with gr.Accordion("More settings", open=False):
        two = config.boundary_ratio is not None
        with gr.Row():
            size = f"{own.width}x{own.height}, or as the source"
            form["size"] = gr.Textbox(label="Size", placeholder=size, elem_id="size", scale=2)
            form["frames"] = gr.Textbox(label="Frames, 4n + 1", placeholder=str(own.num_frames), elem_id="frames")
            form["solver"] = gr.Dropdown(["unipc", "dpm++", "euler"], value=own.solver, label="Solver", min_width=120)
        with gr.Row():
            steps = own.num_inference_steps
            form["num_inference_steps"] = gr.Slider(1, 100, steps, step=1, label="Steps", elem_id="steps")
            form["flow_shift"] = gr.Slider(1, 20, own.flow_shift, step=0.5, label="Shift")
        with gr.Row():
            first = "Guidance at high noise" if two else "Guidance"
            form["guidance_scale"] = gr.Slider(1, 12, own.guidance_scale, step=0.5, label=first)
            if two:
                low = own.guidance_scale_2
                form["guidance_scale_2"] = gr.Slider(1, 12, low, step=0.5, label="At low noise")
        with gr.Row():
            form["quality"] = gr.Slider(0.5, 1, 1, step=0.05, label="Quality", info="below 1, steps are skipped")
            form["step_cache"] = gr.Dropdown(_STEP_CACHES, value=_STEP_CACHES[0], label="Which are skipped")
        form["negative_prompt"] = gr.Textbox(own.negative_prompt, label="What to avoid", lines=2)
    return form, places, source_button, start, stop


def _picture(label: str) -> gr.Image:
    """Handed on as the file it came in."""
    return gr.Image(label=label, type="filepath", image_mode=None, sources=["upload", "clipboard"], height=180)


def _canvas(brush: int) -> gr.ImageEditor:
    """Handed on as files, of which the layer that was painted on is white there, and black elsewhere."""
    return gr.ImageEditor(
        label="Paint over what is to change",
        type="filepath",
        format="png",
        image_mode="L",  # drops transparency, below which a layer is black
        sources=[],
        transforms=[],
        layers=False,
        buttons=[],
        brush=gr.Brush(brush, colors=["#fff"], color_mode="fixed"),
        height=320,
        visible=False,
        elem_id="painted",
    )


def _visible(places: dict[Any, set[str]]) -> Callable[[str], list]:
    return lambda task: [gr.update(visible=task in tasks) for tasks in places.values()]


def _presets() -> list[str]:
    from wan_jax.pipelines.presets import PRESETS

    return list(PRESETS)


def _own(explorer: Explorer, preset: str) -> list[Any]:
    """The values of a preset, which replace those in the form."""
    from wan_jax.pipelines.presets import find, sampled

    sampling = sampled(find(preset), explorer.config).sampling
    two = explorer.config.boundary_ratio is not None
    return [getattr(sampling, name) for name in _OWN if two or name != "guidance_scale_2"]


def _examples(explorer: Explorer) -> list[str]:
    return _EXAMPLES.get(explorer.config.name, _EXAMPLES[None])


def _factor(explorer: Explorer) -> int:
    return explorer.config.vae.temporal_factor


def _wish(values: dict[str, Any]) -> Wish:
    painted = values.pop("painted")
    fields = {name: values.pop(name) for name in Wish.__dataclass_fields__ if name in values}
    fields["mask"] = fields["mask"] or _mask(painted)
    fields["references"] = tuple(fields.get("references") or ())
    fields["frames"] = parse_number(fields["frames"], "Frames", int) if fields["frames"] else None
    return Wish(**fields, options=values)


def _to_paint_on(path: str | None) -> dict[str, Any]:
    """The first frame of the source; nothing without one.  That a file cannot be read is said once it is to be used."""
    try:
        frame = next(read_video(path).frames()) if path else None
    except WanError:
        frame = None
    return gr.update(value=frame, visible=frame is not None)


def _mask(painted: dict[str, Any] | None) -> str | None:
    """The file of a layer that was painted on."""
    for path in painted["layers"] if painted else ():
        with Image.open(path) as layer:
            if layer.getbbox():
                return path
    return None


def _values(explorer: Explorer, settings: dict[str, Any]) -> dict[str, Any]:
    """Of the form, from the settings of a video, which another model or the command line may have made."""
    kept = ("prompt", "negative_prompt", "seed", "quality", "step_cache", *_OWN)
    tasks = generation.tasks_of(explorer.config)
    return {name: settings[name] for name in kept if settings.get(name) is not None} | {
        "task": settings["task"] if settings.get("task") in tasks else tasks[0],
        "preset": settings.get("preset") or "auto",
        "size": f"{settings['width']}x{settings['height']}",
        "frames": str(settings["num_frames"]),
    }
