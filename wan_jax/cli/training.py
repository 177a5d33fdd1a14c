"""`data`, `new` and `train`: from captioned videos to a model."""

import sys
from dataclasses import asdict
from typing import Annotated, Literal

import tyro

from wan_jax.cli.options import Switch, flag, parse_number, parse_size, print_result
from wan_jax.errors import WanError


def data(
    action: tyro.conf.Positional[Literal["build"]],
    *,
    src: Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR|world:N …")],
    out: Annotated[str, tyro.conf.arg(metavar="DIR")],
    model: Annotated[str | None, flag("DIR|HUB_ID|NAME", "none: frames are kept")] = None,
    text: Annotated[bool, tyro.conf.arg(help_behavior_hint="(default: kept)")] = True,
    units: Annotated[str | None, flag("all|TASK[,TASK…]", "none")] = None,
    fps: Annotated[float | None, flag("F", "16")] = None,
    area: Annotated[str | None, flag("WxH", "832x480")] = None,
    size: Annotated[str | None, flag("WxH[,WxH…]", "those of --area")] = None,
    frames: Annotated[str | None, flag("N[,N…]", "81")] = None,
    validation: Annotated[str | None, flag("N|SHARE", "0.01")] = None,
    shard_mib: Annotated[int, tyro.conf.arg(metavar="MIB")] = 256,
    restart: Switch = False,
    json: Switch = False,
):
    """Makes a dataset for training from videos with captions, or goes on with one.

    The folder may hold a metadata.csv, .json or .jsonl with video and prompt, or a .txt beside each video.

    python -m wan_jax data build --src clips --out data/latents --model models/t2v_a14b --frames 81,49,17

    python -m wan_jax data build --src clips --out data/frames; python -m wan_jax data build --src data/frames …

    python -m wan_jax data build --src world:8000 --out data/world --size 128x128 --frames 33

    Args:
        action: build.
        src: a folder of videos; a dataset of frames, which is encoded without decoding videos again; or world:N, N
            clips of the little world that are rendered (world:N:SEED for others).  Several are mixed.
        out: the dataset's folder; may be a bucket.
        model: encode with this one: a checkpoint folder, a hub id, or a name from configs/.
        text: keep umT5 states of the captions; needless where the text encoder is trained too.
        units: keep with each clip what the model is shown of it, by a task drawn at random: for image-to-video models
            first (a first frame) or ends (and a last one), for VACE models these and more (wan_jax/data/units.py).
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
    from wan_jax.data.sources import open_sources

    source = open_sources(
        src,
        fps=fps,
        area=parse_size(area, "--area") if area else None,
        sizes=[parse_size(part) for part in size.split(",")] if size else None,
        lengths=[parse_number(part, "--frames", int) for part in frames.split(",")] if frames else None,
        validation=parse_number(validation, "--validation") if validation else None,
    )
    if shard_mib < 1:
        raise WanError(f"--shard-mib {shard_mib}: a shard takes 1 MiB at least")
    join_cluster()
    config = build(source, _contents(model, text, units), out, shard_mib << 20, restart)
    if not is_leader():
        return
    skipped = config["skipped"]
    if skipped:
        print(f"skipped {len(skipped)} clips: {summary(skipped)}; see {out}/wan_jax.json", file=sys.stderr)
    print_result({"out": out} | config, f"{table(config)}\n{out}: {config['contents']}", json)


def _contents(model: str | None, text: bool, units: str | None):
    from wan_jax.data.contents import Frames, Latents

    if model is not None:
        return Latents(model, text, units)
    if units:
        raise WanError("--units is about latents: name the model whose autoencoder makes them with --model")
    return Frames()


def train(
    changes: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    config: Annotated[str, tyro.conf.arg(metavar="FILE|NAME")],
    run: Annotated[str | None, flag("NAME", "all, in order")] = None,
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
        print_result({"runs": [asdict(result) for result in results]}, "\n".join(lines), json)
    if not results[-1].finished:
        sys.exit(stopped_status)


def new(
    *,
    recipe: Annotated[str, tyro.conf.arg(metavar="FILE|NAME")],
    out: Annotated[str, tyro.conf.arg(metavar="DIR")],
    vae: Annotated[str | None, flag("DIR|HUB_ID|NAME", "random")] = None,
    tokenizer: Annotated[str, tyro.conf.arg(metavar="bytes|world|DIR")] = "bytes",
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    json: Switch = False,
):
    """Writes a model with random weights, to train all of it from scratch.

    python -m wan_jax new --recipe train_wan_mini --vae wan_mini --tokenizer world --out models/mini_start

    Args:
        recipe: the model of this recipe's first run, or a name from configs/.
        out: the model's folder; may be a bucket.
        vae: take the autoencoder of this model, or of a folder that holds nothing else.
        tokenizer: an id for each byte, the words of the little world, or a folder with a tokenizer.json.
        seed: of the random weights.
        json: print the result as JSON.
    """
    from wan_jax.config import get_config, model_names
    from wan_jax.train.recipes import load_recipe
    from wan_jax.train.start import write_start

    model = get_config(recipe) if recipe in model_names() else load_recipe(recipe)[0].model
    config = write_start(model, out, vae, tokenizer, seed)
    print_result({"out": out, "model": config.name, "vae": vae, "tokenizer": tokenizer, "seed": seed}, out, json)
