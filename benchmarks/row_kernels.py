"""What the elementwise TPU kernels cost: the table of wan_jax/kernels/costs.py, made without a TPU.

    python -m benchmarks.row_kernels          # a minute; needs libtpu

See `benchmarks.kernel_tiles` for how bundles are counted.
"""

import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import tyro

from benchmarks.kernel_tiles import TOPOLOGIES, prepare, read_bundles, spans, topology_sharding

_WIDTH, _TOKENS, _PIECES = 5120, 1024, 4


def main(generations: tuple[str, ...] = tuple(TOPOLOGIES)):
    for generation in generations:
        # libtpu reads its settings once in a process
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            print(f'"{generation}": {pool.submit(measure, generation).result()}')


def measure(generation: str) -> dict[str, float]:
    """Bundles per 1024 elements of each kernel."""
    with tempfile.TemporaryDirectory() as dump:
        prepare(dump)
        _compile_all(generation)
        return {kind: _bundles(Path(dump), kind) for kind in ("layernorm", "qkrope", "qknorm", "relayout")}


def _compile_all(generation: str):
    import jax
    import jax.numpy as jnp

    from wan_jax.kernels.layer_norm import layer_norm_kernel
    from wan_jax.kernels.qk_norm import qk_norm_kernel
    from wan_jax.kernels.relayout import relayout_kernel

    bfloat16, sharding = jnp.bfloat16, topology_sharding(generation)

    def array(*shape, dtype=jnp.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    residual, row = array(1, _TOKENS, _WIDTH), array(1, 1, _WIDTH)
    projected, inverse, scale = array(1, _TOKENS, _WIDTH, dtype=bfloat16), array(1, _TOKENS, 1), array(_WIDTH)
    angles = array(_TOKENS, 128)
    for kernel, inputs in (
        (partial(layer_norm_kernel, eps=1e-6, dtype=bfloat16), (residual, row, row)),
        (partial(qk_norm_kernel, dtype=bfloat16), (projected, inverse, scale, angles, angles)),
        (partial(qk_norm_kernel, dtype=bfloat16), (projected, inverse, scale)),
        (partial(relayout_kernel, pieces=_PIECES), (projected,)),
    ):
        jax.jit(kernel).lower(*inputs).compile()


def _bundles(dump: Path, kind: str) -> float:
    file = next(file for file in dump.glob(f"*-{kind}_n*[0-9]-final_bundles.txt"))
    rows, width = (int(part[1:]) for part in file.name.split(f"-{kind}_")[1].split("_")[:2])
    step = max(len(span) for span in spans(read_bundles(file)) if span.loops)
    return round(step / (rows * width / 1024), 2)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
