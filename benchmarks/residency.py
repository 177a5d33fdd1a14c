"""Peak memory of a device, seconds and latents, with weights on the device and with weights that wait in host memory.

    python -m benchmarks.residency --model wan22_t2v_a14b --size 832x480 --frames 81 --limit 0.15

Random weights, two steps with guidance, one with each expert, and no autoencoder; each run has a process of its own.
One expert alone is what the memory of two is held against.  `--limit` is the share of the device that "blocks" may
take, less than the model's weights.  Equal latents have equal digests.  Prints JSON.
"""

import json
import os
import time
from dataclasses import replace
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.denoise_step import alone
from benchmarks.quantization import random_params
from wan_jax import byte_tokenizer, sharding
from wan_jax.checkpoint import components, digest
from wan_jax.config import UMT5Config, WanConfig, get_config
from wan_jax.models import abstract_params
from wan_jax.pipelines.startup import StartUp
from wan_jax.pipelines.wan import WanPipeline
from wan_jax.tokenizer import Tokenizer


def main(
    model: str = "wan22_t2v_a14b",
    size: Annotated[str, tyro.conf.arg(metavar="WxH")] = "832x480",
    frames: int = 81,
    limit: float = 0.15,
    quantization: str | None = None,
):
    config = replace(
        get_config(model),
        text_encoder=UMT5Config(vocab_size=259, d_ff=64, num_layers=1),
        vae=replace(get_config(model).vae, base_dim=8, num_res_blocks=1),
    )
    width, height = map(int, size.split("x"))
    video = {"height": height, "width": width, "num_frames": frames}
    result = {}
    for name, offload, share in (
        ("one expert", None, None),
        ("two experts", None, None),
        ("model", "model", None),
        ("blocks", "blocks", limit),
    ):
        parts = replace(config, boundary_ratio=None) if name == "one expert" else config
        result[name] = alone(_run, parts, video, offload, share, quantization)
        print(json.dumps({name: result[name]}), flush=True)
    result["model / one expert"] = round(result["model"]["peak_gb"] / result["one expert"]["peak_gb"], 4)
    result["equal"] = len({result[name]["latents"] for name in ("two experts", "model", "blocks")}) == 1
    print(json.dumps(result))


class _RandomModel:
    """A model that no file holds."""

    def __init__(self, config: WanConfig):
        self.config = config

    def check(self, name: str):
        pass

    def read(self, name: str, dtype, mesh, memory: str = sharding.DEVICE):
        part = components(self.config)[name]
        if name.startswith("transformer"):
            return random_params(part, mesh, memory)
        places = sharding.place(abstract_params(part, dtype), mesh, memory)
        return jax.tree.map(lambda x: jax.device_put(np.full(x.shape, 0.01, x.dtype), x.sharding), places)

    def tokenizer(self) -> Tokenizer:
        from wan_jax.cache import cache_dir

        folder = cache_dir("models") / "byte_tokenizer"
        byte_tokenizer.write_byte_tokenizer(folder)
        return Tokenizer(folder, self.config.transformer.text_len)

    def fingerprint(self) -> str:
        return "random"


def _run(config: WanConfig, video: dict, offload: str | None, share: float | None, quantization: str | None) -> dict:
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if share is not None:
        os.environ["XLA_CLIENT_MEM_FRACTION"] = str(share)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    dtype = jnp.dtype(jnp.bfloat16)
    pipe = WanPipeline(_RandomModel(config), dtype, dtype, mesh, StartUp(), quantization, offload)
    pipe.set_progress_bar_config(disable=True)
    pipe.weights.wait()  # random ones are made on the device
    call = lambda: pipe("a", num_inference_steps=2, flow_shift=5.0, output_type="latent", **video)  # noqa: E731
    latents = call().frames
    started = time.monotonic()
    call()
    stats = jax.devices()[0].memory_stats() or {}
    transformers = [x for name in config.transformers for x in jax.tree.leaves(pipe.weights[name])]
    return {
        "peak_gb": round(stats.get("peak_bytes_in_use", 0) / 1e9, 3),
        "limit_gb": round(stats.get("bytes_limit", 0) / 1e9, 3),
        "transformers_gb": round(sum(x.nbytes for x in transformers) / 1e9, 3),
        "step_s": round((time.monotonic() - started) / 2, 3),
        "latents": digest(np.ascontiguousarray(latents))[:12],
        "device": jax.devices()[0].device_kind,
    }


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
