"""What the attention kernels cost on TPU, tile by tile, without a TPU: writes wan_jax/attention/tiles.json.

    python -m benchmarks.kernel_tiles                     # ten minutes on two cores; needs libtpu
    python -m benchmarks.kernel_tiles --generations v6e --tiles 2048x3584 --out tiles.json

libtpu compiles the kernel for a chip that is not there and dumps the final VLIW code, in which one bundle is one cycle.
The bundles between a branch and its target are counted, and given a weight by what they hold: the kernel's own branches
are told apart by their order, the rest is the pipeline around it and is counted in full at every grid step, though its
copies mostly wait for the one before and branch past.  Stalls on memory are not modelled.
"""

import datetime
import importlib.metadata
import json
import multiprocessing
import os
import re
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from wan_jax.attention import tiles as table
from wan_jax.plan import topology

TOPOLOGIES = {"v5e": "v5e:1x1", "v5p": "v5p:1x1x1", "v6e": "v6e:1x1"}
_V5 = ("1024x512", "1024x2048", "1024x3584", "1024x4096", "2048x512", "2048x1024", "2048x2048")
_V6 = (
    "1280x3584",
    "1536x512",
    "1536x3584",
    "1664x3584",
    "1920x3584",
    "2048x512",
    "2048x1024",
    "2048x2048",
    "2048x2560",
    "2048x3072",
    "2048x3584",
    "2048x4096",
    "2560x3584",
    "3840x512",
    "4096x512",
)
_TILES = {"v5e": _V5, "v5p": _V5, "v6e": _V6}
_BACKWARD = (768, 1024)  # long sequences get tiles of about 1024 × 1024


def main(generations: tuple[str, ...] = tuple(TOPOLOGIES), tiles: tuple[str, ...] = (), out: Path | None = None):
    out = out or Path(table.__file__).with_name("tiles.json")
    measured, backward = {}, {}
    for generation in generations:
        # libtpu reads its settings once in a process
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            measured[generation] = pool.submit(measure, generation, tiles or _TILES[generation]).result()
            backward[generation] = pool.submit(measure_backward, generation).result()
    result = {
        "unit": "VLIW bundles of the final schedule (one is one cycle of a core); heads of 128, bfloat16",
        "made_by": "python -m benchmarks.kernel_tiles",
        "date": datetime.date.today().isoformat(),
        "jax": importlib.metadata.version("jax"),
        "libtpu": importlib.metadata.version("libtpu"),
        "tiles": measured,
        "backward": backward,
    }
    text = json.dumps(result, indent=1)
    out.write_text(re.sub(r"{[^{}]*}", lambda entry: " ".join(entry[0].split()), text) + "\n")  # an entry, a line


def measure(generation: str, tiles: tuple[str, ...]) -> list[dict[str, int]]:
    """The table's entries for one chip."""
    with tempfile.TemporaryDirectory() as dump:
        prepare(dump)
        return [measure_tile(generation, *map(int, tile.split("x")), Path(dump)) for tile in tiles]


def measure_backward(generation: str) -> dict[str, list[dict[str, int]]]:
    """The entries of the gradient's kernels for one chip."""
    with tempfile.TemporaryDirectory() as dump:
        prepare(dump)
        found = [measure_backward_tile(generation, size, Path(dump)) for size in _BACKWARD]
        return {kernel: [entry[kernel] for entry in found] for kernel in ("queries", "keys")}


def prepare(dump: str):
    """Makes libtpu compile for a chip that is not there and dump its schedules; before JAX starts."""
    topology.prepare()
    os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={dump} --xla_jf_dump_llo_text=true"


def topology_sharding(generation: str):
    """Puts arrays on that chip."""
    import jax

    return jax.sharding.SingleDeviceSharding(topology.parse_topology(TOPOLOGIES[generation]).devices[0])


