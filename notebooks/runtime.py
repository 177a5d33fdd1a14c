"""What every notebook does first: names its folder, looks at the machine, keeps programs for the next session."""

import importlib.util
import os
import platform
import shutil
import warnings
from pathlib import Path

from wan_jax.cluster import is_tpu_host


def prepare(folder: str) -> str:
    """Makes `folder`, lets compiled programs go there, and prints what this machine is.

    Call it before anything of JAX runs.

    Returns:
        the dtype that suits the device: bfloat16, or float32 on a CPU.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.environ["WAN_JAX_CACHE"] = str(Path(folder).resolve() / "cache")
    # Progress bars would only fill the pages; a failing command prints its error all the same.
    os.environ["TQDM_DISABLE"] = "1"
    warnings.filterwarnings("ignore", message="IProgress not found")

    if importlib.util.find_spec("libtpu") and not is_tpu_host() and not shutil.which("nvidia-smi"):
        # The planner's compiler is there, and no TPU: JAX would look for one, and say at length that it found none.
        os.environ.setdefault("JAX_PLATFORMS", "cpu")

    import jax

    from wan_jax.pipelines.device import warn_of_idle_tpu
    from wan_jax.room import free_host_bytes

    warn_of_idle_tpu()
    device, free = jax.devices()[0], free_host_bytes()
    memory = "" if free is None else f"{free / 2**30:.0f} GiB of memory and "
    print(f"{len(jax.devices())} × {device.device_kind} ({device.platform}), {os.cpu_count()} CPU cores")
    print(f"Python {platform.python_version()}, JAX {jax.__version__}")
    print(f"{memory}{shutil.disk_usage(folder).free / 2**30:.0f} GiB of disk free")
    return "float32" if device.platform == "cpu" else "bfloat16"
