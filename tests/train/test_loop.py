"""Whole runs of a small model: on meshes, of both experts, of low-rank updates, and those that cannot be done."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.compare import relative_error
from tests.train import tiny
from wan_jax import WanPipeline, checkpoint, cli
from wan_jax.data.loader import Dataset, batches
from wan_jax.errors import WanError
from wan_jax.lora import LoraConfig
from wan_jax.models import abstract_params
from wan_jax.sharding import make_mesh
from wan_jax.train import loop
from wan_jax.train.config import Optimizer
from wan_jax.train.expert_task import clips_of
from wan_jax.train.journal import read_journal
from wan_jax.train.models import starting_weights
from wan_jax.train.state import average, new_state
from wan_jax.train.step import Clips, loss, train_step

VIDEO = dict(height=32, width=32, num_frames=5, num_inference_steps=4, output_type="latent")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    tiny.write_dataset(folder / "data", shape=(2, 6, 10, 16))  # 30 tokens, which neither 4 nor 8 divide
    tiny.write_dataset(folder / "no_text", text=False)
    return folder


def exported(folder, component, model="tiny"):
    path = folder / "runs/models" / model / component
    return flatten_dict(checkpoint.restore(path, abstract_params(tiny.MODEL.transformer, jnp.float32)), sep="/")


def generate(model, **options):
    pipe = WanPipeline.from_pretrained(str(model), dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---- Meshes ----


def on_mesh(folder, tmp_path, monkeypatch, **axes):
    """Twenty steps from weights of std 0.2, where every path matters, in parts of four clips."""
    count = int(np.prod(list(axes.values())))
    mesh = make_mesh(**axes, devices=jax.devices("cpu")[:count])
    monkeypatch.setattr(loop, "train_mesh", lambda config: mesh)
    config = tiny.run(folder, out=str(tmp_path / "runs"), init="untrained", steps=20, accumulate=2, validate_every=20)
    loop.train(config)
    told = [entry for entry in read_journal(tmp_path / "runs/high") if {"train/loss", "validation/loss"} & entry.keys()]
    losses = [entry.get("train/loss", entry.get("validation/loss")) for entry in told]
    return losses, exported(tmp_path, "transformer")


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return on_mesh(folder, tmp_path_factory.mktemp("alone"), monkeypatch, data=1)


@pytest.mark.parametrize("axes", [dict(fsdp=8), dict(context=8), dict(data=2, fsdp=2, context=2)], ids=str)
def test_meshes_agree(folder, tmp_path, monkeypatch, alone, axes):
    losses, params = on_mesh(folder, tmp_path, monkeypatch, **axes)
    assert len(losses) == 22 and losses[-1] < losses[0]
    np.testing.assert_allclose(losses, alone[0], rtol=1e-5)
    for name, value in alone[1].items():
        assert relative_error(params[name], value) <= 1e-5, name


# ---- Recipes ----


RECIPE = """
import pathlib
from dataclasses import replace
from tests.train import tiny

def get_config():
    high = tiny.run(pathlib.Path({folder!r}), steps=4, validate_every=0, out={out!r})
    low = replace(high, name="low", component="transformer_2", init="untrained", steps=3)
    return high, low
"""


def test_both_experts_by_one_command(folder, tmp_path, capsys):
    """The high-noise expert from scratch, the low-noise one from a full-range model; then a video."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(folder=str(folder), out=str(tmp_path / "runs")))
    command = ["train", "--config", str(recipe), "high.steps=5", "low.sample_every=3", "low.sample_prompts=('a cat',)"]
    command += ["low.sample_size=(32,32,5)", "--json"]
    cli.main(command)
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [(run["name"], run["step"], run["finished"]) for run in found] == [("high", 5, True), ("low", 3, True)]
    samples = {path.name for path in (tmp_path / "runs/low/samples").iterdir()}
    assert samples == {"00000000_0.mp4", "00000003_0.mp4"}

    before = checkpoint.read_manifest(loop.epath.Path(found[1]["output"]) / "transformer_2")
    pipe = generate(found[1]["output"])
    assert pipe.config.boundary_ratio == tiny.MODEL.boundary_ratio
    assert np.isfinite(pipe("a cat", **VIDEO).frames).all()
    untrained = generate("untrained")
    moved = jax.tree.map(relative_error, pipe.weights["transformer_2"], untrained.weights["transformer"])
    assert 0 < max(jax.tree.leaves(moved)) < 0.2  # three steps from there
    jax.tree.map(np.testing.assert_array_equal, pipe.weights["vae"], untrained.weights["vae"])

    cli.main(command)  # nothing is left to do
    assert json.loads(capsys.readouterr().out)["runs"] == found
    assert checkpoint.read_manifest(loop.epath.Path(found[1]["output"]) / "transformer_2") == before


