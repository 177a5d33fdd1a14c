"""PyTorch weights → our checkpoint directory (Orbax), and back.

    python -m convert --src Wan-AI/Wan2.2-T2V-A14B-Diffusers --dst models/t2v_a14b     # from the hub, shard by shard
    python -m convert --src downloads/Wan2.2-T2V-A14B --dst models/t2v_a14b            # original Wan layout
    python -m convert --src Wan-AI/Wan2.2-T2V-A14B-Diffusers --dst models/t2v_int8 --quantize int8
    python -m convert verify models/t2v_a14b                                           # compare with the SHA-256s
    python -m convert export --src models/t2v_a14b --dst exported                      # back to Diffusers safetensors

A conversion that was killed goes on where it stopped when the same command is given again.
"""

import os
import sys
from dataclasses import dataclass
from typing import Literal

import tyro

from wan_jax.errors import WanError


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Make our checkpoint directory from a PyTorch checkpoint."""

    src: str
    """A directory in the Diffusers or the original Wan layout, or a hub id of such a repository."""
    dst: str
    """The directory or bucket (gs://…) to make. It appears when it is complete."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the transformers and the text encoder. Norms, modulation and the VAE stay in float32."""
    quantize: Literal["int8", "fp8", "int8_w8a8", "fp8_w8a8"] | None = None
    """Keep the matrices of the transformers in eight bits: half the memory. With w8a8 they multiply so, too."""
    keep_source: bool = False
    """Keep what is fetched from the hub, in its cache; else every shard is deleted once it is converted."""
    revision: str | None = None
    """Branch, tag or commit of the hub repository."""

    def run(self):
        from convert.conversion import convert

        options = {"quantize": self.quantize, "revision": self.revision, "keep_source": self.keep_source}
        convert(self.src, self.dst, dtype=self.dtype, **options)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a checkpoint of ours in the Diffusers layout."""

    src: str
    """A directory that this command made."""
    dst: str
    """The directory to make."""

    def run(self):
        from convert.export import export

        export(self.src, self.dst)


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Compare every weight with the SHA-256 it was converted with."""

    folder: tyro.conf.Positional[str]
    """A directory that this command made."""

    def run(self):
        from wan_jax import checkpoint

        checkpoint.verify(self.folder)
        print(f"{self.folder}: every weight is as it was converted", file=sys.stderr)


COMMANDS = {"export": Export, "verify": Verify}


def main(args: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = sys.argv[1:] if args is None else args
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # conversion needs no accelerator, and must not take one
    name = args[0] if args and args[0] in COMMANDS else ""
    command = tyro.cli(
        COMMANDS.get(name, Convert),
        args=args[1:] if name else args,
        prog=f"python -m convert {name}".strip(),
        description=__doc__,
    )
    try:
        command.run()
    except (WanError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
