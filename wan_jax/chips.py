"""What the chips can do.

One entry of the table of TPUs describes what JAX calls a device: a whole chip, or on TPU7x one of its two cores.
Sources:

- peak flops, HBM bandwidth and links: docs.cloud.google.com/tpu/docs/v5e, /v5p, /v6e, /tpu7x;
- usable HBM: what libtpu 0.0.52 says of a program that does not fit ("exceeds available HBM (31.24G)");
- VMEM and matrix units: jax-ml/jax, pallas/mosaic/tpu_info.py, and jax-ml.github.io/scaling-book/tpus;
- clock: peak flops over the flops that the matrix units do in a cycle (v6e: 918e12 / (2 · 2 · 256²)), rounded.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Chip:
    """A generation of TPU, per device.

    Attributes:
        name: as in a topology, "v6e:2x4".
        device_kinds: as `jax.Device.device_kind` reports it.
        hbm_gib: what a program may use.
        clock_hz: cycles a second.
        peak_flops: bfloat16 operations a second.
        hbm_bandwidth: bytes a second.
        link_bandwidth: bytes a second over one link to a neighbour, in one direction.
        vmem_mib: of one core.
        cores: that share the grid of a kernel.
        wrap: a slice whose every axis is a multiple of this many chips is a torus; others end at their edges.
        pod: chips along each axis of the largest slice.
    """

    name: str
    device_kinds: tuple[str, ...]
    hbm_gib: float
    clock_hz: float
    peak_flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    vmem_mib: int
    cores: int
    wrap: int
    pod: tuple[int, ...]


CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v5e",
            device_kinds=("TPU v5 lite", "TPU v5e"),
            hbm_gib=15.75,
            clock_hz=1.5e9,
            peak_flops=197e12,
            hbm_bandwidth=800e9,
            link_bandwidth=50e9,  # 400 GB/s in both directions of 4 links
            vmem_mib=128,
            cores=1,
            wrap=16,
            pod=(16, 16),
        ),
        Chip(
            name="v5p",
            device_kinds=("TPU v5", "TPU v5p"),
            hbm_gib=95.73,
            clock_hz=1.75e9,
            peak_flops=459e12,
            hbm_bandwidth=2765e9,
            link_bandwidth=100e9,  # 1200 GB/s in both directions of 6 links
            vmem_mib=64,
            cores=2,
            wrap=4,
            pod=(16, 16, 24),
        ),
        Chip(
            name="v6e",
            device_kinds=("TPU v6 lite", "TPU v6e"),
            hbm_gib=31.24,
            clock_hz=1.75e9,
            peak_flops=918e12,
            hbm_bandwidth=1600e9,
            link_bandwidth=100e9,  # 800 GB/s in both directions of 4 links
            vmem_mib=128,
            cores=1,
            wrap=16,
            pod=(16, 16),
        ),
        Chip(
            name="tpu7x",
            device_kinds=("TPU7x",),
            hbm_gib=94.74,
            clock_hz=2.2e9,
            peak_flops=1153.5e12,
            hbm_bandwidth=3690e9,
            link_bandwidth=100e9,  # 1200 GB/s in both directions of 6 links, which the two cores share
            vmem_mib=64,
            cores=1,
            wrap=4,
            pod=(16, 24, 24),
        ),
    )
}


# Dense bfloat16 operations a second, by how a device kind begins (NVIDIA's data sheets, SXM modules).
_GPU_PEAK_FLOPS = {"NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations a second of what JAX calls `device_kind`; None where it is not known."""
    chip = by_kind(device_kind)
    if chip is not None:
        return chip.peak_flops
    return next((flops for name, flops in _GPU_PEAK_FLOPS.items() if device_kind.startswith(name)), None)


def by_kind(device_kind: str) -> Chip | None:
    """The chip that JAX calls `device_kind`; None if it is none of these."""
    return next((chip for chip in CHIPS.values() if device_kind in chip.device_kinds), None)
