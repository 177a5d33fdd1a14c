"""`generate`: a video from a prompt."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from wan_jax.cli import editing, updates
from wan_jax.cli.editing import NO_EDITING, Editing
from wan_jax.cli.longer import ONE_SEGMENT, Longer
from wan_jax.cli.options import Mesh, Switch, flag, parse_size, print_result
from wan_jax.cli.updates import NO_UPDATES, Updates
from wan_jax.errors import WanError

if TYPE_CHECKING:
    from wan_jax import WanPipeline


def generate(
    *,
    prompt: Annotated[str | None, flag("TEXT", "that of --from")] = None,
    model: Annotated[str | None, flag("DIR|HUB_ID|NAME", "wan_mini, small and part of the package")] = None,
    image: Annotated[str | None, flag("FILE", "none")] = None,
    last_image: Annotated[str | None, flag("FILE", "none")] = None,
    size: Annotated[str | None, flag("WxH")] = None,
    frames: Annotated[int | None, flag("N")] = None,
    steps: Annotated[int | None, flag("N")] = None,
    seed: Annotated[int | None, flag("N", "0")] = None,
    solver: Annotated[str | None, flag("NAME", "unipc")] = None,
    guidance: Annotated[str | None, flag("HIGH[,LOW]")] = None,
    shift: Annotated[float | None, flag("S")] = None,
    quality: Annotated[float | None, flag("Q", "1, all steps are computed")] = None,
    step_cache: Annotated[str | None, flag("NAME", "magnitude")] = None,
    negative_prompt: Annotated[str | None, flag("TEXT", "Wan's own")] = None,
    dtype: Annotated[str | None, flag("NAME", "bfloat16; float32 on CPU")] = None,
    preset: Annotated[str | None, flag("NAME", "auto")] = None,
    quantize: Annotated[str | None, flag("NAME", "the preset's choice")] = None,
    offload: Annotated[str | None, flag("NAME", "the preset's choice")] = None,
    mesh: Mesh = None,
    edit: Annotated[Editing, tyro.conf.arg(name="")] = NO_EDITING,
    longer: Annotated[Longer, tyro.conf.arg(name="")] = ONE_SEGMENT,
    update: Annotated[Updates, tyro.conf.arg(name="")] = NO_UPDATES,
    out: Annotated[str, flag("FILE", "out.mp4")] = "out.mp4",
    sheet: Annotated[Path | None, flag("FILE", "none")] = None,
    preview: Annotated[Path | None, flag("FILE", "none")] = None,
    source: Annotated[str | None, flag("FILE", "none", name="from")] = None,
    metadata: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: written)")] = True,
    json: Switch = False,
):
    """Makes a video from a prompt.

    python -m wan_jax generate --prompt "a large red ball bounces on green grass" --sheet out.png

    python -m wan_jax generate --prompt "两只猫在台上打拳" --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --size 832x480

    python -m wan_jax generate --prompt "The cat looks up" --image cat.jpg --model Wan-AI/Wan2.2-I2V-A14B-Diffusers

    python -m wan_jax generate --prompt "a red kite" --video sky.mp4 --box 200,80,160,120 --model wan21_vace_1_3b

    python -m wan_jax generate --prompt "the same street in snow" --video street.mp4 --strength 0.6

    python -m wan_jax generate --prompt "a boat leaves the harbour" --then "it meets a storm" --model wan21_vace_1_3b

    python -m wan_jax generate --prompt "a fox" --model models/t2v --lora high.safetensors --lora-2 low.safetensors@0.8

    python -m wan_jax generate --prompt "a large red ball bounces on green grass" --steps 50 --quality 0.9

    python -m wan_jax generate --prompt "a small blue cube orbits" --preset lightning

    python -m wan_jax generate --from out.mp4 --seed 7 --out again.mp4

    Args:
        prompt: what to show, in English or Chinese.
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, a name from configs/, or wan_mini.
        image: the first frame, for a model that takes one.
        last_image: the last frame, for a model that takes one.
        size: width and height in pixels, multiples of 16 (of TI2V-5B: 32); otherwise those of --image or --video, at
            the model's area.
        frames: number of frames, 4n + 1.
        steps: denoising steps.
        seed: of the starting noise.
        solver: unipc, dpm++ or euler.
        guidance: strength of the prompt, for the high-noise and for the low-noise expert.
        shift: how far the steps lean towards high noise.
        quality: below 1, steps are skipped where what they would predict can be extrapolated, with a relative error of
            about 1 − Q; 0.9 is a good compromise.
        step_cache: how that is told: magnitude, first_block, or guidance, which skips the negative prompt alone.
        negative_prompt: what to avoid.
        dtype: of the weights: bfloat16, float16 or float32.
        preset: auto, which fits the model to the memory of the devices at hand; colab-v5e or colab-v6e, which do so for
            one such chip; quality, which keeps every bit; or lightning, four steps without guidance.
        quantize: the transformers' matrices in eight bits, half the memory: int8 or fp8; or int8_w8a8 or fp8_w8a8,
            which are faster and less exact.
        offload: to host memory: model, all weights but those of the part that works; or blocks, of a transformer too.
        mesh: how to share the work among devices, such as data=2,context=4 (axes: data, fsdp, context, tensor).
        out: .mp4, .webp or .gif, or a folder for .png files.
        sheet: a .png file, which gets eight frames of the video.
        preview: a .png file, which shows after every step what the video is going to be.
        source: repeat the settings stored in this video; other options change them.
        metadata: store prompt, seed and settings in the video.
        json: print the result as JSON.
    """
    from wan_jax import video_io, weights
    from wan_jax.cluster import is_leader
    from wan_jax.pipelines import long_video, presets, tasks
    from wan_jax.pipelines.contact_sheet import write_frames
    from wan_jax.pipelines.loading import read_config
    from wan_jax.pipelines.preview import Preview
    from wan_jax.pipelines.request import Request

    settings = stored_settings(source) if source else {}
    prompt = settings.get("prompt") if prompt is None else prompt
    if prompt is None:
        raise WanError("--prompt is missing: say what to show, or name an earlier video with --from")
    model = model or settings.get("model", weights.DEFAULT)
    width, height = parse_size(size) if size else (settings.get("width"), settings.get("height"))
    high, low = _guidance(guidance) if guidance else (settings.get("guidance_scale"), settings.get("guidance_scale_2"))

    def chosen(flag: Any, name: str, otherwise: Any = None) -> Any:
        return settings.get(name, otherwise) if flag is None else flag

    options = {
        "prompt": prompt,
        "negative_prompt": chosen(negative_prompt, "negative_prompt"),
        "height": height,
        "width": width,
        "num_frames": chosen(frames, "num_frames"),
        "num_inference_steps": chosen(steps, "num_inference_steps"),
        "guidance_scale": high,
        "guidance_scale_2": low,
        "seed": chosen(seed, "seed", 0),
        "solver": chosen(solver, "solver"),
        "flow_shift": chosen(shift, "flow_shift"),
        "sigma_grid": settings.get("sigma_grid", "wan"),
        "quality": chosen(quality, "quality", 1.0),
        "step_cache": chosen(step_cache, "step_cache", "magnitude"),
    }
    # A mistake should not show after gigabytes were read.
    video_io.check_output(out)
    for name, picture in (("sheet", sheet), ("preview", preview)):
        if picture is not None and picture.suffix.lower() != ".png":
            raise WanError(f"cannot write {picture}: --{name} makes a .png file")
    preset = chosen(preset, "preset") or "auto"
    config = presets.sampled(presets.find(preset), read_config(model))
    edited, task = editing.arguments(config, edit, image, last_image, (width, height), options["num_frames"])
    if config.takes_context:
        edited["conditioning_scale"] = chosen(edited.get("conditioning_scale"), "conditioning_scale", 1.0)
    elif edited.get("video") is not None:
        edited["strength"] = chosen(edited.get("strength"), "strength")
    given = tasks.read(config, image=image, last_image=last_image, **edited, num_frames=options["num_frames"])
    options |= given.fields(config, height, width, options["num_frames"])
    request = Request.make(config, **options)
    _check_given(settings, given.digests(), source)
    prompts = longer.prompts(prompt, settings)
    if len(prompts) > 1:
        long_video.overlap_of(config, longer.overlap, request.num_frames)
    started = time.monotonic()
    pipe = load_pipeline(
        model,
        dtype=chosen(dtype, "dtype"),
        vae_dtype=settings.get("vae_dtype"),
        mesh=mesh,
        quantization=chosen(quantize, "quantization"),
        offload=offload,
        preset=preset,
    )
    updates.load(pipe, added := update.chosen(settings))
    if "checkpoint" in settings and settings["checkpoint"] != pipe.fingerprint:  # which waits for all weights
        print(f"note: {source} was made with other weights ({settings['checkpoint']})", file=sys.stderr)
    loaded = time.monotonic()
    print(f"preset {preset}: {pipe.arrangement}", file=sys.stderr)
    print(f"task: {task}", file=sys.stderr)
    about = {"model": model} | added
    if (said := _note(model, " ".join(prompts))) is not None:
        about["note"] = said
        print(f"note: {said}", file=sys.stderr)
    options |= edited | {"image": image, "last_image": last_image}
    if preview is not None:
        options["callback_on_step_end"] = Preview(preview)
    if len(prompts) > 1:
        del options["prompt"]
        overlap = chosen(longer.overlap, "overlap")
        made = long_video.write_long_video(pipe, out, prompts, overlap, longer.restart, about, metadata, **options)
        shown = sheet and _some_frames(out)
    else:
        result = pipe(**options)
        made, shown = result.settings[0] | about, result.frames[0]
        if not is_leader():
            return
        video_io.export_to_video(shown, out, metadata=made if metadata else None)
    if sheet is not None:
        write_frames(sheet, shown)
    print_result(
        {
            "out": out,
            "load_s": round(loaded - started, 2),
            "first_step_s": round(pipe.first_step_s, 2),
            "generate_s": round(time.monotonic() - loaded, 2),
            "settings": made,
        },
        f"{out}: {f'{len(prompts)} segments of ' if len(prompts) > 1 else ''}{made['num_frames']} frames of "
        f"{made['width']}x{made['height']}, seed {made['seed']}, "
        f"{time.monotonic() - started:.1f} s",
        json,
    )


def _some_frames(path: str):
    """Of a video that may be too long for the memory, as many as a sheet shows."""
    import numpy as np

    from wan_jax.pipelines.contact_sheet import SHEET
    from wan_jax.video_io import frame_times, read_video

    chosen = set(np.linspace(0, len(frame_times(path)) - 1, SHEET).round().astype(int))
    return np.stack([frame for i, frame in enumerate(read_video(path)) if i in chosen]) / np.float32(255)


def _note(model: str, prompt: str) -> str | None:
    """What is to be said of a video by one of the models that come with the package."""
    from wan_jax import placeholder, weights
    from wan_jax.pipelines import known_words

    if model == placeholder.NAME:
        return placeholder.NOTE
    folder = weights.folder(model)
    return None if folder is None else known_words.note(prompt, folder / "tokenizer")


def load_pipeline(model: str, *, dtype: str | None, **options: Any) -> "WanPipeline":
    """`WanPipeline.from_pretrained`; without a dtype in bfloat16, and on CPUs, which are slow at that, in float32."""
    import jax

    from wan_jax import WanPipeline
    from wan_jax.cluster import join_cluster

    join_cluster()
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return WanPipeline.from_pretrained(model, dtype=dtype, **options)


def stored_settings(path: str | Path) -> dict[str, Any]:
    """How a video was made, as its file says.

    Raises:
        WanError: it cannot be read, or does not say enough to make it again.
    """
    from wan_jax.video_io import read_metadata

    settings = read_metadata(path)
    if "prompt" not in settings:
        raise WanError(f"--from {path}: the file holds no settings of ours")
    if settings["seed"] is None:
        raise WanError(f"--from {path}: it was made from given latents, which the file does not hold")
    return settings


def _check_given(settings: dict[str, Any], digests: dict[str, Any], source: str | None):
    """The file knows its pictures and clips by their digests alone."""
    for name in ("image", "last_image", "video", "mask", "reference_images"):
        if name in settings and settings[name] != digests.get(name):
            given_by = "--" + name.removesuffix("_images").replace("_", "-")
            raise WanError(f"--from {source}: it was made with {given_by} of digest {settings[name]}; give that again")


def _guidance(text: str) -> tuple[float, float | None]:
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if len(scales) not in (1, 2):
        raise WanError(f"--guidance {text!r} is not HIGH or HIGH,LOW, such as 4.0,3.0")
    return scales[0], scales[1] if len(scales) == 2 else None
