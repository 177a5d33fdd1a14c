"""A device that runs out of memory, and a TPU that JAX has not found: one line each, with the way out."""

import dataclasses
import json
import re
import warnings

import jax
import pytest

from wan_jax import WanError, WanPipeline, cli, cluster, executables
from wan_jax.config import get_config
from wan_jax.pipelines import device, out_of_memory
from wan_jax.pipelines.loading import _OurModel
from wan_jax.pipelines.out_of_memory import Shortage, Use
from wan_jax.pipelines.request import Request
from wan_jax.pipelines.residency import quantized

GIB = 2**30
COMPILING = (
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.1G of 15.75G hbm. "
    "Exceeded hbm capacity by 4.35G."
)
# As libtpu 0.0.52 says it.
COMPILING_NOW = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (24.00G) exceeds available HBM (15.75G). HLO module: jit_denoise.\nSee https://openxla.org/xla/errors"
)
RUNNING = (
    "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 2.5G. That was not possible. "
    "There are 1.2G free.; (0x0x0_HBM0)"
)
RESERVING = (
    "RESOURCE_EXHAUSTED: Error loading program: Attempting to reserve 4.25G at the bottom of memory. That was not "
    "possible. There are 3.50G free, 0B reserved, and 3.50G reservable."
)
ON_GPU = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12884901888 bytes.\nBufferAssignment OOM Debugging."
)
VMEM = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 20.1M of 16.00M vmem."
QUOTA = "RESOURCE_EXHAUSTED: Quota exceeded for storage.googleapis.com; retry in 20 seconds"

MODEL = get_config("wan22_t2v_a14b")
INT8 = quantized(MODEL, "int8")
SIZE = (81, 480, 832)
GENERATE = ["generate", "--model", "untrained", "--prompt", "a", "--size", "96x64", "--frames", "9", "--steps", "2"]


def failing(message: str, kind: type = jax.errors.JaxRuntimeError):
    def fail(*_, **__):
        raise kind(message)

    return fail


@pytest.mark.parametrize(
    "message, expected",
    [
        (COMPILING, Shortage(20.1 * GIB, 15.75 * GIB, compiling=True)),
        (COMPILING_NOW, Shortage(24 * GIB, 15.75 * GIB, compiling=True)),
        (RUNNING, Shortage(2.5 * GIB, 1.2 * GIB)),
        (RESERVING, Shortage(4.25 * GIB, 3.5 * GIB)),
        (ON_GPU, Shortage(12 * GIB)),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 12.00GiB.", Shortage(12 * GIB)),
        ("RESOURCE_EXHAUSTED: Failed to allocate request for 512.0MiB (536870912B) on device 0", Shortage(GIB / 2)),
        ("RESOURCE_EXHAUSTED: Out of memory allocating 400 bytes.", Shortage(400)),
        ("RESOURCE_EXHAUSTED: some new wording about memory", Shortage()),
        (VMEM, None),
        (QUOTA, None),
        ("INVALID_ARGUMENT: cannot allocate 2 bytes", None),
    ],
)
def test_messages(message, expected):
    assert out_of_memory.parse(message) == expected


def test_the_compilers_own_words():
    """A message of this JAX, not one that was written down once."""
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.numpy.ones((10**7, 10**7)).block_until_ready()
    assert out_of_memory.parse(str(caught.value)).needed == 4e14


@pytest.mark.parametrize(
    "config, offload, message, component, first",
    [
        (MODEL, None, RUNNING, "transformer", "--offload model"),
        (MODEL, "model", RUNNING, "transformer", "--quantize int8"),
        (INT8, "model", RUNNING, "transformer", "--offload blocks"),
        (INT8, None, RUNNING, "transformer", "--offload model"),
        (MODEL, "blocks", RUNNING, "transformer", "--quantize int8"),
        (INT8, "blocks", RUNNING, "transformer", "--size"),
        # A program that does not fit an empty device: other weights may go, and it still does not.
        (MODEL, None, COMPILING, "transformer", "--quantize int8"),
        (INT8, None, COMPILING, "transformer", "--offload blocks"),
        (MODEL, None, COMPILING, "vae", "--size"),
        (MODEL, None, RUNNING, "vae", "--offload model"),
        (MODEL, "model", RUNNING, "vae", "--size"),
    ],
)
def test_order_of_advice(config, offload, message, component, first):
    advice = out_of_memory.advise(out_of_memory.parse(message), Use(config, component, offload, SIZE))
    assert re.search(r"--\w+( (?!\d)\w+)?", advice)[0] == first, advice


