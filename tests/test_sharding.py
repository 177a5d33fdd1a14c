"""The table of where weights live, and the choice of a mesh."""

from types import SimpleNamespace

import jax
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from wan_jax import sharding
from wan_jax.config import get_config
from wan_jax.models import abstract_params

MODEL = get_config("wan22_t2v_a14b")


def specs(config, **axes) -> dict[str, P]:
    sizes = tuple(axes.get(name, 1) for name in sharding.AXES)
    mesh = AbstractMesh(sizes, sharding.AXES)
    return flatten_dict(sharding.param_specs(abstract_params(config, "bfloat16"), mesh), sep="/")


def test_table():
    found = specs(MODEL.transformer, data=2, fsdp=2, context=4, tensor=2)
    pieces = ("fsdp", "context")
    assert found["blocks/self_attn/q/kernel"] == found["blocks/cross_attn/v/kernel"] == P(None, pieces, ("tensor",))
    assert found["blocks/self_attn/o/kernel"] == found["blocks/ffn_out/kernel"] == P(None, ("tensor",), pieces)
    assert found["blocks/ffn_in/bias"] == P(None, ("tensor",))
    assert found["blocks/modulation"] == found["head/proj/kernel"] == P()


def test_everything_large_is_cut():
    """No array that every chip of a slice would hold whole takes 8 MB or more; the small autoencoder is whole."""
    for config in (MODEL.transformer, MODEL.text_encoder):
        shapes = flatten_dict(abstract_params(config, "bfloat16"), sep="/")
        for path, spec in specs(config, context=8).items():
            if not any("context" in (axes or ()) for axes in spec):
                assert shapes[path].size * shapes[path].dtype.itemsize < 8 << 20, path


def test_axes_that_do_not_divide_are_dropped():
    assert specs(MODEL.transformer, fsdp=7)["blocks/ffn_in/kernel"] == P(None, "context", "tensor")
    with pytest.raises(ValueError, match="more axes"):
        sharding.fitting(P("fsdp", None), (3,), AbstractMesh((1,) * 4, sharding.AXES))


@pytest.mark.parametrize(
    "batch, batch_axes, sequence_axes",
    [(1, (), ("data", "fsdp", "context")), (2, ("data",), ("fsdp", "context")), (4, ("data", "fsdp"), ("context",))],
)
def test_what_the_batch_cannot_use_works_on_the_sequence(batch, batch_axes, sequence_axes):
    mesh = sharding.make_mesh(data=2, fsdp=2, context=2, devices=jax.devices("cpu")[:8])
    with jax.set_mesh(mesh):
        assert sharding.split(batch) == sharding.Split(batch_axes, sequence_axes)
    assert sharding.split(batch) == sharding.Split((), ())


def test_default_mesh(monkeypatch):
    """Guidance on two halves, unless the weights would not fit twice."""
    made = []
    monkeypatch.setattr(sharding, "make_mesh", lambda devices, **axes: made.append(axes))
    chips = [SimpleNamespace(platform="tpu", device_kind="TPU v6 lite")] * 4
    for weight_bytes in (0, 30 << 30, 64 << 30):
        sharding.default_mesh(chips, weight_bytes)
    sharding.default_mesh(chips[:3])
    assert made == [dict(data=2, context=2)] * 2 + [dict(data=1, context=4), dict(data=1, context=3)]
