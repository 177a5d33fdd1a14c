"""One device and many give the same videos."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.compare import relative_error
from tests.ports import free_port
from wan_jax import WanError, WanPipeline
from wan_jax.sharding import as_mesh

# 3 × 3 × 5 = 45 tokens, which 2, 4 and 8 do not divide.
SMALL = dict(height=48, width=80, num_frames=9, num_inference_steps=4, seed=3)
PROMPTS = ["a cat", "一只狗", "two balls", "rain"]


def run(mesh: str, **options):
    count = int(np.prod([int(part.split("=")[1]) for part in mesh.split(",")]))
    devices = jax.devices("cpu")[:count]
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32", mesh=as_mesh(mesh, devices))
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(**options, output_type="latent", **SMALL).frames
    with jax.set_mesh(pipe.mesh):
        return latents, np.asarray(pipe.decode(np.moveaxis(latents, 1, -1)))


@pytest.fixture(scope="module")
def alone():
    return run("data=1", prompt=PROMPTS[:1])


@pytest.mark.parametrize(
    "mesh",
    [
        "fsdp=8",
        "context=8",
        "tensor=2,context=4",
        "data=2,context=4",
        "data=2,fsdp=2,context=2",
        "context=5",
        "fsdp=6",
        "data=7",
    ],
)
def test_meshes_agree(mesh, alone):
    for expected, value in zip(alone, run(mesh, prompt=PROMPTS[:1])):
        assert relative_error(value, expected) <= 1e-5


def test_four_guided_prompts_on_the_data_axis():
    for expected, value in zip(run("data=1", prompt=PROMPTS), run("data=8", prompt=PROMPTS)):
        assert relative_error(value, expected) <= 1e-5


def test_weights_are_cut_where_the_table_says():
    mesh = as_mesh("fsdp=2,tensor=2", jax.devices("cpu")[:4])
    kernel = WanPipeline.from_pretrained("untrained", mesh=mesh).weights["transformer"]["blocks"]["ffn_in"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (kernel.shape[0], kernel.shape[1] // 2, kernel.shape[2] // 2)


def test_a_mesh_of_another_size():
    with pytest.raises(WanError, match=r"data=3.*needs 3 devices"):
        WanPipeline.from_pretrained("untrained", mesh="data=3")
    with pytest.raises(WanError, match=r"expert=2.*data, fsdp, context, tensor"):
        WanPipeline.from_pretrained("untrained", mesh="expert=2")


@pytest.mark.parametrize("processes, mesh", [(2, "data=2,context=4"), (4, "data=2,fsdp=2,context=2")])
def test_processes_agree(processes, mesh, alone, tmp_path):
    """Several hosts, each with some of the devices."""
    port = free_port()
    out = tmp_path / "out.npz"
    script = [sys.executable, "-m", "tests.pipelines.in_processes"]
    running = [
        subprocess.Popen([*script, *map(str, (port, processes, i, 8 // processes, mesh, out))])
        for i in range(processes)
    ]
    assert [process.wait(600) for process in running] == [0] * processes
    together = np.load(out)
    for expected, name in zip(alone, ("latents", "frames")):
        assert relative_error(together[name], expected) <= 1e-5
