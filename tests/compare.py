"""How far apart two results are."""

import numpy as np


def relative_error(ours, theirs) -> float:
    """‖a − b‖ / ‖b‖."""
    a, b = (np.asarray(x, np.float64) for x in (ours, theirs))
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
