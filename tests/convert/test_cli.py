"""`python -m convert`: wrong input is one line and exit status 2."""

import json
from pathlib import Path

import pytest

from convert import folders
from convert.__main__ import main
from tests.convert.tiny import write_model


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("cli") / "source")


def edited(source, tmp_path, file: str, **entries) -> Path:
    """A copy of the configs alone, one of them changed: enough to be refused."""
    for path in source.rglob("*.json"):
        copy = tmp_path / "edited" / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(path.read_text())
        copy.write_text(json.dumps(content | entries if path == source / file else content))
    return tmp_path / "edited"


def refusal(capsys, *args) -> str:
    """The only line on stderr."""
    assert main([*map(str, args)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("args", [["--help"], ["export", "--help"], ["verify", "--help"]])
def test_help_has_examples(args, capsys):
    with pytest.raises(SystemExit) as done:
        main(args)
    assert done.value.code == 0
    assert "python -m convert --src" in capsys.readouterr().out


def test_there_verify_and_back(source, tmp_path, capsys):
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["--src", str(source), "--dst", str(ours)]) == 0
    assert "GB are free" in capsys.readouterr().err
    assert main(["verify", str(ours)]) == 0
    assert main(["export", "--src", str(ours), "--dst", str(back)]) == 0
    assert "every weight is as it was converted" in capsys.readouterr().err
    assert (back / "model_index.json").exists()
    assert "nothing to convert" in refusal(capsys, "--src", ours, "--dst", tmp_path / "again")
    assert "exists" in refusal(capsys, "export", "--src", ours, "--dst", back)
    assert "holds another model" in refusal(capsys, "--src", source, "--dst", ours, "--dtype", "float32")
    assert "not a checkpoint of ours" in refusal(capsys, "--src", source, "--dst", back)


def test_sources_that_are_none(source, tmp_path, capsys):
    empty, strange = tmp_path / "empty", tmp_path / "strange"
    empty.mkdir()
    strange.mkdir()
    (strange / "notes.txt").write_text("hello")
    dst = tmp_path / "ours"
    assert "the directory is empty" in refusal(capsys, "--src", empty, "--dst", dst)
    assert "not a Wan checkpoint" in refusal(capsys, "--src", strange, "--dst", dst)
    assert "no such directory" in refusal(capsys, "--src", tmp_path / "absent", "--dst", dst)
    assert "not a finished wan_jax checkpoint" in refusal(capsys, "export", "--src", source, "--dst", dst)
    assert "not a finished wan_jax checkpoint" in refusal(capsys, "verify", empty)
    (strange / "model_index.json").write_text("{")
    assert "not JSON" in refusal(capsys, "--src", strange, "--dst", dst)


@pytest.mark.parametrize(
    "file, entries, model",
    [
        ("transformer/config.json", {"image_dim": 1280, "in_channels": 36}, "added_kv_proj_dim=None does not go"),
        ("transformer/config.json", {"image_dim": 1280, "added_kv_proj_dim": 24}, "the image encoder is missing"),
        ("transformer/config.json", {"vace_layers": [0, 5]}, "not rising numbers of the 3 layers"),
        ("transformer/config.json", {"motion_encoder_dim": 512}, "Animate"),
        ("transformer/config.json", {"qk_norm": "layer_norm"}, "qk_norm"),
        ("transformer/config.json", {"pooled_projection_dim": 768}, "another model"),
        ("transformer_2/config.json", {"num_layers": 4}, "different sizes"),
        ("vae/config.json", {"attn_scales": [0.5]}, "attn_scales"),
    ],
)
def test_checkpoints_of_other_models(source, tmp_path, capsys, file, entries, model):
    folder = edited(source, tmp_path, file, **entries)
    assert model in refusal(capsys, "--src", folder, "--dst", tmp_path / "ours")


def test_disk_too_small(source, tmp_path, capsys, monkeypatch):
    from convert import conversion

    usage = conversion.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(conversion.shutil, "disk_usage", lambda path: usage)
    assert main(["--src", str(source), "--dst", str(tmp_path / "ours")]) == 2
    assert "GB are needed" in capsys.readouterr().err


def test_hub_that_cannot_be_reached(tmp_path, capsys, monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(folders.HfApi, "model_info", offline)
    assert "no route to host" in refusal(capsys, "--src", "owner/model", "--dst", tmp_path / "ours")


def test_unfinished_conversion_of_another_source(source, tmp_path, capsys, monkeypatch):
    def dies(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("wan_jax.checkpoint.write_manifest", dies)
    with pytest.raises(KeyboardInterrupt):
        main(["--src", str(source), "--dst", str(tmp_path / "ours")])
    capsys.readouterr()
    args = ("--src", source, "--dst", tmp_path / "ours", "--dtype", "float32")
    assert "unfinished conversion of something else" in refusal(capsys, *args)
