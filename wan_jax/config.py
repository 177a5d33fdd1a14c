"""What a model is: frozen dataclasses, and their reading from and writing to `config.json`.

Field names are those of the Diffusers and transformers `config.json` files, so a downloaded file is the config.
Runtime choices (dtype, mesh, kernels) are not here.
"""

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from wan_jax.errors import WanError


class _Component:
    """Reads itself from a `config.json` and refuses one that describes another architecture."""

    FIXED: ClassVar[dict[str, Any]] = {}  # entries that must hold this value where present
    IGNORED: ClassVar[frozenset[str] | None] = frozenset()  # entries without meaning here; None: all others

    @classmethod
    def from_json(cls, raw: dict[str, Any], where: str) -> Self:
        """Builds the config from the parsed file `where`.

        Raises:
            WanError: an entry has a value this architecture does not have, or is unknown.
        """
        fields = {f.metadata.get("json", f.name): f for f in dataclasses.fields(cls)}
        values = {}
        for key, value in raw.items():
            value = tuple(value) if isinstance(value, list) else value
            if key in fields:
                values[fields[key].name] = value
            elif key in cls.FIXED:
                if value != cls.FIXED[key]:
                    raise WanError(f"{where}: {key}={value!r} is not this architecture (expected {cls.FIXED[key]!r})")
            elif cls.IGNORED is not None and not key.startswith("_") and key not in cls.IGNORED and value is not None:
                raise WanError(f"{where}: unknown entry {key}={value!r}; this is a checkpoint of another model")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The entries of `config.json`, fixed ones included."""
        return {
            f.metadata.get("json", f.name): getattr(self, f.name)
            for f in dataclasses.fields(self)
            if not (f.metadata.get("omit_default") and getattr(self, f.name) == f.default)
        } | self.FIXED


QUANTIZATIONS = ("int8", "fp8", "int8_w8a8", "fp8_w8a8")  # see `wan_jax.quantization`


@dataclass(frozen=True, kw_only=True)
class DiTConfig(_Component):
    """The diffusion transformer (Wan2.2, wan/modules/model.py).  Defaults: the 14B model."""

    in_channels: int = 16
    out_channels: int = 16
    num_layers: int = 40
    num_attention_heads: int = 40
    attention_head_dim: int = 128
    ffn_dim: int = 13824
    text_dim: int = 4096
    freq_dim: int = 256
    eps: float = 1e-6
    # Of the models that see pictures through CLIP (Wan2.1 image to video; Wan2.1, wan/modules/model.py): the width of
    # its tokens, that of the model once more, and how many tokens get a position where these are of two pictures.
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None
    pos_embed_seq_len: int | None = None
    # Entries that other models' files lack are left out where they have their default.
    # Tokens of every prompt, padding included, which the transformer attends to.  Diffusers has it as an argument.
    text_len: int = field(default=512, metadata={"omit_default": True})
    # VACE (arXiv:2503.07598): the blocks that a hint is added after, and channels of what the hints are made from.
    vace_layers: tuple[int, ...] = field(default=(), metadata={"omit_default": True})
    vace_in_channels: int = field(default=96, metadata={"omit_default": True})
    # How the matrices of the blocks are kept, one of QUANTIZATIONS; None: as the other weights.
    quantization: str | None = field(default=None, metadata={"omit_default": True})

    FIXED = {
        "patch_size": (1, 2, 2),
        "qk_norm": "rms_norm_across_heads",
        "cross_attn_norm": True,
    }
    IGNORED = frozenset({"rope_max_seq_len"})  # our tables are made for the grid at hand

    def __post_init__(self):
        if self.quantization not in (None, *QUANTIZATIONS):
            raise WanError(f"quantization={self.quantization!r} is unknown; use one of {', '.join(QUANTIZATIONS)}")
        layers = self.vace_layers
        if list(layers) != sorted(set(layers)) or (layers and not 0 <= layers[0] <= layers[-1] < self.num_layers):
            raise WanError(f"vace_layers={list(layers)} are not rising numbers of the {self.num_layers} layers")
        if self.added_kv_proj_dim != (None if self.image_dim is None else self.dim):
            raise WanError(
                f"added_kv_proj_dim={self.added_kv_proj_dim} does not go with image_dim={self.image_dim}: it is the "
                f"width, {self.dim}, where the model is shown pictures, else null"
            )

    @property
    def dim(self) -> int:
        return self.num_attention_heads * self.attention_head_dim

    @property
    def num_blocks(self) -> int:
        """Those that make hints included."""
        return self.num_layers + len(self.vace_layers)


@dataclass(frozen=True, kw_only=True)
class VAEConfig(_Component):
    """The video autoencoder.  Defaults: Wan-VAE 2.1 (Wan2.2, wan/modules/vae2_1.py), 4×8×8 compression, 16 channels.

    Wan-VAE 2.2 (vae2_2.py) sets the last fields too.

    Attributes:
        base_dim: channels of the encoder's first level, of which `dim_mult` has multiples.
        is_residual: shortcuts around every level; see `wan_jax.models.vae_shortcuts`.
        decoder_base_dim: the same as `base_dim` for the decoder; None: equal.
        patch_size: side of the squares of pixels that are the network's positions; None: pixels.
        in_channels, out_channels: of such a position.
    """

    base_dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = field(
        default=(False, True, True),
        metadata={"json": "temperal_downsample"},  # spelt so in the released files
    )
    latents_mean: tuple[float, ...] = (
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    )  # fmt: skip
    latents_std: tuple[float, ...] = (
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    )  # fmt: skip
    is_residual: bool = False
    decoder_base_dim: int | None = None
    patch_size: int | None = None
    in_channels: int = 3
    out_channels: int = 3

    FIXED = {"attn_scales": (), "dropout": 0.0}
    IGNORED = frozenset({"scale_factor_spatial", "scale_factor_temporal", "clip_output"})  # derived, or always so

    @property
    def temporal_factor(self) -> int:
        """Pixel frames per latent frame, the first frame apart."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent pixel, along height and width."""
        return 2 ** (len(self.dim_mult) - 1) * (self.patch_size or 1)


