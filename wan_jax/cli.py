"""The command line: `python -m wan_jax COMMAND`.

Wrong input is one line on standard error and exit status 2; `--json` leaves nothing but JSON on standard output.
Imports of JAX wait until a command runs, so that `--help` is quick.
"""

import json as json_lib
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from wan_jax.errors import WanError


def _flag(metavar: str, default: str = "the model's own", **options: Any):
    """An option whose absence means something: say what, rather than None."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})", **options)


Switch = tyro.conf.FlagCreatePairsOff[bool]


def generate(
    *,
    prompt: Annotated[str | None, _flag("TEXT", "that of --from")] = None,
    model: Annotated[str | None, _flag("DIR|HUB_ID|NAME", "a small untrained placeholder")] = None,
    size: Annotated[str | None, _flag("WxH")] = None,
    frames: Annotated[int | None, _flag("N")] = None,
    steps: Annotated[int | None, _flag("N")] = None,
    seed: Annotated[int | None, _flag("N", "0")] = None,
    solver: Annotated[str | None, _flag("NAME", "unipc")] = None,
    guidance: Annotated[str | None, _flag("HIGH[,LOW]")] = None,
    shift: Annotated[float | None, _flag("S")] = None,
    negative_prompt: Annotated[str | None, _flag("TEXT", "Wan's own")] = None,
    dtype: Annotated[str | None, _flag("NAME", "bfloat16; float32 on CPU")] = None,
    mesh: Annotated[str | None, _flag("AXES", "all accelerators")] = None,
    out: Annotated[str, _flag("FILE", "out.mp4")] = "out.mp4",
    source: Annotated[str | None, _flag("FILE", "none", name="from")] = None,
    metadata: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: written)")] = True,
    json: Switch = False,
):
    """Makes a video from a prompt.

    python -m wan_jax generate --prompt "a red ball rolls over grass"

    python -m wan_jax generate --prompt "两只猫在台上打拳" --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --size 832x480

    python -m wan_jax generate --from out.mp4 --seed 7 --out again.mp4

    Args:
        prompt: what to show, in English or Chinese.
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, or a name from configs/.
        size: width and height in pixels, multiples of 16.
        frames: number of frames, 4n + 1.
        steps: denoising steps.
        seed: of the starting noise.
        solver: unipc, dpm++ or euler.
        guidance: strength of the prompt, for the high-noise and for the low-noise expert.
        shift: how far the steps lean towards high noise.
        negative_prompt: what to avoid.
        dtype: of the weights: bfloat16, float16 or float32.
        mesh: how to share the work among devices, such as data=2,context=4 (axes: data, fsdp, context, tensor).
        out: .mp4, .webp or .gif, or a folder for .png files.
        source: repeat the settings stored in this video; other options change them.
        metadata: store prompt, seed and settings in the video.
        json: print the result as JSON.
    """
    from wan_jax import placeholder, video_io
    from wan_jax.cluster import is_leader
    from wan_jax.pipelines.loading import read_config
    from wan_jax.pipelines.request import Request

    settings = _stored_settings(source) if source else {}
    prompt = settings.get("prompt") if prompt is None else prompt
    if prompt is None:
        raise WanError("--prompt is missing: say what to show, or name an earlier video with --from")
    model = model or settings.get("model", placeholder.NAME)
    width, height = _size(size) if size else (settings.get("width"), settings.get("height"))
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
        "solver": chosen(solver, "solver", "unipc"),
        "flow_shift": chosen(shift, "flow_shift"),
        "sigma_grid": settings.get("sigma_grid", "wan"),
    }
    # A mistake should not show after gigabytes were read.
    video_io.check_output(out)
    Request.make(read_config(model), **options)
    started = time.monotonic()
    pipe = _pipeline(model, chosen(dtype, "dtype"), settings.get("vae_dtype"), mesh)
    if "checkpoint" in settings and settings["checkpoint"] != pipe.fingerprint:  # which waits for all weights
        print(f"note: {source} was made with other weights ({settings['checkpoint']})", file=sys.stderr)
    loaded = time.monotonic()
    result = pipe(**options)
    made = result.settings[0] | {"model": model}
    if model == placeholder.NAME:
        made["note"] = placeholder.NOTE
        print(f"note: {placeholder.NOTE}", file=sys.stderr)
    if not is_leader():
        return
    video_io.export_to_video(result.frames[0], out, metadata=made if metadata else None)
    _report(
        {
            "out": out,
            "load_s": round(loaded - started, 2),
            "first_step_s": round(pipe.first_step_s, 2),
            "generate_s": round(time.monotonic() - loaded, 2),
            "settings": made,
        },
        f"{out}: {made['num_frames']} frames of {made['width']}x{made['height']}, seed {made['seed']}, "
        f"{time.monotonic() - started:.1f} s",
        json,
    )


def reconstruct(
    src: tyro.conf.Positional[Path],
    dst: tyro.conf.Positional[Path],
    *,
    model: Annotated[str, tyro.conf.arg(metavar="DIR|HUB_ID|NAME")],
    frames: Annotated[int | None, _flag("N", "all")] = None,
    dtype: Annotated[str | None, _flag("NAME", "float32; bfloat16 on TPU")] = None,
    mesh: Annotated[str | None, _flag("AXES", "all accelerators")] = None,
    tile: Annotated[int | None, _flag("N", "whole frames")] = None,
    perceptual: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: measured)")] = True,
    json: Switch = False,
):
    """Sends a video through the autoencoder and back, and measures what was lost.

    The result has the frames, size and rate of the input.  Works in constant memory.

    python -m wan_jax reconstruct clip.mp4 again.mp4 --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers

    Args:
        src: any video file.
        dst: .mp4, .webp or .gif, or a folder for .png files.
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, or a name from configs/.
        frames: stop after so many frames.
        dtype: of the autoencoder.
        mesh: how to share the work among devices, such as context=8.
        tile: cut frames into overlapping squares of so many pixels; approximate, for one device.
        perceptual: measure LPIPS too; its weights are fetched once.
        json: print the result as JSON.
    """
    from wan_jax.pipelines.reconstruct import reconstruct_file

    report = reconstruct_file(src, dst, model, dtype, frames, mesh, tile, perceptual)
    names = {"psnr": "PSNR {:.2f} dB", "ssim": "SSIM {:.4f}", "lpips": "LPIPS {:.4f}"}
    quality = ", ".join(text.format(report[name]) for name, text in names.items() if name in report)
    _report(report, f"{_done(report)}, {quality}", json)


def encode(
    src: tyro.conf.Positional[Path],
    dst: tyro.conf.Positional[Path],
    *,
    model: Annotated[str, tyro.conf.arg(metavar="DIR|HUB_ID|NAME")],
    frames: Annotated[int | None, _flag("N", "all")] = None,
    dtype: Annotated[str | None, _flag("NAME", "float32; bfloat16 on TPU")] = None,
    mesh: Annotated[str | None, _flag("AXES", "all accelerators")] = None,
    tile: Annotated[int | None, _flag("N", "whole frames")] = None,
    restart: Switch = False,
    json: Switch = False,
):
    """Encodes a video of any length into a file of latents, in constant memory.

    Killed, the same command goes on where it was.

    python -m wan_jax encode film.mp4 film.safetensors --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers

    Args:
        src: any video file.
        dst: a .safetensors file; its tensor "latents" has the axes frame, row, column, channel.
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, or a name from configs/.
        frames: stop after so many frames.
        dtype: of the autoencoder.
        mesh: how to share the work among devices, such as context=8.
        tile: cut frames into overlapping squares of so many pixels; approximate, for one device.
        restart: drop what an earlier command left, instead of going on with it.
        json: print the result as JSON.
    """
    from wan_jax.pipelines.vae_files import encode_file

    report = encode_file(src, dst, model, dtype, frames, mesh, tile, restart)
    _report(report, f"{_done(report)}, {report['latents']} latents", json)


def decode(
    src: tyro.conf.Positional[Path],
    dst: tyro.conf.Positional[Path],
    *,
    model: Annotated[str, tyro.conf.arg(metavar="DIR|HUB_ID|NAME")],
    dtype: Annotated[str | None, _flag("NAME", "float32; bfloat16 on TPU")] = None,
    mesh: Annotated[str | None, _flag("AXES", "all accelerators")] = None,
    tile: Annotated[int | None, _flag("N", "whole frames")] = None,
    restart: Switch = False,
    json: Switch = False,
):
    """Decodes a file of latents into a video, in constant memory.

    Killed, the same command goes on where it was.

    python -m wan_jax decode film.safetensors again.mp4 --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers

    Args:
        src: what the encode command made.
        dst: an .mp4 file, which gets the frames, size and rate of the encoded video.
        model: the one that the latents were made with.
        dtype: of the autoencoder.
        mesh: how to share the work among devices, such as context=8.
        tile: cut frames into overlapping squares of so many pixels; approximate, for one device.
        restart: drop what an earlier command left, instead of going on with it.
        json: print the result as JSON.
    """
    from wan_jax.pipelines.vae_files import decode_file

    report = decode_file(src, dst, model, dtype, mesh, tile, restart)
    _report(report, _done(report), json)


def eval_vae(
    *,
    src: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    model: Annotated[str, tyro.conf.arg(metavar="DIR|HUB_ID|NAME")],
    out: Annotated[Path | None, _flag("DIR", "nothing is written")] = None,
    max_clips: Annotated[int | None, _flag("N", "all")] = None,
    frames: Annotated[int | None, _flag("N", "all")] = None,
    size: Annotated[str | None, _flag("WxH", "that of each clip")] = None,
    perceptual: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: measured)")] = True,
    fvd: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: measured)")] = True,
    dtype: Annotated[str | None, _flag("NAME", "float32; bfloat16 on TPU")] = None,
    mesh: Annotated[str | None, _flag("AXES", "all accelerators")] = None,
    json: Switch = False,
):
    """Measures an autoencoder on a folder of videos: PSNR, SSIM, LPIPS, FVD, and frames a second.

    python -m wan_jax eval-vae --src clips --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --frames 17 --out report

    Args:
        src: a folder of videos.
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, or a name from configs/.
        out: a folder for metrics.json, metrics.csv, and strips.png with the worst clips and what differs.
        max_clips: only the first so many, by name.
        frames: only the first so many of each.
        size: scale and crop frames to this.
        perceptual: measure LPIPS and FVD too; their weights are fetched once.
        fvd: measure FVD.
        dtype: of the autoencoder.
        mesh: how to share the work among devices, such as context=8.
        json: print the result as JSON.
    """
    from wan_jax.pipelines.eval_vae import evaluate_folder, table

    shape = _size(size) if size else None
    report = evaluate_folder(src, model, out, max_clips, frames, shape, perceptual, fvd, dtype, mesh)
    _report(report, table(report), json)


def plan(
    changes: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    topology: Annotated[str, tyro.conf.arg(metavar="CHIP:AxB")],
    model: Annotated[str, tyro.conf.arg(metavar="DIR|HUB_ID|NAME")] = "wan22_t2v_a14b",
    mesh: Annotated[str | None, _flag("AXIS=N,…", "the pipeline's own choice")] = None,
    size: Annotated[str | None, _flag("WxH")] = None,
    frames: Annotated[int | None, _flag("N")] = None,
    steps: Annotated[int | None, _flag("N")] = None,
    train: Switch = False,
    config: Annotated[str | None, _flag("FILE|NAME", "full training of the model's first expert")] = None,
    all: Switch = False,
    json: Switch = False,
):
    """Tells whether a job fits a TPU slice and how long it should take.  Needs libtpu, but no TPU.

    The real TPU compiler compiles the programs of a video, or a training step; nothing runs.  Times are modelled, not
    measured.

    python -m wan_jax plan --topology v6e:2x4 --size 1280x720

    python -m wan_jax plan --topology v5e:4x4 --mesh data=2,context=8 --size 832x480 --json

    python -m wan_jax plan --topology v5p:4x4x4 --train --config train_wan22_t2v_high accumulate=4

    Args:
        changes: FIELD=VALUE of the training recipe, as for the train command.
        topology: the slice: v5e:4x4, v6e:2x4, v5p:2x2x4, …
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, or a name from configs/.
        mesh: sizes of the axes data, fsdp, context and tensor, such as data=2,context=4.
        size: width and height in pixels, multiples of 16.
        frames: number of frames, 4n + 1.
        steps: denoising steps.
        train: plan a step of training: of --config, or else with a clip for every group of devices, data × fsdp.
        config: a recipe, which has a model of its own; of several runs the first is planned.
        all: compare the meshes of the slice.
        json: print the result as JSON.
    """
    from wan_jax.plan.topology import parse_topology, prepare

    chips = parse_topology(topology)
    width, height = _size(size) if size else (None, None)
    if not train and (config or changes):
        raise WanError(f"{'--config' if config else changes[0]} is for training: add --train")
    if train and steps:
        raise WanError(f"--steps {steps} is for videos: what a training step needs does not depend on their number")
    prepare()  # before JAX starts

    from wan_jax.pipelines.loading import read_config
    from wan_jax.pipelines.request import Request
    from wan_jax.plan.report import plan as make_plan
    from wan_jax.plan.table import format_report

    run = _run_to_plan(config, model, changes) if train else None
    wan = read_config(model) if run is None else run.model
    video = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": steps}
    own = dict.fromkeys(("guidance_scale", "guidance_scale_2", "flow_shift"))
    request = Request.make(wan, "", None, **video, **own, seed=0, solver="unipc", sigma_grid="wan")
    if run is None:
        report = make_plan(wan, request, chips, mesh, compare=all)
    else:
        from wan_jax.plan.train_report import plan_training

        fills = config is None and not any(change.startswith("batch=") for change in changes)
        report = plan_training(run, request, chips, mesh or run.mesh, fills, compare=all)
    _report(report, format_report(report), json)


def data(
    action: tyro.conf.Positional[Literal["build"]],
    *,
    src: Annotated[str, tyro.conf.arg(metavar="DIR")],
    out: Annotated[str, tyro.conf.arg(metavar="DIR")],
    model: Annotated[str | None, _flag("DIR|HUB_ID|NAME", "none: frames are kept")] = None,
    text: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: kept)")] = True,
    fps: Annotated[float | None, _flag("F", "16")] = None,
    area: Annotated[str | None, _flag("WxH", "832x480")] = None,
    size: Annotated[str | None, _flag("WxH[,WxH…]", "those of --area")] = None,
    frames: Annotated[str | None, _flag("N[,N…]", "81")] = None,
    validation: Annotated[str | None, _flag("N|SHARE", "0.01")] = None,
    shard_mib: Annotated[int, tyro.conf.arg(metavar="MIB")] = 256,
    restart: Switch = False,
    json: Switch = False,
):
    """Makes a dataset for training from videos with captions, or goes on with one.

    The folder may hold a metadata.csv, .json or .jsonl with video and prompt, or a .txt beside each video.

    python -m wan_jax data build --src clips --out data/latents --model models/t2v_a14b --frames 81,49,17

    python -m wan_jax data build --src clips --out data/frames; python -m wan_jax data build --src data/frames …

    Args:
        action: build.
        src: a folder of videos, or a dataset of frames, which is encoded without decoding videos again.
        out: the dataset's folder; may be a bucket.
        model: encode with this one: a checkpoint folder, a hub id, or a name from configs/.
        text: keep umT5 states of the captions; needless where the text encoder is trained too.
        fps: frames per second that clips are brought to.
        area: make sizes of about this area, at this aspect ratio, 4:3, 1:1, and all of them upright.
        size: make exactly these sizes, multiples of 16.
        frames: lengths of clips, 4n + 1; each gets the longest that it fills.
        validation: so many clips, or this share of them, are not trained on.
        shard_mib: about the size of a file.
        restart: delete what an earlier command left in --out.
        json: print the result as JSON.
    """
    from wan_jax.cluster import is_leader, join_cluster
    from wan_jax.data.build import build, summary, table
    from wan_jax.data.contents import Frames, Latents
    from wan_jax.data.sources import open_source

    source = open_source(
        src,
        fps,
        _size(area, "--area") if area else None,
        [_size(part) for part in size.split(",")] if size else None,
        [_number(part, "--frames", int) for part in frames.split(",")] if frames else None,
        _number(validation, "--validation") if validation else None,
    )
    if shard_mib < 1:
        raise WanError(f"--shard-mib {shard_mib}: a shard takes 1 MiB at least")
    join_cluster()
    config = build(source, Latents(model, text) if model else Frames(), out, shard_mib << 20, restart)
    if not is_leader():
        return
    skipped = config["skipped"]
    if skipped:
        print(f"skipped {len(skipped)} clips: {summary(skipped)}; see {out}/wan_jax.json", file=sys.stderr)
    _report({"out": out} | config, f"{table(config)}\n{out}: {config['contents']}", json)


def train(
    changes: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    config: Annotated[str, tyro.conf.arg(metavar="FILE|NAME")],
    run: Annotated[str | None, _flag("NAME", "all, in order")] = None,
    profile: Switch = False,
    stopped_status: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    json: Switch = False,
):
    """Trains a model by a recipe, or goes on where an earlier command stopped.

    A recipe is a Python file with one run, or several to be done in order, such as both experts.  Told to stop
    (SIGTERM, Ctrl-C), a run saves and exits; the same command goes on from there, on any number of devices.

    python -m wan_jax train --config configs/train_wan22_t2v_high.py data=gs://bucket/data out=gs://bucket/runs

    python -m wan_jax train --config train_wan22_t2v steps=2000 high.optimizer.learning_rate=2e-5 low.batch=16

    Args:
        changes: FIELD=VALUE for every run, RUN.FIELD=VALUE for one; see wan_jax/train/config.py.
        config: the recipe, or the name of one of ours.
        run: do only this one of its runs.
        profile: record a few steps for TensorBoard's profiler, in the run's folder.
        stopped_status: exit status when told to stop; Kubernetes starts a job again only if it is not 0.
        json: print the result as JSON.
    """
    from dataclasses import asdict

    from wan_jax.cluster import is_leader, join_cluster
    from wan_jax.train.recipes import load_recipe, override

    runs = override(load_recipe(config), changes)
    if run is not None:
        if run not in (names := [each.name for each in runs]):
            raise WanError(f"--run {run}: {config} has {', '.join(names)}")
        runs = tuple(each for each in runs if each.name == run)
    for each in runs:
        each.check()
    join_cluster()

    from wan_jax.train.loop import train as train_run

    results = []
    for each in runs:
        results.append(train_run(each, profile))
        if not results[-1].finished:
            break
    if is_leader():
        lines = [
            f"{r.name}: {r.step} steps, {r.output}"
            if r.finished
            else f"{r.name}: stopped after {r.step} steps; the same command goes on from there"
            for r in results
        ]
        _report({"runs": [asdict(result) for result in results]}, "\n".join(lines), json)
    if not results[-1].finished:
        sys.exit(stopped_status)


def main(args: list[str] | None = None):
    """Runs one command; `args` defaults to the process's own."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {
                "generate": generate,
                "reconstruct": reconstruct,
                "encode": encode,
                "decode": decode,
                "eval-vae": eval_vae,
                "plan": plan,
                "data": data,
                "train": train,
            },
            prog="python -m wan_jax",
            description="Wan video generation in JAX.  Try: python -m wan_jax generate --help",
            args=args,
        )
    except WanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _pipeline(model: str, dtype: str | None, vae_dtype: str | None, mesh: str | None):
    import jax

    from wan_jax import WanPipeline
    from wan_jax.cluster import join_cluster

    join_cluster()
    if dtype is None:
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return WanPipeline.from_pretrained(model, dtype=dtype, vae_dtype=vae_dtype, mesh=mesh)