def measure_tile(generation: str, q: int, kv: int, dump: Path) -> dict[str, int]:
    """Compiled for two whole tiles of keys and a rest."""
    import jax

    from wan_jax.attention.flash_forward import flash_forward

    rest = min(512, kv // 2)
    sharding = topology_sharding(generation)
    queries, keys = (
        jax.ShapeDtypeStruct((1, length, 256), "bfloat16", sharding=sharding) for length in (2 * q, 2 * kv + rest)
    )
    kernel = jax.jit(lambda q_, k, v: flash_forward(q_, k, v, 2, blocks=(q, kv)))
    kernel.lower(queries, keys, keys).compile()
    file = next(dump.glob(f"*-flash_q{q}_kv{kv}_*[0-9]-final_bundles.txt"))
    return {"q": q, "kv": kv, "rest_kv": rest} | kernel_parts(read_bundles(file))


def measure_backward_tile(generation: str, size: int, dump: Path) -> dict[str, dict[str, int]]:
    """Both kernels, compiled for two square tiles along each axis."""
    import jax

    from wan_jax.attention.flash_backward import flash_backward

    sharding = topology_sharding(generation)
    array = lambda *shape, dtype="bfloat16": jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)  # noqa: E731
    tokens, rows = array(1, 2 * size, 256), array(1, 2, 2 * size, dtype="float32")
    arguments = tokens, tokens, tokens, tokens, rows, tokens, rows, array(dtype="int32")
    jax.jit(flash_backward).lower(*arguments).compile()
    files = {
        kernel: next(dump.glob(f"*-flash_backward_{kernel}_q{size}_*[0-9]-final_bundles.txt"))
        for kernel in ("queries", "keys")
    }
    return {name: {"q": size, "kv": size} | backward_parts(read_bundles(file)) for name, file in files.items()}


@dataclass(frozen=True)
class Span:
    """Bundles [start, stop) that a branch at their start leaps over, or one at their end goes back over."""

    start: int
    stop: int
    loops: bool
    text: str

    def __len__(self) -> int:
        return self.stop - self.start

    def has(self, operation: str) -> bool:
        return operation in self.text

    def holds(self, other: "Span") -> bool:
        return self.start <= other.start and other.stop <= self.stop and len(other) < len(self)


def read_bundles(file: Path) -> list[str]:
    """The text of every bundle, in order."""
    bundles: list[str] = []
    for line in file.read_text().splitlines():
        if re.match(r"\s*(0x[0-9a-f]+|0)\s*[A-Z ]*:", line):
            bundles.append(line)
        elif bundles:
            bundles[-1] += line
    return bundles


def spans(bundles: list[str]) -> list[Span]:
    regions: dict[str, int] = {}
    for at, bundle in enumerate(bundles):
        for region in re.findall(r"Start(?:/End empty)? region (\d+)", bundle):
            regions.setdefault(region, at)
    found = []
    for at, bundle in enumerate(bundles):
        for region in re.findall(r"sbr\.rel .*?target = \$region(\d+)", bundle):
            start, stop = sorted((at, regions[region]))
            found.append(Span(start, stop, regions[region] <= at, "\n".join(bundles[start:stop])))
    return found


def kernel_parts(bundles: list[str]) -> dict[str, int]:
    """Bundles of the kernel's branches, which come in the order start, tile, rest, few, finish."""
    found = spans(bundles)
    grid = max((span for span in found if span.loops), key=len)
    few = next(span for span in found if span.loops and span.has("vmatmul") and span != grid)
    inside = [span for span in found if not span.loops and grid.holds(span)]
    guard = [span for span in inside if span.has("vmatmul") and span.has("vrcp")]  # all of the kernel in one branch
    branches = [span for span in inside if span not in guard]
    branches = [span for span in branches if not any(other.holds(span) for other in branches)]
    slow = next(span for span in branches if span.holds(few))
    start, tile, rest = (span for span in branches if span.has("vmatmul") and span != slow)
    finish = next(span for span in branches if span.has("vrcp"))
    outputs = [span for span in branches if span.start >= finish.stop]  # leave when a block of queries is done
    once = [start, tile, rest, slow, finish, *outputs]
    return {
        "start": len(start),
        "step": len(grid) - sum(map(len, once)),
        "tile": len(tile),
        "rest": len(rest),
        "few": len(few),
        "finish": len(finish) + sum(map(len, outputs)),
    }


def backward_parts(bundles: list[str]) -> dict[str, int]:
    """Bundles of the branches of a kernel of the gradient, which come in the order start, tile, rest, finish."""
    found = spans(bundles)
    grid = max((span for span in found if span.loops), key=len)
    inside = [span for span in found if not span.loops and grid.holds(span)]
    guard = max(inside, key=len)  # all of the kernel
    branches = [span for span in inside if guard.holds(span)]
    start, tile, rest, finish = (span for span in branches if not any(other.holds(span) for other in branches))
    step = len(grid) - sum(map(len, (start, tile, rest, finish)))
    return {"start": len(start), "step": step, "tile": len(tile), "rest": len(rest), "finish": len(finish)}


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
