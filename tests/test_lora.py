"""Low-rank updates against W + alpha / rank · a·b worked out in NumPy, and their files."""

import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from convert.dit import dit_rules
from convert.export import export_model
from convert.rules import flat
from tests.compare import relative_error
from tests.convert.hub import serve
from tests.rearrange import to_jax, to_torch
from wan_jax import WanPipeline, lora, lora_files, sharding
from wan_jax.config import get_config
from wan_jax.errors import WanError
from wan_jax.models.dit import DiT, abstract_params
from wan_jax.placeholder import folder, random_params

MODEL = get_config("untrained")
CONFIG = MODEL.transformer  # two blocks, width 64, feed-forward width 128
LORA = lora.LoraConfig(rank=3, alpha=5.0)
LAYERS = [f"blocks/{attention}/{name}" for attention in ("self_attn", "cross_attn") for name in "qkvo"]
LAYERS += ["blocks/ffn_in", "blocks/ffn_out"]


def random_update(seed=0, config=LORA):
    """An update whose `lora_b` is not zero."""
    update = lora.init(config, abstract_params(CONFIG), jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32), update)


def fused_by_hand(params, update, config=LORA):
    weights, update = flat(params), flat(update)
    for path in LAYERS:
        a, b = (np.asarray(update[f"{path}/lora_{side}"], np.float64) for side in "ab")
        product = np.stack([a[i] @ b[i] for i in range(len(a))]) * config.alpha / config.rank
        weights = weights | {f"{path}/kernel": (weights[f"{path}/kernel"] + product).astype(np.float32)}
    return unflatten_dict(weights, sep="/")


def joined(params, update):
    return unflatten_dict(flatten_dict(params) | flatten_dict(update))


@pytest.fixture(scope="module")
def params():
    return random_params(MODEL)["transformer"]


def network_inputs():
    """Latents, timestep and text of two samples."""
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((2, 3, 4, 6, 16), np.float32)
    text = rng.standard_normal((2, 7, CONFIG.text_dim), np.float32)
    return latents, np.array([[999.0], [437.0]], np.float32), text


@pytest.fixture(scope="module")
def velocity():
    inputs = network_inputs()
    apply = jax.jit(DiT(CONFIG, jnp.float32, "nothing").apply)
    return lambda params: apply({"params": params}, *inputs)


def test_a_new_update_changes_nothing(params, velocity):
    new = lora.init(LORA, abstract_params(CONFIG), jax.random.key(0))
    assert {path.rpartition("/")[0] for path in flat(new)} == set(LAYERS)
    assert new["blocks"]["ffn_out"]["lora_a"].shape == (2, 128, 3)
    assert new["blocks"]["ffn_out"]["lora_b"].shape == (2, 3, 64)
    np.testing.assert_array_equal(velocity(joined(params, new)), velocity(params))


def test_new_updates_are_spread_like_those_of_peft():
    """`kaiming_uniform_` with a = √5: uniform within 1 / √inputs."""
    config = lora.LoraConfig(rank=64, targets="blocks/ffn_.*")
    new = lora.init(config, abstract_params(CONFIG), jax.random.key(0))["blocks"]
    for name, inputs in ("ffn_in", 64), ("ffn_out", 128):
        a = np.asarray(new[name]["lora_a"]) * np.sqrt(inputs)
        assert 0.99 < np.abs(a).max() <= 1 and abs(a.std() - 1 / np.sqrt(3)) < 0.02 and abs(a.mean()) < 0.02


def test_joined_and_fused_are_the_same(params, velocity):
    """Under the scan over blocks, each with its own update."""
    update = random_update()
    expected = velocity(fused_by_hand(params, update))
    assert relative_error(velocity(params), expected) > 0.1
    scaled = lora.scaled(LORA, update)
    assert relative_error(velocity(joined(params, scaled)), expected) <= 1e-5
    assert relative_error(velocity(lora.fuse(params, scaled)), expected) <= 1e-5


