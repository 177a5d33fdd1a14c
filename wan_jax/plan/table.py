"""The planner's answer as text."""

from typing import Any

from wan_jax.pipelines.presets import Arrangement
from wan_jax.plan.cost import CATEGORIES

_MEMORY = ("peak", "arguments", "temp", "others")
_COLUMNS = ("", "fits", *_MEMORY, "compile", "Gcyc", *CATEGORIES, "sent", "waits", "step", "MFU")


def format_report(report: dict[str, Any]) -> str:
    """What `python -m wan_jax plan` prints."""
    rows = [_COLUMNS, *(_row(name, program) for name, program in report["programs"].items())]
    lines = [
        f"{report['model']}, {report['size']}, {report['frames']} frames, {_work(report)}, on "
        f"{report['topology']} ({report['hbm_gib']} GiB a device), mesh {report['mesh']}, libtpu {report['libtpu']}",
        "",
        *_aligned(rows),
        "",
        "Of one device.  Memory in GiB: others are the weights that stay beside those of the program.  Gcyc are 10⁹",
        "cycles of one run; sent are GB to other chips, and waits the time for them that nothing hides.",
    ]
    if report.get("preset"):
        kept = Arrangement(quantization=report["quantization"], offload=report["offload"])
        lines += ["", f"Preset {report['preset']}: {kept}; {report['host_gib']:.1f} GiB wait in host memory."]
    if report["meshes"]:
        rows = [("mesh", "clips", "fits", "peak", "step", "MFU")]
        rows += [
            (
                entry["mesh"],
                f"{entry.get('batch', '')}",
                _yes(entry["fits"]),
                _number(entry["peak_gib"]),
                *_speed(entry),
            )
            for entry in report["meshes"]
        ]
        title = "The training step" if _trains(report) else "The denoising step"
        rows = rows if _trains(report) else [(row[0], *row[2:]) for row in rows]
        lines += ["", f"{title} on other meshes:", *_aligned(rows)]
    notes = sorted({note for program in report["programs"].values() for note in program["notes"]})
    lines += ["", *(f"note: {note}" for note in notes)]
    return "\n".join([*lines, _verdict(report)])


def _trains(report: dict[str, Any]) -> bool:
    return "batch" in report


def _work(report: dict[str, Any]) -> str:
    if not _trains(report):
        return f"{report['steps']} steps"
    parts = f" in {report['accumulate']} parts" if report["accumulate"] > 1 else ""
    return f"{report['batch']} clips a step{parts} for {report['component']}, remat={report['remat']}"


def _row(name: str, program: dict[str, Any]) -> tuple[str, ...]:
    cycles = program["gcycles"]
    memory = (program[key] for key in ("peak_gib", "argument_gib", "temp_gib", "resident_gib"))
    return (
        name,
        _yes(program["fits"]),
        *map(_number, memory),
        _number(program["compile_s"], " s", digits=0),
        *(_number(cycles[key], digits=3) for key in ("total", *CATEGORIES)),
        _number(program["collective_gb"]),
        _number(program["exposed_s"], " s", digits=3),
        *_speed(program),
    )


def _speed(entry: dict[str, Any]) -> tuple[str, str]:
    mfu = None if entry["mfu"] is None else 100 * entry["mfu"]
    return _number(entry["step_s"], " s", digits=3), _number(mfu, " %", digits=1)


def _verdict(report: dict[str, Any]) -> str:
    if report["fits"] and _trains(report):
        step = report["programs"]["train_step"]
        clips, mfu = 3600 * report["batch"] / step["step_s"], 100 * step["mfu"]
        return f"It fits.  Modelled: {step['step_s']:.2f} s a step, {clips:.0f} clips an hour, MFU {mfu:.1f} %."
    if report["fits"]:
        step_s = report["programs"]["denoise"]["step_s"]
        return f"It fits.  Modelled: {step_s:.2f} s a step, {report['video_s']:.1f} s a video."
    if report["alternative"]:
        other = {"setting": ""} | report["alternative"]
        return "It does not fit.  This does: --topology {topology} --mesh {mesh} {setting}".format(**other).rstrip()
    return f"It does not fit, nor on any other slice of {report['topology'].partition(':')[0]}."


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    ]


def _yes(fits: bool) -> str:
    return "yes" if fits else "NO"


def _number(value: float | None, unit: str = "", digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"
