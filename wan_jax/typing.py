"""Array annotations, checked when a function is called or traced.

    @typechecked
    def patchify(latents: Float["b f h w c"]) -> Float["b n d"]: ...

Letters: b batch, f frames, h height, w width, c channels, n video tokens, l layers, s text tokens, k heads,
d features, r distinct timesteps.  `*b` stands for any number of leading axes and `...` for any axes at all; a single
axis is written with a space, " n", or linters take it for a forward reference.
"""

import jax
import jaxtyping
import numpy as np
from beartype import beartype


class _Annotation:
    def __init__(self, kind):
        self._kind = kind

    def __getitem__(self, axes: str):
        return self._kind[jax.Array | np.ndarray, axes]


Bool = _Annotation(jaxtyping.Bool)
Float = _Annotation(jaxtyping.Float)
Int = _Annotation(jaxtyping.Integer)
Num = _Annotation(jaxtyping.Num)
UInt8 = _Annotation(jaxtyping.UInt8)

Params = dict  # a tree of arrays, as flax makes it

typechecked = jaxtyping.jaxtyped(typechecker=beartype)
