"""The plots of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "trade2026"  # the same figures draw the same file

from matplotlib import pyplot  # noqa: E402 (the backend is chosen first)

from perf.goals import Results  # noqa: E402


def draw(results: Results, folder: Path) -> list[tuple[str, str]]:
    """Draws what was measured; (title, file name) of each plot."""
    drawn = []
    if results.curves:
        drawn.append(_saturation(results, folder))
    if results.growths:
        drawn.append(_growth(results, folder))
    if any(row.group == "orders" for row in results.rows):
        drawn.append(_memory(results, folder))
    return drawn


def _saturation(results: Results, folder: Path) -> tuple[str, str]:
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for curve in results.curves:
        steps = sorted((step for step in curve.steps if not step.held), key=lambda step: step.rate)
        rates = [step.rate for step in steps]
        line = axes.plot(
            rates,
            [step.measured.load.latencies["P50"] for step in steps],
            marker="o",
            label=f"{curve.name} ({curve.setting}), P50",
        )[0]
        axes.plot(
            rates,
            [step.measured.load.latencies["P99"] for step in steps],
            marker="o",
            linestyle="--",
            color=line.get_color(),
            label=f"{curve.name} ({curve.setting}), P99",
        )
    axes.set(xlabel="orders offered a second", ylabel="latency, ms", yscale="log")
    return save(figure, axes, folder, "Latency against offered load", "saturation.svg")


def _growth(results: Results, folder: Path) -> tuple[str, str]:
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for growth in results.growths:
        # Zero has no place on a logarithmic axis.
        sizes = [max(point.size, 1) for point in growth.points]
        axes.plot(
            sizes,
            [point.measured.load.latencies["P50"] for point in growth.points],
            marker="o",
            label=growth.name,
        )
    axes.set(xlabel="how many", ylabel="P50 of an order, ms", xscale="log", ylim=(0, None))
    return save(figure, axes, folder, "Latency of an order against what has gathered", "growth.svg")


def _memory(results: Results, folder: Path) -> tuple[str, str]:
    row = next(row for row in results.rows if row.group == "orders")
    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for part, samples in row.shown.memory.items():
        axes.plot([second for second, _ in samples], [size for _, size in samples], label=part)
    axes.set(xlabel="seconds", ylabel="proportional memory, MiB", ylim=(0, None))
    return save(figure, axes, folder, f"Memory during {row.name}", "memory.svg")


def save(figure: Any, axes: Any, folder: Path, title: str, name: str) -> tuple[str, str]:
    """Writes a drawn figure; its title and the file's name."""
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(folder / name, metadata={"Date": None})
    pyplot.close(figure)
    return title, name
