"""How programs are compiled for each chip, by the pipeline and by the planner alike.

The options were found by modelling: the same programs compiled with and without them by libtpu 0.0.52.
"""

import importlib.metadata
import re

import jax

# Matrix products may take half of the 128 MiB of VMEM instead of a quarter or less: larger tiles, fewer passes.
_LARGE_TILES = {"xla_tpu_scoped_vmem_limit_kib": "65536"}

# The autoencoder's many convolutions compile in half the time, and take an eighth longer to run.
_SMALL_TILES = {"xla_tpu_scoped_vmem_limit_kib": "16384"}

# Collectives run beside the matrix unit: Ulysses' all-to-alls as asynchronous copies, gathers of weights on the sparse
# cores, and both begun as early as possible.
_GATHER_ON_SPARSE_CORE = "xla_tpu_enable_sparse_core_collective_offload_all_gather"
_OVERLAP = {
    "xla_tpu_enable_async_all_to_all": "true",
    _GATHER_ON_SPARSE_CORE: "true",
    "xla_lhs_prioritize_async_depth_over_stall": "true",
}

_OPTIONS = {
    "TPU v5 lite": _LARGE_TILES,
    "TPU v5e": _LARGE_TILES,
    "TPU v6 lite": _LARGE_TILES | _OVERLAP,
    "TPU v6e": _LARGE_TILES | _OVERLAP,
}
_CONVOLUTIONAL = {"vae_step"}


def compiler_options(device_kind: str, program: str) -> dict[str, str]:
    """What `jax.stages.Lowered.compile` is given for a `jax.Device.device_kind`; nothing where nothing was modelled.

    Args:
        program: the name of the jitted function.
    """
    options = dict(_OPTIONS.get(device_kind, {}))
    if options and program in _CONVOLUTIONAL:
        options |= _SMALL_TILES
    if not _reads_sparse_core_programs():
        options.pop(_GATHER_ON_SPARSE_CORE, None)
    return options


def compile(lowered: jax.stages.Lowered, device_kind: str, program: str) -> jax.stages.Compiled:
    """Compiles with the options of the chip, as far as this compiler knows them."""
    options = compiler_options(device_kind, program)
    while True:
        try:
            return lowered.compile(options)
        except jax.errors.JaxRuntimeError as error:
            unknown = re.search(r"No such compile option: '(\w+)'", str(error))
            if unknown is None or unknown[1] not in options:
                raise
            del options[unknown[1]]


def _reads_sparse_core_programs() -> bool:
    """JAX 0.10 can read them back from its own libtpu, 0.0.42, but not from later ones.

    "RET_CHECK failure … async-update instruction should have 1 operands but sees 2".
    """
    try:
        own = importlib.metadata.version("libtpu").startswith("0.0.42")
    except importlib.metadata.PackageNotFoundError:
        return True
    return own or jax.__version_info__ >= (0, 11)
