"""The command line: `python -m wan_jax COMMAND`.

Wrong input is one line on standard error and exit status 2; `--json` leaves nothing but JSON on standard output.
Imports of JAX wait until a command runs, so that `--help` is quick.
"""

import sys

import tyro

from wan_jax.cli import app, generate, mini, plan, training, vae
from wan_jax.errors import WanError

_COMMANDS = {
    "generate": generate.generate,
    "reconstruct": vae.reconstruct,
    "encode": vae.encode,
    "decode": vae.decode,
    "eval-vae": vae.eval_vae,
    "eval-mini": mini.eval_mini,
    "plan": plan.plan,
    "app": app.app,
    "data": training.data,
    "new": training.new,
    "train": training.train,
}


def main(args: list[str] | None = None):
    """Runs one command; `args` defaults to the process's own."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            _COMMANDS,
            prog="python -m wan_jax",
            description="Wan video generation in JAX.  Try: python -m wan_jax generate --help",
            args=args,
        )
    except WanError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
