"""What the transformer is shown of latents whose first frame is given."""

import numpy as np

from wan_jax.diffusion.inputs import network_inputs


def test_given_frames_are_clean_at_timestep_0():
    """Whatever is in the noisy latents there: training hands them over noised throughout."""
    rng = np.random.default_rng(0)
    noisy, clean = rng.standard_normal((2, 3, 4, 6, 16)), rng.standard_normal((1, 1, 4, 6, 16))
    noisy, clean = noisy.astype(np.float32), clean.astype(np.float32)
    seen, timestep, row = network_inputs(noisy, np.float32([900, 300]), clean, None)
    np.testing.assert_array_equal(seen[:, :1], np.concatenate([clean, clean]))
    np.testing.assert_array_equal(seen[:, 1:], noisy[:, 1:])
    np.testing.assert_array_equal(timestep, [[0, 900], [0, 300]])
    np.testing.assert_array_equal(row, [0] * 6 + [1] * 12)
    seen, timestep, _ = network_inputs(noisy, np.float32([900, 300]), clean, None, np.array([False, True]))
    np.testing.assert_array_equal(seen[:, :1], np.concatenate([noisy[:1, :1], clean]))
    np.testing.assert_array_equal(timestep, [[900, 900], [0, 300]])
