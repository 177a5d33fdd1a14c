# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/sharding.ipynb
#
# # Meshes, sharding and the planner
#
# A 14B expert at 1280×720 wants many chips. Here you see how eight devices share one video: the mesh, the table that
# says where each weight lives, how activations are cut, what a step has to send, and what the planner, which asks the
# real TPU compiler, says about slices that nobody has to own. It all runs on virtual CPU devices; **none was run on
# TPUs**.

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
# ## Eight devices on any machine
# JAX makes as many CPU devices as it is told to. `MODEL` is what is really run; of the large model `PLANNED` only
# shapes are used. With eight real chips, leave the two lines about the environment out.

# %%
FOLDER = "files"  # on Colab, after drive.mount("/content/drive"): "/content/drive/MyDrive/wan"
MODEL, PLANNED = "wan_mini", "wan22_t2v_a14b"

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

from runtime import prepare

dtype = prepare(FOLDER)

# %% [markdown]
# ## The mesh
# Four axes, any of which may be 1. `data` takes the guided and the unguided prediction side by side, or several videos;
# `fsdp` cuts weights, which are gathered layer by layer; `context` cuts the tokens of a video, and weights as well;
# `tensor` cuts heads and feed-forward features.

# %%
import jax

from wan_jax import make_mesh

mesh = make_mesh(data=2, context=4)
print(mesh.shape)
print(mesh.device_ids.squeeze())

# %% [markdown]
# ## One table for all weights
# `sharding.RULES` is a list of patterns and PartitionSpecs, the first match counts. Applied to the shapes of a 14B
# expert (no weight is read), a few of its rows, and the piece that each of our eight devices would hold:

# %%
import jax.numpy as jnp

from wan_jax import sharding
from wan_jax.models import abstract_params
from wan_jax.pipelines.loading import read_config

expert = abstract_params(read_config(PLANNED).transformer, jnp.bfloat16)
shown = {}
for path, x in jax.tree_util.tree_leaves_with_path(sharding.place(expert, mesh)):
    shown.setdefault((x.sharding.spec, len(x.shape)), ("/".join(key.key for key in path), x))
for name, x in shown.values():
    print(f"{name:34} {x.shape!s:20} {x.sharding.spec!s:52} {x.sharding.shard_shape(x.shape)}")

# %% [markdown]
# How much of an expert lies on each chip follows from the mesh alone:

# %%
from figures import plt, save

meshes = {
    "data=8": dict(data=8),
    "data=2,context=4": dict(data=2, context=4),
    "data=2,fsdp=4": dict(data=2, fsdp=4),
    "data=2,tensor=4": dict(data=2, tensor=4),
    "context=8": dict(context=8),
}
gib = {name: sharding.bytes_of_each(sharding.place(expert, make_mesh(**axes))) / 2**30 for name, axes in meshes.items()}
figure, axis = plt.subplots(figsize=(5, 2))
bars = axis.barh(list(gib), list(gib.values()), color="tab:blue")
axis.bar_label(bars, fmt="%.1f", padding=3)
axis.axvline(15.75, color="tab:red", lw=1)
axis.text(15.9, 4.5, "a v5e chip", color="tab:red")
axis.set(xlabel="GiB of a 14B expert on each of eight chips, bfloat16")
axis.invert_yaxis()
save(figure, "weights_by_mesh", "What a 14B expert takes of each of eight chips on five meshes, in bfloat16")

# %% [markdown]
# ## Activations follow
# No table for these: an axis that the batch cannot use works on the sequence. A guided step is a batch of two, so
# `data` takes one prediction each; for a single prediction it cuts tokens as well. Sizes need not divide.

# %%
for axes in ({"data": 2, "context": 4}, {"data": 2, "fsdp": 4}):
    with jax.set_mesh(make_mesh(**axes)):
        for batch in (2, 1):
            cut = sharding.split(batch)
            print(f"{axes}, batch {batch}: batch over {cut.batch or '-'}, tokens over {cut.sequence or '-'}")

# %% [markdown]
# Between steps latents lie in tiles of rows and columns, so that the autoencoder need not move them. One latent frame
# of 832×480, on eight devices:

# %%
import numpy as np
from jax.sharding import NamedSharding

