"""Long work for the page: one job at a time, in a thread, with what it reports on the way.

    async def generate(prompt):
        def work(report):
            for step in range(20):
                ...
                report({status: f"step {step}"})
            return {video: "out.mp4"}

        async for update in stream(work, failed=lambda line: {status: line}):
            yield update

Gradio shows who waits for its queue where in line: such events share `DEVICE`.  Their handlers are asynchronous
generators, which it can interrupt at once, where it would have to wait for the next report of others.
"""

import asyncio
import functools
import queue
import threading
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from wan_jax.errors import WanError

# Options for the events of a page that work on the device: one at a time, whichever tab they are from.
DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}
_END = object()


class Cancelled(Exception):
    """Raised by `report` inside a job that nobody waits for any more; it needs no handling but `finally`."""


async def stream(work: Callable[[Callable[[Any], None]], Any], failed: Callable[[str], Any]) -> AsyncIterator[Any]:
    """Yields what a job reports, then what it returns.

    Closed before the end, because the user stopped the job or left the page, it makes the job's next report raise
    `Cancelled`; the next job starts when this one has ended.

    Args:
        work: called as work(report) in a thread; report(update) may be called as often as one likes.
        failed: what to yield if it fails, from a line that says why.  The server's log has the traceback.
    """
    loop, updates, unwanted = asyncio.get_running_loop(), asyncio.Queue(), threading.Event()

    def say(update: Any):
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(updates.put_nowait, update)

    def report(update: Any):
        if unwanted.is_set():
            raise Cancelled
        say(update)

    def run():
        if unwanted.is_set():
            return
        try:
            say(work(report))
        except Cancelled:
            return
        except BaseException as error:  # the next job needs the thread
            say(failed(line(error)))
        say(_END)

    _jobs().put(run)
    try:
        while (update := await updates.get()) is not _END:
            yield update
    finally:
        unwanted.set()


@functools.cache
def _jobs() -> queue.SimpleQueue:
    """What the thread takes from, one after another: a cancelled job may still end its step when the next one comes.

    A thread for each job would get memory from another arena of malloc: 60 MiB more after 20 videos.
    """
    jobs = queue.SimpleQueue()

    def work():
        while True:
            jobs.get()()

    threading.Thread(target=work, name="jobs", daemon=True).start()
    return jobs


def line(error: BaseException) -> str:
    """What to tell the user; the traceback of what is no mistake of theirs goes to the log."""
    if isinstance(error, WanError):
        return str(error).partition("\n")[0]
    traceback.print_exception(error)
    said = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
