"""NVIDIA's fused attention kernel, for half precision on GPU."""

import jax

from wan_jax.typing import Float, typechecked


@typechecked
def cudnn_attention(q: Float["b n k d"], k: Float["b s k d"], v: Float["b s k d"]) -> Float["b n k d"]:
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
