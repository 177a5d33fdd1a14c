"""Prompts to token ids: Wan2.2, wan/modules/tokenizers.py and t5.py."""

import contextlib
import html
import os
from pathlib import Path

import ftfy
import numpy as np
import tokenizers

from wan_jax.errors import WanError
from wan_jax.typing import Bool, Int, typechecked


def clean_prompt(prompt: str) -> str:
    """Repairs broken Unicode and HTML entities, and makes each run of white space one space."""
    # Twice: web captions hold "&amp;lt;" for "<".
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


class Tokenizer:
    """The tokenizer stored in a local folder."""

    def __init__(self, folder: str | os.PathLike, length: int):
        """Reads the folder; nothing is downloaded.

        Args:
            folder: with tokenizer.json, or a SentencePiece model.
            length: tokens of every prompt, padding included: `DiTConfig.text_len`.

        Raises:
            WanError: the folder holds no tokenizer.
        """
        self._tokenizer = _load(Path(folder))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)
        self._length = length

    @typechecked
    def __call__(self, prompts: list[str]) -> tuple[Int["b s"], Bool["b s"]]:
        """Ids (int32) and mask (true at real tokens).

        Longer prompts are cut; the closing `</s>` stays.  Padding has id 0; the encoder's result does not depend on it.
        """
        ids = np.zeros((len(prompts), self._length), np.int32)
        mask = np.zeros_like(ids, bool)
        for row, encoded in enumerate(self._tokenizer.encode_batch_fast(list(map(clean_prompt, prompts)))):
            ids[row, : len(encoded.ids)] = encoded.ids
            mask[row, : len(encoded.ids)] = True
        return ids, mask


def _load(folder: Path) -> tokenizers.Tokenizer:
    """`tokenizer.json` is the whole tokenizer.

    It is read as it is: transformers 5 would rebuild umT5's from its vocabulary by the rules of another T5, with other
    ids for unknown characters.  Folders without it (a SentencePiece model alone) are left to transformers.
    """
    file = folder / "tokenizer.json"
    if file.exists():
        try:
            return tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exceptions
            raise WanError(f"cannot read {file}: {error}") from error
    if folder.is_dir():
        from transformers import AutoTokenizer  # here: it is slow, and imports torch where torch is installed

        with contextlib.suppress(Exception):  # whatever its parsers raise
            found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
            return found.backend_tokenizer
    raise WanError(f"there is no tokenizer in {folder}: expected tokenizer.json or a SentencePiece model")
