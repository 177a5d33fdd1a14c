"""What a conversion has finished: the record that makes it resumable."""

from dataclasses import dataclass, field
from typing import Any

from etils import epath

from convert.components import Component
from wan_jax import checkpoint
from wan_jax.errors import WanError

_FILE = "progress.json"


@dataclass
class Progress:
    """The digest of every layer that is safely written, under component and parameter; None where it is not yet.

    `source` says what is being converted and `sizes` which files that was, so that nothing else continues it.
    """

    folder: epath.Path
    source: dict[str, Any]
    sizes: dict[str, int]
    digests: dict[str, dict[str, list[str | None]]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: epath.Path) -> "Progress | None":
        """The record of a killed conversion, if `folder` holds one."""
        if not (folder / _FILE).exists():
            return None
        return cls(folder, **checkpoint.read_json(folder / _FILE))

    def save(self):
        """Replaces the record atomically.  Everything it lists must have been written before."""
        content = {"source": self.source, "sizes": self.sizes, "digests": self.digests}
        checkpoint.write_json(self.folder / _FILE, content)

    def remove(self):
        (self.folder / _FILE).unlink(missing_ok=True)

    def begin(self, component: Component):
        """Lays out a component's arrays, unless that was done."""
        if component.name not in self.digests:
            stored, stacked = component.stored, component.stored_stacked
            checkpoint.create(self.folder / component.name, component.config, stored, stacked)
            layers = {path: component.layers(component.source_path(path)) for path in stored}
            self.digests[component.name] = {path: [None] * count for path, count in layers.items()}

    def is_done(self, component: str, path: str, layer: int | None) -> bool:
        return component in self.digests and self.digests[component][path][layer or 0] is not None

    def mark(self, component: str, layer: int | None, digests: dict[str, str]):
        """Records the digests of all that was stored of a layer, by path."""
        for path, digest in digests.items():
            self.digests[component][path][layer or 0] = digest

    def require(self, source: dict[str, Any], sizes: dict[str, int]):
        """Raises a WanError if the record is of another conversion."""
        if self.source != source:
            was = ", ".join(f"{key} {value}" for key, value in self.source.items() if value is not None)
            raise WanError(f"{self.folder}: an unfinished conversion of something else ({was}); delete it first")
        if changed := sorted(k for k in sizes.keys() | self.sizes.keys() if sizes.get(k) != self.sizes.get(k)):
            raise WanError(f"{self.folder}: its source changed since it was begun ({changed[0]}); delete it first")
