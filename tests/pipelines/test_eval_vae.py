"""A folder of clips through an autoencoder: numbers against formulas and the whole-clip network, and the files."""

import csv
import itertools
import json
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from tests.test_video_io import clip
from wan_jax import cli, sharding
from wan_jax.errors import WanError
from wan_jax.metrics import ssim
from wan_jax.perceptual import fvd, i3d, lpips
from wan_jax.pipelines import eval_vae
from wan_jax.pipelines.autoencoder import open_autoencoder
from wan_jax.pipelines.eval_vae import evaluate_folder
from wan_jax.video_io import export_to_video, read_video

MODEL = "untrained"
SIZES = {"a.mp4": (9, 32, 48), "b/c.mp4": (3, 18, 30), "d.mp4": (9, 32, 48)}  # frames, height, width
PROJECTION = np.random.default_rng(1).standard_normal((32 * 48 * 3, 5)) / 100
WIDTHS = (4, 4, 6, 6, 8, 8, 8, 8, 8, 8, 10, 10, 10)  # of the VGG net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips, one of them cut short, and files that are none."""
    src = tmp_path_factory.mktemp("clips")
    for name, shape in SIZES.items():
        export_to_video(clip(*shape)[:, :: -1 if name == "d.mp4" else 1], src / name)
    (src / "bad.mp4").write_bytes((src / "a.mp4").read_bytes()[:200])
    export_to_video(clip(2, 10, 40), src / "flat.mp4")
    (src / "a.txt").write_text("a caption")
    return src


