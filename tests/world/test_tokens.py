"""The little world's tokenizer."""

import numpy as np
import tokenizers

from wan_jax.tokenizer import Tokenizer
from wan_jax.train.recipes import load_recipe
from wan_jax.world.tokens import write_tokenizer
from wan_jax.world.words import caption, draw_truth


def test_words_are_whole_and_nothing_is_unknown(tmp_path):
    write_tokenizer(tmp_path / "one")
    write_tokenizer(tmp_path / "two")
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (tmp_path / "two/tokenizer.json").read_bytes()
    tokenizer, rng = tokenizers.Tokenizer.from_file(str(tmp_path / "one/tokenizer.json")), np.random.default_rng(5)
    for i in range(400):
        text = caption(draw_truth(rng, held_out=True), rng, chinese=bool(i % 2))
        pieces = tokenizer.encode(text).tokens
        assert "<unk>" not in pieces and pieces[-1] == "</s>"
        assert i % 2 or len(pieces) == len(text.replace(",", " ,").replace(".", " .").split()) + 1
    assert tokenizer.encode("A Dragon").tokens == ["▁a", "▁", *"dragon", "</s>"]
    ids, mask = Tokenizer(tmp_path / "one", 512)(["a dragon", "一个球"])
    assert ids.shape == (2, 512) and list(mask.sum(1)) == [9, 5]
    assert tokenizer.get_vocab_size() == load_recipe("train_wan_mini")[0].model.text_encoder.vocab_size
