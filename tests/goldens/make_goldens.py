"""Writes the reference outputs that `make test` compares with where PyTorch is absent.

python -m tests.goldens.make_goldens        # needs requirements-parity.txt
"""

import pathlib

import numpy as np
import torch

from tests.parity import reference

HERE = pathlib.Path(__file__).parent


def dit():
    """A forward pass of Diffusers' WanTransformer3DModel on a grid whose axes differ, with its weights."""
    model = reference.dit(attention_head_dim=24, num_layers=2)
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2, 16, 3, 4, 6), np.float32)
    text = rng.standard_normal((2, 7, 32), np.float32)
    timestep = np.array([999, 437])
    with torch.no_grad():
        velocity = model(*(torch.from_numpy(x) for x in (latents, timestep, text)), return_dict=False)[0]
    weights = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    np.savez_compressed(
        HERE / "dit.npz", latents=latents, text=text, timestep=timestep, velocity=velocity.numpy(), **weights
    )


if __name__ == "__main__":
    dit()
