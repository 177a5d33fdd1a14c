"""What a training run is: frozen dataclasses, which the recipes in configs/train_*.py fill in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from wan_jax.conditioning import Conditioning, text_to_video
from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.lora import LoraConfig
from wan_jax.train.distillation import Distil, Intervals, intervals
from wan_jax.train.timesteps import Density


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW (arXiv:1711.05101) on float32 weights.

    The paper names the optimiser, its learning rate and weight decay (arXiv:2503.20314 §4.2.2), nothing else.
    """

    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine", "linear"] = "constant"  # after the warm-up; the last two end at zero
    warmup_steps: int = 100
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 1e-3  # of matrices; biases, norms, modulations and embeddings do not decay
    clip_norm: float = 1.0  # of the whole gradient
    moments: Literal["float32", "bfloat16"] = "float32"  # dtype of the first moment


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What all runs have in common.

    Attributes:
        name: the run's folder below `out`.
        model: the architecture.
        data: a folder that `wan_jax data build` made.
        out: the folder for this recipe's runs, and for the finished model in `out`/models.
        steps: optimiser steps.
        batch: clips in a step, over all processes.
        seed: of all that is drawn: initial weights, order of clips, noise, …
        optimizer: see `Optimizer`.
        ema: decay of the averaged weights, which are the ones sampled and exported; None: the weights themselves.
        dtype: of matrix products.
        mesh: "fsdp=8", …; None leaves it to the task.
        log_every, save_every, validate_every, sample_every: in steps; 0 is never.
        keep: the newest checkpoints that are kept.
        keep_every: checkpoints at multiples of this are kept forever; 0: none.
        validation_clips: at most so many clips of the validation split.
    """

    MESH_AXIS: ClassVar[str]  # of all devices, where the run does not say

    name: str
    model: WanConfig
    data: str = "data"
    out: str = "runs"
    steps: int = 1000
    batch: int = 8
    seed: int = 0
    optimizer: Optimizer = Optimizer()
    ema: float | None = 0.9999
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    mesh: str | None = None
    log_every: int = 10
    save_every: int = 500
    validate_every: int = 500
    sample_every: int = 0
    keep: int = 2
    keep_every: int = 0
    validation_clips: int = 32

    def check(self):
        """Raises a WanError about the first value that makes no sense."""
        if self.batch < 1:
            raise WanError(f"batch={self.batch} must be positive")
        if self.ema is not None and not 0 <= self.ema < 1:
            raise WanError(f"ema={self.ema} is not a decay between 0 and 1, such as 0.9999")
        if self.steps < 1 or self.optimizer.learning_rate <= 0:
            raise WanError(f"steps={self.steps} and optimizer.learning_rate must be positive")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """One run of an expert, from its first weights to a component of a model folder.

    Its data are latents (`wan_jax data build --model`), and `mesh=None` puts all devices on fsdp.  The architecture's
    `boundary_ratio` decides which noise levels the expert sees.

    Attributes:
        component: the expert: "transformer" (high noise, or the only one) or "transformer_2" (low noise).
        base: the model that lends its autoencoder (whatever `model` says of it), text encoder, tokenizer and other
            expert: a folder, hub id or name.
        init: the model, or earlier run of the same recipe, whose `init_component` the weights start from; None: random.
            A VACE model may begin from one without the context branch, which then starts as copies of its blocks.
        init_component: the component of `init`.
        lora: train low-rank updates and leave the weights alone.
        distil: learn to sample in few steps without guidance, from the weights without their update; None: learn from
            the clips.
        trainable: regular expression over "component/path/of/parameter"; all others are frozen, in `dtype`.
            "(transformer|text_encoder)/.*" trains umT5 as well, on captions rather than stored states.
        condition: the task: (clean latents, text states, key) → what the transformer is told; see
            `wan_jax.conditioning`.
        accumulate: parts of a batch that are computed one after the other.
        density: of the timesteps, before it is cut to the expert's range.
        caption_dropout: share of clips that are shown without caption, for guidance.
        remat: what a block keeps for its gradient; see `wan_jax.remat`.
        sample_prompts: of the videos made during training.
        sample_size: width, height and frames of those videos; None: the model's own.
    """

    MESH_AXIS = "fsdp"

    component: Literal["transformer", "transformer_2"] = "transformer"
    base: str | None = None
    init: str | None = None
    init_component: Literal["transformer", "transformer_2"] = "transformer"
    lora: LoraConfig | None = None
    distil: Distil | None = None
    trainable: str = "transformer(_2)?/.*"
    condition: Callable[..., Conditioning] = text_to_video
    accumulate: int = 1
    density: Density = field(default_factory=Density)
    caption_dropout: float = 0.1
    remat: str = "attention"
    sample_prompts: tuple[str, ...] = ()
    sample_size: tuple[int, int, int] | None = None

    @property
    def noise_range(self) -> tuple[float, float]:
        """The noise levels [low, high] of this expert, after the shift."""
        boundary = self.model.boundary_ratio
        if boundary is None:
            return 0.0, 1.0
        return (boundary, 1.0) if self.component == "transformer" else (0.0, boundary)

    @property
    def intervals(self) -> Intervals:
        """The few steps that a distilled run of this expert learns."""
        return intervals(self.distil, self.model, self.component)

    @property
    def forward_passes(self) -> int:
        """The work of a step: a gradient is worth two more; a distilled target has its own."""
        return 3 + (0 if self.distil is None else self.distil.forward_passes(self.model, self.component))

    @property
    def needs_units(self) -> bool:
        """Whether the data have to say what is shown of each clip; see `wan_jax.data.units`."""
        return self.model.shows_images_as_channels or self.model.takes_context

    def check(self):
        if self.model.transformer.quantization is not None:
            kind = self.model.transformer.quantization
            raise WanError(f"quantization={kind!r} is for generating; train the model that it was made from")
        if self.model.image_encoder is not None:
            raise WanError(
                f"model={self.model.name!r} sees pictures through CLIP, which is not trained here; image-to-video "
                "models without are, such as wan22_i2v_a14b"
            )
        if self.sample_prompts and self.model.shows_images_as_channels:
            raise WanError(f"sample_prompts: {self.model.name} makes no video of a prompt alone; leave them out")
        boundary = self.model.boundary_ratio
        if boundary is not None and not 0 < boundary < 1:
            raise WanError(f"model.boundary_ratio={boundary} is not between 0 and 1, such as 0.875")
        if self.component not in self.model.transformers:
            raise WanError(f"component={self.component!r}: {self.model.name} has one expert, 'transformer'")
        if self.batch < 1 or self.accumulate < 1 or self.batch % self.accumulate:
            raise WanError(f"batch={self.batch} does not divide into accumulate={self.accumulate} parts")
        if not 0 <= self.caption_dropout <= 1:
            raise WanError(f"caption_dropout={self.caption_dropout} is not a share between 0 and 1")
        if self.distil is not None:
            if self.lora is None:
                raise WanError(
                    "distil: the teacher is the weights without an update; set lora=, as train_wan_mini_lightning does"
                )
            _ = self.intervals  # which there have to be
        super().check()