@dataclass(frozen=True, kw_only=True)
class UMT5Config(_Component):
    """The umT5 text encoder (Wan2.2, wan/modules/t5.py).  Defaults: umT5-xxl."""

    vocab_size: int = 256384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    FIXED = {"feed_forward_proj": "gated-gelu"}
    IGNORED = None  # transformers writes dozens of generation settings


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(_Component):
    """CLIP's vision tower (Wan2.1, wan/modules/clip.py).  Defaults: ViT-H/14."""

    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-5

    FIXED = {"hidden_act": "gelu", "num_channels": 3}
    IGNORED = None  # transformers writes settings of training, and of the projection

    @property
    def num_tokens(self) -> int:
        """Of a picture: one for each square, and the class token."""
        return 1 + (self.image_size // self.patch_size) ** 2


ComponentConfig = DiTConfig | VAEConfig | UMT5Config | CLIPConfig

NEGATIVE_PROMPT = (  # the official default for text and image to video (Wan2.2, wan/configs/shared_config.py)
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A model's own answers where the caller of a pipeline gives none (Wan2.2, wan/configs)."""

    height: int = 480
    width: int = 832
    num_frames: int = 81
    fps: int = 16
    num_inference_steps: int = 50
    solver: str = "unipc"
    flow_shift: float = 5.0
    guidance_scale: float = 5.0  # of the high-noise expert, or of the only one
    guidance_scale_2: float | None = None  # of the low-noise expert
    negative_prompt: str = NEGATIVE_PROMPT


@dataclass(frozen=True, kw_only=True)
class WanConfig:
    """A released model: its parts, how it is sampled, and where its weights are.

    `image_encoder` is there where the transformer sees pictures through it.
    `boundary_ratio` is the noise threshold between the experts as a fraction of 1000; None means one expert.
    `expand_timesteps` (TI2V-5B): every token is told a noise level of its own, so that some may be clean.
    """

    name: str
    hub_id: str | None
    transformer: DiTConfig
    vae: VAEConfig = VAEConfig()
    text_encoder: UMT5Config = UMT5Config()
    image_encoder: CLIPConfig | None = None
    boundary_ratio: float | None = None
    expand_timesteps: bool = False
    sampling: Sampling = Sampling()

    @property
    def shows_images_as_channels(self) -> bool:
        """Whether the transformer is given a mask and encoded frames beside the noisy latents: image to video."""
        return self.transformer.in_channels == 2 * self.vae.z_dim + self.vae.temporal_factor

    @property
    def takes_context(self) -> bool:
        """Whether the transformer is given frames to keep or to follow, with masks, and references: VACE."""
        return bool(self.transformer.vace_layers)

    @property
    def transformers(self) -> tuple[str, ...]:
        """The checkpoint folders of the experts, from high to low noise."""
        return ("transformer",) if self.boundary_ratio is None else ("transformer", "transformer_2")


def model_names() -> list[str]:
    """The models that have a file in `configs/`; those called train_… are recipes of training."""
    names = (module.name for module in pkgutil.iter_modules(importlib.import_module("configs").__path__))
    return sorted(name for name in names if not name.startswith("train_"))


def get_config(name: str) -> WanConfig:
    """The model called `name`, as `configs/<name>.py` describes it."""
    if name not in model_names():
        raise WanError(f"no model is called {name!r}; there are {', '.join(model_names())}")
    return importlib.import_module(f"configs.{name}").get_config()
