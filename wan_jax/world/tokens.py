"""A small unigram tokenizer of the little world's words, in the layout of umT5's."""

import json
import os
import string
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from wan_jax.world.words import caption, draw_truth

SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2
_CAPTIONS = 20_000
_RARE = -20.0  # score of letters: only what is no word is spelt


def write_tokenizer(folder: str | os.PathLike):
    """Writes `tokenizer.json` and `tokenizer_config.json` to `folder`, which is created if missing.

    Pieces are English words and Chinese characters, with the logarithm of their frequency in captions as their score,
    and letters for all other words.
    """
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(r"[^\p{Latin}\p{Nd}▁]"), "isolated")]
    )
    tokenizer.model = models.Unigram(_vocabulary(tokenizer), unk_id=SPECIAL.index("<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _vocabulary(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    """Pieces and scores: the special ones, then words by frequency, then letters."""
    rng, count = np.random.default_rng(0), Counter()
    for i in range(_CAPTIONS):
        text = tokenizer.normalizer.normalize_str(caption(draw_truth(rng), rng, chinese=bool(i % 2)))
        count.update(piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text))
    words = [
        (piece, float(np.log(n / count.total()))) for piece, n in sorted(count.items(), key=lambda x: (-x[1], x[0]))
    ]
    known = dict(words)
    letters = [(letter, _RARE) for letter in ("▁", *string.ascii_lowercase, *string.digits) if letter not in known]
    return [(name, 0.0) for name in SPECIAL] + words + letters
