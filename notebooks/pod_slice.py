# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/pod_slice.ipynb
#
# # Training on a pod slice
#
# A slice is many hosts, each with a few chips, and every host runs the same command. Here you see what has to be
# decided before, a script that launches it, and, with two processes on this machine in place of hosts, what happens
# when a machine is taken away: all stop at the same step, and the same command goes on, on fewer devices, with the very
# next clip. **Neither the script nor a TPU nor a bucket was run here; the two processes are real.**

# %% [markdown]
# ## Install
# Colab's own JAX is older than the one needed here. The cell installs what is missing and restarts the session once;
# run it again after that, and it finds everything in place.

# %% tags=["install"]
# Takes a checkout around this notebook, an uploaded wan_jax*.zip, or the repository; pip adds only what is missing.
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/wan_jax"


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
root, before, on_colab = find_checkout(), installed(), "COLAB_RELEASE_TAG" in os.environ
wanted = ["-r", str(root / "requirements.txt"), "matplotlib", "ipywidgets"]
if any(Path("/dev").glob("accel*")) or Path("/dev/vfio/0").exists():
    wanted.append("jax[tpu]")  # libtpu has to go with JAX
elif on_colab and shutil.which("nvidia-smi"):
    wanted.append("jax[cuda13]")
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
if installed() != before:
    if on_colab:
        get_ipython().kernel.do_shutdown(restart=True)  # noqa: F821
    raise SystemExit("Installed. The session has to restart once (Colab does by itself): then run all cells.")
sys.path[:0] = [str(root), str(root / "notebooks")]
os.environ["PYTHONPATH"] = str(root)  # for commands in other processes
print("nothing had to be installed")

# %% [markdown]
# ## What to run, and where
# On a slice `FOLDER` is a bucket. Two CPU cores play two hosts here, so the high-noise expert of a small model is
# trained from random weights, with tiny clips; `wan_mini` lends its text encoder and autoencoder.

# %%
FOLDER = "files"
MODEL, RECIPE, RUN = "wan_mini", "train_wan_mini", "high"
SLICE = Path(FOLDER, "slice")

os.environ["JAX_PLATFORMS"] = "cpu"

from runtime import prepare

prepare(FOLDER)

# %% [markdown]
# ## Before
# 1. **Does it fit, and on which mesh?** The planner compiles the training step for a slice that need not be there:
#    `python -m wan_jax plan --topology v5p:4x4x4 --train`. It modelled, for a 14B expert at 1280×720, 81 frames, 32
#    clips a step, all weights and their average trained:
#
#    | slice | mesh | a step | GiB of a chip |
#    |---|---|---|---|
#    | v5p:4x4x4, 64 chips | data=4,fsdp=8,context=2 | 35.8 s | 90.7 of 95.7 |
#    | v6e:16x16, 256 chips | data=8,fsdp=4,context=8 | 8.8 s | 27.9 of 31.2 |
# 2. **Weights in the bucket**, converted once: `python -m convert --src Wan-AI/Wan2.1-T2V-14B-Diffusers --dst
#    gs://B/models/wan21`.
# 3. **The dataset in the bucket**, made by any number of hosts, each its share: `python -m wan_jax data build … --out
#    gs://B/data`.
#
# ## The script
# [`launch_slice.sh`](launch_slice.sh) asks for a spot slice, runs one command on all of its hosts, and asks again when
# the slice is taken away. What it would do:

# %%
told = {"BUCKET": "gs://B", "CODE": REPOSITORY, "ZONE": "us-east5-b", "DRY_RUN": "1"}
script = root / "notebooks" / "launch_slice.sh"
dry = subprocess.run(["bash", script], env=os.environ | told, capture_output=True, text=True, check=True)
print(dry.stderr)

# %% [markdown]
# On GKE, JobSet starts a job again that ended with another status than 0, which is what `--stopped-status 75` is for;
# the [training guide](../docs/training.md#on-a-pod-slice) has the file.
#
# ## Two hosts on this machine
# A dataset of the little world, and then the same command in two processes. On TPU hosts, under Slurm and under Open
# MPI processes find each other; here we pretend to be Slurm.