def test_gradients(params, velocity):
    """With G the gradient of W + s·a·b, those of a and b are s·G·bᵀ and s·aᵀ·G."""
    update, scale = random_update(), LORA.alpha / LORA.rank
    loss = lambda params: jnp.square(velocity(params)).mean()  # noqa: E731
    found = flat(jax.grad(lambda update: loss(joined(params, lora.scaled(LORA, update))))(update))
    whole = flat(jax.grad(loss)(fused_by_hand(params, update)))
    for path in LAYERS:
        a, b, gradient = flat(update)[f"{path}/lora_a"], flat(update)[f"{path}/lora_b"], whole[f"{path}/kernel"]
        assert relative_error(found[f"{path}/lora_a"], scale * np.einsum("lcm,lrm->lcr", gradient, b)) <= 1e-4
        assert relative_error(found[f"{path}/lora_b"], scale * np.einsum("lcm,lcr->lrm", gradient, a)) <= 1e-4


def test_bfloat16_weights_are_added_to_in_float32(params):
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    update = random_update()
    fused = flat(lora.fuse(half, lora.scaled(LORA, update)))
    expected = flat(fused_by_hand(jax.tree.map(lambda x: np.asarray(x, np.float32), half), update))
    for path in LAYERS:
        kernel = fused[f"{path}/kernel"]
        assert kernel.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(kernel, np.float32), expected[f"{path}/kernel"], rtol=2**-8, atol=1e-6)


def test_on_a_mesh(params):
    """Updates are cut along the model's width; fusing in place leaves the weights where they are."""
    mesh = sharding.make_mesh(fsdp=2, tensor=2, devices=jax.devices("cpu")[:4])
    put = lambda tree: jax.tree.map(lambda x, to: jax.device_put(x, to.sharding), tree, sharding.place(tree, mesh))  # noqa: E731
    update = random_update()
    specs = flat(sharding.param_specs(update, mesh))
    assert specs["blocks/self_attn/q/lora_a"] == jax.P(None, ("fsdp", "context"))
    assert specs["blocks/ffn_out/lora_b"] == jax.P(None, None, ("fsdp", "context"))
    placed = put(params)
    fused = lora.fuse_in_place(placed, put(lora.scaled(LORA, update)))
    assert flat(placed)["blocks/ffn_in/kernel"].is_deleted()
    for path, expected in flat(fused_by_hand(params, update)).items():
        assert flat(fused)[path].sharding == flat(sharding.place(params, mesh))[path].sharding
        np.testing.assert_allclose(flat(fused)[path], expected, atol=1e-6)


def tensors_of(params, layout):
    """The transformer as PyTorch has it."""
    return dict(t for rule in dit_rules(CONFIG) for t in to_torch(rule, layout, flat(params)[rule.path]))


def params_of(tensors, layout):
    shapes = flat(abstract_params(CONFIG))
    values = {
        rule.path: to_jax(rule, layout, shapes[rule.path].shape, np.float32, tensors.__getitem__)
        for rule in dit_rules(CONFIG)
    }
    return unflatten_dict(values, sep="/")


