"""The order of the clips, and what arrives on the devices."""

import itertools
import os
import subprocess
import sys
from collections import Counter

import jax
import numpy as np
import pytest

from tests.data.loading import MESHES
from tests.data.made import COUNTS, TEXT_WIDTH, latents_of, states_of, write_dataset
from tests.ports import free_port
from wan_jax import sharding
from wan_jax.data.loader import Batch, Dataset, batches, validation_clips
from wan_jax.errors import WanError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "latents")


@pytest.fixture(scope="module")
def dataset(folder):
    return Dataset(folder)


def ids(dataset: Dataset, batch: int, seed: int = 0, start: int = 0, count: int = 12, **options) -> list[list[str]]:
    stream = batches(dataset, batch=batch, seed=seed, start=start, **options)
    return [found.ids for found in itertools.islice(stream, count)]


def check(batch: Batch):
    """The arrays are those of the ids."""
    for id, latents, text in zip(batch.ids, np.asarray(batch.latents), np.asarray(batch.captions), strict=True):
        split, _, i = id.partition("/")
        np.testing.assert_array_equal(latents, latents_of(split, int(i)).astype(np.float32))
        states = states_of(split, int(i))
        np.testing.assert_array_equal(text, np.pad(states, [(0, 512 - len(states)), (0, 0)]))


def test_batches_hold_what_their_ids_say(dataset):
    for batch in itertools.islice(batches(dataset, batch=3, seed=0), 8):
        assert batch.latents.dtype == batch.captions.dtype == np.float32
        assert len({id.partition("/")[0] for id in batch.ids}) == 1  # of one size
        check(batch)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_from_any_sample_on(dataset, batch):
    whole = ids(dataset, batch)
    for step in range(1, 12):
        assert ids(dataset, batch, start=step * batch, count=12 - step) == whole[step:]
    assert ids(dataset, batch) == whole != ids(dataset, batch, seed=1)


@pytest.mark.parametrize("batch, passes", [(1, 6), (2, 6), (5, 10)])
def test_each_pass_sees_every_clip_once(dataset, batch, passes):
    """Also where a batch reaches from one pass into the next."""
    sizes = {name: count for name, count in COUNTS.items() if name.startswith("train_")}
    stream = ids(dataset, batch, count=passes * sum(sizes.values()) // batch)
    for split, size in sizes.items():
        order = [id for found in stream for id in found if id.startswith(split)]
        shuffles = [tuple(order[i : i + size]) for i in range(0, len(order) - size + 1, size)]
        assert len(shuffles) >= passes - 2
        assert all(sorted(one) == [f"{split}/{i}" for i in range(size)] for one in shuffles)
        assert len(set(shuffles)) > 1
    turns = Counter(found[0].partition("/")[0] for found in stream)
    for split, size in sizes.items():
        assert abs(turns[split] - len(stream) * size / sum(sizes.values())) <= 1
    assert len({found[0].partition("/")[0] for found in stream[:4]}) == 2  # mixed from the start


@pytest.mark.parametrize("mesh", [*MESHES, "data=4,context=2", "fsdp=2,tensor=4", "fsdp=4,context=2"])
def test_the_mesh_changes_nothing(dataset, mesh):
    alone = list(itertools.islice(batches(dataset, batch=4, seed=3), 6))
    with jax.set_mesh(sharding.as_mesh(mesh, jax.devices()[:8])):
        for one, found in zip(alone, batches(dataset, batch=4, seed=3)):
            assert found.ids == one.ids and len(found.latents.sharding.device_set) == 8
            assert found.latents.sharding.spec == sharding.latent_spec(found.latents.shape)
            check(found)


@pytest.mark.parametrize("mesh", MESHES)
def test_the_number_of_processes_changes_nothing(folder, dataset, tmp_path, mesh):
    """Two with four devices each; they hold half of the rows, or all where rows are split between them."""
    port = free_port()
    script = [sys.executable, "-m", "tests.data.loading"]
    running = [
        subprocess.Popen([*script, *map(str, (port, 2, i, 4, mesh, folder, tmp_path / "out"))], env=os.environ)
        for i in range(2)
    ]
    assert [process.wait(600) for process in running] == [0, 0]
    first, second = (np.load(tmp_path / f"out-{i}.npz") for i in range(2))
    for step, one in zip(range(6), batches(dataset, batch=4, seed=3)):
        for name, expected in [("latents", one.latents), ("text", one.captions)]:
            np.testing.assert_array_equal(first[f"{name} {step}"], expected)
            np.testing.assert_array_equal(second[f"{name} {step}"], expected)
        held = [found[f"ids {step}"].tolist() for found in (first, second)]
        assert held == ([one.ids, one.ids] if mesh == "context=8" else [one.ids[:2], one.ids[2:]])


def test_tokens(dataset, tmp_path):
    def tokenizer(texts):
        lengths = np.array([len(text.split()) for text in texts])
        return lengths[:, None].repeat(4, 1), np.arange(4) < lengths[:, None]

    without = Dataset(write_dataset(tmp_path / "without", text=False))
    assert without.no_text is None
    for batch in itertools.islice(batches(without, batch=2, seed=0, tokenizer=tokenizer), 6):
        words, mask = (np.asarray(part) for part in batch.captions)
        assert words[:, 0].tolist() == [int(id.partition("/")[2]) + 1 for id in batch.ids]
        assert mask.dtype == bool and mask.sum(1).tolist() == np.minimum(words[:, 0], 4).tolist()
    with pytest.raises(WanError, match="built with --no-text: train the text encoder too, or build it again"):
        next(batches(without, batch=2, seed=0))


def test_no_text(dataset):
    expected = np.zeros((1, 512, TEXT_WIDTH), np.float32)
    expected[0, 0] = -1
    np.testing.assert_array_equal(dataset.no_text, expected)


@pytest.mark.parametrize("mesh", [None, "data=2,fsdp=2,context=2"])
def test_validation_clips(dataset, mesh):
    with jax.set_mesh(sharding.as_mesh(mesh, jax.devices()[:8] if mesh else None)):
        found = list(validation_clips(dataset, 4, batch=2))
    assert [batch.ids for batch in found] == [
        ["validation_16x32x9/0", "validation_16x32x9/1"],
        ["validation_32x16x5/0", "validation_32x16x5/1"],
    ]
    found += validation_clips(dataset, 99, batch=2)
    assert [len(batch.ids) for batch in found[2:]] == [2, 2, 1]
    for batch in found:
        check(batch)


def test_what_cannot_be_read(dataset, folder, tmp_path):
    with pytest.raises(WanError, match="stopped after 5 samples, which batch=2 does not divide"):
        batches(dataset, batch=2, seed=0, start=5)
    frames = Dataset(write_dataset(tmp_path / "frames", contents="frames"))
    for read_any in (lambda: batches(frames, batch=2, seed=0), lambda: next(validation_clips(frames, 2, batch=2))):
        with pytest.raises(WanError, match=r"frames holds frames; encode them: data build --src .*frames --model"):
            read_any()
    with pytest.raises(WanError, match="is no finished dataset"):
        Dataset(tmp_path)
    (tmp_path / "wan_jax.json").write_text('{"format": 2}')
    with pytest.raises(WanError, match="dataset format 2, this version reads 1; build it again"):
        Dataset(tmp_path)
