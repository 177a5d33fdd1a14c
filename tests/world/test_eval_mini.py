"""The command that measures a model of the little world."""

import json

import numpy as np
import pytest
from PIL import Image

from wan_jax import cli
from wan_jax.pipelines import eval_mini
from wan_jax.world.look import MEASURED
from wan_jax.world.render import render
from wan_jax.world.scene import stage
from wan_jax.world.words import is_held_out


def test_prompts_are_held_out_and_of_one_language():
    for language in eval_mini.LANGUAGES:
        prompts = eval_mini.held_out_prompts(30, language)
        assert prompts == eval_mini.held_out_prompts(30, language) != eval_mini.held_out_prompts(30, language, seed=1)
        for text, truth in prompts:
            assert is_held_out(truth.colour, truth.shape, truth.motion) and text.isascii() == (language == "english")


def test_a_perfect_model_is_always_right(tmp_path, monkeypatch, capsys):
    """One that draws what it is told, to the wrong text when experts are swapped."""
    asked = dict(chain for language in eval_mini.LANGUAGES for chain in eval_mini.held_out_prompts(6, language))

    def draws(pipe, texts, batch, seed, options):
        assert options == {"num_inference_steps": 3, "guidance_scale": None}
        texts = texts if pipe.weights["transformer"] is not pipe.weights["transformer_2"] else texts[::-1]
        clips = (render(stage(asked[text], np.random.default_rng(seed), 33)) for text in texts)
        return [np.asarray(clip, np.float32) / 255 for clip in clips]

    monkeypatch.setattr(eval_mini, "_generate", draws)
    command = ["eval-mini", "--model", "untrained", "--prompts", "6", "--steps", "3", "--json"]
    cli.main([*command, "--out", str(tmp_path / "new" / "out")])
    report = json.loads(capsys.readouterr().out)
    for language in eval_mini.LANGUAGES:
        assert report["right"][language]["all"] == 1 and set(report["right"][language]) == {*MEASURED, "all"}
        assert report["shuffled"][language]["all"] < 0.8
    assert len(report["each"]) == 12 and json.loads((tmp_path / "new/out/mini.json").read_text()) == report
    assert Image.open(tmp_path / "new/out/contact_sheet.png").size == (2 * 474, 6 * 68)
    cli.main([*command, "--experts", "high", "--language", "english"])
    assert json.loads(capsys.readouterr().out)["right"]["english"]["all"] < 0.8


def test_a_model_without_training_is_measured(tmp_path, capsys):
    command = ["eval-mini", "--model", "untrained", "--prompts", "1", "--steps", "1", "--batch", "2", "--language"]
    cli.main([*command, "chinese", "--experts", "swapped"])
    assert "shape" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--model is missing"),
        (["--model", "untrained", "--prompts", "0"], "must be at least 1"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_bad_input(arguments, message, capsys):
    with pytest.raises(SystemExit):
        cli.main(["eval-mini", *arguments])
    error = capsys.readouterr().err.strip()
    assert message in error and "Traceback" not in error
