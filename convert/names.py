"""Files whose tensors are not those of the rule table one by one: second names, several in one, and others beside."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from convert.tensor_files import TensorInfo


@dataclass(frozen=True)
class Names:
    """How the tensors of a component's files are called in its rule table.

    Attributes:
        aliases: second names under which a file may hold a tensor of the table.
        fused: parts of names, and what stands there in the names of the equal pieces along the first axis.
        ignored: a pattern of names that belong to something else.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ignored: str = ""

    def places(
        self, header: Mapping[str, TensorInfo], held: Collection[str] | None = None
    ) -> dict[str, tuple[str, slice | None]]:
        """For each tensor of the table, the file's that holds it, and its rows there if there are others too.

        A second name counts only where the first is not among those `held`, by default the file's.
        """
        held = header if held is None else held
        found: dict[str, tuple[str, slice | None]] = {}
        for name, info in header.items():
            if re.fullmatch(self.ignored, name) or self.aliases.get(name) in held:
                continue
            fused = next((part for part in self.fused if part in name), None)
            if fused is None:
                found[self.aliases.get(name, name)] = name, None
                continue
            pieces = self.fused[fused]
            rows = info.shape[0] // len(pieces)
            for n, piece in enumerate(pieces):
                found[name.replace(fused, piece)] = name, slice(n * rows, (n + 1) * rows)
        return found

    def header(self, header: Mapping[str, TensorInfo], held: Collection[str] | None = None) -> dict[str, TensorInfo]:
        """A file's tensors under the names of the table."""

        def info(name: str, rows: slice | None) -> TensorInfo:
            whole = header[name]
            return whole if rows is None else TensorInfo((rows.stop - rows.start, *whole.shape[1:]), whole.dtype)

        return {ours: info(*place) for ours, place in self.places(header, held).items()}


ITS_OWN = Names()  # of files that hold just the tensors of the table