STYLES = {
    "ComfyUI": ("original", "diffusion_model.{}.lora_A.weight", "diffusion_model.{}.lora_B.weight"),
    "LightX2V": ("original", "diffusion_model.{}.lora_down.weight", "diffusion_model.{}.lora_up.weight"),
    "DiffSynth": ("original", "{}.lora_A.default.weight", "{}.lora_B.default.weight"),
    "kohya": ("original", "lora_unet_{_}.lora_down.weight", "lora_unet_{_}.lora_up.weight"),
    "Diffusers": ("diffusers", "transformer.{}.lora_A.weight", "transformer.{}.lora_B.weight"),
    "old Diffusers": ("diffusers", "unet.{}_lora.down.weight", "unet.{}_lora.up.weight"),
    "PEFT": ("diffusers", "base_model.model.{}.lora_A.default.weight", "base_model.model.{}.lora_B.default.weight"),
    "others": ("original", "pipe.dit.{}.lora.down.weight", "pipe.dit.{}.lora.up.weight"),
}
RANKS = {
    "original": {
        "blocks.0.self_attn.q": 3,
        "blocks.1.self_attn.k": 2,
        "blocks.1.ffn.2": 4,
        "text_embedding.0": 2,
        "time_projection.1": 3,
        "head.head": 2,
        "patch_embedding": 2,
    },
    "diffusers": {
        "blocks.0.attn1.to_q": 3,
        "blocks.1.attn2.to_out.0": 4,
        "condition_embedder.time_proj": 2,
        "proj_out": 3,
    },
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("alpha", ["tensor", "metadata", None])
def test_files_of_others(tmp_path, params, style, alpha):
    """B·A added in PyTorch's layout, with a rank of its own in every layer, and some layers left out."""
    layout, *names = STYLES[style]
    rng = np.random.default_rng(0)
    expected, file = tensors_of(params, layout), {}
    for layer, rank in RANKS[layout].items():
        weight = expected[f"{layer}.weight"]
        a = rng.standard_normal((rank, *weight.shape[1:]), np.float32)
        b = rng.standard_normal((len(weight), rank, *[1] * (weight.ndim - 2)), np.float32)
        name_a, name_b = (name.replace("{_}", layer.replace(".", "_")).replace("{}", layer) for name in names)
        file |= {name_a: a, name_b: b}
        if alpha == "tensor":
            file[re.sub(r"[._]lora[._].*", ".alpha", name_a)] = np.array(6, np.float32)
        update = np.tensordot(b.reshape(b.shape[:2]), a, 1)
        expected[f"{layer}.weight"] = weight + 0.5 * (6 / rank if alpha else 1) * update
    metadata = {"lora_adapter_metadata": '{"transformer.lora_alpha": 6}'} if alpha == "metadata" else None
    safetensors.numpy.save_file(file, tmp_path / "lora.safetensors", metadata)
    fused = lora.fuse(params, lora_files.load(tmp_path / "lora.safetensors", CONFIG, strength=0.5))
    for path, value in flat(params_of(expected, layout)).items():
        np.testing.assert_allclose(flat(fused)[path], value, atol=2e-5)


def test_whole_differences(tmp_path, params):
    """LightX2V's .diff of weights and norms, .diff_b of biases and .diff_m of modulations, beside matrices."""
    rng = np.random.default_rng(0)
    expected, file = tensors_of(params, "original"), {}
    parts = {
        "blocks.0.self_attn.q": ("weight", "bias"),
        "blocks.1.cross_attn.norm_k": ("weight",),
        "blocks.1.norm3": ("weight", "bias"),
        "blocks.1": ("modulation",),
        "head": ("modulation",),
        "head.head": ("weight", "bias"),
        "patch_embedding": ("weight", "bias"),
        "time_projection.1": ("bias",),
    }
    for layer, names in parts.items():
        for name in names:
            difference = rng.standard_normal(expected[f"{layer}.{name}"].shape, np.float32)
            suffix = {"weight": "diff", "bias": "diff_b", "modulation": "diff_m"}[name]
            file[f"diffusion_model.{layer}.{suffix}"] = difference
            expected[f"{layer}.{name}"] = expected[f"{layer}.{name}"] + 0.5 * difference
    a, b = rng.standard_normal((2, 64), np.float32), rng.standard_normal((64, 2), np.float32)
    file |= {f"diffusion_model.blocks.0.self_attn.q.lora_{side}.weight": x for side, x in (("down", a), ("up", b))}
    expected["blocks.0.self_attn.q.weight"] = expected["blocks.0.self_attn.q.weight"] + 0.5 * b @ a
    safetensors.numpy.save_file(file, tmp_path / "lora.safetensors")
    fused = lora.fuse(params, lora_files.load(tmp_path / "lora.safetensors", CONFIG, strength=0.5))
    for path, value in flat(params_of(expected, "original")).items():
        np.testing.assert_allclose(flat(fused)[path], value, atol=2e-5)


def test_own_file(tmp_path):
    update = random_update()
    lora_files.save(tmp_path / "lora.safetensors", update, LORA, CONFIG, {"run": "test"})
    assert [path.name for path in tmp_path.iterdir()] == ["lora.safetensors"]
    with safetensors.safe_open(tmp_path / "lora.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "run": "test"}
        assert len(file.keys()) == 3 * 2 * len(LAYERS)
        assert file.get_tensor("diffusion_model.blocks.1.ffn.0.alpha") == 5
        a = file.get_tensor("diffusion_model.blocks.1.cross_attn.v.lora_A.weight")
        np.testing.assert_array_equal(a, update["blocks"]["cross_attn"]["v"]["lora_a"][1].T)
    jax.tree.map(
        np.testing.assert_array_equal,
        lora_files.load(tmp_path / "lora.safetensors", CONFIG),
        jax.tree.map(np.asarray, lora.scaled(LORA, update)),
    )


def test_own_file_in_half_the_bytes(tmp_path):
    update = random_update()
    for dtype in ("float32", "bfloat16"):
        lora_files.save(tmp_path / dtype, update, LORA, CONFIG, {}, dtype)
    assert (tmp_path / "bfloat16").stat().st_size < 0.7 * (tmp_path / "float32").stat().st_size
    rounded = jax.tree.map(lambda x: np.asarray(x.astype(jnp.bfloat16), np.float32), update)
    found = lora_files.load(tmp_path / "bfloat16", CONFIG)
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, lora.scaled(LORA, rounded)))


