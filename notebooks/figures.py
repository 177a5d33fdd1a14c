"""Pictures and small videos for the notebooks; what is saved also lies in docs/figures, with a line about it."""

import base64
import html
import io
import re
from pathlib import Path

import matplotlib
import numpy as np
from IPython.display import HTML
from matplotlib import pyplot as plt
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "figures"
GOOD_BYTES, MOST_BYTES = 10_000, 40_000  # of a picture
ZOOM, QUALITY = 2, 10  # of a video
DPI = 85
_COLOURS = (256, 128, 64, 32)
_TITLE = "# Figures\n\nMade and measured by the notebooks (`figures.save` in `notebooks/figures.py`).\n\n"
_LINE = re.compile(r"^- \[([\w-]+)\]\(\1\.png\): (.+)$", re.MULTILINE)

matplotlib.rcParams |= {
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def save(figure, name: str, caption: str) -> HTML:
    """Writes docs/figures/NAME.png and its caption, and shows it.

    Args:
        figure: a matplotlib figure, or pixels [h w 3], bytes or in [0, 1].
        name: of the file, without suffix.
        caption: one line: what the picture shows.

    Raises:
        ValueError: the caption has several lines, or the picture takes more than 40 KB in 32 colours.
    """
    if "\n" in caption:
        raise ValueError(f"the caption of {name} has more than one line")
    pixels = to_bytes(figure) if isinstance(figure, np.ndarray) else _pixels(figure)
    small = _quantised(pixels, name)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.png").write_bytes(_encoded(small, "PNG", optimize=True))
    index = FOLDER / "README.md"
    captions = dict(_LINE.findall(index.read_text(encoding="utf-8"))) if index.exists() else {}
    captions[name] = caption
    lines = "".join(f"- [{each}]({each}.png): {text}\n" for each, text in sorted(captions.items()))
    index.write_text(_TITLE + lines, encoding="utf-8")
    # In the notebook as WebP, a third of the size: drawings without loss, pictures with some.
    exact = _encoded(small.convert("RGB"), "WEBP", lossless=True, quality=100, method=6)
    close = _encoded(Image.fromarray(pixels), "WEBP", quality=50, method=6)
    height, width, _ = pixels.shape
    return _shown(exact if len(exact) <= len(close) else close, width, height, caption)


def play(*videos: np.ndarray, fps: float = 16) -> HTML:
    """Videos [f h w 3] in [0, 1] of one size beside one another, as an animated picture."""
    first, *rest = (Image.fromarray(to_bytes(frame)) for frame in np.concatenate(videos, axis=2))
    options = {"save_all": True, "append_images": rest, "duration": round(1000 / fps), "loop": 0}
    height, width = videos[0].shape[1:3]
    return _shown(
        _encoded(first, "WEBP", quality=QUALITY, method=6, **options), ZOOM * width * len(videos), ZOOM * height
    )


def strip(video: np.ndarray, count: int = 8) -> np.ndarray:
    """Frames spread evenly over a video [f h w 3], the first and the last among them, beside one another."""
    return np.concatenate(list(video[np.linspace(0, len(video) - 1, count).round().astype(int)]), axis=1)


def rows(pictures: dict[str, np.ndarray], width: float = 6.5, lines: float = 1.25) -> plt.Figure:
    """Pictures [h w 3] of equal width below one another, each with its name on the left.

    Args:
        width: of the figure, in inches.
        lines: inches that the names take.
    """
    shapes = [picture.shape for picture in pictures.values()]
    heights = [height / wide * (width - lines) for height, wide, *_ in shapes]
    figure, axes = plt.subplots(
        len(pictures), 1, figsize=(width, sum(heights) + 0.06 * len(heights)), height_ratios=heights, squeeze=False
    )
    for axis, (name, picture) in zip(axes[:, 0], pictures.items()):
        axis.imshow(to_bytes(picture))
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1] as uint8; bytes stay what they are."""
    return pixels if pixels.dtype == np.uint8 else (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)


def _pixels(figure: plt.Figure) -> np.ndarray:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, facecolor="white")
    plt.close(figure)  # or the notebook shows it twice
    return np.asarray(Image.open(file).convert("RGB"))


def _quantised(pixels: np.ndarray, name: str) -> Image.Image:
    """In as many colours as make a good size, or in the fewest.

    The palette spans all colours that there are: one that follows their number turns a small blue cube grey.
    """
    for colours in _COLOURS:
        picture = Image.fromarray(pixels).quantize(colours, Image.Quantize.MAXCOVERAGE, 3, dither=Image.Dither.NONE)
        size = len(_encoded(picture, "PNG", optimize=True))
        if size <= GOOD_BYTES:
            break
    if size > MOST_BYTES:
        raise ValueError(f"{name}: a picture of {size} bytes; the most is {MOST_BYTES}: show less, or smaller")
    return picture


def _encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _shown(webp: bytes, width: int, height: int, text: str = "") -> HTML:
    source = f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
    return HTML(f'<img src="{source}" width="{width}" height="{height}" alt="{html.escape(text)}">')
