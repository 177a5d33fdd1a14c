"""`eval-mini`: does a model of the little world show what it is told?"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from wan_jax.cli import updates
from wan_jax.cli.options import Switch, flag, print_result
from wan_jax.cli.updates import NO_UPDATES, Updates
from wan_jax.errors import WanError


def eval_mini(
    *,
    model: Annotated[str | None, flag("DIR|HUB_ID|NAME", "needed but for --rendered")] = None,
    prompts: Annotated[int, tyro.conf.arg(metavar="N")] = 200,
    language: Literal["both", "english", "chinese"] = "both",
    steps: Annotated[int | None, flag("N")] = None,
    guidance: Annotated[float | None, flag("G")] = None,
    solver: Annotated[str, flag("NAME", "unipc")] = "unipc",
    shift: Annotated[float | None, flag("S")] = None,
    quantize: Annotated[str | None, flag("NAME", "none")] = None,
    update: Annotated[Updates, tyro.conf.arg(name="")] = NO_UPDATES,
    experts: Literal["both", "swapped", "high", "low"] = "both",
    batch: Annotated[int, tyro.conf.arg(metavar="N")] = 10,
    seed: Annotated[int, tyro.conf.arg(metavar="N")] = 0,
    dtype: Annotated[str | None, flag("NAME", "bfloat16; float32 on CPU")] = None,
    out: Annotated[Path | None, flag("DIR", "nothing is written")] = None,
    rendered: Switch = False,
    tasks: Switch = False,
    json: Switch = False,
):
    """Asks a model for what it was never trained on, and measures colour, shape, motion and more in its videos.

    No network judges another: what a video shows is measured by thresholds, areas and centres.

    python -m wan_jax eval-mini --model runs/models/wan_mini --out report

    python -m wan_jax eval-mini --model runs/models/wan_mini --experts swapped --steps 10

    python -m wan_jax eval-mini --model wan_mini --lora high.safetensors --lora-2 low.safetensors --steps 4 --guidance 1

    python -m wan_jax eval-mini --rendered --prompts 500

    python -m wan_jax eval-mini --model wan_mini --tasks --prompts 50 --out report

    Args:
        model: a checkpoint folder or a name from configs/.
        prompts: in each language.
        language: of the prompts.
        steps: denoising steps.
        guidance: strength of the prompt, for both experts.
        solver: unipc, dpm++ or euler.
        shift: how far the steps lean towards high noise.
        quantize: the transformers' matrices in eight bits: int8, fp8, int8_w8a8 or fp8_w8a8.
        experts: both as they are, each for the other's steps, or one for all steps.
        batch: videos at a time.
        seed: of prompts and noise.
        dtype: of the weights.
        out: a folder for mini.json and contact_sheet.png, or with --tasks for tasks.json and tasks.png.
        rendered: measure clips that were drawn, not generated: all should be right.
        tasks: measure what a VACE model makes of first frames, of masks, and of clips that it goes on with.
        json: print the result as JSON.
    """
    from wan_jax.pipelines import eval_editing
    from wan_jax.pipelines.eval_mini import LANGUAGES, evaluate_prompts, evaluate_renders, table

    asked = {"steps": steps, "guidance": guidance, "solver": solver, "shift": shift}
    asked |= {"seed": seed, "dtype": _dtype(dtype), "out": out, "updates": updates.arguments(update.chosen({}))}
    asked |= {"quantization": quantize}
    if tasks and model is not None and not rendered:
        report = eval_editing.evaluate_tasks(model, prompts, **asked)
        print_result(report, eval_editing.table(report), json)
        return
    if rendered:
        report = evaluate_renders(prompts, seed)
    elif model is None:
        raise WanError("--model is missing: name the model to measure, or measure drawn clips with --rendered")
    else:
        languages = LANGUAGES if language == "both" else (language,)
        report = evaluate_prompts(model, prompts, languages, experts=experts, batch=batch, **asked)
    print_result(report, table(report), json)


def _dtype(asked: str | None) -> str:
    import jax

    return asked or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
