"""First paint of the Explorer, and memory of its server over 20 videos, in a real browser (Linux).

    python -m benchmarks.explorer [JOBS] [STEPS]

Needs what `make app` installs.  Prints JSON: milliseconds to the first contentful paint and to the form, of five
visits, seconds of each job, and the server's resident memory in MiB at the start and after each job.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

VISITS, START_S = 5, 300
PATIENCE_MS = 300_000


def main(jobs: int = 20, steps: int = 4):
    from playwright.sync_api import sync_playwright

    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        serving(folder) as (server, address),
    ):
        browser = chromium(playwright)
        paints, shown = zip(*(_visit(browser, address) for _ in range(VISITS)))
        memory, seconds = _run_jobs(browser, address, server.pid, jobs, steps)
        browser.close()
    print(
        json.dumps(
            {
                "cores": os.cpu_count(),
                "load": os.getloadavg()[0],
                "first_contentful_paint_ms": paints,
                "form_shown_ms": shown,
                "steps": steps,
                "job_s": seconds,
                "rss_mib": memory,
            }
        )
    )


@contextlib.contextmanager
def serving(folder: str | os.PathLike, **options: Any) -> Iterator[tuple[subprocess.Popen, str]]:
    """An Explorer in a process of its own, told to end afterwards, and its address.

    Args:
        folder: of its videos.
        options: of `subprocess.Popen`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "wan_jax", "app", "--port", str(port), "--folder", str(folder)]
    with subprocess.Popen(command, **{"stdout": subprocess.DEVNULL} | options) as server:
        try:
            _wait_for(server, address := f"http://127.0.0.1:{port}")
            yield server, address
        finally:
            server.terminate()


def _wait_for(server: subprocess.Popen, address: str):
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("the server did not start")


def chromium(playwright):
    """Debian's, started."""
    return playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])


def _visit(browser, address: str) -> tuple[int, int]:
    """Milliseconds to the first contentful paint and to the form, for one whose browser has nothing of the page yet."""
    page = browser.new_context().new_page()
    started = time.monotonic()
    page.goto(address, wait_until="commit")
    page.wait_for_selector("#generate")
    shown = 1000 * (time.monotonic() - started)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.context.close()
    return round(paint), round(shown)


def _run_jobs(browser, address: str, pid: int, jobs: int, steps: int) -> tuple[list[float], list[float]]:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    page.get_by_text("More settings").click()
    page.locator("#steps input[type=number]").fill(str(steps))
    memory, seconds = [_resident_mib(pid)], []
    for job in range(jobs):
        page.locator("#seed input").fill(str(job))
        page.locator("#seed input").press("Tab")
        started = time.monotonic()
        page.click("#generate")
        page.locator("#status").get_by_text(f", seed {job}").wait_for()
        seconds.append(round(time.monotonic() - started, 1))
        memory.append(_resident_mib(pid))
    return memory, seconds


def _resident_mib(pid: int) -> float:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return round(int(resident) / 1024, 1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
