"""Draws the little world, on whatever device JAX has."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from wan_jax.typing import Float, UInt8, typechecked
from wan_jax.world.scene import Scene
from wan_jax.world.words import PLACES

SIDE = 128
HORIZON = 0.7
# Far and near colours of each place: paler and darker than any object, so that one can tell them apart.
GROUND = dict(
    zip(
        PLACES,
        np.array(
            [
                ((104, 104, 108), (78, 78, 82)),
                ((108, 124, 138), (72, 104, 58)),
                ((112, 126, 138), (136, 118, 82)),
                ((116, 108, 96), (104, 78, 56)),
                ((104, 116, 136), (58, 82, 110)),
            ]
        )
        / 255,
    )
)
_WAVES = 0.04  # of the pattern on the ground


@partial(jax.jit, static_argnames="side")
@typechecked
def render(scene: Scene, side: int = SIDE) -> UInt8["f h w 3"]:
    """The frames, `side` pixels high and wide."""
    steps = (jnp.arange(side) + 0.5) / side - 0.5
    offsets = jnp.stack(jnp.meshgrid(steps, steps), axis=-1)  # [h w 2] as x, y
    picture = jax.vmap(partial(_frame, scene, offsets))(scene.centres, scene.radii, scene.camera)
    return jnp.round(jnp.clip(picture * scene.light, 0, 1) * 255).astype(jnp.uint8)


def _frame(
    scene: Scene, offsets: Float["h w 2"], centres: Float["k 2"], radii: Float[" k"], camera: Float[" 3"]
) -> Float["h w 3"]:
    points = camera[:2] + offsets / camera[2]
    pixel = 1 / (len(offsets) * camera[2])
    picture = _ground(scene, points)
    for centre, radius in zip(centres, radii):
        p = (points - centre) / jnp.maximum(radius, 1e-3)
        cover = jnp.clip(0.5 - inside(p)[scene.shape] * radius / pixel, 0, 1) * (radius > 0)
        picture = picture + cover[..., None] * (_paint(scene, p) - picture)
    return picture


def _ground(scene: Scene, points: Float["h w 2"]) -> Float["h w 3"]:
    """Soft bands far away, and below the horizon closer ones."""
    x, y = points[..., 0], points[..., 1]
    a, b, c, d = 2 * jnp.pi * scene.phases
    far = jnp.cos(2 * jnp.pi * 2 * x + a) * 0.6 + jnp.cos(2 * jnp.pi * (3 * x + 2 * y) + b) * 0.4
    near = jnp.cos(2 * jnp.pi * (4 * x + 3 * y) + c) * 0.5 + jnp.cos(2 * jnp.pi * (5 * x - 4 * y) + d) * 0.5
    below = jnp.clip((y - HORIZON) * 60 + 0.5, 0, 1)[..., None]
    colours = jnp.asarray(np.stack(list(GROUND.values())), jnp.float32)[scene.place]
    shade = far[..., None] * (1 - below) + near[..., None] * below
    return (colours[0] * (1 - below) + colours[1] * below) * (1 + 2 * _WAVES * shade)


def _paint(scene: Scene, p: Float["h w 2"]) -> Float["h w 3"]:
    """An object's colour: lit from the upper left, with its texture."""
    x, y = p[..., 0], p[..., 1]
    shade = 0.93 - 0.07 * jnp.clip(x * 0.6 + y * 0.8, -1, 1)
    shade += 0.05 * jnp.exp(-8 * ((x + 0.35) ** 2 + (y + 0.4) ** 2)) * (scene.shape == 0)
    shade += (0.06 * (y < -0.5) - 0.1 * ((x > 0.5) & (y >= -0.5))) * (scene.shape == 1)  # a cube's other faces
    stripes = jnp.clip(jnp.cos(2 * jnp.pi * (x + y) / 0.9) * 4, -1, 1)
    spots = jnp.clip((jnp.cos(2 * jnp.pi * x / 0.8) + jnp.cos(2 * jnp.pi * y / 0.8) - 0.9) * 4, -1, 1)
    dark = 0.5 + 0.5 * jnp.stack([-jnp.ones_like(x), stripes, spots])[scene.texture]
    return scene.colour * (shade * (1 - 0.2 * dark))[..., None]


def inside(p: Float["... 2"]) -> Float["s ..."]:
    """For every shape, roughly the distance from its outline (negative inside), where 1 is the object's radius."""
    x, y = p[..., 0], p[..., 1]
    distance = jnp.hypot(x, y)
    ball = distance - 1
    cube = jnp.maximum(jnp.abs(x), jnp.abs(y)) - 0.86
    slope = np.hypot(2.0, 1.0)
    foot = y - 0.78 - 0.18 * jnp.sqrt(jnp.clip(1 - x**2, 0, 1))  # round
    cone = jnp.maximum(foot, (2 * jnp.abs(x) - y - 1) / slope)
    # Between two tips a star is bounded by two lines, which meet at the inner corner.
    angle = jnp.abs((jnp.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)  # from the nearest tip
    tip, corner = np.array([1.0, 0.0]), 0.45 * np.array([np.cos(np.pi / 5), np.sin(np.pi / 5)])
    normal = np.array([corner[1] - tip[1], tip[0] - corner[0]]) / np.linalg.norm(corner - tip)
    star = distance * (jnp.cos(angle) * normal[0] + jnp.sin(angle) * normal[1]) - tip @ normal
    ring = jnp.abs(distance - 0.75) - 0.25
    return jnp.stack([ball, cube, cone, star, ring])
