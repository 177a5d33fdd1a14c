"""Videos during training, by the pipeline that users will have."""

import tempfile
from pathlib import Path

from etils import epath
from jax.sharding import Mesh

from wan_jax.cluster import is_leader
from wan_jax.pipelines.startup import StartUp
from wan_jax.pipelines.wan import WanPipeline
from wan_jax.precision import default_vae_dtype
from wan_jax.train.config import TrainConfig
from wan_jax.train.models import Snapshot
from wan_jax.typing import Params


def make_samples(config: TrainConfig, weights: Params, mesh: Mesh, folder: epath.Path, step: int):
    """Writes a video for each of the run's prompts, 00000500_0.mp4, …; always from the same noise.

    Args:
        weights: {component: weights} of what is trained, as a model folder stores them.
    """
    pipe = WanPipeline(Snapshot(config, weights), config.dtype, default_vae_dtype(), mesh, StartUp())
    pipe.set_progress_bar_config(disable=True)
    width, height, frames = config.sample_size or (None, None, None)
    sampling = {} if config.distil is None else config.distil.sampling
    made = pipe(list(config.sample_prompts), width=width, height=height, num_frames=frames, **sampling)
    if not is_leader():
        return
    from wan_jax.video_io import export_to_video  # here: a run without samples needs no PyAV

    folder.mkdir(parents=True, exist_ok=True)
    for i, (video, settings) in enumerate(zip(made.frames, made.settings)):
        with tempfile.TemporaryDirectory() as temporary:  # the folder may be a bucket
            name = f"{step:08}_{i}.mp4"
            export_to_video(video, Path(temporary) / name, fps=config.model.sampling.fps, metadata=settings)
            epath.Path(temporary, name).copy(folder / name, overwrite=True)
