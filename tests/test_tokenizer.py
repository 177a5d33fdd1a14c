"""Prompt cleaning, padding and the folders that hold a tokenizer."""

import json
import subprocess
import sys

import numpy as np
import pytest

from wan_jax.byte_tokenizer import VOCAB_SIZE, write_byte_tokenizer
from wan_jax.config import NEGATIVE_PROMPT
from wan_jax.errors import WanError
from wan_jax.tokenizer import Tokenizer, clean_prompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tokenizer"
    write_byte_tokenizer(folder)
    return folder


@pytest.mark.parametrize(
    "prompt, clean",
    [
        ("  a cat\n\t runs  ", "a cat runs"),
        ("full\u3000width\u00a0space", "full width space"),
        ("“quoted”", '"quoted"'),  # ftfy straightens quotes
        ("salt &amp;amp; pepper", "salt & pepper"),
        ("1 < 2 &amp;gt; 1", "1 < 2 > 1"),  # ftfy leaves entities alone beside a "<"
        ("schÃ¶n", "schön"),  # UTF-8 read as Latin-1
        ("ＣＡＴ，猫", "CAT,猫"),
        ("Case, and: punctuation!", "Case, and: punctuation!"),
        (" \n", ""),
    ],
)
def test_cleaning(prompt, clean):
    assert clean_prompt(prompt) == clean


@pytest.mark.parametrize("length", [512, 64])
def test_ids_and_mask(folder, length):
    prompts = ["Hi  猫", "", "x" * 600]
    ids, mask = Tokenizer(folder, length)(prompts)
    assert ids.shape == mask.shape == (3, length) and (ids.dtype, mask.dtype) == (np.int32, bool)
    assert mask.sum(1).tolist() == [7, 1, length]
    assert ids[0, :7].tolist() == [byte + 3 for byte in "Hi 猫".encode()] + [1]
    assert (ids[~mask] == 0).all()
    assert ids[1, 0] == ids[2, -1] == 1  # an empty prompt still has its </s>, and a cut one keeps it


def test_every_byte_has_an_id(folder):
    ids, mask = Tokenizer(folder, 512)([NEGATIVE_PROMPT])
    real = ids[mask]
    assert bytes(int(i) - 3 for i in real[:-1]).decode() == clean_prompt(NEGATIVE_PROMPT)
    assert real.max() < VOCAB_SIZE == 259


def test_class_name_and_padding_settings_do_not_matter(folder, tmp_path):
    """Only tokenizer.json counts; whatever padding or cut it carries is replaced."""
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["padding"] = {
        "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": 16, "pad_id": 2, "pad_type_id": 0,
        "pad_token": "<unk>",
    }  # fmt: skip
    stored["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(stored))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "NoSuchTokenizer"}')
    for ours, expected in zip(Tokenizer(tmp_path, 512)(["a cat"]), Tokenizer(folder, 512)(["a cat"])):
        np.testing.assert_array_equal(ours, expected)


def test_neither_transformers_nor_torch_is_imported(folder):
    code = (
        "import sys; from wan_jax.tokenizer import Tokenizer; Tokenizer(sys.argv[1], 512)(['a cat']);"
        "assert not {'transformers', 'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, folder], check=True)


def test_errors_name_the_folder(tmp_path):
    with pytest.raises(WanError, match=r"no tokenizer in .*nowhere"):
        Tokenizer(tmp_path / "nowhere", 512)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WanError, match=f"no tokenizer in {tmp_path}"):
        Tokenizer(tmp_path, 512)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WanError, match=r"cannot read .*tokenizer\.json"):
        Tokenizer(tmp_path, 512)


def test_one_string_is_not_a_list(folder):
    with pytest.raises(Exception, match="prompts"):
        Tokenizer(folder, 512)("a cat")