def test_text_encoder_is_trained_too(folder, tmp_path):
    """On captions, as tokens; a later run with another encoder's model goes on from both."""
    model = dataclasses.replace(tiny.MODEL, name="base", boundary_ratio=None)
    both = dict(data=str(folder / "no_text"), out=str(tmp_path / "runs"), validate_every=0, save_every=0, steps=4)
    base = tiny.run(folder, name="base", model=model, trainable="(transformer|text_encoder)/.*", **both)
    pipe = generate(loop.train(base).output)
    moved = jax.tree.map(relative_error, pipe.weights["text_encoder"], generate("untrained").weights["text_encoder"])
    assert all(0 < error < 0.2 for error in jax.tree.leaves(moved["blocks"]))

    high = tiny.run(folder, base="base", **both)
    low = dataclasses.replace(high, name="low", component="transformer_2", init="base")
    loop.train(high)
    last = generate(loop.train(low).output)
    jax.tree.map(np.testing.assert_array_equal, last.weights["text_encoder"], pipe.weights["text_encoder"])


def test_low_rank_update(folder, tmp_path):
    """Weights stay as they are; the file, loaded into the pipeline, is the update that was trained."""
    settings = dict(out=str(tmp_path), init="untrained", lora=LoraConfig(rank=2, alpha=4.0), ema=None, steps=6)
    result = loop.train(tiny.run(folder, **settings, optimizer=Optimizer(learning_rate=0.03, warmup_steps=1)))
    assert result.output == str(tmp_path / "high/lora.safetensors") and result.validation_loss is not None
    assert not (tmp_path / "models").exists()
    pipe = generate("untrained")
    before = pipe("a cat", **VIDEO).frames
    pipe = generate("untrained")
    pipe.load_lora_weights(result.output)
    assert relative_error(pipe("a cat", **VIDEO).frames, before) > 1e-3


def test_frozen_parameters(folder, tmp_path):
    """Only what `trainable` names moves, and nothing else is in the checkpoints."""
    chosen = r"transformer/blocks/self_attn/.*"
    loop.train(tiny.run(folder, out=str(tmp_path / "runs"), init="untrained", trainable=chosen, steps=3, ema=None))
    for name, value in flatten_dict(generate("untrained").weights["transformer"], sep="/").items():
        assert np.array_equal(exported(tmp_path, "transformer")[name], value) != name.startswith("blocks/self_attn/")


# ---- Steps ----


def one_step(config, clips, no_caption, state, frozen):
    return jax.jit(partial(train_step, config=config))(state, frozen, clips, no_caption)


