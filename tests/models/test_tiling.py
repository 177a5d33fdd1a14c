"""Frames in tiles: what is mixed, and that a tile as large as the frame is the frame."""

import itertools

import numpy as np
import pytest

from tests.compare import relative_error
from tests.models.test_reach import TINY
from tests.models.test_wan_vae import random_params
from wan_jax.errors import WanError
from wan_jax.models import streaming, tiling
from wan_jax.models.tiling import Tiling
from wan_jax.models.wan_vae import WanVAE


@pytest.mark.parametrize("size, side, overlap", [(11, 4, 1), (11, 4, 3), (4, 4, 2), (3, 4, 2), (9, 8, 1)])
def test_cuts_cover_and_weigh_one(size, side, overlap):
    cuts = tiling._cuts(size, side, overlap)
    assert cuts[0].start == 0 and cuts[-1].stop == size
    assert {cut.stop - cut.start for cut in cuts} == {min(side, size)}
    assert all(a.stop - b.start >= overlap for a, b in itertools.pairwise(cuts))
    total = np.zeros(size * 8)
    for cut, weight in zip(cuts, tiling._weights(cuts, 8)):
        assert weight.min() > 0
        total[cut.start * 8 : cut.stop * 8] += weight
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_two_tiles_are_mixed_linearly():
    """Of two tiles that share 4 rows, the first weighs 7/8, 5/8, 3/8 and 1/8 there."""
    first, second = tiling._weights([slice(0, 12), slice(8, 20)], 1)
    np.testing.assert_allclose(first, [1] * 8 + [7 / 8, 5 / 8, 3 / 8, 1 / 8], rtol=1e-6)
    np.testing.assert_allclose(second, first[::-1], rtol=1e-6)


def test_tiles_of_a_stream():
    """Each tile is the stream of its part, and their mixture is what a plain loop over weights makes of them."""
    vae, params = WanVAE(TINY), random_params(TINY)
    video = np.random.default_rng(0).uniform(-1, 1, (1, 9, 24, 16, 3)).astype(np.float32)
    whole = streaming.encode(vae, params, video)
    one = np.concatenate(list(tiling.encode_chunks(vae, params, video, Tiling(32, 8))), axis=1)
    assert relative_error(one, whole) <= 1e-6

    pixels = np.concatenate(list(tiling.decode_chunks(vae, params, np.asarray(whole), Tiling(16, 8))), axis=1)
    top, bottom = (np.asarray(streaming.decode(vae, params, whole[:, :, rows])) for rows in (slice(0, 2), slice(1, 3)))
    np.testing.assert_allclose(pixels[:, :, :8], top[:, :, :8], atol=1e-6)
    np.testing.assert_allclose(pixels[:, :, 16:], bottom[:, :, 8:], atol=1e-6)
    share = ((np.arange(8) + 0.5) / 8)[:, None, None]
    expected = top[:, :, 8:] * (1 - share) + bottom[:, :, :8] * share
    np.testing.assert_allclose(pixels[:, :, 8:16], expected, atol=1e-6)


@pytest.mark.parametrize("side, overlap", [(16, 16), (16, 0), (20, 8), (16, 4)])
def test_tiles_that_cannot_be(side, overlap):
    with pytest.raises(WanError, match=f"tiles of {side} pixels .* {overlap}"):
        list(tiling.encode_chunks(WanVAE(TINY), {}, np.zeros((1, 1, 32, 32, 3)), Tiling(side, overlap)))
