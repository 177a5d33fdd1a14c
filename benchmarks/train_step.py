"""Seconds of one training step of a transformer: ours and PyTorch's, on the accelerator at hand.

    python -m benchmarks.train_step --model wan21_t2v_1_3b --size 832x480 --frames 81

Full training on both sides: float32 weights and AdamW moments, bfloat16 matrix products, the gradient clipped, random
data, warm, median of several repeats.  PyTorch runs Diffusers' module with its blocks compiled and checkpointed one by
one and cuDNN's attention, and is left out where it is not installed.  MFU counts the model's own operations alone,
not what is computed again, over the chip's dense bfloat16 peak.  Prints JSON.
"""

import json
import sys
import time
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

from benchmarks.denoise_step import alone, median_seconds
from wan_jax import chips
from wan_jax.config import WanConfig, get_config
from wan_jax.models import abstract_params, dit
from wan_jax.models.flops import forward_flops
from wan_jax.sharding import make_mesh
from wan_jax.train.config import TrainConfig
from wan_jax.train.state import abstract_state, new_state
from wan_jax.train.step import Clips, lower_step

Shape = tuple[int, int, int, int, int]


def main(
    model: str = "wan21_t2v_1_3b",
    size: Annotated[str, tyro.conf.arg(metavar="WxH")] = "832x480",
    frames: int = 81,
    batch: int = 1,
    remat: str = "attention",
    repeats: int = 5,
):
    config = get_config(model)
    width, height = map(int, size.split("x"))
    vae = config.vae
    shape = (batch, (frames - 1) // vae.temporal_factor + 1, height // vae.spatial_factor, width // vae.spatial_factor)
    shape = (*shape, config.transformer.in_channels)
    sides = {"wan_jax": alone(wan_jax, config, shape, remat, repeats)}
    print(sides, file=sys.stderr)
    sides["pytorch"] = alone(pytorch, config, shape, repeats)
    flops = 3 * forward_flops(config.transformer, shape)
    for side in filter(None, sides.values()):
        peak = chips.peak_flops(side["device"])
        side["mfu"] = peak and round(flops / side["seconds"] / peak, 4)
    print(json.dumps({"model": model, "latents": shape, "model_tflop": round(flops / 1e12, 1)} | sides))


def wan_jax(config: WanConfig, shape: Shape, remat: str, repeats: int) -> dict:
    run = TrainConfig(name="benchmark", model=config, batch=shape[0], ema=None, remat=remat)
    mesh = make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        shapes = {"transformer": abstract_params(config.transformer, jnp.float32)}
        where = jax.tree.map(lambda x: x.sharding, abstract_state(run, shapes, mesh))

        def begin(key):
            return new_state(run, {"transformer": dit.initial_params(config.transformer, key)})

        state = jax.jit(begin, out_shardings=where)(jax.random.key(0))
        text = jax.random.normal(
            jax.random.key(2), (shape[0], config.transformer.text_len, config.transformer.text_dim)
        )
        clips = Clips(jax.random.normal(jax.random.key(1), shape), text)
        started = time.monotonic()
        step = lower_step(run, state, {}, clips, text[:1]).compile()
        compile_s, memory = time.monotonic() - started, step.memory_analysis()

        def once():
            nonlocal state
            state, report = step(state, {}, clips, text[:1])
            return float(report.loss)

        seconds = median_seconds(once, repeats)
    return {
        "seconds": seconds,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "remat": remat,
        "compile_s": round(compile_s, 1),
        "argument_gib": round(memory.argument_size_in_bytes / 2**30, 2),
        "temp_gib": round(memory.temp_size_in_bytes / 2**30, 2),
    }


def pytorch(config: WanConfig, shape: Shape, repeats: int) -> dict | None:
    try:
        import torch
        from diffusers import WanTransformer3DModel, __version__
    except ImportError:
        return None
    options = {
        k: v for k, v in config.transformer.to_json().items() if k in WanTransformer3DModel.__init__.__annotations__
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = WanTransformer3DModel(**options).train()
        clean = torch.randn(shape[0], shape[-1], *shape[1:-1])
        text = torch.randn(shape[0], config.transformer.text_len, config.transformer.text_dim)
    model.enable_gradient_checkpointing()
    if device == "cuda":
        model.set_attention_backend("_native_cudnn")
        model.compile_repeated_blocks()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-3, fused=device == "cuda")

    def once():
        noise = torch.randn_like(clean)
        sigma = torch.rand(shape[0], device=device)
        level = sigma.view(-1, 1, 1, 1, 1)
        with torch.autocast(device, torch.bfloat16):
            prediction = model((1 - level) * clean + level * noise, 1000 * sigma, text, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(prediction.float(), noise - clean)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return {
        "seconds": median_seconds(once, repeats),
        "diffusers": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else jax.devices()[0].device_kind,
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device == "cuda" else None,
    }


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
