"""Which frames of a video a clip gets, and how they are cut."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from tests.data.made import numbered, numbers, write_timed
from wan_jax.data.buckets import Bucket
from wan_jax.data.videos import cover, measure, read_clip
from wan_jax.errors import WanError
from wan_jax.video_io import export_to_video, frame_times, nearest_frames


def nearest(times: list[Fraction], end: Fraction, fps: Fraction) -> list[int]:
    """By comparing every frame with every tick, in exact arithmetic."""
    ticks = [tick / fps for tick in range(1000) if tick / fps < end]
    return [min(range(len(times)), key=lambda i: (abs(times[i] - tick), i)) for tick in ticks]


@pytest.mark.parametrize("rate, fps", [(24, 16), (30, 16), (60, 24), (16, 16), (8, 16), (25, 12.5), (15, 24)])
def test_constant_rates(rate, fps):
    for count in (1, 2, 17, 40):
        exact = [Fraction(i, rate) for i in range(count)]
        if count > 1:  # the last frame lasts as long as the others; of a single one nobody knows
            expected = nearest(exact, Fraction(count, rate), Fraction(fps))
            assert nearest_frames(np.array(exact, float) + 5.2, fps).tolist() == expected
    assert nearest_frames(np.array([3.0]), fps).tolist() == [0]


def test_well_known_patterns():
    assert nearest_frames(np.arange(12) / 24, 16).tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
    assert nearest_frames(np.arange(8) / 8, 16).tolist() == [i // 2 for i in range(16)]
    assert len(nearest_frames(np.arange(125) * 1001 / 24000, 16)) == 84  # of 5.21 s


def test_variable_rates():
    rng = np.random.default_rng(0)
    for _ in range(30):
        gaps = rng.integers(1, 20, rng.integers(3, 40)) * 10  # ms, so that middles and ticks are 5 ms apart or equal
        times = [Fraction(int(t), 1000) for t in np.cumsum(gaps)]
        shown = [time - times[0] for time in times]
        last = Fraction(float(np.median(np.diff(np.cumsum(gaps))))) / 1000
        expected = nearest(shown, shown[-1] + last, Fraction(8))
        assert nearest_frames(np.array(times, float), 8).tolist() == expected


@pytest.mark.parametrize("name, rate", [("a.mp4", 24), ("a.mp4", 30), ("a.mp4", Fraction(24000, 1001)), ("a.gif", 20)])
def test_files_of_constant_rate(tmp_path, name, rate):
    path = export_to_video(numbered(40), tmp_path / name, fps=float(rate))
    expected = nearest([i / Fraction(rate) for i in range(40)], 40 / Fraction(rate), Fraction(16))
    assert measure(path, 16) == (64, 48, len(expected))
    frames = read_clip(path, 16, Bucket(64, 48, 17))
    assert frames.shape == (17, 48, 64, 3) and numbers(frames) == expected[:17]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_files_of_variable_rate(tmp_path, suffix):
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.integers(20, 120, 30)).tolist()
    write_timed(tmp_path / f"a.{suffix}", times)
    np.testing.assert_allclose(np.diff(frame_times(tmp_path / f"a.{suffix}")), np.diff(times) / 1000, atol=1e-9)
    exact = [Fraction(time - times[0], 1000) for time in times]
    expected = nearest(exact, exact[-1], Fraction(16))
    assert numbers(read_clip(tmp_path / f"a.{suffix}", 16, Bucket(64, 48, 25))) == expected[:25]


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1).astype(np.uint8)


@pytest.mark.parametrize("h, w, height, width, box", [
    (96, 160, 32, 32, (32, 0, 128, 96)),  # sides cut off
    (160, 96, 48, 64, (0, 44, 96, 116)),  # top and bottom
    (24, 32, 48, 64, (0, 0, 32, 24)),  # enlarged
])  # fmt: skip
def test_the_middle_is_kept(h, w, height, width, box):
    frame = picture(h, w)
    expected = Image.fromarray(frame).crop(box).resize((width, height), Image.Resampling.BICUBIC)
    ours = cover(frame, width, height)
    margin = slice(2, -2)  # beyond the edge of a crop, one sees what was cut off and the other does not
    np.testing.assert_allclose(ours[margin, margin], np.asarray(expected)[margin, margin], atol=1)
    assert ours.shape == (height, width, 3)


def test_files_that_are_damaged(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    whole = export_to_video(noise, tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WanError, match=r"cannot read .*a.mp4: cut short: \d+ of 20 frames"):
        measure(tmp_path / "a.mp4", 16)
    write_timed(tmp_path / "a.mkv", list(range(0, 900, 30)))
    with av.open(tmp_path / "a.mkv") as container:
        packets = [packet.pos + packet.size // 2 for packet in container.demux(video=0) if packet.size]
    damaged = bytearray((tmp_path / "a.mkv").read_bytes())
    damaged[packets[0] : packets[-1]] = bytes(packets[-1] - packets[0])
    (tmp_path / "a.mkv").write_bytes(damaged)
    with pytest.raises(WanError, match="cannot read"):
        read_clip(tmp_path / "a.mkv", 16, Bucket(64, 48, 13))


def test_a_title_in_another_encoding(tmp_path):
    path = export_to_video(numbered(5), tmp_path / "a.mp4", metadata={"title": "coffee"})
    path.write_bytes(path.read_bytes().replace(b"coffee", b"caf\xe9\xff\xfe"))
    assert measure(path, 16) == (64, 48, 5)
