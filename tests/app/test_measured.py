"""What the tabs of the autoencoder and of the planner show."""

import time

import numpy as np
import pytest

from wan_jax.app import autoencoding, markup, planning
from wan_jax.app.explorer import Explorer
from wan_jax.errors import WanError
from wan_jax.video_io import export_to_video, read_video


@pytest.fixture(scope="module")
def explorer(tmp_path_factory) -> Explorer:
    return Explorer.open("untrained", tmp_path_factory.mktemp("videos"))


def test_reconstruction(explorer, tmp_path):
    """A clip that is too long and too large: its beginning, smaller."""
    frames = np.random.default_rng(0).integers(0, 255, (13, 64, 96, 3), np.uint8)
    path, shown = export_to_video(frames, tmp_path / "clip.mp4"), []
    found = autoencoding.reconstruct(explorer, str(path), 7, 48, lambda said, done: shown.append((said, done)))
    assert (found.frames, found.height, found.width) == (7, 32, 48)
    video = read_video(found.path)
    assert (video.height, video.width, len(list(video))) == (32, 48, 7)
    assert [said for said, _ in shown] == ["Loading the autoencoder"] + ["Encoding"] * 3 + ["Decoding"] * 3
    assert [done for _, done in shown] == sorted(done for _, done in shown) and shown[-1][1] == 1
    channels = explorer.config.vae.z_dim
    assert found.strip.shape == (channels * 5, 3 * 7)
    numbers = 3 * 4 * 6 * channels, 7 * 32 * 48 * 3
    assert found.facts["fewer numbers: {:,} for {:,}".format(*numbers)] == f"{numbers[1] / numbers[0]:.0f}×"


def test_memory_is_level_with_the_cache_and_rises_without(explorer, monkeypatch):
    monkeypatch.setattr(autoencoding, "LENGTHS", (5, 33))
    cached, at_once = autoencoding.decoding_memory(explorer, 32, lambda said, done: None).values()
    assert len({mib for _, mib in cached}) == 1
    rising = [mib for _, mib in at_once]
    assert rising == sorted(rising) and rising[-1] > 2 * rising[0]


def test_planner_says_what_is_wrong():
    with pytest.raises(WanError, match=r"^topology 'v9:1x1': the chip must be one of"):
        planning.plan(["--topology", "v9:1x1"], lambda said: None)


def test_planner_ends_when_nobody_waits(monkeypatch):
    monkeypatch.setattr(planning, "_LOOK_S", 0.01)  # before the planner can have looked for its compiler

    def stop(said: str):
        raise InterruptedError

    started = time.monotonic()
    with pytest.raises(InterruptedError):
        planning.plan(["--topology", "v6e:2x4"], stop)
    assert time.monotonic() - started < 5


def test_bars_and_lines():
    bars = markup.bars({"denoise": [1.0, 2.0, 5.0]}, ("a", "b", "c"), "GiB", 16.0, "limit <16>")
    assert "8.00 GiB" in bars and "left:96.15%" in bars and "limit &lt;16&gt;" in bars
    lines = markup.lines({"one": [(5, 10.0), (9, 20.0)], "two": [(5, 10.0), (9, 10.0)]}, "frames", "MiB")
    assert lines.count("<polyline") == 2 and ">20<" in lines
