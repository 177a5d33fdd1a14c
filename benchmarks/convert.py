"""Speed and memory of the converter, on a synthetic transformer of 40 blocks in bfloat16.

    python -m benchmarks.convert [--gigabytes 4.0] [--folder /tmp] [--quantize int8]

Writes the checkpoint in several shards, then, in turns, copies its files plainly and converts them in a process of
its own, both from a warm page cache and without flushing.  Prints JSON: seconds of both (medians), their ratio and
the largest resident set of the converter, mapped pages included.
"""

import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import tyro

from convert import export
from convert.components import components
from convert.rules import torch_shapes
from convert.tensor_files import TensorInfo, write_safetensors
from wan_jax import placeholder
from wan_jax.config import DiTConfig, get_config

SHARD_BYTES = 1 << 30
SETTLE_SECONDS = 8


def main(gigabytes: float = 4.0, folder: Path = Path("/tmp"), repeats: int = 3, quantize: str | None = None):
    """Runs the benchmark.

    Args:
        gigabytes: size of the transformer, at least.
        folder: where about three times that fits; everything is deleted afterwards.
        repeats: how often both sides run.
        quantize: as for the converter.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        source = Path(temporary) / "source"
        nbytes = write_checkpoint(source, int(gigabytes * 1e9))
        os.sync()
        time.sleep(SETTLE_SECONDS)
        copies, conversions = [], []
        for _ in range(repeats):
            copies.append(_copy(source, Path(temporary) / "copy"))
            conversions.append(_convert(source, Path(temporary) / "ours", quantize))
        copy, convert = statistics.median(copies), statistics.median(conversions)
        # Linux counts in KiB.  The copies run in this process, so the children are the converters.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        result = {
            "gigabytes": nbytes / 1e9,
            "quantize": quantize,
            "copy_seconds": copies,
            "convert_seconds": conversions,
            "ratio": copy / convert,
            "peak_resident_gigabytes": peak / 1e9,
            "cpus": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        }
    print(json.dumps(result, indent=1))


def write_checkpoint(folder: Path, nbytes: int) -> int:
    """A Diffusers checkpoint with a transformer of at least `nbytes` in several shards; the other parts are toys."""
    small = get_config("untrained")
    # A block of Wan holds 13.4 dim² numbers: 8 in two attentions, 5.4 in the feed-forward layer.
    dim = math.ceil(math.sqrt(nbytes / 2 / 40 / 13.4) / 128) * 128
    big = DiTConfig(num_layers=40, num_attention_heads=dim // 128, ffn_dim=int(2.7 * dim) // 128 * 128, text_dim=32)
    toys = replace(small, boundary_ratio=None)
    params = placeholder.random_params(toys)
    export.export_model(toys, params, placeholder.folder() / "tokenizer", folder)
    transformer = folder / "transformer"
    (transformer / "diffusion_pytorch_model.safetensors").unlink()
    config = json.loads((transformer / "config.json").read_text()) | big.to_json()
    (transformer / "config.json").write_text(json.dumps(config))
    part = components(replace(toys, transformer=big), np.float32)["transformer"]
    bf16 = np.dtype(ml_dtypes.bfloat16)
    header = {k: TensorInfo(s, bf16) for k, s in torch_shapes(part.rules, "diffusers", part.shapes).items()}
    noise = np.random.default_rng(0).integers(0, 1 << 15, max(math.prod(i.shape) for i in header.values()), np.uint16)
    total = sum(info.nbytes for info in header.values())
    shards, names = math.ceil(total / SHARD_BYTES), list(header)
    for n in range(shards):
        own = names[n * len(names) // shards : (n + 1) * len(names) // shards]
        write_safetensors(
            transformer / f"diffusion_pytorch_model-{n + 1:05}-of-{shards:05}.safetensors",
            {name: header[name] for name in own},
            lambda name: noise[: math.prod(header[name].shape)].view(bf16).reshape(header[name].shape),
        )
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _copy(source: Path, target: Path) -> float:
    start = time.perf_counter()
    shutil.copytree(source, target)
    seconds = time.perf_counter() - start
    _settle(target)
    return seconds


def _convert(source: Path, target: Path, quantize: str | None) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "convert", "--src", str(source), "--dst", str(target)]
    command += ["--quantize", quantize] if quantize else []
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    _settle(target)
    return seconds


def _settle(written: Path):
    """Brings the next run to the same start.

    It must not wait for this one's dirty pages; and a virtual machine hands freed memory back to its host within
    seconds and pays for every page again, which would favour whatever writes first.
    """
    shutil.rmtree(written)
    os.sync()
    time.sleep(SETTLE_SECONDS)


if __name__ == "__main__":
    tyro.cli(main)
