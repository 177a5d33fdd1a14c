"""The command that measures a model of the little world."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from wan_jax import cli, lora, lora_files
from wan_jax.config import get_config
from wan_jax.lora import LoraConfig
from wan_jax.models.dit import abstract_params
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
        assert options == {"num_inference_steps": 3, "guidance_scale": None, "solver": "euler", "flow_shift": 5}
        texts = texts if pipe.weights["transformer"] is not pipe.weights["transformer_2"] else texts[::-1]
        clips = (render(stage(asked[text], np.random.default_rng(seed), 33)) for text in texts)
        return [np.asarray(clip, np.float32) / 255 for clip in clips]

    monkeypatch.setattr(eval_mini, "_generate", draws)
    command = ["eval-mini", "--model", "untrained", "--prompts", "6", "--json"]
    command += ["--steps", "3", "--solver", "euler", "--shift", "5"]
    cli.main([*command, "--out", str(tmp_path / "new" / "out")])
    report = json.loads(capsys.readouterr().out)
    for language in eval_mini.LANGUAGES:
        assert report["right"][language]["all"] == 1 and set(report["right"][language]) == {*MEASURED, "all"}
        assert report["shuffled"][language]["all"] < 0.8
    assert len(report["each"]) == 12 and json.loads((tmp_path / "new/out/mini.json").read_text()) == report
    assert Image.open(tmp_path / "new/out/contact_sheet.png").size == (2 * 474, 6 * 68)
    cli.main([*command, "--experts", "high", "--language", "english"])
    assert json.loads(capsys.readouterr().out)["right"]["english"]["all"] < 0.8


def test_with_updates(tmp_path, monkeypatch, capsys):
    """They are added to the weights, each to its expert's, and told of in the report."""
    monkeypatch.setattr(eval_mini, "_generate", lambda pipe, texts, *_: [np.zeros((33, 128, 128, 3))] * len(texts))
    config, transformer = LoraConfig(rank=1), get_config("untrained").transformer
    update = jax.tree.map(jnp.ones_like, lora.init(config, abstract_params(transformer), jax.random.key(0)))
    file = tmp_path / "lora.safetensors"
    lora_files.save(file, update, config, transformer, {})

    def told(*arguments):
        cli.main(["eval-mini", "--model", "untrained", "--prompts", "1", "--json", *arguments])
        return json.loads(capsys.readouterr().out)

    plain, updated, other = told(), told("--lora", str(file)), told("--lora-2", f"{file}@0.5")
    assert len({report["checkpoint"] for report in (plain, updated, other)}) == 3
    assert plain["updates"] == []
    assert updated["updates"] == [{"path": str(file), "component": "transformer"}]
    assert other["updates"] == [{"path": str(file), "strength": 0.5, "component": "transformer_2"}]


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
