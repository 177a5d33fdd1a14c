"""Condition units in a dataset: those that the pipeline would make, and what a step makes of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from tests.compare import relative_error
from wan_jax import sharding
from wan_jax.conditioning import text_image_to_video, text_to_video
from wan_jax.config import get_config
from wan_jax.data.buckets import Bucket
from wan_jax.data.build import build
from wan_jax.data.contents import Latents, Record
from wan_jax.data.loader import Batch, Dataset, batches
from wan_jax.data.sources import open_source
from wan_jax.data.units import SHARES, StoredUnit, draw_canvas, moving_box, units_of
from wan_jax.errors import WanError
from wan_jax.models import dit
from wan_jax.pipelines import pictures
from wan_jax.pipelines.wan import WanPipeline
from wan_jax.train.config import TrainConfig
from wan_jax.train.expert_task import clips_of
from wan_jax.train.loop import train
from wan_jax.train.models import starting_weights
from wan_jax.train.start import write_start
from wan_jax.train.state import join
from wan_jax.train.step import loss
from wan_jax.vcu import Grey, encoding_grey_once

UNTRAINED = get_config("untrained")
MODEL = dataclasses.replace(
    UNTRAINED, transformer=dataclasses.replace(UNTRAINED.transformer, vace_layers=(1,)), boundary_ratio=None
)
I2V = dataclasses.replace(
    UNTRAINED,
    name="i2v",
    transformer=dataclasses.replace(UNTRAINED.transformer, in_channels=36),
    boundary_ratio=None,
)
TI2V = dataclasses.replace(
    UNTRAINED,
    name="ti2v",
    transformer=dataclasses.replace(UNTRAINED.transformer, in_channels=48, out_channels=48),
    vae=dataclasses.replace(get_config("wan22_ti2v_5b").vae, base_dim=8, decoder_base_dim=8, num_res_blocks=1),
    boundary_ratio=None,
    expand_timesteps=True,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Eight clips of the world, with units."""
    return built(tmp_path_factory.mktemp("units") / "data", "untrained", "all")


def built(folder, model, units, side=32):
    source = open_source("world:8", sizes=[(side, side)], lengths=[9], validation=0)
    build(source, Latents(str(model), text=True, units=units), epath.Path(folder))
    return source, Dataset(folder)


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    """A whole image-to-video model, with random weights."""
    folder = tmp_path_factory.mktemp("models") / "i2v"
    write_start(I2V, folder)
    return folder


def test_a_unit_is_the_pipelines_own(dataset):
    source, stored = dataset
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32")
    batch = next(batches(stored, batch=8, seed=0))
    shown = np.asarray(units_of(UNTRAINED).conditions(batch.unit)["context"].frames)
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
    kept, anew = (Latents("untrained", text=False, units="all") for _ in range(2))
    anew._encode = anew._encode_clip
    encoded, encode = [], kept._encode_clip
    kept._encode = encoding_grey_once(lambda pieces, *a, **size: encoded.append(pieces) or encode(pieces, *a, **size))
    for i in range(4):
        record = source.read("train_32x32x9", i)
        jax.tree.map(np.testing.assert_array_equal, kept.of(record), anew.of(record))
    assert sum(isinstance(pieces, Grey) for pieces in encoded) == 1


def _canvas_of(record):
    import hashlib

    rng = np.random.default_rng(list(hashlib.sha256(record.id.encode()).digest()))
    return draw_canvas(tuple(SHARES), record.frames, 4, rng)


def _blocks(mask):
    return mask.reshape(4, 8, 4, 8).swapaxes(1, 2)


def test_an_image_unit_is_the_pipelines_own(image_model, tmp_path):
    """The channels that a clip's first frame makes, or its first and last; both tasks come up, or the one asked for."""
    pipe = WanPipeline.from_pretrained(image_model, dtype="float32")
    source, stored = built(tmp_path / "data", image_model, "all")
    batch = next(batches(stored, batch=8, seed=0))
    shown = np.asarray(units_of(I2V).conditions(batch.unit)["channels"])
    clips = [source.read("train_32x32x9", int(id.rpartition("-")[2])) for id in batch.ids]
    tasks = [channels_of(pipe, clip, x) for clip, x in zip(clips, shown)]
    assert set(tasks) == {"first", "ends"}
    only = Latents(str(image_model), text=False, units="ends").of(clips[tasks.index("first")])
    (ends,) = units_of(I2V).conditions(StoredUnit(only["unit"][None], only["unit_mask"][None]))["channels"]
    assert channels_of(pipe, clips[tasks.index("first")], np.asarray(ends)) == "ends"


