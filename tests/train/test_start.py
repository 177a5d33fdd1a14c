"""A model that is trained whole: written with random weights around an autoencoder that is there already."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import tiny
from wan_jax import checkpoint, cli
from wan_jax.config import get_config
from wan_jax.errors import WanError
from wan_jax.models import abstract_params, wan_vae
from wan_jax.pipelines.loading import open_model
from wan_jax.train.loop import train
from wan_jax.train.start import write_start

STATISTICS = (0.25,) * 16


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A folder with nothing but an autoencoder, whose latents have statistics of their own."""
    folder = tmp_path_factory.mktemp("models") / "vae"
    config = dataclasses.replace(get_config("untrained").vae, latents_mean=STATISTICS)
    params = wan_vae.initial_params(config, jax.random.key(7))
    checkpoint.write_component(folder / "vae", config, params)
    return folder, params


def test_the_autoencoder_goes_from_model_to_model(vae, tmp_path, capsys):
    folder, params = vae
    start = tmp_path / "runs/models/start"
    options = ["--vae", str(folder), "--tokenizer", "world", "--out", str(start), "--json"]
    cli.main(["new", "--recipe", "untrained", *options])
    assert json.loads(capsys.readouterr().out)["model"] == "untrained"
    model = open_model(str(start), np.dtype("float32"))
    model.verify()
    assert model.config.vae.latents_mean == STATISTICS
    assert len(model.tokenizer()(["a red ball"])[0][0].nonzero()[0]) == 4  # three words and an end

    tiny.write_dataset(tmp_path / "data", text=False)
    # The recipe's model has other statistics: those of the base count.
    result = train(tiny.run(tmp_path, base="start", steps=1, validate_every=0))
    done = checkpoint.read_model(result.output) if checkpoint.is_checkpoint(result.output) else None
    assert done is not None and done.vae.latents_mean == STATISTICS
    copied = checkpoint.restore(f"{result.output}/vae", abstract_params(done.vae, jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, copied, params)


def test_bad_starts_are_refused(tmp_path):
    config = get_config("untrained")
    with pytest.raises(WanError, match="no nothing/tokenizer"):
        write_start(config, tmp_path / "start", tokenizer="nothing")
    with pytest.raises(WanError, match="nowhere"):
        write_start(config, tmp_path / "start", vae="nowhere/at/all")
    assert not (tmp_path / "start").exists()
    write_start(config, tmp_path / "start")
    with pytest.raises(WanError, match="is a model already"):
        write_start(config, tmp_path / "start")
