"""The training loss and its gradient against PyTorch's, through Diffusers' WanTransformer3DModel, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from convert.dit import dit_rules
from convert.rules import flat
from tests.compare import relative_error
from tests.parity import reference
from tests.rearrange import to_jax
from wan_jax.conditioning import Conditioning, text_image_to_video, text_to_video
from wan_jax.config import DiTConfig
from wan_jax.data.contents import Latents, Record
from wan_jax.data.units import StoredUnit
from wan_jax.models.dit import Context, DiT, abstract_params
from wan_jax.pipelines.loading import open_model
from wan_jax.train.config import TrainConfig
from wan_jax.train.objective import flow_matching_loss
from wan_jax.train.step import Clips, validation_losses

BATCH, FRAMES, HEIGHT, WIDTH, CHANNELS = 2, 3, 4, 6, 16
SIGMA = np.array([0.93, 0.31], np.float32)


def batch(text_dim, extra_channels):
    """Clean latents, noise, text and what is appended to the latents, [b f h w c]."""
    rng = np.random.default_rng(0)
    size = (BATCH, FRAMES, HEIGHT, WIDTH)
    clean, noise = (rng.standard_normal((*size, CHANNELS), np.float32) for _ in range(2))
    text = rng.standard_normal((BATCH, 12, text_dim), np.float32)
    text[:, 7:] = 0
    return clean, noise, text, rng.standard_normal((*size, extra_channels), np.float32)


def theirs(module, clean, noise, text, channels, clean_frames, sigma=SIGMA, **more):
    """Loss, and gradients by Diffusers' names, as a PyTorch trainer would write them.

    `clean_frames`: of all samples, or of each.
    """
    x0, eps, extra = (torch.from_numpy(x).permute(0, 4, 1, 2, 3) for x in (clean, noise, channels))
    sigma = torch.from_numpy(sigma)
    noisy = (1 - sigma.view(-1, 1, 1, 1, 1)) * x0 + sigma.view(-1, 1, 1, 1, 1) * eps
    timestep, each = 1000 * sigma, np.broadcast_to(clean_frames, len(clean))
    if each.any():  # as WanPipeline has it for TI2V-5B: a timestep for every token
        noised = torch.ones(BATCH, FRAMES, HEIGHT // 2, WIDTH // 2)
        for i, count in enumerate(each):
            noisy[i, :, :count] = x0[i, :, :count]
            noised[i, :count] = 0
        timestep = timestep[:, None] * noised.flatten(1)
    prediction = module(
        hidden_states=torch.cat([noisy, extra], dim=1),
        timestep=timestep,
        encoder_hidden_states=torch.from_numpy(text),
        return_dict=False,
        **more,
    )[0]
    errors = (error[:, count:] for error, count in zip(prediction - (eps - x0), each))
    loss = sum(torch.nn.functional.mse_loss(x, torch.zeros_like(x)) for x in errors) / BATCH
    loss.backward()
    return loss.item(), {name: p.grad.numpy() for name, p in module.named_parameters()}


@pytest.mark.parametrize(
    "clean_frames, extra_channels, remat",
    [(0, 0, "all"), (1, 0, "all"), (0, 20, "all"), (0, 0, "nothing"), (1, 20, "attention"), (0, 0, "products")],
)
def test_loss_and_gradient(clean_frames, extra_channels, remat):
    module = reference.dit(in_channels=CHANNELS + extra_channels)
    config = DiTConfig.from_json(dict(module.config), "transformer/config.json")
    params = reference.params_of(module, dit_rules(config), abstract_params(config))
    clean, noise, text, channels = batch(config.text_dim, extra_channels)
    their_loss, their_gradient = theirs(module, clean, noise, text, channels, clean_frames)

    given = clean[:, :clean_frames] if clean_frames else None
    conditioning = Conditioning(text, channels=channels if extra_channels else None, clean=given)
    compare(config, params, loss_of(config, clean, noise, conditioning, remat), their_loss, their_gradient)


@pytest.mark.parametrize("remat", ["all", "nothing"])
def test_loss_and_gradient_of_vace(remat):
    """The base's gradient, through its own blocks and through the hints, and that of the branch."""
    module = reference.vace_dit(num_layers=4, vace_layers=[0, 3])
    config = DiTConfig.from_json(dict(module.config), "transformer/config.json")
    params = reference.params_of(module, dit_rules(config), abstract_params(config))
    clean, noise, text, shown = batch(config.text_dim, config.vace_in_channels)
    context, nothing = Context(jnp.asarray(shown), jnp.ones(())), shown[..., :0]
    control = torch.from_numpy(shown).permute(0, 4, 1, 2, 3)
    their_loss, their_gradient = theirs(module, clean, noise, text, nothing, 0, control_hidden_states=control)
    conditioning = Conditioning(text, context=context)
    compare(config, params, loss_of(config, clean, noise, conditioning, remat), their_loss, their_gradient)