def channels_of(pipe, clip, shown) -> str:
    """Which task has these channels in the pipeline; its masks and latents are checked."""
    task = "ends" if shown[..., :4].any(axis=(1, 2))[-1, 3] else "first"
    given = pictures.Pictures(clip.frames[0], clip.frames[-1] if task == "ends" else None)
    (expected,) = given.conditions(pipe.config, (9, 32, 32), pipe._encode, None)["channels"]
    np.testing.assert_array_equal(shown[..., :4], expected[..., :4])
    assert relative_error(shown[..., 4:], expected[..., 4:]) < 1e-3  # float16
    return task


@pytest.mark.parametrize(
    "model, units, side, condition",
    [(I2V, "first", 32, text_to_video), (TI2V, None, 64, text_image_to_video)],
    ids=["i2v", "ti2v"],
)
def test_from_clips_to_a_video(tmp_path, model, units, side, condition):
    """A dataset, two steps, and a video from a picture by what came of them."""
    write_start(model, tmp_path / "start")
    _, stored = built(tmp_path / "data", tmp_path / "start", units, side)
    settings = dict(steps=2, batch=4, dtype="float32", ema=None, validate_every=0, condition=condition)
    places = dict(data=str(stored.folder), out=str(tmp_path / "runs"), base=str(tmp_path / "start"))
    run = TrainConfig(
        name="run", model=dataclasses.replace(model, name="trained"), init=places["base"], **places | settings
    )
    run.check()
    assert train(run).finished
    pipe = WanPipeline.from_pretrained(tmp_path / "runs" / "models" / "trained", dtype="float32")
    picture = np.zeros((side, side, 3), np.uint8)
    frames = pipe("a ball", image=picture, num_frames=5, num_inference_steps=2, height=side, width=side).frames
    assert frames[0].shape == (5, side, side, 3) and np.isfinite(frames[0]).all()


@pytest.mark.parametrize(
    "model, units, message",
    [
        (I2V, None, "holds no units, which i2v needs: build it with --units all"),
        (MODEL, None, "holds no units, which untrained needs"),
        (I2V, "context", "holds units of another kind of model: build it with i2v"),
        (MODEL, "image", "holds units of another kind of model: build it with untrained"),
        (UNTRAINED, "image", "holds units, which untrained does not take: build it without --units"),
    ],
)
def test_units_of_another_model(model, units, message):
    widths = {"image": (16, 1), "context": (32, 8)}
    shape = (1, 3, 4, 4)
    unit = units and StoredUnit(*(np.zeros((*shape, n), np.float32) for n in widths[units]))
    batch = Batch([], np.zeros((*shape, 16), np.float32), np.zeros((1, 512, 32), np.float32), unit)
    with pytest.raises(WanError, match=message):
        clips_of(batch, TrainConfig(name="t", model=model))


def test_impossible_units(image_model, tmp_path):
    """Tasks that the model does not learn, and clips that it does not have."""
    with pytest.raises(WanError, match="--units inside: i2v learns first, ends, or all of them"):
        Latents(str(image_model), text=False, units="first,inside")
    contents = Latents(str(image_model), text=False, units="first")
    with pytest.raises(WanError, match="32x32x1: of one frame there is no unit to make"):
        contents.record_bytes(Bucket(32, 32, 1))
    with pytest.raises(WanError, match="48x32x9: ti2v needs multiples of 32 pixels, such as --size 128x128"):
        write_start(TI2V, tmp_path / "ti2v")
        Latents(str(tmp_path / "ti2v"), text=False).record_bytes(Bucket(48, 32, 9))
    clip = contents.of(Record("x", "", np.zeros((9, 32, 48, 3), np.uint8)))
    assert contents.record_bytes(Bucket(48, 32, 9)) == sum(x.nbytes for x in clip.values())


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
        canvas = draw_canvas(tuple(SHARES), frames, 4, rng)
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
