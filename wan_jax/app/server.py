"""The page as a whole, and the server that shows it."""

import os
from collections.abc import Awaitable, Callable
from typing import Any

# What Gradio and the libraries below it would tell others, and where uploads go; read when Gradio is imported.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from starlette.middleware import Middleware

from wan_jax.app import experts_tab, flow_tab, generate_tab, markup, plan_tab, vae_tab
from wan_jax.app.explorer import Explorer
from wan_jax.errors import WanError

# Each builds into the tab that is open; it may return a function, and what this fills in when the page is loaded.
TABS = (
    ("Generate", generate_tab.build),
    ("Experts", experts_tab.build),
    ("Flow", flow_tab.build),
    ("VAE", vae_tab.build),
    ("Plan", plan_tab.build),
)
LARGEST_UPLOAD = "200mb"
_FRAME = 900  # pixels, in a notebook
_LOOK_S, _KEEP_S = 600, 3600  # how often files of visitors are looked through, and how old they become
# The browser itself sees to it that nothing is fetched from elsewhere, whatever a widget asks for.
_POLICY = "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'"


def build(explorer: Explorer) -> gr.Blocks:
    """All tabs."""
    with gr.Blocks(title="Wan Explorer", analytics_enabled=False, delete_cache=(_LOOK_S, _KEEP_S)) as page:
        gr.HTML(_heading(explorer))
        for name, build_tab in TABS:
            with gr.Tab(name):
                at_load = build_tab(explorer)
            if at_load is not None:
                function, outputs = at_load
                page.load(function, outputs=outputs, show_progress="hidden", queue=False)
    return page


def serve(explorer: Explorer, host: str = "127.0.0.1", port: int = 7860, share: bool = False, wait: bool = True):
    """Shows the page until the process is interrupted; in a notebook, below the cell.

    Args:
        host: address to listen at.
        port: 0 takes any that is free.
        share: also open Gradio's tunnel to the internet, for a week: everybody who has the link can use the machine.
            The page's scripts then come from Gradio's store; otherwise nothing comes from anywhere but this server.
        wait: return only when the server ends.

    Raises:
        WanError: the port is taken, or the address is not of this machine.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(explorer.scratch)
    page = build(explorer).queue()
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            prevent_thread_lock=not wait,
            max_file_size=LARGEST_UPLOAD,
            height=_FRAME,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            theme=_theme(),
            css=markup.CSS,
            show_error=True,
            app_kwargs={"middleware": [] if share else [Middleware(_Policy)]},
        )
    except OSError as error:
        raise WanError(
            f"cannot listen at {host}:{port}: {str(error).partition('. ')[0]}; choose another --port"
        ) from None


class _Policy:
    """Adds the policy to every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]):
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Callable[[dict[str, Any]], Awaitable[None]]):
        async def send_with_policy(message: dict[str, Any]):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        await self._app(scope, receive, send_with_policy)


def _theme() -> gr.Theme:
    """With the fonts of the system: others would be fetched."""
    return gr.themes.Default(
        primary_hue="indigo",
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "-apple-system", "Segoe UI", "Noto Sans", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )


def _heading(explorer: Explorer) -> str:
    own = explorer.config.sampling
    about = f"{explorer.config.name}: {own.width}×{own.height}, {own.num_frames} frames at {own.fps} a second"
    return f'<div class="wan-head"><h1>Wan Explorer</h1><p>{about}</p></div>'