def test_in_the_pipeline(tmp_path, params):
    """The same latents as from a checkpoint into which the update was merged; the other expert keeps its weights."""
    update = random_update()
    lora_files.save(tmp_path / "lora.safetensors", update, LORA, CONFIG, {})
    everything = random_params(MODEL)
    everything["transformer_2"] = fused_by_hand(everything["transformer_2"], update)
    export_model(MODEL, everything, folder() / "tokenizer", tmp_path / "merged")

    def generate(pipe):
        pipe.set_progress_bar_config(disable=True)
        small = dict(height=32, width=32, num_frames=5, num_inference_steps=6, output_type="latent")
        return pipe("a cat", **small).frames

    pipe = WanPipeline.from_pretrained("untrained", dtype="float32")
    plain = pipe.fingerprint
    pipe.load_lora_weights(tmp_path / "lora.safetensors", component="transformer_2", strength=0.25)
    pipe.load_lora_weights(tmp_path / "lora.safetensors", component="transformer_2", strength=0.75)
    merged = generate(WanPipeline.from_pretrained(str(tmp_path / "merged"), dtype="float32"))
    assert relative_error(generate(pipe), merged) <= 1e-5
    assert len(pipe.fingerprint) == 12 and pipe.fingerprint != plain
    pipe.unload_lora_weights()
    assert pipe.fingerprint == plain
    original = WanPipeline.from_pretrained("untrained", dtype="float32").weights["transformer_2"]
    jax.tree.map(np.testing.assert_array_equal, pipe.weights["transformer_2"], original)
    assert relative_error(generate(WanPipeline.from_pretrained("untrained", dtype="float32")), merged) > 0.01
    with pytest.raises(WanError, match="component='vae': untrained has transformer and transformer_2"):
        pipe.load_lora_weights(tmp_path / "lora.safetensors", component="vae")