def test_parts_of_a_batch_and_the_average(folder):
    """The gradient is the mean over the parts, each with a key of its own; the average follows its formula."""
    config = tiny.run(folder, init="untrained", accumulate=4, optimizer=Optimizer(learning_rate=1e-3, warmup_steps=0))
    mesh = make_mesh(devices=jax.devices("cpu")[:1])
    trained, frozen = starting_weights(config, False, mesh)
    dataset = Dataset(config.data)
    batch = next(batches(dataset, batch=8, seed=0))
    clips, no_caption = clips_of(batch, config), jnp.asarray(dataset.no_text)
    state = new_state(config, trained)
    after, report = one_step(config, clips, no_caption, state, frozen)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 4)
    parts = [Clips(clips.latents[i::4], jax.tree.map(lambda x, i=i: x[i::4], clips.captions)) for i in range(4)]
    losses, gradients = zip(
        *(jax.value_and_grad(loss)(trained, frozen, part, no_caption, key, config) for part, key in zip(parts, keys))
    )
    np.testing.assert_allclose(report.loss, np.mean(losses), rtol=1e-5)
    squares = [np.sum(np.mean(g, axis=0) ** 2) for g in zip(*map(jax.tree.leaves, gradients))]
    np.testing.assert_allclose(report.scalars["grad_norm"], np.sqrt(np.sum(squares)), rtol=1e-5)
    decay = min(config.ema, 1 / 10)  # a young average forgets quickly
    jax.tree.map(
        lambda e, p, q: np.testing.assert_allclose(e, decay * p + (1 - decay) * q, rtol=1e-5, atol=1e-7),
        after.ema,
        trained,
        after.params,
    )
    assert average({"x": 1.0}, {"x": 0.0}, 10**6, 0.99)["x"] == pytest.approx(0.99)


def test_a_gradient_that_is_not_finite(folder, tmp_path):
    """The run stops and names step, parameter and clips; nothing of it is in the checkpoint to go on from."""
    tiny.write_dataset(tmp_path / "data", spoilt=13)
    config = tiny.run(tmp_path, save_every=1, validate_every=0)
    with pytest.raises(WanError, match=r"run high, step 1: the loss is nan and .* of .* gradients are not finite "):
        loop.train(dataclasses.replace(config, batch=24))
    with pytest.raises(
        WanError, match=r"step [23]: .*transformer/.*the last checkpoint is good.*look at the clips.*mp4"
    ):
        loop.train(config)
    steps = [entry["step"] for entry in read_journal(tmp_path / "runs/high")]
    assert steps == list(range(1, max(steps) + 1))


# ---- Mistakes ----


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(model=dataclasses.replace(tiny.MODEL, boundary_ratio=1.2)), "boundary_ratio=1.2 is not between 0 and 1"),
        (dict(model=dataclasses.replace(tiny.MODEL, boundary_ratio=0.0)), "boundary_ratio=0.0 is not between 0 and 1"),
        (dict(data="/nowhere"), "/nowhere is no finished dataset"),
        (dict(trainable="vae/.*"), "trainable='vae/.*' matches no parameter of transformer"),
        (dict(init="/nowhere"), "model '/nowhere': no such folder"),
        (dict(remat="some"), "remat='some' is unknown"),
        (dict(batch=7, accumulate=2), "batch=7 does not divide into accumulate=2 parts"),
        (dict(caption_dropout=2.0), "caption_dropout=2.0 is not a share"),
        (dict(lora=LoraConfig(targets="nothing")), "targets='nothing' matches none"),
        (dict(lora=LoraConfig(), init=None), "high: transformer is needed, and not trained: let init= name a model"),
        (dict(mesh="fsdp=3"), "mesh .*fsdp=3.* needs 3 devices"),
    ],
    ids=str,
)
def test_mistakes(folder, tmp_path, change, message):
    with pytest.raises(WanError, match=message):
        loop.train(tiny.run(folder, **dict(out=str(tmp_path), init="untrained") | change))


def test_latents_of_another_autoencoder(tmp_path):
    tiny.write_dataset(tmp_path / "data", shape=(2, 4, 4, 12))
    with pytest.raises(WanError, match="holds latents of 12 channels, those of tiny have 16"):
        loop.train(tiny.run(tmp_path))


def test_weights_of_another_size(folder, tmp_path):
    transformer = dataclasses.replace(tiny.MODEL.transformer, ffn_dim=96)
    model = dataclasses.replace(tiny.MODEL, transformer=transformer)
    with pytest.raises(WanError, match="does not fit model untrained: ffn_dim=128 instead of 96"):
        loop.train(tiny.run(folder, out=str(tmp_path), model=model, init="untrained"))
