"""Previews: near what is decoded in the end, for an autoencoder whose colours no table knows."""

import jax
import numpy as np
import pytest
from PIL import Image

from wan_jax import WanPipeline, cli
from wan_jax.pipelines.eval_editing import pixel_psnr
from wan_jax.pipelines.preview import Preview, colours_of, fit_colours, of_callback


def test_a_preview_is_near_the_video(tmp_path):
    """The last one is the mean colours of each latent's pixels, one on the way tells more than noisy latents."""
    pipe, seen = WanPipeline.from_pretrained("wan_mini", dtype="float32"), []
    keep = Preview(tmp_path / "preview.png")

    def watch(pipe, step, timestep, tensors):
        seen.append({name: np.moveaxis(np.asarray(x[0]), 0, -1) for name, x in tensors.items()})
        keep(pipe, step, timestep, tensors)

    size = dict(height=64, width=96, num_frames=9, num_inference_steps=6, guidance_scale=1.0)
    video = np.asarray(pipe("a large red ball on green grass", **size, callback_on_step_end=watch).frames[0])
    cells = video[[0, 4, 8]].reshape(3, 8, 8, 12, 8, 3).mean((2, 4))
    colours = fit_colours(pipe)
    last, turned = (pixel_psnr(colours_of(seen[-1]["denoised"], each), cells) for each in (colours, colours[:, ::-1]))
    assert last > 20 and last > turned + 4
    noisy, clean = (pixel_psnr(colours_of(seen[3][name], colours), cells) for name in ("latents", "denoised"))
    assert clean > noisy + 2
    shown = np.asarray(Image.open(tmp_path / "preview.png")) / np.float32(255)
    np.testing.assert_allclose(shown[:32, :48][::4, ::4], colours_of(seen[-1]["denoised"], colours)[0], atol=1 / 255)


def test_of_several_videos_the_first_is_shown():
    latents = jax.random.normal(jax.random.key(0), (2, 3, 4, 5, 6))
    found = of_callback(latents)
    assert found.shape == (4, 5, 6, 3) and found[3, 4, 5, 2] == latents[0, 2, 3, 4, 5]


def test_on_the_command_line(tmp_path, capsys):
    size = ["--size", "48x32", "--frames", "5", "--steps", "2"]
    command = ["generate", "--model", "untrained", "--prompt", "a", *size, "--out", str(tmp_path / "a.mp4")]
    cli.main([*command, "--preview", str(tmp_path / "a.png")])
    assert Image.open(tmp_path / "a.png").size == (2 * 24 + 4, 16)  # two latent frames
    with pytest.raises(SystemExit):
        cli.main([*command, "--preview", "a.jpg"])
    assert "cannot write a.jpg: --preview makes a .png file" in capsys.readouterr().err
