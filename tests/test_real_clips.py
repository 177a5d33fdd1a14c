import hashlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.real_clips import cut, fetch, sources
from benchmarks.real_clips.archives import read_members
from wan_jax.errors import WanError
from wan_jax.video_io import read_video

ROOT = Path(__file__).parents[1]


def test_table_is_complete_and_free():
    listed = sources.members()
    assert {m.package for m in listed} == {p.name for p in sources.PACKAGES}
    assert all(m.author and m.origin.startswith("https://") for m in listed)
    assert {m.licence for m in listed} <= {*sources.LICENCES, sources.PUBLIC_DOMAIN}
    assert len({(m.package, m.path) for m in listed}) == len(listed) == len({m.id for m in listed})
    assert sum(m.is_picture for m in listed) >= 150
    for kind in (True, False):
        assert {m.held_out for m in listed if m.is_picture == kind} == {True, False}


def test_notice_agrees():
    assert (ROOT / "NOTICE").read_text(encoding="utf-8") == sources.notice()


def test_names_tell_data_build_the_part():
    names = [fetch.name(i, i >= 20) for i in range(30)]
    by_digest = sorted(names, key=lambda n: hashlib.sha256(n.encode()).digest())  # as VideoFolder holds out
    assert set(by_digest[:10]) == set(names[20:])


def test_shots_and_pieces():
    rng = np.random.default_rng(0)
    frames = np.repeat(rng.integers(0, 120, (1, 40, 60, 3), np.uint8), 24, 0)
    frames[9:] += 100
    assert cut.shots(frames) == [(0, 9), (9, 24)]
    one, two = (cut.piece(frames, cut.shots(frames), 30, 9, 32, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert one.shape == (9, 32, 32, 3) and np.ptp(one.astype(int), 0).max() == 0  # never over the cut
    assert cut.piece(frames, cut.shots(frames), 30, 17, 32, rng) is None


def test_written_clip_is_nearly_the_same_and_always_the_same(tmp_path):
    smooth = np.linspace(0, 250, 64 * 64 * 3).reshape(1, 64, 64, 3).repeat(5, 0).astype(np.uint8)
    for name in ("a.mkv", "b.mkv"):
        fetch.write_clip(tmp_path / name, smooth)
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()
    again = np.stack(list(read_video(tmp_path / "a.mkv"))).astype(float)
    assert 10 * np.log10(255**2 / np.square(again - smooth).mean()) > 40


def test_pan_moves_by_less_than_a_pixel():
    """On a ramp the grey level is the place: it must move evenly, and not in whole pixels."""
    ramp = np.repeat(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 200, 0), 3, 2)
    clip = cut.pan(ramp, 17, 64, np.random.default_rng(1)).astype(float)
    place = clip[:, 16:48, 16:48].mean((1, 2, 3))
    steps = np.diff(place)
    assert 0.05 < np.abs(steps.mean()) < 3 and steps.std() < 0.15


def test_damaged_package(tmp_path):
    (tmp_path / "a.deb").write_bytes(b"nothing")
    with pytest.raises(WanError, match=r"a\.deb cannot be read: no Debian package"):
        read_members(tmp_path / "a.deb", ["usr/x.jpg"])
