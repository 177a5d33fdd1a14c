"""One of several processes that train together: `in_processes.py PORT COUNT INDEX DEVICES FOLDER [FIELD=VALUE …]`."""

import pathlib
import sys

import jax

port, count, index, devices, folder, *changes = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", int(devices))
jax.config.update("jax_cpu_enable_async_dispatch", False)  # see tests/conftest.py
if int(count) > 1:
    jax.distributed.initialize(f"localhost:{port}", int(count), int(index))

from tests.train import tiny  # noqa: E402
from wan_jax.train.loop import train  # noqa: E402
from wan_jax.train.recipes import override  # noqa: E402

(config,) = override([tiny.run(pathlib.Path(folder))], changes)
print(train(config))
