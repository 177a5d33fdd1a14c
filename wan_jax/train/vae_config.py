"""What a training run of the autoencoder is.

The published recipe (arXiv:2503.20314 §4.1.2) has three stages: the image autoencoder, whose 2-D weights are then
inflated; short clips with L1, KL and LPIPS, weights 3, 3e-6 and 3; clips of several sizes and lengths, with a GAN loss
from a 3-D discriminator.  The kind and weight of that loss, its start and all settings of the optimiser are not
published; the defaults are what others use (see each).
"""

from dataclasses import dataclass, field
from typing import Literal

from wan_jax.errors import WanError
from wan_jax.train.config import Optimizer, RunConfig
from wan_jax.train.vae_losses import Reduction


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Weights of the losses against the clip itself.

    Attributes:
        l1: of the mean absolute error.
        kl: of the posterior's distance from a standard normal.
        perceptual: of LPIPS with VGG16; 0 needs no weights of it.
        reduction: how errors are summed up, which the paper leaves open; see `wan_jax.train.vae_losses`.
        perceptual_frames: LPIPS looks at so many random frames of a clip, not all.
    """

    l1: float = 3.0
    kl: float = 3e-6
    perceptual: float = 3.0
    reduction: Reduction = "mean"
    perceptual_frames: int | None = None


@dataclass(frozen=True, kw_only=True)
class Gan:
    """The loss from a discriminator that learns at the same time, with the hinge loss (arXiv:1705.02894).

    Once it is on, PSNR falls a little while LPIPS improves: that is its purpose.

    Attributes:
        weight: HunyuanVideo and Open-Sora 2 have 0.05.
        adaptive: times ‖gradient of the other losses‖ / ‖gradient of this one‖ at the decoder's last kernel, as
            VQGAN has it (arXiv:2012.09841 §3.1); then a weight of 0.1 to 0.5 is usual.
        start: the first step with it; "converged": once the other losses fall no more, as the authors did
            (Wan2.1, issue 300).
        regularizer: of the discriminator: LeCam (arXiv:2104.03310) or R1 (arXiv:1801.04406).
        regularizer_weight: VidTok has 0.005 for LeCam; R1 takes about 10.
        channels, layers: of the discriminator; see `wan_jax.models.discriminator`.
        optimizer: of the discriminator.
    """

    weight: float = 0.05
    adaptive: bool = False
    start: int | Literal["converged"] = 0
    regularizer: Literal["lecam", "r1"] | None = "lecam"
    regularizer_weight: float = 0.005
    channels: int = 64
    layers: int = 4
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(b1=0.5, b2=0.9, weight_decay=0.0))


@dataclass(frozen=True, kw_only=True)
class VAETrainConfig(RunConfig):
    """One run of the autoencoder of `model`, from its first weights to a folder `out`/models/`model.name`/vae.

    Its data are frames (`wan_jax data build` without `--model`).  `mesh=None` gives every device a part of the batch,
    and so must any mesh: each holds the whole autoencoder.

    Attributes:
        init: the model, or earlier run of the same recipe, whose autoencoder the weights start from; None: random.
        image: train the image autoencoder, of which only the newest taps in time exist, on single frames; what is
            written is inflated.
        losses: see `Losses`.
        gan: see `Gan`; None: no such loss.
        windows: width, height and frames of the random part of a clip that is shown, by batches in turn; none: all
            of it.
        frames_per_chunk: latent frames that are encoded and decoded at a time, passing the feature cache on, so that
            memory holds the activations of one chunk; None: the whole clip.
    """

    MESH_AXIS = "data"

    init: str | None = None
    image: bool = False
    losses: Losses = Losses()
    gan: Gan | None = None
    windows: tuple[tuple[int, int, int], ...] = ()
    frames_per_chunk: int | None = None
    ema: float | None = 0.999

    def check(self):
        vae = self.model.vae
        for width, height, frames in self.windows:
            if width % vae.spatial_factor or height % vae.spatial_factor or (frames - 1) % vae.temporal_factor:
                raise WanError(
                    f"windows={self.windows}: width and height must be multiples of {vae.spatial_factor}, and there "
                    f"must be 1 + {vae.temporal_factor}n frames"
                )
        if self.image and {frames for _, _, frames in self.windows} != {1}:
            raise WanError(f"image=True trains on single frames: windows={self.windows} must be (width, height, 1)")
        if self.frames_per_chunk is not None and self.frames_per_chunk < 1:
            raise WanError(f"frames_per_chunk={self.frames_per_chunk} must be positive")
        super().check()
