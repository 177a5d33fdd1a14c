"""`plan`: whether a job fits a TPU slice, and how long it takes."""

from typing import Annotated

import tyro

from wan_jax.cli.options import Model, Switch, flag, parse_size, print_result
from wan_jax.errors import WanError


def plan(
    changes: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    topology: Annotated[str, tyro.conf.arg(metavar="CHIP:AxB")],
    model: Model = "wan22_t2v_a14b",
    mesh: Annotated[str | None, flag("AXIS=N,…", "the pipeline's own choice")] = None,
    size: Annotated[str | None, flag("WxH")] = None,
    frames: Annotated[int | None, flag("N")] = None,
    steps: Annotated[int | None, flag("N")] = None,
    train: Switch = False,
    config: Annotated[str | None, flag("FILE|NAME", "full training of the model's first expert")] = None,
    preset: Annotated[str | None, flag("NAME", "all weights stay on the device")] = None,
    all: Switch = False,
    json: Switch = False,
):
    """Tells whether a job fits a TPU slice and how long it should take.  Needs libtpu, but no TPU.

    The real TPU compiler compiles the programs of a video, or a training step; nothing runs.  Times are modelled, not
    measured.

    python -m wan_jax plan --topology v6e:2x4 --size 1280x720

    python -m wan_jax plan --topology v5e:4x4 --mesh data=2,context=8 --size 832x480 --json

    python -m wan_jax plan --model wan22_ti2v_5b --topology v5e:1x1 --preset colab-v5e --size 1280x704 --frames 121

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
        preset: how the weights are kept, as for the generate command; auto fits them to the slice.
        all: compare the meshes of the slice.
        json: print the result as JSON.
    """
    from wan_jax.plan.topology import parse_topology, prepare

    chips = parse_topology(topology)
    width, height = parse_size(size) if size else (None, None)
    if not train and (config or changes):
        raise WanError(f"{'--config' if config else changes[0]} is for training: add --train")
    if train and preset:
        raise WanError(f"--preset {preset} is for videos; training keeps its weights on the devices")
    if train and steps:
        raise WanError(f"--steps {steps} is for videos: what a training step needs does not depend on their number")
    prepare()  # before JAX starts

    from wan_jax.pipelines import presets
    from wan_jax.pipelines.loading import read_config
    from wan_jax.pipelines.request import Request
    from wan_jax.plan.report import plan as make_plan
    from wan_jax.plan.table import format_report

    run = _run_to_plan(config, model, changes) if train else None
    wan = read_config(model) if run is None else run.model
    video = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": steps}
    own = dict.fromkeys(("guidance_scale", "guidance_scale_2", "flow_shift"))
    if preset is not None:
        wan = presets.sampled(presets.find(preset), wan)
    own |= {"solver": None}
    request = Request.make(wan, "", None, **video, **own, seed=0, sigma_grid="wan")
    if run is None:
        report = make_plan(wan, request, chips, mesh, compare=all, preset=preset)
    else:
        from wan_jax.plan.train_report import plan_training

        fills = config is None and not any(change.startswith("batch=") for change in changes)
        report = plan_training(run, request, chips, mesh or run.mesh, fills, compare=all)
    print_result(report, format_report(report), json)


def _run_to_plan(recipe: str | None, model: str, changes: tuple[str, ...]):
    """The first run of a recipe, or full training of a model's first expert."""
    from wan_jax.pipelines.loading import read_config
    from wan_jax.train.config import TrainConfig
    from wan_jax.train.recipes import load_recipe, override

    runs = load_recipe(recipe) if recipe else (TrainConfig(name="train", model=read_config(model)),)
    run = override(runs, changes)[0]
    if not isinstance(run, TrainConfig):
        raise WanError(f"--config {recipe} trains an autoencoder; only that of experts can be planned")
    return run
