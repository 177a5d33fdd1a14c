"""The planner for the page: in a process of its own, because it sets up JAX for chips that are not there."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from wan_jax.errors import WanError

PARTS = ("weights of the others", "its own weights and inputs", "while it works")
_LOOK_S = 0.5
_running: set[subprocess.Popen] = set()


def plan(arguments: list[str], show: Callable[[str], None]) -> dict[str, Any]:
    """What `python -m wan_jax plan --json` says.

    Args:
        arguments: further ones of the command.
        show: called twice a second; may raise, which ends the process.

    Raises:
        WanError: the planner's own.
    """
    command = [sys.executable, "-m", "wan_jax", "plan", "--json", *arguments]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _running.add(process)
        try:
            while True:
                try:
                    out, log = process.communicate(timeout=_LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    show(f"The TPU compiler is at work: {time.monotonic() - started:.0f} s; it may take minutes")
        finally:
            process.kill()
            _running.discard(process)
    if process.returncode:
        errors = [line for line in log.splitlines() if line.startswith("error: ")]
        raise WanError(errors[-1].removeprefix("error: ") if errors else f"the planner ended: {log.strip()[-300:]}")
    return json.loads(out)


def stop():
    """Ends what runs, before the server does."""
    for process in list(_running):
        process.kill()


def memory(report: dict[str, Any]) -> dict[str, list[float]]:
    """GiB on a device for each program, in the order of `PARTS`."""
    return {
        name.replace("_", " "): [
            program["resident_gib"],
            program["argument_gib"],
            max(program["peak_gib"] - program["argument_gib"], 0.0),
        ]
        for name, program in report["programs"].items()
    }


def facts(report: dict[str, Any]) -> dict[str, str]:
    """The answer in a few numbers."""
    step = report["programs"]["denoise"]
    known = {
        "fits": "yes" if report["fits"] else "no",
        "a step, modelled": _number(step["step_s"], "s"),
        "a video, modelled": _number(report["video_s"], "s"),
        "of the chip's peak": _number(step["mfu"] and 100 * step["mfu"], "%"),
        "on the host": _number(report["host_gib"] or None, "GiB"),
    }
    return {name: value for name, value in known.items() if value is not None}


def _number(value: float | None, unit: str) -> str | None:
    return None if value is None else f"{value:.3g} {unit}"
