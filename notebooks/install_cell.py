# Takes a checkout around this notebook, an uploaded wan_jax*.zip, or the repository; pip adds only what is missing.
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = "{repository}"


def find_checkout():
    here = Path.cwd()
    folders = [here, *here.parents, *here.glob("wan_jax*")]
    return next((f for f in folders if (f / "wan_jax" / "pipelines").is_dir()), None)


def installed():
    return {(package.name, package.version) for package in importlib.metadata.distributions()}


for file in [] if find_checkout() else Path.cwd().glob("wan_jax*.zip"):
    shutil.unpack_archive(file, ".")
if not find_checkout():
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "wan_jax_checkout"], check=True)
root, before = find_checkout(), installed()
wanted = ["-r", str(root / "requirements.txt"), "matplotlib"]
if any(Path("/dev").glob("accel*")) or Path("/dev/vfio/0").exists():
    wanted.append("jax[tpu]")  # libtpu has to go with JAX
elif "COLAB_RELEASE_TAG" in os.environ and shutil.which("nvidia-smi"):
    wanted.append("jax[cuda12]")
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
if installed() != before:
    raise SystemExit("Installed. Restart the session once (Runtime > Restart session), then run all cells.")
sys.path.insert(0, str(root))
print("nothing had to be installed")
