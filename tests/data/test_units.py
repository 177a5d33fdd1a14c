"""Condition units in a dataset: those that the pipeline would make, and what a step makes of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.compare import relative_error
from wan_jax import sharding
from wan_jax.config import get_config
from wan_jax.data.build import build
from wan_jax.data.contents import Latents
from wan_jax.data.loader import Dataset, batches
from wan_jax.data.sources import open_source
from wan_jax.data.units import SHARES, draw_canvas, moving_box
from wan_jax.models import dit
from wan_jax.pipelines.wan import WanPipeline
from wan_jax.train.config import TrainConfig
from wan_jax.train.expert_task import clips_of
from wan_jax.train.loop import train
from wan_jax.train.models import starting_weights
from wan_jax.train.state import join
from wan_jax.train.step import loss
from wan_jax.vcu import Grey, StoredUnit

UNTRAINED = get_config("untrained")
MODEL = dataclasses.replace(
    UNTRAINED, transformer=dataclasses.replace(UNTRAINED.transformer, vace_layers=(1,)), boundary_ratio=None
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight clips of the world, with units."""
    folder = tmp_path_factory.mktemp("units") / "data"
    source = open_source("world:8", sizes=[(32, 32)], lengths=[9], validation=0)
    build(source, Latents("untrained", text=True, units=True), epath.Path(folder))
    return source, Dataset(folder)


def test_a_unit_is_the_pipelines_own(dataset):
    source, stored = dataset
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32")
    batch = next(batches(stored, batch=8, seed=0))
    shown = np.asarray(batch.unit.unpack())
    for i, id in enumerate(batch.ids):
        record = source.read("train_32x32x9", int(id.rpartition("-")[2]))
        canvas = _canvas_of(record)
        inactive, reactive = (
            np.asarray(pipe._encode(part, 9, 32, 32))[0] for part in (canvas.inactive(), canvas.reactive())
        )
        assert relative_error(shown[i, ..., :16], inactive) < 1e-3  # float16
        assert relative_error(shown[i, ..., 16:32], reactive) < 1e-3
        np.testing.assert_array_equal(shown[i, ..., 32:].reshape(3, 4, 4, 8, 8)[1], _blocks(canvas.mask[4]))


def test_grey_is_encoded_once(dataset):
    """For all clips of a size, and every unit is what it would be anyway."""
    source, _ = dataset
    kept, anew = (Latents("untrained", text=False, units=True) for _ in range(2))
    anew._encode_part = anew._encode
    encoded, encode = [], kept._encode
    kept._encode = lambda pieces, *size: encoded.append(pieces) or encode(pieces, *size)
    for i in range(4):
        record = source.read("train_32x32x9", i)
        jax.tree.map(np.testing.assert_array_equal, kept.of(record), anew.of(record))
    assert sum(isinstance(pieces, Grey) for pieces in encoded) == 1


def _canvas_of(record):
    import hashlib

    rng = np.random.default_rng(list(hashlib.sha256(record.id.encode()).digest()))
    return draw_canvas(record.frames, 4, rng)


def _blocks(mask):
    return mask.reshape(4, 8, 4, 8).swapaxes(1, 2)


def test_a_step_shows_the_unit(dataset):
    """The loss depends on the units, and not on the latents that a task would have hidden."""
    _, stored = dataset
    config = TrainConfig(name="t", model=MODEL, trainable="transformer/vace/.*", dtype="float32", caption_dropout=0.0)
    clips = clips_of(next(batches(stored, batch=4, seed=0)), config)
    keys = jax.random.split(jax.random.key(0), 100)
    shapes = dit.abstract_params(MODEL.transformer)
    leaves, tree = jax.tree.flatten(shapes)
    params = {"transformer": tree.unflatten(0.2 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves))}
    no_text = jnp.asarray(stored.no_text)

    def value(clips):
        return float(loss(params, {}, clips, no_text, jax.random.key(1), config))

    before = value(clips)
    assert before == value(clips)
    latents, mask = clips.unit
    assert abs(value(clips.replace(unit=StoredUnit(latents[::-1], mask))) - before) > 1e-5 * before
    assert abs(value(clips.replace(unit=StoredUnit(latents, ~mask))) - before) > 1e-5 * before


def test_a_branch_grows(dataset, tmp_path):
    """From a model without one: it is silent at first, learns, and the denoiser stays as it was."""
    _, stored = dataset
    model = dataclasses.replace(MODEL, name="grown")
    config = TrainConfig(
        name="run",
        model=model,
        base="untrained",
        init="untrained",
        trainable="transformer/vace/.*",
        data=str(stored.folder),
        out=str(tmp_path),
        steps=2,
        batch=4,
        dtype="float32",
        ema=None,
        validate_every=0,
    )
    mesh = sharding.as_mesh("fsdp=1", jax.devices()[:1])
    trained, frozen = starting_weights(config, False, mesh)
    first = join(trained, frozen)["transformer"]
    rng = np.random.default_rng(0)
    latents, text = (jnp.asarray(rng.standard_normal(s, np.float32)) for s in ((1, 3, 4, 4, 16), (1, 512, 32)))
    context = dit.Context(jnp.asarray(rng.standard_normal((1, 3, 4, 4, 96), np.float32)), jnp.ones(()))
    network, timestep = dit.DiT(model.transformer, jnp.float32), jnp.full((1, 1), 500.0)

    def velocity(params, context):
        return network.apply({"params": params}, latents, timestep, text, context=context)

    np.testing.assert_array_equal(velocity(first, context), velocity(first, None))
    np.testing.assert_array_equal(
        first["vace"]["blocks"]["ffn_in"]["kernel"][0], first["blocks"]["ffn_in"]["kernel"][1]
    )
    assert train(config).finished
    pipe = WanPipeline.from_pretrained(tmp_path / "models" / "grown", dtype="float32")
    last = pipe.weights["transformer"]
    jax.tree.map(np.testing.assert_array_equal, *({**x, "vace": 0} for x in (first, last)))
    assert relative_error(velocity(last, context), velocity(last, None)) > 0


def test_every_task_is_drawn():
    """Each keeps something or nothing, as it should, and what it keeps is the clip."""
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(9, 32, 32, 3), dtype=np.uint8)
    kept = set()
    for _ in range(200):
        canvas = draw_canvas(frames, 4, rng)
        assert canvas.mask.any()
        np.testing.assert_array_equal(canvas.frames[~canvas.mask], (frames / np.float32(255))[~canvas.mask])
        assert (canvas.frames[canvas.mask] == 0.5).all()
        whole = canvas.mask.all((1, 2)) | ~canvas.mask.any((1, 2))
        kept.add(tuple((~canvas.mask).any((1, 2))) if whole.all() else "in part")
    one = np.eye(9, dtype=bool)
    assert sum(SHARES.values()) == pytest.approx(1)
    assert {tuple(np.zeros(9, bool)), tuple(one[0]), tuple(one[0] | one[8]), "in part"} <= kept
    assert tuple(np.arange(9) < 5) in kept and tuple(np.arange(9) >= 3) in kept


def test_a_box_moves():
    mask = moving_box(9, 32, 48, np.random.default_rng(1))
    centres = np.array([np.argwhere(x).mean(0) for x in mask])
    assert np.ptp(centres, axis=0).max() > 2
    assert np.abs(np.diff(centres, axis=0, n=2)).max() <= 1.5  # evenly, but for rounding
