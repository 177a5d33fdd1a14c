"""The few pieces of the page that are no widgets, as HTML: progress, bars and lines.  Everything is inline, so that
no request follows, and takes its colours from the page."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from wan_jax.typing import Float

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 560, 250, 58, 44, 14  # pixels of a plot and of its margins

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto; }
.wan-head h1 { font-size: 1.25rem; margin: 0; }
.wan-head p { color: var(--body-text-color-subdued); margin: 2px 0 0; }
.wan-stage { display: flex; flex-direction: column; gap: 8px; }
.wan-stage img { width: 100%; height: 380px; object-fit: contain; border-radius: 8px; }
.wan-empty { height: 380px; border: 1px dashed var(--border-color-primary);
  border-radius: 8px; display: grid; place-items: center; color: var(--body-text-color-subdued); }
.wan-bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; }
.wan-bar i { display: block; height: 100%; background: var(--color-accent); }
.wan-said { margin: 0; min-height: 1.5em; }
.wan-error { color: var(--error-text-color, #b91c1c); }
.wan-low { align-self: end; margin-bottom: 8px; }
#status .generating, #vae-status .generating, #plan-status .generating { border: none; }
#history .grid-container { grid-template-columns: repeat(8, 1fr) !important; grid-auto-rows: auto !important; }
#history .thumbnail-lg { aspect-ratio: 1; }
.wan-rows { display: grid; grid-template-columns: max-content 1fr max-content; gap: 10px 12px; align-items: center; }
.wan-rows .track { position: relative; height: 20px; background: var(--border-color-primary); border-radius: 4px; }
.wan-rows .fill { position: absolute; top: 0; bottom: 0; }
.wan-rows .limit { position: absolute; top: -4px; bottom: -4px; border-left: 2px dashed var(--body-text-color); }
.wan-key { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 10px 0; color: var(--body-text-color-subdued); }
.wan-key i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
.wan-plot { width: 100%; max-width: 560px; color: var(--body-text-color); font-size: 12px; }
.wan-facts { display: flex; flex-wrap: wrap; gap: 6px 22px; margin: 4px 0 10px; }
.wan-facts b { display: block; font-size: 1.2rem; font-weight: 600; }
.wan-facts span { color: var(--body-text-color-subdued); }
"""
COLOURS = ("#4f46e5", "#f59e0b", "#0d9488", "#9ca3af")


def said(text: str, error: bool = False) -> str:
    """A line of text."""
    return f'<p class="wan-said{" wan-error" if error else ""}">{html.escape(text)}</p>'


def progress(text: str, done: float) -> str:
    """A bar, `done` of which is full, and a line below."""
    return f'<div class="wan-stage">{_bar(done)}{said(text)}</div>'


def picture(clip: Float["f h w 3"], fps: float) -> str:
    """A few small frames in [0, 1], moving."""
    frames = [Image.fromarray(frame) for frame in (clip * 255).astype(np.uint8)]
    file = io.BytesIO()
    frames[0].save(
        file, "WEBP", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, quality=85
    )
    return f'<div class="wan-stage"><img alt="preview" src="{_inline(file.getvalue(), "image/webp")}"></div>'


def empty(text: str) -> str:
    """What stands where nothing was made yet."""
    return f'<div class="wan-empty"><span>{html.escape(text)}</span></div>'


def facts(values: Mapping[str, str]) -> str:
    """Numbers, large, with what they are of."""
    cells = (
        f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>" for name, value in values.items()
    )
    return f'<div class="wan-facts">{"".join(cells)}</div>'


def bars(
    rows: Mapping[str, Sequence[float]], names: Sequence[str], unit: str, limit: float | None, limit_name: str = ""
) -> str:
    """Stacked bars, a row each, and a line at what they should not exceed.

    Args:
        rows: what each is called, and its parts from left to right.
        names: of the parts.
        limit: where the line is, in the same unit.
    """
    most = 1.04 * max([limit or 0.0, *map(sum, rows.values())])
    cells = []
    for name, parts in rows.items():
        starts = np.cumsum([0.0, *parts])
        fills = "".join(
            f'<div class="fill" title="{html.escape(what)}: {part:.2f} {unit}" style="left:{100 * start / most:.2f}%;'
            f'width:{100 * part / most:.2f}%;background:{colour}"></div>'
            for what, part, start, colour in zip(names, parts, starts, COLOURS)
        )
        line = "" if limit is None else f'<div class="limit" style="left:{100 * limit / most:.2f}%"></div>'
        cells.append(
            f'<div>{html.escape(name)}</div><div class="track">{fills}{line}</div><div>{sum(parts):.2f} {unit}</div>'
        )
    ends = "" if limit is None else f"<span>┊ {html.escape(limit_name)}: {limit:.2f} {unit}</span>"
    return f'<div class="wan-rows">{"".join(cells)}</div>{_key(names, ends)}'


def lines(series: Mapping[str, Sequence[tuple[float, float]]], x_name: str, y_name: str) -> str:
    """A plot with a line for each of a few series, from zero."""
    right, top = (1.05 * max(p[axis] for points in series.values() for p in points) for axis in (0, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + x / right * (_WIDTH - _LEFT - 10), _HEIGHT - _BOTTOM - y / top * (_HEIGHT - _BOTTOM - _TOP)

    drawn = []
    for tick in _ticks(top):
        x, y = at(0, tick)
        drawn.append(
            f'<line x1="{x}" x2="{_WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" opacity=".15"/>'
        )
        drawn.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end" fill="currentColor">{tick:g}</text>')
    for tick in sorted({x for points in series.values() for x, _ in points}):
        x, y = at(tick, 0)
        drawn.append(f'<text x="{x:.1f}" y="{y + 16}" text-anchor="middle" fill="currentColor">{tick:g}</text>')
    for points, colour in zip(series.values(), COLOURS):
        where = [at(*point) for point in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in where)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in where]
    middle = (_LEFT + _WIDTH) / 2
    drawn.append(
        f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle" fill="currentColor">{html.escape(x_name)}</text>'
        f'<text x="14" y="{_HEIGHT / 2 - 14}" text-anchor="middle" fill="currentColor" '
        f'transform="rotate(-90 14 {_HEIGHT / 2 - 14})">{html.escape(y_name)}</text>'
    )
    return f'<svg class="wan-plot" viewBox="0 0 {_WIDTH} {_HEIGHT}">{"".join(drawn)}</svg>{_key(list(series))}'


def _bar(done: float) -> str:
    return f'<div class="wan-bar" role="progressbar"><i style="width:{100 * done:.1f}%"></i></div>'


def _key(names: Sequence[str], more: str = "") -> str:
    cells = (f'<span><i style="background:{c}"></i>{html.escape(name)}</span>' for name, c in zip(names, COLOURS))
    return f'<div class="wan-key">{"".join(cells)}{more}</div>'


def _ticks(top: float) -> list[float]:
    """Round numbers up to it, four to nine of them."""
    power = 10.0 ** np.floor(np.log10(top))
    step = next(s for s in (power / 5, power / 2, power, 2 * power) if top / s <= 9)
    return [float(f"{step * i:.6g}") for i in range(int(top / step) + 1)]


def _inline(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
