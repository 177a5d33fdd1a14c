"""Where the weights of a model wait: on the device, or in host memory until they are needed.

None        all components stay on the device
"model"     a component is on the device only while it works: two experts take the memory of one
"blocks"    as well, and of a transformer no more than a block or two at a time: a model larger than the device
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial

import jax
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh

from wan_jax import checkpoint, quantization, sharding
from wan_jax.config import WanConfig
from wan_jax.errors import WanError
from wan_jax.lora import BLOCK_KERNEL
from wan_jax.models import abstract_params
from wan_jax.pipelines import out_of_memory
from wan_jax.pipelines.given import Size
from wan_jax.pipelines.loading import Model
from wan_jax.typing import Params

OFFLOADS = (None, "model", "blocks")
_ORDER = ("text_encoder", "image_encoder", "transformer", "transformer_2", "vae")  # of use


class Weights(Mapping[str, Params]):
    """Parameters by component, read in the background in the order of their use; asking for one waits for it.

    One after the other: the arrays of each are read in parallel, and what is used first is there first.  So the text
    is encoded and the first expert works while the second is still on its way.

    Where weights are offloaded, the component that was asked for last is on the device, and no other; the caller must
    have let go of the others.
    """

    def __init__(
        self,
        model: Model,
        config: WanConfig,
        dtypes: Mapping[str, np.dtype],
        mesh: Mesh,
        offload: str | None = None,
    ):
        """Starts to read.

        Args:
            model: what was found.
            config: the same model; its transformers may be quantised where the stored ones are not.
            dtypes: of each component.
            mesh: to place it on.
            offload: see above.

        Raises:
            WanError: a parameter is missing, unexpected or misshapen.  A damaged one raises when it is asked for.
        """
        for name in dtypes:
            model.check(name)
        self._model, self._config, self._dtypes, self._mesh = model, config, dtypes, mesh
        self.how = _checked(offload)  # they are offloaded
        self._at_work: tuple[str, Params] | None = None
        self._futures: dict[str, Future] = {}
        self._changes: dict[str, list[Callable[[Params], Params]]] = defaultdict(list)
        self.restore(*sorted(dtypes, key=_ORDER.index))

    def restore(self, *names: str):
        """Reads components again: what was changed is as it was."""
        self._let_go()
        pool = ThreadPoolExecutor(1, thread_name_prefix="restore")
        for name in names:
            self._changes[name].clear()
            self._futures[name] = pool.submit(self._read, name)
        pool.shutdown(wait=False)

    def change(self, name: str, change: Callable[[Params], Params]):
        """Has `change` replace the parameters of a component, wherever they lie, when they are next asked for.

        Not in the background: the processes of a pod have to start their programs in the same order.
        """
        self._changes[name].append(change)

    def offload(self, how: str | None):
        """Has weights wait elsewhere from now on; those that were read move."""
        self._let_go()
        self.how = _checked(how)
        for name in self._futures:
            self._replace(name, partial(waiting, name, offload=how))

    def __getitem__(self, name: str) -> Params:
        with self.explained(name):
            return self._take(name)

    def _take(self, name: str) -> Params:
        while self._changes[name]:
            self._let_go()
            self._replace(name, self._changes[name].pop(0))
        if self.how is None:
            return self._futures[name].result()
        if self._at_work is None or self._at_work[0] != name:
            self._let_go()  # before the next one comes
            self._at_work = name, at_work(name, self._futures[name].result(), self.how)
        return self._at_work[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._futures)

    def __len__(self) -> int:
        return len(self._futures)

    def explained(self, name: str, size: Size | None = None, videos: int = 1) -> AbstractContextManager[None]:
        """Around the work of a component, which may run out of memory; see `out_of_memory.explained`."""
        dtype = self._dtypes[name]
        return out_of_memory.explained(self._config, name, dtype, self._mesh, self.how, size, videos)

    def wait(self):
        """Returns when all components are read.  Nothing moves to the device for it."""
        for name, future in self._futures.items():
            with self.explained(name):
                future.result()

    def ready(self, name: str) -> bool:
        """Whether asking for a component would not wait."""
        return self._futures[name].done()

    def _let_go(self):
        """Frees what works now, at once: left to itself, memory becomes free some time after the last use."""
        if self._at_work is not None:
            name, params = self._at_work
            waiting = {id(x) for x in jax.tree.leaves(self._futures[name].result())}
            for x in jax.tree.leaves(params):
                if id(x) not in waiting:
                    x.delete()
        self._at_work = None

    def _replace(self, name: str, change: Callable[[Params], Params]):
        changed = Future()
        changed.set_result(change(self._futures[name].result()))
        self._futures[name] = changed

    def _read(self, name: str) -> Params:
        dtype, memory = self._dtypes[name], waiting_room(self.how)
        stored, wanted = (
            abstract_params(checkpoint.components(config)[name], dtype) for config in (self._model.config, self._config)
        )
        if jax.tree.structure(wanted) == jax.tree.structure(stored):
            return waiting(name, self._model.read(name, dtype, self._mesh, memory), self.how)
        places = sharding.place(wanted, self._mesh, memory)
        kind = self._config.transformer.quantization
        exact = self._model.read(name, dtype, self._mesh, sharding.HOST)
        return waiting(name, quantization.quantize_params(exact, places, kind), self.how)


def waiting_room(offload: str | None) -> str:
    """The memory space of weights that do not work."""
    return sharding.DEVICE if offload is None else sharding.HOST


def waiting(component: str, params: Params, offload: str | None) -> Params:
    """A component's arrays, or their shapes, where they wait, laid out for what is to come."""
    params = sharding.to_memory(params, waiting_room(offload))
    return jax.tree_util.tree_map_with_path(
        lambda path, x: streamed(x) if streams(component, path, offload) else x, params
    )


