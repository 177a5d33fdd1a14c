"""What a transformer block keeps for its gradient; the rest is computed again on the way back.

nothing             least memory: every block runs forward twice
attention           keeps the results of the attention kernels and their sums, the dearest part of a long video
attention_on_host   the same, and with the inputs of the blocks it waits in host memory (arXiv:2503.20314 §4.3)
products            keeps the results of all matrix products as well
all                 most memory: nothing is computed again
"""

from collections.abc import Callable

import flax.linen as nn
import jax
from jax.ad_checkpoint import checkpoint_name

from wan_jax.errors import WanError

ATTENTION, BLOCK_INPUT = "attention", "block_input"
_CUDNN = "dot_product_attention_fwd_wrapper"  # the primitive that returns what NVIDIA's gradient kernel needs
_policies = jax.checkpoint_policies


def keep(x: jax.Array, name: str) -> jax.Array:
    """Marks a value that a policy may keep, as `ATTENTION` or `BLOCK_INPUT`."""
    return checkpoint_name(x, name)


def _attention(primitive, *args, **params) -> bool:
    return primitive.name == _CUDNN or _policies.save_only_these_names(ATTENTION)(primitive, *args, **params)


_POLICIES: dict[str, Callable] = {
    "nothing": _policies.nothing_saveable,
    "attention": _attention,
    "attention_on_host": _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[ATTENTION, BLOCK_INPUT],
        offload_src="device",
        offload_dst="pinned_host",
    ),
    "products": _policies.save_from_both_policies(_attention, _policies.dots_with_no_batch_dims_saveable),
}
NAMES = (*_POLICIES, "all")


def remat(block: type[nn.Module], name: str, static_argnums: tuple[int, ...]) -> type[nn.Module]:
    """The block, keeping for the gradient of its `__call__` what `name` says.

    Raises:
        WanError: there is no such choice.
    """
    if name not in NAMES:
        raise WanError(f"remat={name!r} is unknown; use one of {', '.join(NAMES)}")
    if name == "all":
        return block
    return nn.remat(block, policy=_POLICIES[name], prevent_cse=False, static_argnums=static_argnums)
