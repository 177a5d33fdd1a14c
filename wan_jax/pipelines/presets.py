"""Ready-made choices: where weights wait and in how many bits, so that a model fits its device; and how it samples.

auto        what the memory of the devices at hand asks for
colab-v5e   what that of one v5e chip asks for, as Colab lends it
colab-v6e   that of one v6e chip
quality     as auto, but no weight loses a bit, and the autoencoder works in float32
lightning   as auto; four Euler steps at shift 5 without guidance, with low-rank updates that were distilled for it
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from wan_jax import sharding, weights
from wan_jax.chips import CHIPS
from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.pipelines.loading import component_bytes
from wan_jax.pipelines.residency import quantized

_FILLED = 0.75  # of a device's memory by weights, at most: the rest is for activations


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is to be chosen for a model.

    Attributes:
        chip: whose memory is planned for; None: that of the devices at hand.
        exact: whether matrices keep their bits, and the autoencoder its float32.
        sampling: fields of `config.Sampling` to replace.
    """

    chip: str | None = None
    exact: bool = False
    sampling: Mapping[str, Any] = field(default_factory=dict)


_FOUR_STEPS = {
    "num_inference_steps": 4,
    "solver": "euler",
    "flow_shift": 5.0,
    "guidance_scale": 1.0,
    "guidance_scale_2": 1.0,
}
PRESETS = {
    "auto": Preset(),
    "colab-v5e": Preset(chip="v5e"),
    "colab-v6e": Preset(chip="v6e"),
    "quality": Preset(exact=True),
    "lightning": Preset(sampling=_FOUR_STEPS),
}

# Updates for four steps, by model and component; those from the hub are github.com/ModelTC/LightX2V-Wan2.2-Lightning's.
_HUB = "lightx2v/Wan2.2-Lightning/Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1"
_ADAPTERS = {
    "wan_mini": {
        name: weights.folder("wan_mini") / "lightning" / f"{name}.safetensors"
        for name in ("transformer", "transformer_2")
    },
    "wan22_t2v_a14b": {
        "transformer": f"{_HUB}/high_noise_model.safetensors",
        "transformer_2": f"{_HUB}/low_noise_model.safetensors",
    },
}


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """How weights are kept: see `wan_jax.quantization` and `wan_jax.pipelines.residency`."""

    quantization: str | None = None
    offload: str | None = None

    def __str__(self) -> str:
        where = {
            None: "all weights stay on the device",
            "model": "a component is on the device while it works",
            "blocks": "blocks are on the device while they work",
        }[self.offload]
        return where if self.quantization is None else f"{where}, matrices in {self.quantization}"


def find(name: str) -> Preset:
    """Raises a WanError if there is no such preset."""
    if name not in PRESETS:
        raise WanError(f"preset={name!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[name]


def arrange(preset: Preset, config: WanConfig, dtype: Any, vae_dtype: Any, memory_bytes: float) -> Arrangement:
    """The first arrangement whose weights leave a quarter of the memory free, of those from fast to frugal.

    Args:
        preset: says what may be done to weights.
        config: the model.
        dtype: of transformers and text encoder.
        vae_dtype: of the autoencoder.
        memory_bytes: of all devices together.
    """
    room = _FILLED * memory_bytes

    def sizes(quantization: str | None) -> list[int]:
        return list(component_bytes(quantized(config, quantization), dtype, vae_dtype).values())

    if sum(sizes(None)) <= room:
        return Arrangement()
    for quantization in (None,) if preset.exact or config.transformer.quantization else (None, "int8"):
        if max(sizes(quantization)) <= room:
            return Arrangement(quantization=quantization, offload="model")
    return Arrangement(quantization=quantization, offload="blocks")


def memory_bytes(preset: Preset) -> float:
    """What the preset plans with, of all devices together; infinite on a CPU."""
    if preset.chip is not None:
        return CHIPS[preset.chip].hbm_gib * 2**30
    devices = jax.devices()
    return sum(map(sharding.memory_bytes, devices)) if devices[0].platform != "cpu" else float("inf")


def sampled(preset: Preset, config: WanConfig) -> WanConfig:
    """The model with the preset's own answers where the caller of a pipeline gives none."""
    chosen = dict(preset.sampling)
    if config.boundary_ratio is None:
        chosen.pop("guidance_scale_2", None)
    return replace(config, sampling=replace(config.sampling, **chosen))


def adapters(preset: Preset, config: WanConfig) -> dict[str, str]:
    """The low-rank updates that go with a preset, by component; none where none are known for the model."""
    known = _ADAPTERS.get(config.name, {}) if preset.sampling else {}
    if preset.sampling and not known:
        warnings.warn(f"no updates for four steps are known for {config.name}: load some that are", stacklevel=3)
    return {name: str(path) for name, path in known.items()}
