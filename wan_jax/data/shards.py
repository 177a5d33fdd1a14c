"""Datasets on the disk: array_record shards, and around them what tensorflow-datasets needs to read them.

    clips-train_832x480x81.array_record-00000-of-00003   records of one size, in the order of their ids
    dataset_info.json, features.json                     tensorflow-datasets' own
    no_text.npy                                          umT5 states of the empty caption
    wan_jax.json                                         what the dataset is; written last: no dataset without it

TensorFlow itself is never imported.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from wan_jax import checkpoint
from wan_jax.errors import WanError

FORMAT = 1
CONFIG, NO_TEXT = "wan_jax.json", "no_text.npy"
_NAME = "clips"


def shard_name(split: str, index: int, count: int) -> str:
    """The name that tensorflow-datasets expects."""
    return f"{_NAME}-{split}.array_record-{index:05}-of-{count:05}"


def all_features(contents: Mapping[str, tfds.features.FeatureConnector]) -> tfds.features.FeaturesDict:
    """The features of a record: id and caption, and its contents."""
    return tfds.features.FeaturesDict({"id": tfds.features.Text(), "caption": tfds.features.Text(), **contents})


def write_shard(path: epath.Path, features: tfds.features.FeaturesDict, examples: Iterable[Mapping[str, Any]]) -> int:
    """Writes a shard, which appears when it is whole, and returns the number of its records.

    Raises:
        WanError: the disk is full, or not to be written to.
    """
    count = 0
    with appearing(path) as temporary:
        writer = ArrayRecordWriter(str(temporary), "group_size:1")  # a group of one: records are read in any order
        for example in examples:
            _or_error(path, writer.write, _serialized(features, example))
            count += 1
        _or_error(path, writer.close)
    return count


def write_metadata(
    folder: epath.Path, features: tfds.features.FeaturesDict, splits: Mapping[str, Sequence[tuple[int, int]]]
):
    """Makes a dataset of the shards in a folder.

    Args:
        folder: where they are.
        features: of every record.
        splits: for each split the records and bytes of its shards.

    Raises:
        WanError: the disk is full, or not to be written to.
    """
    infos = []
    for name, shards in splits.items():
        lengths, sizes = zip(*shards)
        infos.append(tfds.core.SplitInfo(name=name, shard_lengths=list(lengths), num_bytes=sum(sizes)))
    try:
        tfds.folder_dataset.write_metadata(
            data_dir=folder, features=features, split_infos=infos, version="1.0.0", check_data=False
        )
    except OSError as error:
        raise _unwritable(folder, error.strerror or str(error)) from error


def write_no_text(folder: epath.Path, states: np.ndarray):
    """Stores the umT5 states [s d] of the empty caption."""
    with appearing(folder / NO_TEXT) as temporary, temporary.open("wb") as file:
        np.save(file, states)


def read_config(folder: epath.Path) -> dict[str, Any]:
    """What `data build` says about a dataset.

    Raises:
        WanError: there is no finished dataset, or one of another format.
    """
    if not (folder / CONFIG).exists():
        raise WanError(f"{folder} is no finished dataset (no {CONFIG}); make one with: python -m wan_jax data build")
    config = checkpoint.read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise WanError(f"{folder}: dataset format {config.get('format')}, this version reads {FORMAT}; build it again")
    return config


def write_json(path: epath.Path, content: Any):
    """Replaces a JSON file, and makes its folder.

    Raises:
        WanError: the disk is full, or not to be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(path, content)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


@contextmanager
def appearing(path: epath.Path) -> Iterator[Path]:
    """A local file to write, which becomes `path` when all went well."""
    remote = "://" in str(path)
    with tempfile.TemporaryDirectory() if remote else nullcontext(path.parent) as folder:
        temporary = Path(folder) / f"{path.name}.tmp"
        try:
            yield temporary
            if remote:
                epath.Path(temporary).copy(path, overwrite=True)  # an object of a bucket appears whole
            else:
                temporary.replace(path)
        except OSError as error:
            raise _unwritable(path, error.strerror or str(error)) from error
        finally:
            temporary.unlink(missing_ok=True)


def _serialized(features: tfds.features.FeaturesDict, example: Mapping[str, Any]) -> bytes:
    """What `features.serialize_example` makes, but with the fields in the same order every time."""
    serializer = ExampleSerializer(features.get_serialized_info())
    return serializer.get_tf_example(features.encode_example(example)).SerializeToString(deterministic=True)


def _or_error(path: epath.Path, write, *args):
    try:
        write(*args)
    except RuntimeError as error:  # what array_record raises of a full disk
        raise _unwritable(path, str(error).partition(";")[0]) from error


def _unwritable(path: epath.Path, reason: str) -> WanError:
    return WanError(f"cannot write {path}: {reason}; what is finished stays, and the same command goes on from there")
