"""`encode`, `decode`, `reconstruct` and `eval-vae`: what the autoencoder does by itself."""

from pathlib import Path
from typing import Annotated, Any

import tyro

from wan_jax import weights
from wan_jax.cli.options import Mesh, Model, Switch, flag, parse_size, print_result

_Count = Annotated[int | None, flag("N", "all")]
_Dtype = Annotated[str | None, flag("NAME", "float32; bfloat16 on TPU")]
_Tile = Annotated[int | None, flag("N", "whole frames")]
_Measured = Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: measured)")]


def encode(
    src: tyro.conf.Positional[Path],
    dst: tyro.conf.Positional[Path],
    *,
    model: Model = weights.DEFAULT,
    frames: _Count = None,
    dtype: _Dtype = None,
    mesh: Mesh = None,
    tile: _Tile = None,
    restart: Switch = False,
    json: Switch = False,
):
    """Encodes a video of any length into a file of latents, in constant memory.

    Killed, the same command goes on where it was.

    python -m wan_jax encode film.mp4 film.safetensors

    Args:
        src: any video file.
        dst: a .safetensors file; its tensor "latents" has the axes frame, row, column, channel.
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, a name from configs/, or wan_mini.
        frames: stop after so many frames.
        dtype: of the autoencoder.
        mesh: how to share the work among devices, such as context=8.
        tile: cut frames into overlapping squares of so many pixels; approximate, for one device.
        restart: drop what an earlier command left, instead of going on with it.
        json: print the result as JSON.
    """
    from wan_jax.pipelines.vae_files import encode_file

    report = encode_file(src, dst, model, dtype, frames, mesh, tile, restart)
    print_result(report, f"{_done(report)}, {report['latents']} latents", json)


def decode(
    src: tyro.conf.Positional[Path],
    dst: tyro.conf.Positional[Path],
    *,
    model: Model = weights.DEFAULT,
    dtype: _Dtype = None,
    mesh: Mesh = None,
    tile: _Tile = None,
    restart: Switch = False,
    json: Switch = False,
):
    """Decodes a file of latents into a video, in constant memory.

    Killed, the same command goes on where it was.

    python -m wan_jax decode film.safetensors again.mp4

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
    print_result(report, _done(report), json)


def reconstruct(
    src: tyro.conf.Positional[Path],
    dst: tyro.conf.Positional[Path],
    *,
    model: Model = weights.DEFAULT,
    frames: _Count = None,
    dtype: _Dtype = None,
    mesh: Mesh = None,
    tile: _Tile = None,
    perceptual: _Measured = True,
    json: Switch = False,
):
    """Sends a video through the autoencoder and back, and measures what was lost.

    The result has the frames, size and rate of the input.  Works in constant memory.

    python -m wan_jax reconstruct clip.mp4 again.mp4 --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers

    Args:
        src: any video file.
        dst: .mp4, .webp or .gif, or a folder for .png files.
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, a name from configs/, or wan_mini.
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
    print_result(report, f"{_done(report)}, {quality}", json)


def eval_vae(
    *,
    src: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    model: Model = weights.DEFAULT,
    out: Annotated[Path | None, flag("DIR", "nothing is written")] = None,
    max_clips: _Count = None,
    frames: _Count = None,
    size: Annotated[str | None, flag("WxH", "that of each clip")] = None,
    perceptual: _Measured = True,
    fvd: _Measured = True,
    dtype: _Dtype = None,
    mesh: Mesh = None,
    json: Switch = False,
):
    """Measures an autoencoder on a folder of videos: PSNR, SSIM, LPIPS, FVD, and frames a second.

    python -m wan_jax eval-vae --src clips --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --frames 17 --out report

    Args:
        src: a folder of videos.
        model: a checkpoint folder (ours, Diffusers or original Wan), a hub id, a name from configs/, or wan_mini.
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

    shape = parse_size(size) if size else None
    report = evaluate_folder(src, model, out, max_clips, frames, shape, perceptual, fvd, dtype, mesh)
    print_result(report, table(report), json)


def _done(report: dict[str, Any]) -> str:
    return "{out}: {frames} frames, {fps:.1f} frames/s".format(**report)
