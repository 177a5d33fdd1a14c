"""Frames and masks of random tasks, and what the context keeps of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from wan_jax import editing, placeholder
from wan_jax.config import VAEConfig, get_config
from wan_jax.errors import WanError
from wan_jax.models import streaming
from wan_jax.models.wan_vae import WanVAE
from wan_jax.vcu import Canvas, Grey, context_frames, fold_mask, frames_of_latents

HEIGHT, WIDTH = 32, 48


def random_task(rng: np.random.Generator) -> tuple[str, Canvas]:
    """One of all tasks, of random length and content."""
    count = int(1 + 4 * rng.integers(1, 4))
    video = rng.integers(256, size=(count, HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = rng.random((count, HEIGHT, WIDTH)) > rng.random()
    kept = int(rng.integers(1, count))
    x, y = int(rng.integers(0, WIDTH - 8)), int(rng.integers(0, HEIGHT - 8))
    box = x, y, int(rng.integers(1, WIDTH - x + 1)), int(rng.integers(1, HEIGHT - y + 1))
    tasks = {
        "text": lambda: Canvas.blank(count, HEIGHT, WIDTH),
        "control": lambda: editing.follow(editing.grey(video)),
        "layout": lambda: editing.follow(editing.layout(count, HEIGHT, WIDTH, [box, (0, 0, 8, 8)], line=1)),
        "mask": lambda: editing.repaint(video, mask),
        "box": lambda: editing.repaint(video, editing.grow(editing.box_mask(count, HEIGHT, WIDTH, box), 2)),
        "outpaint": lambda: editing.outpaint(video[:, :20, :30], HEIGHT, WIDTH, x % 18, y % 12),
        "after": lambda: editing.keep_frames(count, (0, video[:kept])),
        "before": lambda: editing.keep_frames(count, (count - kept, video[:kept])),
        "between": lambda: editing.keep_frames(count + 2, (0, video[:kept]), (kept + 2, video[kept:])),
        "first": lambda: editing.first_last(video[0], None, count),
        "first and last": lambda: editing.first_last(video[0], video[1], count),
        "given": lambda: Canvas(editing.unit(video), mask),
    }
    name = rng.choice(sorted(tasks))
    return name, tasks[name]()


@pytest.mark.parametrize("seed", range(60))
def test_random_tasks(seed):
    """The parts of F add up to F, each grey where the other is not; the folded mask is M at its frames."""
    name, canvas = random_task(np.random.default_rng(seed))
    count = len(canvas.frames)
    assert canvas.frames.shape == (count, HEIGHT, WIDTH, 3) and canvas.mask.shape == (count, HEIGHT, WIDTH), name
    assert canvas.frames.dtype == np.float32 and canvas.mask.dtype == bool
    inactive, reactive = (np.concatenate(list(x), axis=1)[0] for x in (canvas.inactive(), canvas.reactive()))
    np.testing.assert_array_equal(inactive + reactive, 2 * canvas.frames - 1)
    assert not inactive[canvas.mask].any() and not reactive[~canvas.mask].any()
    folded = fold_mask(canvas.mask, 4, 8)
    assert folded.shape == ((count + 3) // 4, HEIGHT // 8, WIDTH // 8, 64)
    unfolded = folded.reshape(-1, HEIGHT // 8, WIDTH // 8, 8, 8).swapaxes(2, 3).reshape(-1, HEIGHT, WIDTH)
    np.testing.assert_array_equal(unfolded, canvas.mask[frames_of_latents(count, 4)])


@pytest.fixture(scope="module")
def encode():
    """A small autoencoder with random weights: (pieces of a clip, its frames) → latents."""
    config = VAEConfig(base_dim=4, num_res_blocks=1)
    shapes = get_config("untrained")
    params = placeholder.random_params(type(shapes)(**vars(shapes) | {"vae": config}))["vae"]
    vae = WanVAE(config, jnp.float32)

    def encode(pieces, frames):
        return jnp.concatenate(list(streaming.encode_chunks(vae, params, pieces)), axis=1)

    return config, encode


def test_order_of_the_context(encode):
    """Inactive, reactive, mask; references before all, in their order, with nothing but their latents."""
    config, encode = encode
    rng = np.random.default_rng(0)
    canvas = Canvas(rng.random((5, HEIGHT, WIDTH, 3), np.float32), rng.random((5, HEIGHT, WIDTH)) > 0.5)
    references = [rng.random((HEIGHT, WIDTH, 3), np.float32) for _ in range(2)]
    context = context_frames(encode, canvas, references, config)
    assert context.shape == (1, 2 + 2, HEIGHT // 8, WIDTH // 8, 96)
    parts = jnp.split(context[:, 2:], [16, 32], axis=-1)
    for part, expected in zip(parts, (encode(canvas.inactive(), 5), encode(canvas.reactive(), 5))):
        np.testing.assert_array_equal(part, expected)
    np.testing.assert_array_equal(parts[2][0], fold_mask(canvas.mask, 4, 8))
    for i, reference in enumerate(references):
        np.testing.assert_array_equal(context[:, i, ..., :16], encode([reference[None, None]], 1)[:, 0])
        assert not np.asarray(context[:, i, ..., 16:]).any()


def test_a_clip_of_nothing_is_known(encode):
    """What is grey throughout says so, and its latents are those of any grey clip, to the bit."""
    _, encode = encode
    video = np.random.default_rng(0).integers(256, size=(5, HEIGHT, WIDTH, 3), dtype=np.uint8)
    nothing, first, control = (
        Canvas.blank(5, HEIGHT, WIDTH),
        editing.first_last(video[0], None, 5),
        editing.follow(video),
    )
    parts = [part for canvas in (nothing, first, control) for part in (canvas.inactive(), canvas.reactive())]
    assert [part == Grey(5, HEIGHT, WIDTH) for part in parts] == [True, True, False, True, True, False]
    np.testing.assert_array_equal(encode(parts[3], 5), encode(np.zeros((1, 5, HEIGHT, WIDTH, 3), np.float32), 5))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_kept_is_encoded_whatever_is_painted(encode, seed):
    """To the bit: other pixels under the mask change no inactive latent, other pixels beside it no reactive one."""
    config, encode = encode
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng.random((5, HEIGHT, WIDTH, 3), np.float32), rng.random((5, HEIGHT, WIDTH)) > 0.5)
    other = rng.random(canvas.frames.shape, np.float32)
    context, hidden, beside = (
        context_frames(encode, Canvas(np.where(where[..., None], other, canvas.frames), canvas.mask), [], config)
        for where in (np.zeros_like(canvas.mask), canvas.mask, ~canvas.mask)
    )
    np.testing.assert_array_equal(hidden[..., :16], context[..., :16])
    np.testing.assert_array_equal(beside[..., 16:32], context[..., 16:32])
    assert (hidden[..., 16:32] != context[..., 16:32]).any() and (beside[..., :16] != context[..., :16]).any()


def test_a_continued_clip_begins_with_its_own_latents(encode):
    """The autoencoder looks back alone, so kept frames have the latents of the clip that they are from."""
    config, encode = encode
    video = np.random.default_rng(0).integers(256, size=(9, HEIGHT, WIDTH, 3), dtype=np.uint8)
    context = context_frames(encode, editing.keep_frames(13, (0, video[:5])), [], config)
    alone = encode(iter([2 * editing.unit(video)[None] - 1]), 9)
    np.testing.assert_array_equal(context[:, :2, ..., :16], alone[:, :2])


def test_annotators():
    mask = np.zeros((1, 8, 9), bool)
    mask[0, 3, 4] = True
    grown = editing.grow(mask, 2)
    assert grown.sum() == 25 and grown[0, 1:6, 2:7].all()
    assert editing.grow(mask, 20).all()
    colours = np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]]], np.uint8)
    assert editing.grey(colours)[0, 0].tolist() == [[76] * 3, [150] * 3, [29] * 3, [9] * 3]
    moved = editing.layout(3, 16, 20, [(0, 0, 8, 8), (12, 8, 8, 8)], line=1)
    assert (moved[1, 4, 6:14] == 0).all() and (moved[1, 5:11, 7:13] == 255).all() and (moved[1, :4] == 255).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda v: editing.outpaint(v, 32, 48, 20, 0), "a video of 48x32 at 20,0 does not lie on 48x32"),
        (lambda v: editing.box_mask(1, 32, 48, (40, 0, 9, 5)), "box 40,0,9,5 does not lie in frames of 48x32"),
        (lambda v: editing.keep_frames(7, (0, v), (4, v)), "frames 4 to 8 are not free in a clip of 7 frames"),
        (lambda v: editing.keep_frames(9, (0, v), (5, v[:, :8])), "differ in size: 48x8, 48x32"),
    ],
)
def test_impossible_tasks(make, message):
    with pytest.raises(WanError, match=message):
        make(np.zeros((5, HEIGHT, WIDTH, 3), np.uint8))
