"""Jobs report, end, fail and are cancelled without a page."""

import asyncio
import threading

import pytest

from wan_jax.app.jobs import Cancelled, stream
from wan_jax.errors import WanError


def gathered(work) -> list:
    async def gather():
        return [update async for update in stream(work, failed=lambda line: {"failed": line})]

    return asyncio.run(asyncio.wait_for(gather(), 20))


def test_reports_then_result():
    def work(report):
        report(1)
        report(2)
        return 3

    assert gathered(work) == [1, 2, 3]


@pytest.mark.parametrize(
    "error, line",
    [
        (WanError("seed=-1 must not be negative\nand a list"), "seed=-1 must not be negative"),
        (KeyError("weights"), "KeyError: 'weights'"),
        (MemoryError(), "MemoryError"),
        (SystemExit(2), "SystemExit: 2"),
    ],
)
def test_failures_are_one_line(error, line, capsys):
    def work(report):
        report("begun")
        raise error

    assert gathered(work) == ["begun", {"failed": line}]
    assert ("Traceback" in capsys.readouterr().err) != isinstance(error, WanError)
    assert gathered(lambda report: "the next one") == ["the next one"]


def test_one_thread_does_all():
    assert gathered(lambda report: threading.get_ident()) == gathered(lambda report: threading.get_ident())


def test_closed_stream_ends_the_job_at_its_next_report():
    reached, go_on, ended = [], threading.Event(), threading.Event()

    def work(report):
        try:
            report("one")
            assert go_on.wait(20)
            report("two")
            reached.append("beyond the report")
        except Cancelled:
            reached.append("cancelled")
            raise
        finally:
            ended.set()

    async def leave_early():
        updates = stream(work, failed=pytest.fail)
        assert await anext(updates) == "one"
        await updates.aclose()
        go_on.set()

    asyncio.run(leave_early())
    assert ended.wait(20)
    assert reached == ["cancelled"]


def test_interrupted_while_it_waits():
    """As Gradio does: the task is cancelled, while the job is in the middle of a step."""
    go_on, cancelled = threading.Event(), threading.Event()

    def work(report):
        report("one")
        assert go_on.wait(20)
        try:
            report("two")
        except Cancelled:
            cancelled.set()
            raise

    async def interrupt():
        seen = []

        async def watch():
            async for update in stream(work, failed=pytest.fail):
                seen.append(update)

        task = asyncio.ensure_future(watch())
        while not seen:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert seen == ["one"]

    asyncio.run(interrupt())
    go_on.set()
    assert cancelled.wait(20)


def test_one_job_at_a_time():
    working, most = 0, 0

    def work(report):
        nonlocal working, most
        working += 1
        most = max(most, working)
        for step in range(5):
            report(step)
            threading.Event().wait(0.005)
        working -= 1

    async def all_at_once():
        async def one():
            return [update async for update in stream(work, failed=pytest.fail)]

        return await asyncio.gather(*(one() for _ in range(4)))

    assert asyncio.run(all_at_once()) == [[0, 1, 2, 3, 4, None]] * 4
    assert most == 1