# %%
def wan(*arguments, **environment):
    """Starts `python -m wan_jax …`."""
    arguments = list(map(str, arguments))
    return subprocess.Popen(
        [sys.executable, "-m", "wan_jax", *arguments],
        env=os.environ | {name: str(value) for name, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process, status=0):
    """Waits for a command that has to end with this status; its last line."""
    text = process.communicate()[0]
    if process.returncode != status:
        raise RuntimeError(f"status {process.returncode} instead of {status}:\n{text[-2000:]}")
    return f"{text.strip().splitlines()[-1]} (status {status})"


shutil.rmtree(SLICE, ignore_errors=True)
DATA, RUNS = SLICE / "data", SLICE / "runs"
size = ("--size", "64x64", "--frames", 5, "--validation", 0)
build = ("data", "build", "--src", "world:32", "--out", DATA, "--model", MODEL, *size)
print("python -m wan_jax", *build)
print(end(wan(*build)))

# %%
STEPS = 24
TRAIN = ["train", "--config", RECIPE, "--run", RUN, "--stopped-status", 75]
TRAIN += [f"base={MODEL}", f"data={DATA}", f"out={RUNS}", f"steps={STEPS}", "batch=4", "log_every=1"]
TRAIN += ["save_every=8", "validate_every=0"]
QUICK = "--xla_backend_optimization_level=0"  # for a few steps, compiling well takes longer than it saves


def slurm(process, count):
    return {
        "SLURM_JOB_ID": os.getpid(),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": count,
        "SLURM_PROCID": process,
        "SLURM_LOCALID": process,
        "XLA_FLAGS": QUICK,
    }


print("python -m wan_jax", *TRAIN)
hosts = [wan(*TRAIN, "mesh=fsdp=2", **slurm(process, 2)) for process in range(2)]

# %% [markdown]
# ## A machine is taken away
# The second process gets the signal that a host gets half a minute before it goes. JAX tells the first, both finish the
# same step, save, and leave with status 75.

# %%
import signal
import time

started = time.monotonic()
while not list((RUNS / RUN / "checkpoints").glob("8")) and all(host.poll() is None for host in hosts):
    time.sleep(0.2)
print(f"a checkpoint after {time.monotonic() - started:.0f} s")
hosts[1].send_signal(signal.SIGTERM)
for process, host in enumerate(hosts):
    print(f"process {process}: {end(host, status=75)}")

# %% [markdown]
# ## The same command again, on one device
# Checkpoints know no mesh: arrays are read into whatever pieces the new one asks for.

# %%
again = wan(*TRAIN, XLA_FLAGS=QUICK)
print(end(again))

# %% [markdown]
# ## Nothing was lost
# The journal names the clips of every step, as each process has seen them. Together they are those of a run that nobody
# stopped: every step once, four clips in each, and each of the 32 clips once in every eight steps. Left of the bar are
# those of the first process.

# %%
from wan_jax.train.journal import read_journal

clips, losses = {}, {}
for entry in read_journal(RUNS / RUN):
    if "ids" in entry:
        clips.setdefault(entry["step"], []).append([name.lstrip("0-") or "0" for name in entry["ids"]])
    losses |= {entry["step"]: entry["train/loss"]} if "train/loss" in entry else {}
for step, seen in clips.items():
    of_each = " | ".join(" ".join(f"{name:>2}" for name in ids) for ids in seen)
    print(f"step {step:2}  loss {losses[step]:.3f}  clips {of_each}")

in_order = [name for seen in clips.values() for ids in seen for name in ids]
passes = [len(set(in_order[start : start + 32])) for start in range(0, len(in_order), 32)]
print(f"every step once: {list(clips) == list(range(1, STEPS + 1))}; different clips in each pass: {passes}")

# %% [markdown]
# The tests go further: killed with `kill -9` at any point a run ends bit for bit as one that was not, and one of a
# process with eight devices goes on in two with four (`tests/train/test_resume.py`).
#
# **What was never run:** TPU slices, more than one machine, buckets of Google, the script and the JobSet file.
