"""CLIP's vision tower against transformers', and its pictures against PyTorch's."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from convert.clip import CLIP_IGNORED, clip_rules
from tests.compare import relative_error
from tests.parity import reference
from wan_jax.config import CLIPConfig
from wan_jax.models.clip import CLIPVision, abstract_params, preprocess

TOLERANCE = 1e-5


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        # A layer of ViT-H/14: 16 heads of 80, 257 tokens; the last block of two is not among Wan's tokens.
        dict(
            hidden_size=1280,
            intermediate_size=5120,
            num_attention_heads=16,
            image_size=224,
            patch_size=14,
            num_hidden_layers=2,
        ),
    ],
)
def test_tokens(sizes):
    model = reference.clip(seed=0, std=0.02 if sizes else 0.2, **sizes)
    config = CLIPConfig.from_json(model.config.to_dict(), "image_encoder/config.json")
    params = reference.params_of(model, clip_rules(config), abstract_params(config), CLIP_IGNORED)
    pixels = np.random.default_rng(0).standard_normal((2, config.image_size, config.image_size, 3), np.float32)
    with torch.no_grad():
        theirs = model.vision_model(torch.from_numpy(pixels).permute(0, 3, 1, 2), output_hidden_states=True)
    tokens, summary = CLIPVision(config, jnp.float32).apply({"params": params}, pixels)
    assert tokens.shape == (2, config.num_tokens, config.hidden_size)
    assert relative_error(tokens, theirs.hidden_states[-2]) <= TOLERANCE
    assert relative_error(summary, theirs.pooler_output) <= TOLERANCE  # by which the last layer's weights are known
    assert relative_error(theirs.last_hidden_state, theirs.hidden_states[-2]) > 0.1


def test_pictures_are_squeezed_as_the_official_code_does():
    """Wan2.1, wan/modules/clip.py: bicubic from [-1, 1], then to [0, 1], then normalised; the shape is not kept."""
    image = np.random.default_rng(0).integers(256, size=(37, 53, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).sub(0.5).div(0.5)
    x = torch.nn.functional.interpolate(x, size=(28, 28), mode="bicubic", align_corners=False) * 0.5 + 0.5
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1)
        for v in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    assert relative_error(preprocess(image, 28), ((x - mean) / std)[0].permute(1, 2, 0)) <= TOLERANCE


def test_pictures_of_the_right_size_are_as_in_transformers():
    image = np.random.default_rng(0).integers(256, size=(28, 28, 3), dtype=np.uint8)
    size = {"height": 28, "width": 28}
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    expected = processor(image, return_tensors="np")["pixel_values"][0]
    assert relative_error(preprocess(image, 28), expected.transpose(1, 2, 0)) <= TOLERANCE
