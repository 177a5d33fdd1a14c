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
# On a slice `FOLDER` is a bucket. `MODEL` is small here, so that two CPU cores can play two hosts.

# %%
FOLDER = "files"
MODEL, RECIPE, RUN = "wan_mini", "train_wan_mini_vace", "vace_high"
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


def last_line(process):
    return process.communicate()[0].strip().splitlines()[-1]


shutil.rmtree(SLICE, ignore_errors=True)
DATA, RUNS = SLICE / "data", SLICE / "runs"
size, units = ("--size", "64x64", "--frames", 5), ("--units", "text", "--validation", 0)
build = ("data", "build", "--src", "world:32", "--out", DATA, "--model", MODEL, *size, *units)
print("python -m wan_jax", *build)
print(last_line(wan(*build)))

# %%
STEPS = 200
TRAIN = (
    *("train", "--config", RECIPE, "--run", RUN, f"base={MODEL}", f"init={MODEL}", f"data={DATA}", f"out={RUNS}"),
    *(f"steps={STEPS}", "batch=4", "log_every=1", "save_every=50", "validate_every=0", "--stopped-status", 75),
)


def slurm(process, count):
    return {
        "SLURM_JOB_ID": os.getpid(),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": count,
        "SLURM_PROCID": process,
        "SLURM_LOCALID": process,
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
while not list((RUNS / RUN / "checkpoints").glob("50")) and all(host.poll() is None for host in hosts):
    time.sleep(0.2)
print(f"a checkpoint after {time.monotonic() - started:.0f} s")
hosts[1].send_signal(signal.SIGTERM)
for host in hosts:
    print(f"{last_line(host)!r}, status {host.returncode}")

# %% [markdown]
# ## The same command again, on one device
# Checkpoints know no mesh: arrays are read into whatever pieces the new one asks for.

# %%
again = wan(*TRAIN)
print(f"{last_line(again)!r}, status {again.returncode}")

# %% [markdown]
# ## Nothing was lost
# The journal names the clips of every step, of each process. Together they are those of a run that nobody stopped:
# every step once, four clips in each, and each clip once in every pass over the dataset.

# %%
import numpy as np
from figures import plt, save

from wan_jax.train.journal import read_journal

entries = read_journal(RUNS / RUN)
clips, losses = {}, {}
for entry in entries:
    clips.setdefault(entry["step"], []).extend(entry.get("ids", []))
    if "train/loss" in entry:
        losses[entry["step"]] = entry["train/loss"]
clips = {step: ids for step, ids in clips.items() if ids}
files = sorted((RUNS / RUN / "journal").glob("*.00001.jsonl"))
stopped_at = max(int(file.name.partition(".")[0]) for file in files)  # the last that the second process wrote
in_order = [clip for step in sorted(clips) for clip in clips[step]]
passes = [in_order[i : i + 32] for i in range(0, len(in_order) // 32 * 32, 32)]
print(f"stopped after step {stopped_at}; steps told once: {sorted(clips) == list(range(1, STEPS + 1))}")
print(f"clips in a step: {set(map(len, clips.values()))}; clips in a pass: {set(len(set(ids)) for ids in passes)}")

figure, axis = plt.subplots(figsize=(5, 2.2))
smooth = np.convolve([losses[step] for step in sorted(losses)], np.ones(20) / 20, "valid")
axis.plot(range(20, 20 + len(smooth)), smooth)
axis.axvline(stopped_at, color="tab:red", lw=1)
axis.text(stopped_at + 3, smooth.max(), "two processes, then one", va="top")
axis.set(xlabel="step", ylabel="loss, mean of 20")
save(figure, "preemption", "Loss of a run that two processes began; one was told to stop, and a single one went on")

# %% [markdown]
# The tests go further: killed with `kill -9` at any point a run ends bit for bit as one that was not, and one of a
# process with eight devices goes on in two with four (`tests/train/test_resume.py`).
#
# **What was never run:** TPU slices, more than one machine, buckets of Google, the script and the JobSet file.