figure, axes = plt.subplots(1, 3, figsize=(8, 1.7))
for axis, (name, sizes) in zip(axes, meshes.items()):
    shape, place = (1, 21, 60, 104, 16), make_mesh(**sizes)
    with jax.set_mesh(place):
        where = NamedSharding(place, sharding.latent_spec(shape))
    owner = np.zeros(shape[2:4])
    for device, index in where.devices_indices_map(shape).items():
        owner[index[2:4]] = device.id
    axis.imshow(owner, cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
    axis.set(title=name, xticks=[], yticks=[])
save(figure, "latents_on_meshes", "Which of eight devices holds which part of a latent frame of 832×480")

# %% [markdown]
# ## Eight devices make the same video as one
# In float32, so that only the order of sums differs. A small video, as two cores play eight devices here.

# %%
from wan_jax import WanPipeline

SMALL = dict(height=64, width=64, num_frames=9, num_inference_steps=4, output_type="latent")
latents = {}
for name in ("data=1", "data=2,context=4"):
    on = make_mesh(devices=jax.devices()[:1]) if name == "data=1" else name
    pipe = WanPipeline.from_pretrained(MODEL, dtype="float32", mesh=on)
    pipe.set_progress_bar_config(disable=True)
    latents[name] = pipe("a large red ball bounces on green grass", seed=0, **SMALL).frames
one, many = latents.values()
print(f"latents {many.shape}: relative difference {np.linalg.norm(many - one) / np.linalg.norm(one):.1e}")

# %% [markdown]
# ## What a step sends
# The compiler adds collectives where a weight or token is not where it is needed. We lower one guided denoising step at
# the model's own size, and read the compiled text: loops count as often as they run.

# %%
from collections import Counter

from wan_jax.pipelines.request import Request
from wan_jax.plan import hlo
from wan_jax.plan.loops import trip_count
from wan_jax.plan.programs import Job

KINDS = ("all-gather", "all-to-all", "all-reduce", "reduce-scatter", "collective-permute")


def collectives(module, computation, runs=1):
    """How often each kind runs, and the bytes that it leaves on each device."""
    times, size = Counter(), Counter()
    for op in computation.operations:
        kind = op.opcode.removesuffix("-start")
        if kind in KINDS:
            times[kind] += runs
            size[kind] += runs * op.bytes
        inner = runs * (trip_count(module, computation, {}, op) or 1) if op.opcode == "while" else runs
        for name in op.called if op.opcode in ("while", "call", "conditional") else ():
            for total, more in zip((times, size), collectives(module, module.computations[name], inner)):
                total.update(more)
    return times, size


config = read_config(MODEL)
own = dict.fromkeys(("height", "width", "num_frames", "num_inference_steps", "solver", "flow_shift"))
request = Request.make(config, "", None, **own, guidance_scale=None, guidance_scale_2=None, seed=0, sigma_grid="wan")
print(f"{'mesh':20}" + "".join(f"{kind:>22}" for kind in KINDS))
for name in ("data=2,context=4", "data=2,fsdp=4", "data=2,tensor=4"):
    module = hlo.parse(Job(config, request, make_mesh(**meshes[name])).compile("denoise").text)
    times, size = collectives(module, module.entry)
    print(f"{name:20}" + "".join(f"{times[kind]:8} ({size[kind] / 2**20:6.1f} MiB)" for kind in KINDS))

# %% [markdown]
# `context` exchanges tokens for heads before and after attention (all-to-all, as Ulysses does) and gathers its weights;
# `fsdp`, where no batch is left for it, works the same way. `tensor` adds up partial products after every block and
# gathers few weights. These are the CPU compiler's choices; a TPU's may differ, which is what the planner is for.
#
# ## The planner
# The same program of the 14B expert, compiled by the real TPU compiler for eight v6e chips that need not be there. From
# the text it makes, the planner reads memory, the compiler's own estimate of cycles, and what goes over the links. All
# of it is *modelled*.

# %%
import importlib.util

from wan_jax.plan.report import assess
from wan_jax.plan.topology import libtpu_version, parse_topology

TOPOLOGY, MESH, SIZE = "v6e:2x4", "data=2,context=4", {"height": 480, "width": 832}

if importlib.util.find_spec("libtpu") is None:
    print("libtpu is not installed: `pip install libtpu`, where there is no TPU. Answers of the planner are below.")
else:
    topology, large = parse_topology(TOPOLOGY), read_config(PLANNED)
    guidance = {"guidance_scale": None, "guidance_scale_2": None}
    request = Request.make(large, "", None, **own | SIZE, **guidance, seed=0, sigma_grid="wan")
    job = Job(large, request, sharding.as_mesh(MESH, topology.devices))
    step = assess(job, topology, "denoise", job.compile("denoise"))
    held = step["peak_gib"] + step["resident_gib"]
    print(f"{PLANNED}, {request.width}×{request.height}, {request.num_frames} frames, on {TOPOLOGY}, {MESH}")
    print(f"memory: {held:.1f} of {topology.chip.hbm_gib} GiB, with all weights that stay beside the program")
    print("10⁹ cycles:", ", ".join(f"{kind} {cycles:.2f}" for kind, cycles in step["gcycles"].items()))
    print(f"each chip sends {step['collective_gb']:.1f} GB; {step['exposed_s']:.2f} s of it are waited for")
    print(f"a step: {step['step_s']:.2f} s, {step['mfu']:.0%} of the chip's peak (libtpu {libtpu_version()})")

# %% [markdown]
# `python -m wan_jax plan --topology v6e:2x4 --size 832x480` adds the text encoder, the autoencoder and the whole video;
# `--all` compares the meshes of a slice, `--train` plans a training step.
#
# Stored answers (Wan2.2-T2V-A14B, 81 frames with guidance, JAX 0.12.0.1, libtpu 0.0.52, modelled), from the
# [TPU guide](../docs/tpu.md):
#
# | slice, mesh | size | GiB of a chip | a step | a video of 40 steps |
# |---|---|---|---|---|
# | v6e:2x4, data=2,context=4 | 832×480 | 16.3 of 31.2 | 0.76 s | 31 s |
# | | 1280×720 | 16.9 | 2.86 s | 116 s |
# | v5e:4x4, data=2,context=8 | 832×480 | 8.4 of 15.8 | 1.39 s | 56 s |
# | | 1280×720 | 8.7 | 4.78 s | 192 s |
#
# JAX 0.10.2 cannot gather on the sparse cores with this libtpu, and waits 0.19 s of the first step instead of 0.04.
#
# **Next:** [pod_slice](pod_slice.ipynb) trains on many hosts. In the code, [`sharding.py`](../wan_jax/sharding.py) is
# all there is about where things live.
