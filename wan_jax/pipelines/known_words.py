"""What the default model can be asked for, in a line for those who ask for more."""

from pathlib import Path

import tokenizers

from wan_jax.tokenizer import clean_prompt
from wan_jax.world.tokens import SPECIAL
from wan_jax.world.words import SHAPES

_NAMES = [many for many, _ in SHAPES.values()]
_KNOWS = f"one to three {', '.join(_NAMES[:-1])} or {_NAMES[-1]} that move, bounce, orbit, grow, appear or rest"
_MORE = "for real videos add --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers (tens of GB are downloaded)"


def note(prompt: str, tokenizer: Path) -> str:
    """What the model knows, which words of a prompt it does not, and where to get more.

    Args:
        tokenizer: the folder of the model's tokenizer.
    """
    strange = unknown_words(prompt, tokenizer)
    but = f", and never heard of {', '.join(map(repr, strange))}" if strange else ""
    return f"this small model knows {_KNOWS}{but}; {_MORE}"


def unknown_words(prompt: str, tokenizer: Path) -> list[str]:
    """Words, and Chinese characters, that no caption of the little world has; each once, in order.

    The tokenizer has a piece for every word of the captions, and spells all others.
    """
    text = clean_prompt(prompt)
    encoded = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json")).encode(text)
    pieces: dict[int, list[int]] = {}
    for word, piece in zip(encoded.word_ids, encoded.ids):
        if word is not None:
            pieces.setdefault(word, []).append(piece)
    strange = [word for word, found in pieces.items() if len(found) > 1 or found == [SPECIAL.index("<unk>")]]
    words = (text[slice(*encoded.word_to_chars(word))].strip() for word in strange)
    return list(dict.fromkeys(word for word in words if word.isalnum()))
