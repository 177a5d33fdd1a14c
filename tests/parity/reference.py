"""Small PyTorch models with random weights, and the bridge from them to our parameters."""

import diffusers
import jax
import numpy as np
import torch
from flax.traverse_util import unflatten_dict

from convert.rules import Rule, check, flat, to_jax

TINY_DIT = dict(
    num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32, ffn_dim=40, num_layers=3
)


def randomize(module: torch.nn.Module, seed: int, std: float = 0.2) -> torch.nn.Module:
    """Weights large enough for every path to matter: with the usual initialisation wrong code passes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            scale = ("norm" in name and name.endswith("weight")) or name.endswith("gamma")
            p.copy_(torch.randn(p.shape, generator=generator) * std + float(scale))
    return module.eval()


def dit(seed: int = 0, std: float = 0.2, **config) -> diffusers.WanTransformer3DModel:
    return randomize(diffusers.WanTransformer3DModel(**TINY_DIT | config), seed, std)


def unipc(shift: float) -> diffusers.UniPCMultistepScheduler:
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=shift
    )


def params_of(module: torch.nn.Module, rules: list[Rule], abstract: dict) -> dict:
    """The module's weights as a tree of ours, through the converter's rule table."""
    tensors = {name: t.numpy(force=True) for name, t in module.state_dict().items()}
    check(rules, "diffusers", abstract, {name: t.shape for name, t in tensors.items()}, "module")
    shapes = flat(abstract)
    values = {r.path: to_jax(r, "diffusers", shapes[r.path].shape, np.float32, tensors.__getitem__) for r in rules}
    return jax.tree.map(jax.numpy.asarray, unflatten_dict(values, sep="/"))


def relative_error(ours, theirs) -> float:
    """‖a − b‖ / ‖b‖."""
    a, b = (np.asarray(x, np.float64) for x in (ours, theirs))
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
