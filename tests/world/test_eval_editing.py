"""The command that measures what a model of the little world keeps and paints anew."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from tests.pipelines.test_vace import MODEL
from wan_jax import cli
from wan_jax.pipelines.eval_editing import around_objects, changes_at, table
from wan_jax.train.start import write_start
from wan_jax.world.render import render
from wan_jax.world.scene import stage
from wan_jax.world.words import draw_truth


def test_masks_cover_the_objects_and_little_else():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scene = stage(draw_truth(rng), rng, 5)
        bare = scene.replace(radii=np.zeros_like(scene.radii))
        shown = (np.asarray(render(scene)) != np.asarray(render(bare))).any(-1)
        mask = around_objects(scene, 128)
        assert shown.any() and not (shown & ~mask).any()
        assert mask.mean() < 8 * shown.mean() + 0.01


def test_changes_at_seams():
    """Of even motion nothing is seen, of a jump its place."""
    even = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None, None], (60, 8, 8, 3))
    seams = np.array([20, 40])
    np.testing.assert_array_equal(changes_at(even, seams, 6), 1)
    for place in range(6):  # from the one before the fade to the one behind it
        jumps = 50 * (np.arange(60)[:, None] >= seams + place).sum(1)
        found = changes_at(even + jumps.astype(np.uint8)[:, None, None, None], seams, 6)
        np.testing.assert_array_equal(found, [1 + 50 * (np.arange(6) == place)] * 2)  # at both seams


def test_a_model_without_training_is_measured(tmp_path, capsys):
    small = dataclasses.replace(MODEL.sampling, height=32, width=32, num_frames=13)
    folder = tmp_path / "model"
    write_start(dataclasses.replace(MODEL, sampling=small), folder)
    cli.main(f"eval-mini --model {folder} --tasks --prompts 1 --steps 1 --out {tmp_path}/out --json".split())
    report = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "tasks.json").read_text()) == report
    assert Image.open(tmp_path / "out" / "tasks.png").width == 12 * 64
    assert 0 < report["inpaint"]["psnr"] < 30 and report["inpaint"]["changed"] > 0.05
    assert 0 < report["first frame"]["psnr"] < 30 and set(report["inpaint"]["right"]) <= set(
        report["first frame"]["right"]
    ) | {"size", "speed"}
    assert report["extend"]["worst seam"] >= report["extend"]["greatest seam"] >= report["extend"]["seam"] > 0
    assert "first frame  psnr" in table(report)
    with pytest.raises(SystemExit):
        cli.main(["eval-mini", "--model", "untrained", "--tasks"])
    assert "untrained takes no frames and masks" in capsys.readouterr().err