@pytest.mark.parametrize("kind, units", [("i2v", "first"), ("i2v", "ends"), ("ti2v, image", None)])
def test_from_clips_to_the_gradient(tmp_path, kind, units):
    """A step on what a dataset holds of two clips, against Diffusers' own conditions of them."""
    pipe = reference.pipeline(tmp_path, experts=1, kind=kind)
    contents = Latents(str(tmp_path / "model"), text=False, units=units)
    model = open_model(str(tmp_path / "model"), jnp.float32).config
    side = model.vae.spatial_factor
    size = (BATCH, 4 * (FRAMES - 1) + 1, HEIGHT * side, WIDTH * side, 3)
    videos = np.random.default_rng(1).integers(256, size=size, dtype=np.uint8)
    stored = [contents.of(Record(id, "", video)) for id, video in zip("ab", videos)]
    clean, *unit = (np.stack([record[name] for record in stored]) for name in stored[0])
    text, key = batch(model.transformer.text_dim, 0)[2], jax.random.key(1)
    clips = Clips(clean.astype(np.float32), text, StoredUnit(*unit) if units else None)
    noise = np.array(jax.random.normal(key, clean.shape, jnp.float32))
    expected, channels, clean_frames = conditions(pipe, videos, units), clips.latents[..., :0], 0
    if units:
        assert relative_error(unit[0], expected[..., 4:]) < 1e-3  # float16
        channels = np.concatenate([expected[..., :4], unit[0].astype(np.float32)], axis=-1)
    else:
        assert relative_error(clean[:, :1], expected) < 1e-3
        clean_frames = np.asarray(text_image_to_video(clean, text, key).shown).astype(int)
        assert sorted(clean_frames) == [0, 1]
    sigma = np.full(BATCH, 0.7, np.float32)
    of_theirs = theirs(pipe.transformer, clips.latents, noise, text, channels, clean_frames, sigma)

    condition = text_to_video if units else text_image_to_video
    run = TrainConfig(name="run", model=model, dtype="float32", condition=condition)
    rules = dit_rules(model.transformer)
    params = reference.params_of(pipe.transformer, rules, abstract_params(model.transformer))

    def loss(params):
        return validation_losses({"transformer": params}, {}, clips, text[:1], sigma[0], key, config=run).mean()

    compare(model.transformer, params, loss, *of_theirs)


def conditions(pipe, videos, units):
    """What Diffusers shows the network of each clip's first frame, or of its first and last."""
    count, height, width = videos.shape[1:4]
    pixels = torch.from_numpy(videos).permute(0, 1, 4, 2, 3) / 127.5 - 1
    made = []
    for x in pixels:
        last = x[-1:] if units == "ends" else None
        sizes = dict(height=height, width=width, num_frames=count, num_channels_latents=pipe.vae.config.z_dim)
        made.append(pipe.prepare_latents(x[:1], 1, **sizes, dtype=torch.float32, device="cpu", last_image=last)[1])
    return torch.cat(made).permute(0, 2, 3, 4, 1).numpy(force=True)


def loss_of(config, clean, noise, conditioning, remat):
    """params → our loss."""

    def loss(params):
        def predict(*inputs):
            return DiT(config, jnp.float32, remat).apply({"params": params}, *inputs)

        return flow_matching_loss(predict, clean, noise, SIGMA, conditioning).mean()

    return loss


def compare(config, params, loss, their_loss, their_gradient):
    our_loss, our_gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert abs(our_loss - their_loss) <= 1e-5 * their_loss

    rules, shapes = dit_rules(config), flat(abstract_params(config))
    expected = {r.path: to_jax(r, "diffusers", shapes[r.path].shape, np.float64, their_gradient.get) for r in rules}
    size = {path: np.linalg.norm(g) for path, g in expected.items()}
    error = {path: np.linalg.norm(np.asarray(g, np.float64) - expected[path]) for path, g in flat(our_gradient).items()}
    whole = np.linalg.norm(list(size.values()))
    assert np.linalg.norm(list(error.values())) <= 1e-5 * whole
    assert [path for path in size if error[path] > 1e-4 * size[path] + 1e-6 * whole] == []