@pytest.mark.parametrize("name", ["wan22_t2v_a14b", "wan22_ti2v_5b"])
@pytest.mark.parametrize("needed", [1.3, 2.5, 6.0])
def test_smaller_videos_are_valid_and_fit(name, needed):
    config = get_config(name)
    own = (config.sampling.num_frames, config.sampling.height, config.sampling.width)
    shortage = Shortage(needed * GIB, GIB)
    advice = out_of_memory.advise(shortage, Use(config, size=own, offload="blocks"))
    width, height = map(int, re.search(r"--size (\d+)x(\d+)", advice).groups())
    frames = int(re.search(r"--frames (\d+)", advice)[1])
    assert f"width={width}, height={height}" in advice and f"num_frames={frames}" in advice
    given = dict.fromkeys(field.name for field in dataclasses.fields(Request)) | {
        "seed": 0,
        "solver": "unipc",
        "sigma_grid": "wan",
        "quality": 1.0,
        "step_cache": "magnitude",
    }
    del given["prompt"], given["negative_prompt"]

    def tokens(**changes):
        b, f, h, w, _ = Request.make(config, "a", None, **given | changes).latent_shape(config)
        return b * f * h * w

    for smaller in (tokens(width=width, height=height), tokens(num_frames=frames)):
        assert 0.5 / needed < smaller / tokens() < 1 / needed


def test_a_program_of_weights_leaves_the_rest_to_the_video():
    shortage = Shortage(20 * GIB, 16 * GIB, compiling=True)
    assert out_of_memory.fitting_share(shortage, 12 * GIB) == pytest.approx(0.95 * 0.5)
    assert "--" not in out_of_memory.advise(shortage, Use(INT8, "transformer", "blocks", SIZE, 1, 17 * GIB))


def test_batches_weights_and_hosts():
    running = out_of_memory.parse(RUNNING)
    assert "1 prompt at a time" in out_of_memory.advise(running, Use(INT8, "transformer", "blocks", SIZE, videos=3))
    assert "--size" not in out_of_memory.advise(running, Use(MODEL))
    assert "mesh" in out_of_memory.advise(running, Use(INT8, offload="blocks"))
    assert "offload" not in out_of_memory.advise(running, Use(MODEL, size=SIZE, unified=True))  # a CPU is the host


def test_numbers_are_told():
    described = out_of_memory.describe(out_of_memory.parse(RUNNING), 15.75 * GIB)
    assert described == "2.5 GiB more is needed, 1.2 GiB of 15.75 GiB is free"
    described = out_of_memory.describe(out_of_memory.parse(COMPILING), 15.75 * GIB)
    assert described == "20.1 GiB is needed, there is 15.75 GiB"
    assert out_of_memory.describe(Shortage(12 * GIB), 80 * GIB) == "12 GiB more is needed, the device has 80 GiB"


@pytest.mark.parametrize("message", [COMPILING, COMPILING_NOW, RUNNING, ON_GPU])
def test_command_line_says_one_line(tmp_path, monkeypatch, capsys, message):
    """And what it says can be typed: the smaller video is made."""
    monkeypatch.chdir(tmp_path)
    call = executables.call

    def fail_denoising(function, *args, **kwargs):
        return (failing(message) if function.__name__ == "denoise" else call)(function, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(executables, "call", fail_denoising)
        with pytest.raises(SystemExit) as stopped:
            cli.main(GENERATE)
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.out == ""
    assert "Traceback" not in captured.err and "BufferAssignment" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if "error: " in line]
    assert "out of memory on cpu" in line and "GiB" in line and line == captured.err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
    if message == COMPILING:
        option = re.search(r"--size \d+x\d+", line)[0].split()
        cli.main([*GENERATE, "--quantize", "int8", *option, "--json"])
        settings = json.loads(capsys.readouterr().out.splitlines()[-1])["settings"]
        assert settings["quantization"] == "int8" and f"{settings['width']}x{settings['height']}" == option[1]


def test_weights_that_do_not_fit(monkeypatch):
    """The reader's error comes when the weights are needed; no size of a video would help."""
    monkeypatch.setattr(_OurModel, "read", failing(RUNNING, ValueError))
    pipe = WanPipeline.from_pretrained("wan_mini", dtype="float32")
    with pytest.raises(WanError, match=r"out of memory.*2\.5 GiB") as caught:
        pipe("a")
    assert "--size" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("message", [VMEM, QUOTA, "INTERNAL: something else"])
@pytest.mark.parametrize("kind", [jax.errors.JaxRuntimeError, ValueError, WanError])
def test_other_errors_pass(message, kind):
    error = kind(message)
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("data",))
    with pytest.raises(kind) as caught, out_of_memory.explained(MODEL, "transformer", "float32", mesh, None):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "there, variable, backend, platforms, warned",
    [
        (True, None, "cpu", None, True),
        (False, "COLAB_TPU_ADDR", "cpu", None, True),
        (False, "TPU_ACCELERATOR_TYPE", "cpu", "", True),
        (False, None, "cpu", None, False),
        (True, None, "tpu", None, False),
        (True, None, "gpu", None, False),
        (True, None, "cpu", "cpu", False),  # it was asked for
    ],
)
def test_idle_tpu(tmp_path, monkeypatch, there, variable, backend, platforms, warned):
    accelerator = tmp_path / "accel0"
    if there:
        accelerator.touch()
    monkeypatch.setattr(cluster, "_TPU_DEVICES", (str(accelerator),))
    for name in device._TPU_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "v5e-1")
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(device, "_asked_for", lambda: platforms)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        device.warn_of_idle_tpu()
    assert len(caught) == warned
    if warned:
        text = str(caught[0].message)
        assert 'pip install -U "jax[tpu]"' in text and "restart" in text and "\n" not in text