def at_work(component: str, params: Params, offload: str | None) -> Params:
    """Of `waiting`, what its programs take: copies on the device, but the very matrices that stream."""

    def move(path, x):
        return x if streams(component, path, offload) else sharding.to_memory(x, sharding.DEVICE)

    return jax.tree_util.tree_map_with_path(move, params)


def streams(component: str, path, offload: str | None) -> bool:
    """Whether a parameter stays in host memory while its component works."""
    name = "/".join(key.key for key in path)
    return offload == "blocks" and component.startswith("transformer") and BLOCK_KERNEL.fullmatch(name) is not None


def streamed(x: jax.Array | jax.ShapeDtypeStruct) -> jax.Array | jax.ShapeDtypeStruct:
    """Matrices in host memory, laid out as a program takes them layer by layer.

    A TPU keeps bytes in tiles of 32 rows, and fetches them from the host in tiles of 8; left to itself, its compiler
    (libtpu 0.0.52) lays out all layers anew before it fetches each.
    """
    if x.dtype.itemsize > 1 or next(iter(x.sharding.device_set)).platform != "tpu":
        return x
    rows_of_8 = Format(Layout(tuple(range(len(x.shape))), ((8, 128), (4, 1))), x.sharding)
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows_of_8)
    return jax.device_put(x, rows_of_8)


def quantized(config: WanConfig, kind: str | None) -> WanConfig:
    """The model with its transformers' matrices in eight bits; see `wan_jax.quantization`.  None: as they are stored.

    Raises:
        WanError: there is no such kind, or the model is stored in another.
    """
    stored = config.transformer.quantization
    if kind is None:
        return config
    transformer = dataclasses.replace(config.transformer, quantization=kind)
    if stored not in (None, kind):
        raise WanError(f"quantization={kind!r}: {config.name} is stored as {stored}; convert the original again")
    return dataclasses.replace(config, transformer=transformer)


def _checked(offload: str | None) -> str | None:
    if offload not in OFFLOADS:
        raise WanError(f"offload={offload!r} is unknown; use 'model', 'blocks' or None")
    return offload
