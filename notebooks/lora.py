# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/lora.ipynb
#
# # Fine-tuning with LoRA on your own clips
#
# Sixteen clips with captions, one command to make a dataset of them, one to train, two small files as a result: a
# low-rank update for each expert. Here the clips share a look that the model has never seen, old brown photographs, and
# after a few minutes of training videos have it.

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
# Dataset, checkpoints and updates go to `FOLDER`, and so do converted weights and compiled programs. A second session
# that names the same folder goes on from the last checkpoint, or finds that all is done. The second set of values is
# for the large model, which needs a slice to train on; **it was never run here**.

# %%
FOLDER = "files"  # on Colab, after drive.mount("/content/drive"): "/content/drive/MyDrive/wan"
MODEL, RECIPE, SIZE, FRAMES, UNITS = "wan_mini", "train_wan_mini_lora", "128x128", "5", ["--units", "text"]
# MODEL, RECIPE, SIZE, FRAMES, UNITS = "wan22_t2v_a14b", "train_wan22_t2v_lora", "832x480", "49", []
RUN = Path(FOLDER, "lora")
CONVERTED = f"{FOLDER}/models"

from runtime import prepare

dtype = prepare(FOLDER)

# %% [markdown]
# ## Clips
# Put your own into this folder: videos, and beside each a text file of the same name with what it shows. We draw
# sixteen of the little world, and turn them brown.

# %%
import numpy as np
from figures import plt, rows, save, strip

from wan_jax import export_to_video
from wan_jax.world.render import render
from wan_jax.world.scene import stage
from wan_jax.world.words import caption, draw_truth

CLIPS = RUN / "clips"


def brown(frames):
    """Frames in [0, 1] as an old photograph: their brightness, on a scale from dark brown to cream."""
    light = (frames @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    dark, cream = np.array([0.12, 0.06, 0.02], np.float32), np.array([1.0, 0.9, 0.7], np.float32)
    return dark + light * (cream - dark)


CLIPS.mkdir(parents=True, exist_ok=True)
for number in range(16):
    path, rng = CLIPS / f"{number:02}.mp4", np.random.default_rng(number)
    if not path.exists():
        truth = draw_truth(rng)
        drawn = np.asarray(render(stage(truth, rng, 5))) / np.float32(255)
        path.with_suffix(".txt").write_text(caption(truth, rng))
        export_to_video(brown(drawn), path)
print((CLIPS / "00.txt").read_text())

# %% [markdown]
# ## The dataset
# Clips are brought to the model's rate and size, and encoded once: latents, and umT5's states of the captions.


# %%
def wan(*arguments):
    """Runs `python -m wan_jax …` and prints the last lines of what it says."""
    arguments = list(map(str, arguments))
    print("python -m wan_jax", *arguments)
    done = subprocess.run([sys.executable, "-m", "wan_jax", *arguments], capture_output=True, text=True)
    print("\n".join((done.stdout + done.stderr * (done.returncode != 0)).strip().splitlines()[-4:]))
    done.check_returncode()


DATA = RUN / "data"
wan(
    *("data", "build", "--src", CLIPS, "--out", DATA, "--model", MODEL),
    *("--size", SIZE, "--frames", FRAMES, *UNITS, "--validation", 0),
)

# %% [markdown]
# ## Before
# The prompt says nothing about brown.

# %%
from wan_jax import WanPipeline

PROMPT, STEPS = "a large yellow star moves right over the blue sea", 10
pipe = WanPipeline.from_pretrained(MODEL, dtype=dtype, preset="auto", cache_dir=CONVERTED)
pipe.set_progress_bar_config(disable=True)
before = np.asarray(pipe(PROMPT, num_inference_steps=STEPS, seed=0).frames[0])

# %% [markdown]
# ## Training
# Both experts, one after the other: each learns at the noise levels that it is responsible for. The weights stay as
# they are; beside each matrix W of the blocks two thin ones are trained, W + a·b, of rank 8, and b begins as zero.

# %%
import time

started = time.monotonic()
wan("train", "--config", RECIPE, f"data={DATA}", f"out={RUN / 'runs'}")
print(f"{time.monotonic() - started:.0f} s")

# %%
from wan_jax.train.journal import read_journal

figure, axis = plt.subplots(figsize=(5, 2.2))
for name in ("lora_high", "lora_low"):
    told = [entry for entry in read_journal(RUN / "runs" / name) if "train/loss" in entry]
    axis.plot([entry["step"] for entry in told], [entry["train/loss"] for entry in told], label=name)
axis.set(xlabel="step", ylabel="loss")
axis.legend(frameon=False)
save(figure, "lora_loss", "Loss of the two low-rank updates on sixteen brown clips")

# %% [markdown]
# ## After
# An update is fused into the weights, so it costs nothing while sampling, and no program is compiled again.

# %%
updates = [RUN / "runs" / name / "lora.safetensors" for name in ("lora_high", "lora_low")]
for component, path in zip(("transformer", "transformer_2"), updates):
    pipe.load_lora_weights(path, component)
    print(f"{path.name} for {component}: {path.stat().st_size / 1e3:.0f} kB")
after = np.asarray(pipe(PROMPT, num_inference_steps=STEPS, seed=0).frames[0])
for name, video in (("before", before), ("after", after)):
    print(f"{name}: {np.sqrt(np.mean((video - brown(video)) ** 2)):.3f} away from its own brown version")
save(
    rows({"before": strip(before), "after": strip(after)}),
    "lora_before_after",
    "The same prompt and noise before and after low-rank updates learned from sixteen brown clips of five frames",
)

# %% [markdown]
# The world has the look of the clips; what is asked for by its colour keeps some of it.
#
# `pipe.unload_lora_weights()` takes the updates away again, to the bit; `strength=0.5` loads half of one. From the
# command line, and in ComfyUI or Diffusers, they are files like any others:
#
# ```bash
# python -m wan_jax generate --prompt "…" --lora lora_high/lora.safetensors --lora-2 lora_low/lora.safetensors
# ```
#
# ## Another session, the same folder
# The same command in a new process: it finds the finished runs and trains nothing. A run that was cut off would go on
# from its last checkpoint.

# %%
started = time.monotonic()
wan("train", "--config", RECIPE, f"data={DATA}", f"out={RUN / 'runs'}")
print(f"{time.monotonic() - started:.0f} s")

# %% [markdown]
# **Next:** [pod_slice](pod_slice.ipynb) trains on many hosts. In the code, [`lora.py`](../wan_jax/lora.py) is the
# update and [`train/step.py`](../wan_jax/train/step.py) the step.
