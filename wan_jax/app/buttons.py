"""What the buttons of all tabs do: one starts a job and shows how it goes, the other stops it."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from wan_jax.app import markup
from wan_jax.app.jobs import DEVICE, stream

Report = Callable[[dict], None]  # of new values, by widget


def on_click(
    button: gr.Button,
    work: Callable[..., dict],
    inputs: Any,
    outputs: Sequence[Any],
    status: gr.HTML,
    *,
    begin: Callable[[], dict] | None = None,
    failed: dict | None = None,
) -> Any:
    """Has a button run a job, in its turn; returns the event, for `stop_on_click`.

    Args:
        work: called as work(report, *values of the inputs); what it reports and returns are new values of outputs.
        status: the line that says how it goes, and why it failed; where Gradio shows the place in line.
        begin: makes new values before it starts; Gradio changes what it is given.
        failed: new values besides the line, if it fails.
    """

    async def run(*values: Any):
        if begin is not None:
            yield begin()
        job = stream(
            lambda report: work(report, *values), lambda line: {status: markup.said(line, error=True)} | (failed or {})
        )
        async for update in job:
            yield update

    return button.click(run, inputs, list(outputs), show_progress="full", show_progress_on=status, **DEVICE)


def stop_on_click(button: gr.Button, running: Any, status: gr.HTML):
    """Has a button end the jobs that were started by some events."""
    button.click(lambda: markup.said("Stopped."), outputs=status, cancels=running, queue=False)
