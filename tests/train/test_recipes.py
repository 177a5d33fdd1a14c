"""The recipes in configs/, and changes of them from the command line."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import configs
from tests.train import tiny
from wan_jax import cli
from wan_jax.config import get_config
from wan_jax.errors import WanError
from wan_jax.models import dit
from wan_jax.train.config import TrainConfig
from wan_jax.train.models import network_shapes, split
from wan_jax.train.recipes import load_recipe, override

RECIPES = sorted(path.stem for path in Path(configs.__path__[0]).glob("train_*.py"))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name):
    """Each run makes sense, has a name that no other recipe's run has by accident, and tells its command."""
    runs = load_recipe(name)
    for run in runs:
        run.check()
        if isinstance(run, TrainConfig):
            assert run.base is not None and dit.abstract_params(run.model.transformer)
    assert len({run.name for run in runs}) == len(runs)
    assert f"configs/{name}.py" in Path(configs.__path__[0], f"{name}.py").read_text()


def test_experts():
    """The high-noise expert from scratch on the upper range, the low-noise one from Wan2.1 on the lower."""
    high, low = load_recipe("train_wan22_t2v")
    assert (high.component, high.init, high.noise_range) == ("transformer", None, (0.875, 1.0))
    assert (low.component, low.init, low.noise_range) == ("transformer_2", "wan21_t2v_14b", (0.0, 0.875))


def test_the_context_branch_alone():
    """VACE's recipe: all of its weights and none of the denoiser's."""
    (run,) = load_recipe("train_wan21_vace")
    shapes = network_shapes(run, False)
    trained, frozen = split(run, shapes)
    assert trained == {"transformer": {"vace": shapes["transformer"]["vace"]}}
    assert sum(x.size for x in jax.tree.leaves(trained)) == pytest.approx(0.73e9, rel=0.01)
    assert sum(x.size for x in jax.tree.leaves(frozen)) == pytest.approx(1.42e9, rel=0.01)


def test_what_is_shown():
    """Image to video has 36 channels and needs units; its recipe for both ends is another model; TI2V-5B needs none."""
    for name, model in (("i2v", "wan22_i2v_a14b"), ("flf2v", "wan22_flf2v_a14b")):
        runs = load_recipe(f"train_wan22_{name}")
        assert [run.noise_range for run in runs] == [(0.9, 1.0), (0.0, 0.9)]
        for run in runs:
            assert run.model.name == model and run.needs_units and run.init_component == run.component
            trained, frozen = split(run, network_shapes(run, False))
            assert not frozen and trained[run.component]["patch_embedding"]["kernel"].shape[-2] == 4 * 36
    (run,) = load_recipe("train_wan22_ti2v_5b")
    latents, text = jnp.ones((64, 3, 2, 2, 48)), jnp.ones((64, 1, 8))
    shown = run.condition(latents, text, jax.random.key(0))
    assert shown.clean.shape == (64, 1, 2, 2, 48) and 16 < shown.shown.sum() < 48
    assert run.condition(latents[:, :1], text, jax.random.key(0)).clean is None
    assert not run.needs_units


def test_pictures_through_clip_are_not_trained(tmp_path):
    with pytest.raises(WanError, match="'wan21_flf2v_14b' sees pictures through CLIP, which is not trained here"):
        tiny.run(tmp_path, model=get_config("wan21_flf2v_14b")).check()


def test_changes(tmp_path):
    runs = (tiny.run(tmp_path), tiny.run(tmp_path, name="low", component="transformer_2"))
    changes = [
        "steps=7",
        "low.optimizer.learning_rate=1",
        "mesh='fsdp=2'",
        "high.data=/a=b",
        "sample_prompts=['a','b']",
    ]
    high, low = override(runs, [*changes, "high.ema=None", "model.boundary_ratio=0.9"])
    assert high.steps == low.steps == 7
    assert high.optimizer == runs[0].optimizer and low.optimizer.learning_rate == 1.0
    assert high.mesh == "fsdp=2" and high.data == "/a=b" and low.data == runs[1].data
    assert high.sample_prompts == ("a", "b") and high.ema is None and low.ema == 0.99
    assert high.noise_range == (0.9, 1.0) and low.noise_range == (0.0, 0.9)


@pytest.mark.parametrize(
    "change, message",
    [
        ("steps", "'steps' is not FIELD=VALUE"),
        ("step=3", "step=3: there is no 'step'; there are accumulate, "),
        ("steps=many", "steps=many: steps must be int, not 'many'"),
        ("steps=1.5", "steps must be int, not '1.5'"),
        ("optimizer.rate=1", "there is no 'rate'; there are b1, "),
        ("steps.x=1", "steps=12 has no fields"),
        ("dtype=float64", "dtype must be .*bfloat16.*, not 'float64'"),
    ],
)
def test_impossible_changes(tmp_path, change, message):
    with pytest.raises(WanError, match=message):
        override([tiny.run(tmp_path)], [change])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config", "nowhere.py"], "nowhere.py: no such Python file, and no recipe of ours (train_vae21, "),
        (["--config", "{folder}/empty.py"], "empty.py has no get_config()"),
        (["--config", "train_wan22_t2v", "--run", "middle"], "--run middle: train_wan22_t2v has high, low"),
        (["--config", "train_wan22_t2v", "model.boundary_ratio=2.0"], "boundary_ratio=2.0 is not between 0 and 1"),
        (["--config", "train_wan22_t2v", "data=/nowhere"], "/nowhere is no finished dataset"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(SystemExit) as status:
        cli.main(["train", *(argument.format(folder=tmp_path) for argument in arguments), f"out={tmp_path}/runs"])
    assert status.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "runs").exists()
