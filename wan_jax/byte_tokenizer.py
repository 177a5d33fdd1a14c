"""A tokenizer without training: one id per UTF-8 byte, for the untrained placeholder model and the tests."""

import json
import os
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, processors

SPECIAL = ("<pad>", "</s>", "<unk>")  # ids 0, 1, 2, as in ByT5 (arXiv:2105.13626); byte b has id 3 + b
VOCAB_SIZE = len(SPECIAL) + 256


def write_byte_tokenizer(folder: str | os.PathLike):
    """Writes `tokenizer.json` and `tokenizer_config.json` to `folder`, which is created if missing."""
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {name: number for number, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
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
