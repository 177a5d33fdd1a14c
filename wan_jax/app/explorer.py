"""What the tabs of the page share: one model, one folder of videos."""

import atexit
import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wan_jax.cache import cache_dir
from wan_jax.typing import Float
from wan_jax.video_io import check_output

if TYPE_CHECKING:
    from wan_jax import WanPipeline
    from wan_jax.config import WanConfig


@dataclass
class Explorer:
    """The model that is explored.

    Attributes:
        model: a checkpoint folder, a hub id, a name from `configs/`, or wan_mini.
        folder: where videos are kept.
        dtype: of the weights; None: bfloat16, and float32 on a CPU.
    """

    model: str
    folder: Path
    dtype: str | None = None
    _loaded: "WanPipeline | None" = field(default=None, init=False, repr=False)
    _colours: Float["n 3"] | None = field(default=None, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @classmethod
    def open(cls, model: str, folder: Path | None = None, dtype: str | None = None) -> "Explorer":
        """Makes the folder, by default one in the user's cache, and sees whether there is such a model.

        Raises:
            WanError: there is none, or the folder cannot be made.
        """
        folder = cache_dir("videos") if folder is None else folder.resolve()
        check_output(folder / "any.mp4")
        explorer = cls(model, folder, dtype)
        _ = explorer.config
        return explorer

    @cached_property
    def config(self) -> "WanConfig":
        """Of the model; no weights are read.

        Raises:
            WanError: there is no such model.
        """
        from wan_jax.pipelines.loading import read_config

        return read_config(self.model)

    def pipeline(self, preset: str | None = None) -> "WanPipeline":
        """The loaded model; it is loaded by the first call, and anew where another preset is asked for.

        Args:
            preset: one of `wan_jax.pipelines.presets`; None takes what is loaded, or auto.

        Raises:
            WanError: there is no such model, or its files are incomplete.
        """
        from wan_jax.cli.generate import load_pipeline

        with self._lock:
            wanted = preset or (self._loaded.preset if self._loaded else "auto")
            if self._loaded is None or self._loaded.preset != wanted:
                self._loaded = None  # before the next one is read: there may be no room for both
                self._loaded = load_pipeline(self.model, dtype=self.dtype, preset=wanted)
                self._loaded.set_progress_bar_config(disable=True)
            return self._loaded

    @cached_property
    def scratch(self) -> Path:
        """A private folder for what nobody keeps; it goes with the process."""
        folder = tempfile.mkdtemp(prefix="wan_jax_app_")  # mode 0700
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def colours(self) -> Float["n 3"]:
        """Of latents, for previews: see `wan_jax.pipelines.preview`.  No preset changes them."""
        from wan_jax.pipelines.preview import fit_colours

        if self._colours is None:
            self._colours = fit_colours(self.pipeline())
        return self._colours
