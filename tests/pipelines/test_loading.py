"""Every way to load a model gives the same model."""

import numpy as np
import pytest

from convert.conversion import convert
from wan_jax import WanError, WanPipeline
from wan_jax.checkpoint import is_checkpoint, read_manifest
from wan_jax.placeholder import folder

SMALL = dict(height=32, width=32, num_frames=5, num_inference_steps=3, output_type="latent")


def latents(model, **options):
    pipe = WanPipeline.from_pretrained(str(model), dtype="float32", **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe("a cat", **SMALL).frames


@pytest.fixture(scope="module")
def expected():
    return latents("untrained")


def test_diffusers_folder(expected):
    np.testing.assert_array_equal(latents(folder()), expected)


def test_converted_folder(expected, tmp_path):
    convert(str(folder()), str(tmp_path / "ours"), dtype="float32", quiet=True)
    np.testing.assert_array_equal(latents(tmp_path / "ours", verify=True), expected)
    settings = WanPipeline.from_pretrained(str(tmp_path / "ours")).config.sampling
    assert settings.num_frames == 33 and settings.guidance_scale_2 == 3.0


def test_converts_once_into_a_cache(expected, tmp_path):
    np.testing.assert_array_equal(latents(folder(), cache_dir=str(tmp_path / "cache")), expected)
    (converted,) = (tmp_path / "cache").iterdir()
    assert is_checkpoint(converted)
    before = {path: path.stat().st_mtime_ns for path in converted.rglob("*")}
    np.testing.assert_array_equal(latents(folder(), cache_dir=str(tmp_path / "cache")), expected)
    assert {path: path.stat().st_mtime_ns for path in converted.rglob("*")} == before


def test_verify_notices_an_altered_manifest(tmp_path):
    convert(str(folder()), str(tmp_path / "ours"), dtype="float32", quiet=True)
    manifest = tmp_path / "ours" / "transformer" / "manifest.json"
    digest = read_manifest(manifest.parent)["head/proj/kernel"]["sha256"][0]
    manifest.write_text(manifest.read_text().replace(digest, "0" * 64))
    WanPipeline.from_pretrained(str(tmp_path / "ours"))
    with pytest.raises(WanError, match="head/proj/kernel differs"):
        WanPipeline.from_pretrained(str(tmp_path / "ours"), verify=True)