def _run_to_plan(recipe: str | None, model: str, changes: tuple[str, ...]):
    """The first run of a recipe, or full training of a model's first expert."""
    from wan_jax.pipelines.loading import read_config
    from wan_jax.train.config import TrainConfig
    from wan_jax.train.recipes import load_recipe, override

    runs = load_recipe(recipe) if recipe else (TrainConfig(name="train", model=read_config(model)),)
    return override(runs, changes)[0]


def _stored_settings(path: str) -> dict[str, Any]:
    from wan_jax.video_io import read_metadata

    settings = read_metadata(path)
    if "prompt" not in settings:
        raise WanError(f"--from {path}: the file holds no settings of ours")
    if settings["seed"] is None:
        raise WanError(f"--from {path}: it was made from given latents, which the file does not hold")
    return settings


def _size(text: str, flag: str = "--size") -> tuple[int, int]:
    parts = text.lower().replace("*", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise WanError(f"{flag} {text!r} is not WIDTHxHEIGHT, such as 832x480")
    return int(parts[0]), int(parts[1])


def _number(text: str, flag: str, kind: type = float) -> int | float:
    """Whole numbers are ints whatever the kind."""
    try:
        return int(text) if text.isdecimal() else kind(text)
    except ValueError:
        raise WanError(f"{flag} {text!r} is not a {'whole ' if kind is int else ''}number") from None


def _guidance(text: str) -> tuple[float, float | None]:
    try:
        scales = [float(part) for part in text.split(",")]
    except ValueError:
        scales = []
    if len(scales) not in (1, 2):
        raise WanError(f"--guidance {text!r} is not HIGH or HIGH,LOW, such as 4.0,3.0")
    return scales[0], scales[1] if len(scales) == 2 else None


def _done(report: dict[str, Any]) -> str:
    return "{out}: {frames} frames, {fps:.1f} frames/s".format(**report)


def _report(result: dict[str, Any], line: str, json: bool):
    print(json_lib.dumps(result, ensure_ascii=False) if json else line)
