"""What a run tells: lines for machines, curves for TensorBoard."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath

from wan_jax.cluster import is_leader, wait_for_all


class Journal:
    """JSON lines that agree with the checkpoints, whenever a run is killed, and scalars for TensorBoard.

    Lines are kept until a checkpoint is saved, then written as one file that is named after its step and the process:
    the steps that a restarted run does again are told once.  A bucket, where nothing can be appended, will do as the
    folder.
    """

    def __init__(self, folder: epath.PathLike, step: int):
        """Goes on after `step`: what was told of later ones is dropped."""
        from tensorboardX import SummaryWriter  # here: reading a journal does not need it

        folder = epath.Path(folder)
        self._lines_folder = folder / "journal"
        self._lines: list[str] = []
        self._board = None
        if is_leader():
            self._lines_folder.mkdir(parents=True, exist_ok=True)
            for file in self._lines_folder.glob("*.jsonl"):
                if int(file.name.partition(".")[0]) > step:
                    file.unlink()
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        wait_for_all("journal")

    def add(self, step: int, scalars: Mapping[str, float] = {}, ids: Sequence[str] = ()):
        """Scalars of a step, which process 0 tells, and the clips that this process has seen in it."""
        entry: dict[str, Any] = {"step": step}
        if is_leader():
            entry |= scalars
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        if ids:
            entry["ids"] = list(ids)
        self._lines.append(json.dumps(entry) + "\n")

    def flush(self, step: int):
        """Writes what was added since the last time; called with every checkpoint."""
        if self._lines:
            name = f"{step:08}.{jax.process_index():05}.jsonl"
            (self._lines_folder / name).write_text("".join(self._lines))
            self._lines = []
        if self._board is not None:
            self._board.flush()

    def close(self):
        if self._board is not None:
            self._board.close()


def read_journal(folder: epath.PathLike) -> list[dict[str, Any]]:
    """All entries of the run in `folder`, by step; of those of one step, process 0's come first."""
    files = sorted((epath.Path(folder) / "journal").glob("*.jsonl"), key=lambda file: file.name)
    entries = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return sorted(entries, key=lambda entry: entry["step"])