def test_a_file_on_the_hub(tmp_path):
    """owner/name/path is fetched, where there is no such file here."""
    (tmp_path / "repo" / "fast").mkdir(parents=True)
    lora_files.save(tmp_path / "repo/fast/high.safetensors", random_update(), LORA, CONFIG, {})
    script = (
        "import sys, numpy as np\n"
        "from flax.traverse_util import flatten_dict\n"
        "from wan_jax import config, lora_files\n"
        "update = lora_files.load(sys.argv[1], config.get_config('untrained').transformer)\n"
        "np.savez(sys.argv[2], **flatten_dict(update, sep='/'))\n"
    )
    with serve(tmp_path / "repo") as (endpoint, _):
        env = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": os.getcwd()}
        command = [sys.executable, "-c", script, "owner/model/fast/high.safetensors", tmp_path / "found.npz"]
        subprocess.run(command, check=True, env=env, cwd=tmp_path)
    here = flatten_dict(lora_files.load(tmp_path / "repo/fast/high.safetensors", CONFIG), sep="/")
    with np.load(tmp_path / "found.npz") as found:
        assert here.keys() == set(found)
        for path, x in here.items():
            np.testing.assert_array_equal(found[path], x)
    with pytest.raises(WanError, match=r"missing\.safetensors: no safetensors file that can be read"):
        lora_files.load("missing.safetensors", CONFIG)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (
            lambda t: {f"lora_te_{k}": x for k, x in t.items()},
            r"none of its 3 tensors is an update for this model: lora_te",
        ),
        (lambda t: {k: x for k, x in t.items() if "lora_A" not in k}, r"lora_B.weight stands without the other matrix"),
        (
            lambda t: {k: x[:, :-1] if x.ndim else x for k, x in t.items()},
            r"blocks.0.self_attn.v's first matrix is \[3, 63\] and has to be \[3, 64\]; it is for another model",
        ),
        (lambda t: t | {"head.head.diff": np.zeros((64, 65))}, r"head.head's difference is \[64, 65\] and has to be"),
    ],
)
def test_files_that_do_not_fit(tmp_path, spoil, message):
    name = "diffusion_model.blocks.0.self_attn.v"
    tensors = {f"{name}.lora_A.weight": np.zeros((3, 64)), f"{name}.lora_B.weight": np.zeros((64, 3))}
    tensors = {k: x.astype(np.float32) for k, x in spoil(tensors | {f"{name}.alpha": np.array(3.0)}).items()}
    safetensors.numpy.save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(WanError, match=message):
        lora_files.load(tmp_path / "lora.safetensors", CONFIG)


def test_what_is_not_used_is_named(tmp_path):
    """As when a model from images is updated for one from text."""
    names = [f"diffusion_model.blocks.0.cross_attn.{name}" for name in ("v", "k_img", "v_img")]
    tensors = {f"{name}.lora_A.weight": np.zeros((3, 64), np.float32) for name in names}
    tensors |= {f"{name}.lora_B.weight": np.zeros((64, 3), np.float32) for name in names}
    safetensors.numpy.save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.warns(UserWarning, match=r"4 of 6 tensors are not used.*blocks.0.cross_attn.k_img.lora_A"):
        lora_files.load(tmp_path / "lora.safetensors", CONFIG)


def test_bad_input(tmp_path):
    with pytest.raises(WanError, match=r"targets='attn' matches none of blocks/.*ffn_out"):
        lora.init(lora.LoraConfig(targets="attn"), abstract_params(CONFIG), jax.random.key(0))
    with pytest.raises(WanError, match="rank=0"):
        lora.LoraConfig(rank=0)
    with pytest.raises(WanError, match="is not a regular expression"):
        lora.LoraConfig(targets="blocks/(")
    with pytest.raises(WanError, match=r"none.safetensors: no safetensors file that can be read"):
        lora_files.load(tmp_path / "none.safetensors", CONFIG)
    lora_files.save(tmp_path / "lora.safetensors", random_update(), LORA, CONFIG, {})
    (tmp_path / "short.safetensors").write_bytes((tmp_path / "lora.safetensors").read_bytes()[:-1])
    with pytest.raises(WanError, match=r"short.safetensors: no safetensors file that can be read"):
        lora_files.load(tmp_path / "short.safetensors", CONFIG)
