"""`python -m wan_jax`, killed in the middle: `python killed.py N ARGS…` dies the N-th time that it would write."""

import itertools
import os
import sys

from wan_jax import cli
from wan_jax.pipelines.latents_file import LatentsWriter
from wan_jax.pipelines.segments import SegmentedVideo

calls = itertools.count(1)


def deadly(append):
    def append_or_die(*args):
        if next(calls) == int(sys.argv[1]):
            os._exit(9)
        append(*args)

    return append_or_die


LatentsWriter.append = deadly(LatentsWriter.append)
SegmentedVideo.append = deadly(SegmentedVideo.append)
cli.main(sys.argv[2:])
