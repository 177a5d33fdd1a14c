"""`data build`: clips to a dataset, by any number of processes, killed as often as you like.

Which clip goes into which shard is decided first and written to plan/plan.json.  Process i of P then writes the shards
i, i + P, …; each appears whole, and then a note in plan/ about what became of its clips.  So a repeated command goes on
where the last one stopped, and the result is that of a single run, byte for byte.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import grain
import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils
from tqdm import tqdm

from wan_jax.checkpoint import read_json
from wan_jax.cluster import is_leader
from wan_jax.data import shards
from wan_jax.data.contents import Frames, Latents, Record
from wan_jax.data.sources import Source, bucket_of
from wan_jax.errors import WanError

_READING = grain.ReadOptions(num_threads=8, prefetch_buffer_size=8)  # clips that are decoded ahead


@dataclass(frozen=True)
class Shard:
    """A file of the dataset: some items of its source."""

    split: str
    index: int
    count: int
    items: list

    @property
    def name(self) -> str:
        return shards.shard_name(self.split, self.index, self.count)


def build(
    source: Source, contents: Frames | Latents, out: epath.PathLike, shard_bytes: int = 256 << 20, restart: bool = False
) -> dict[str, Any]:
    """Writes a dataset, or the rest of one that was begun.  Every process calls it.

    Args:
        source: the clips.
        contents: what to keep of them.
        out: the dataset's folder, new or begun by the same command.
        shard_bytes: about the size of a shard.
        restart: delete what was begun.

    Returns:
        the content of its wan_jax.json.

    Raises:
        WanError: `out` holds something else, the disk is full, the model has no clips of such a size, or no clip can
            be used.
    """
    out = epath.Path(out)
    model = contents.model and contents.model["fingerprint"]
    asked = source.identity() | {"model": model, "text": contents.text, "shard_bytes": shard_bytes}
    asked |= {"units": list(contents.units)} if contents.units else {}
    with _together():
        _check(out, asked, restart)
    with _together():
        if is_leader():
            _begin(out, source, contents, asked, restart)
    plan = read_json(out / "plan" / "plan.json")
    planned = [Shard(**shard) for shard in plan["shards"]]
    if (out / shards.CONFIG).exists():
        return shards.read_config(out)
    with _together():
        contents.prepare()
        _write_shards(out, planned[jax.process_index() :: jax.process_count()], source, contents)
    with _together():
        if is_leader():
            _complete(out, planned, plan, source, contents)
    return shards.read_config(out)


def _check(out: epath.Path, asked: dict[str, Any], restart: bool):
    """Refuses a folder that holds something else."""
    plan = out / "plan" / "plan.json"
    if not plan.exists():
        # A process that was killed early has left plan/ alone.
        if out.exists() and any(path != plan.parent for path in out.iterdir()):
            raise WanError(f"--out {out} is not empty, and no dataset that was begun here; name another folder")
        return
    before = read_json(plan)["asked"]
    changed = [name for name in asked | before if before.get(name) != asked.get(name)]
    if changed and not restart:
        old, new = before.get(changed[0]), asked.get(changed[0])
        what = "other clips" if changed[0] == "src" else f"{changed[0]}={old} and not {new}"
        raise WanError(f"--out {out} was begun with {what}; name another folder, or start over with --restart")


def _begin(out: epath.Path, source: Source, contents: Frames | Latents, asked: dict[str, Any], restart: bool):
    """Writes the plan, unless there is one."""
    plan = out / "plan" / "plan.json"
    if restart and plan.exists():
        out.rmtree()
    if plan.exists():
        return
    splits, skipped = source.split()
    if not any(splits.values()):
        raise _none_of(skipped)
    cut = [
        asdict(shard)
        for split, items in sorted(splits.items())
        for shard in _cut(split, items, asked["shard_bytes"] // contents.record_bytes(bucket_of(split)))
    ]
    shards.write_json(plan, {"asked": asked, "shards": cut, "skipped": skipped})


def _cut(split: str, items: list, at_most: int) -> list[Shard]:
    """As few shards as will do, of about the same length."""
    count = -(-len(items) // max(at_most, 1))
    ends = [len(items) * i // count for i in range(count + 1)]
    return [Shard(split, i, count, items[ends[i] : ends[i + 1]]) for i in range(count)]


def _write_shards(out: epath.Path, mine: list[Shard], source: Source, contents: Frames | Latents):
    features = shards.all_features(contents.features)
    missing = [shard for shard in mine if not _note(out, shard).exists()]
    clips, to_do = (sum(len(shard.items) for shard in some) for some in (mine, missing))
    with tqdm(total=clips, initial=clips - to_do, desc="build", unit="clip") as bar:
        for shard in missing:
            skipped: dict[str, str] = {}
            path = out / shard.name
            records = shards.write_shard(path, features, _examples(shard, source, contents, skipped, bar))
            note = {"records": records, "bytes": path.stat().length, "skipped": skipped}
            shards.write_json(_note(out, shard), note)


def _note(out: epath.Path, shard: Shard) -> epath.Path:
    """Says what became of the clips of a shard, once it is there."""
    return out / "plan" / f"{shard.name}.json"


def _examples(
    shard: Shard, source: Source, contents: Frames | Latents, skipped: dict[str, str], bar: tqdm
) -> Iterator[dict[str, Any]]:
    """The records of a shard, in order; of clips that cannot be read, the reasons go to `skipped`."""
    items = grain.MapDataset.source(shard.items).map(partial(source.read, shard.split))
    for record in items.to_iter_dataset(_READING):
        bar.update()
        if isinstance(record, Record):
            yield {"id": record.id, "caption": record.caption, **contents.of(record)}
        else:
            id, skipped[id] = record


def _complete(out: epath.Path, planned: list[Shard], plan: dict[str, Any], source: Source, contents: Frames | Latents):
    """Writes what is known once all shards are there."""
    skipped: dict[str, str] = dict(plan["skipped"])
    sizes: dict[str, list[tuple[int, int]]] = {}
    for shard in planned:
        note = read_json(_note(out, shard))
        skipped |= note["skipped"]
        sizes.setdefault(shard.split, []).append((note["records"], note["bytes"]))
    clips = {split: sum(records for records, _ in written) for split, written in sizes.items()}
    if not any(clips.values()):
        raise _none_of(skipped)
    shards.write_metadata(out, shards.all_features(contents.features), sizes)
    no_text = contents.no_text
    if no_text is not None:
        shards.write_no_text(out, no_text)
    config = {
        "format": shards.FORMAT,
        "contents": contents.kind,
        "model": contents.model,
        "text": contents.text,
        "text_len": contents.text_len,
        "units": list(contents.units),
        "fps": source.fps,
        "splits": {split: asdict(bucket_of(split)) | {"clips": count} for split, count in clips.items()},
        "skipped": dict(sorted(skipped.items())),
        "asked": plan["asked"],
    }
    shards.write_json(out / shards.CONFIG, config)


def _none_of(skipped: dict[str, str]) -> WanError:
    return WanError(f"none of the {len(skipped)} clips can be used: {summary(skipped)}")


@contextmanager
def _together() -> Iterator[None]:
    """Waits for the other processes at the end; if one of them fails here, all do, rather than wait for ever."""
    mine = None
    try:
        yield
    except WanError as error:
        mine = error
    failed = np.atleast_1d(multihost_utils.process_allgather(np.array(mine is not None)))
    if mine:
        raise mine
    if failed.any():
        raise WanError(f"process {failed.argmax()} of {len(failed)} failed; it says why")


def table(config: dict[str, Any]) -> str:
    """The sizes of a dataset and the number of their clips, as text."""
    rows = {}
    for split, entry in config["splits"].items():
        part, _, bucket = split.partition("_")
        rows.setdefault(bucket, {})[part] = entry["clips"]
    lines = [f"{'size':<14}{'train':>8}{'validation':>12}"]
    return "\n".join(
        lines + [f"{bucket:<14}{row.get('train', 0):>8}{row.get('validation', 0):>12}" for bucket, row in rows.items()]
    )


def summary(skipped: dict[str, str]) -> str:
    """How many clips were left out, by reason."""
    reasons = Counter(reason.partition(":")[0] for reason in skipped.values())
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