@pytest.fixture(autouse=True)
def random_nets(monkeypatch):
    """A narrow VGG, and features of videos that are random projections: nothing is fetched."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return 0.2 * rng.standard_normal(shape).astype(np.float32)

    convs = [{"kernel": normal(3, 3, i, o), "bias": normal(o)} for i, o in itertools.pairwise((3, *WIDTHS))]
    heads = [np.abs(normal(WIDTHS[i])) for i in (1, 3, 6, 9, 12)]
    monkeypatch.setattr(lpips, "load", {"vgg": {"convs": convs, "heads": heads}}.get)
    monkeypatch.setattr(i3d, "load", dict)
    monkeypatch.setattr(fvd, "features", lambda params, videos: project(videos))


def project(videos):
    return videos.mean(1).reshape(len(videos), -1) @ PROJECTION


@partial(jax.jit, static_argnums=0)
def through(vae, params, video):
    latents, _ = vae.apply({"params": params}, video, method="encode")
    return vae.apply({"params": params}, latents, method="decode")[0]


def by_hand(path):
    """Frames in [0, 1] before and after, by the network applied to the whole clip, padded by hand."""
    coder = open_autoencoder(MODEL)
    frames = np.stack(list(read_video(path)))
    f, h, w, _ = frames.shape
    padded = np.pad(frames / np.float32(127.5) - 1, ((0, -(f - 1) % 4), (0, -h % 8), (0, -w % 8), (0, 0)), "edge")
    after = np.asarray(through(coder.vae, coder.params, padded[None]))[0, :f, :h, :w]
    return frames / np.float32(255), np.clip(after / 2 + 0.5, 0, 1)


def test_numbers_and_files(folder, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    cli.main(["eval-vae", "--src", str(folder), "--model", MODEL, "--out", str(out), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in report["clips"]] == sorted(SIZES)
    assert sorted(report["skipped"]) == ["bad.mp4", "flat.mp4"]
    assert "cannot read" in report["skipped"]["bad.mp4"] and "40x10 cannot be" in report["skipped"]["flat.mp4"]

    pairs = {name: by_hand(folder / name) for name in SIZES}
    for entry in report["clips"]:
        before, after = pairs[entry["id"]]
        psnr = -10 * np.log10(np.square(before - after).mean((1, 2, 3)))
        assert (entry["frames"], entry["height"], entry["width"]) == SIZES[entry["id"]]
        np.testing.assert_allclose(entry["per_frame"]["psnr"], psnr, rtol=1e-4)
        assert entry["psnr"] == pytest.approx(psnr.mean(), rel=1e-4)
        assert entry["worst_psnr"] == pytest.approx(psnr.min(), rel=1e-4)
        assert entry["ssim"] == pytest.approx(float(ssim(before, after)), rel=1e-3)
        distances = lpips.lpips(lpips.load("vgg"), 2 * before - 1, 2 * after - 1)
        assert entry["lpips"] == pytest.approx(float(distances.mean()), rel=1e-3) and entry["lpips"] > 1e-3
    for name in ("psnr", "ssim", "lpips", "worst_psnr"):
        assert report["mean"][name] == pytest.approx(np.mean([entry[name] for entry in report["clips"]]))

    # c.mp4 is too short.  The covariance of two points is uuᵀ/2, where u is their difference.
    (a, b), (c, d) = ([project(2 * pairs[name][side][None] - 1)[0] for name in ("a.mp4", "d.mp4")] for side in (0, 1))
    u, v = a - b, c - d
    expected = np.square((a + b - c - d) / 2).sum() + (u @ u + v @ v) / 2 - abs(u @ v)
    assert report["fvd_clips"] == 2 and report["fvd"] == pytest.approx(expected, rel=1e-3)
    assert any("FVD of 2 clips is biased" in note for note in report["notes"])
    assert report["encode_fps"] > 0 and report["decode_fps"] > 0 and report["peak_memory_bytes"] > 1e6

    assert sorted(path.name for path in out.iterdir()) == ["metrics.csv", "metrics.json", "strips.png"]
    assert json.loads((out / "metrics.json").read_text()) == report
    with open(out / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["id"], float(row["psnr"])) for row in rows] == [(e["id"], e["psnr"]) for e in report["clips"]]
    shown = np.asarray(Image.open(out / "strips.png"))
    for name in ("a.mp4", "d.mp4"):  # the fifth frame is somewhere, and four times its difference below
        (before, after), height = (np.round(x[4] * 255) for x in pairs[name]), SIZES[name][1] + 4
        top, left = place_of(shown, before)
        difference = np.minimum(np.abs(pairs[name][0][4] - pairs[name][1][4]) * 4, 1) * 255
        for row, picture in enumerate((before, after, difference)):
            part = shown[top + row * height :, left:][: len(picture), : picture.shape[1]]
            np.testing.assert_allclose(part, picture, atol=1)


def place_of(sheet, picture):
    """Row and column of the upper left corner."""
    h, w, _ = picture.shape
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (1, w))[:, :, 0]
    rows, columns = np.nonzero((windows == picture[0, :, 0]).all(-1))
    found = [(y, x) for y, x in zip(rows, columns) if np.array_equal(sheet[y : y + h, x : x + w], picture)]
    assert len(found) == 1
    return found[0]


def test_nothing_lost(folder, monkeypatch):
    """Exact frames have a finite PSNR, which JSON can hold, and no distance; sizes are as asked for."""
    coder = SimpleNamespace(
        mesh=sharding.as_mesh(None),
        vae=SimpleNamespace(dtype=np.dtype("float32")),
        encode=lambda frames: (frame[None] / np.float32(127.5) - 1 for frame in frames),
        decode=lambda latents: map(jax.numpy.asarray, latents),
    )
    monkeypatch.setattr(eval_vae, "open_autoencoder", lambda *_: coder)
    report = evaluate_folder(folder, MODEL, max_clips=3, max_frames=5, size=(24, 16))
    assert [(e["id"], e["frames"], e["width"], e["height"]) for e in report["clips"]] == [
        ("a.mp4", 5, 24, 16),
        ("b/c.mp4", 3, 24, 16),
    ]
    assert report["mean"]["psnr"] == pytest.approx(100, abs=1e-3) and report["mean"]["ssim"] == pytest.approx(1)
    assert report["mean"]["lpips"] == pytest.approx(0, abs=1e-6)
    assert report["fvd"] is None and "no FVD" in report["notes"][0] and "100.00" in eval_vae.table(report)

    coder.decode = lambda latents: (piece * np.nan for piece in latents)
    with pytest.raises(WanError, match="decoded to NaN"):
        evaluate_folder(folder, MODEL, max_clips=1, perceptual=False)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"src": "nowhere"}, "nowhere: no such folder"),
        ({"src": "empty"}, "holds no videos"),
        ({"src": "bad"}, "none of 1 videos can be measured; cannot read .*x.mp4"),
        ({"max_clips": 0}, "max_clips=0 must be at least 1"),
        ({"max_frames": 0}, "frames=0 must be at least 1"),
        ({"size": (640, 8)}, "640x8 cannot be measured"),
        ({"out": "bad/x.mp4"}, "cannot write to bad/x.mp4"),
    ],
)
def test_mistakes(folder, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad" / "x.mp4").write_text("no video")
    with pytest.raises(WanError, match=message) as info:
        evaluate_folder(**{"src": folder, "model": MODEL} | options)
    assert "\n" not in str(info.value)
