"""Draws what `saccade bench --json` measured: speed against sparsity, and against length.

    saccade bench --len 1024,2048,4096,8192 --json results.json
    python benchmarks/plot_cpu.py results.json --out docs/images/cpu_speed.svg

Left: how many times as fast as dense attention a sparse call is, beside the ideal 1 / (1 - s), at
the greatest length. Right: share of the measured FMA peak of dense attention, and of SLA's linear
branch, at every length.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from saccade.files import write_atomically

matplotlib.use("Agg")

Results = list[dict]
COLOURS = {64: "#3b6fb6", 128: "#c2572b"}
DASHES = {"forward": "-", "backward": "--"}


def lines(results: Results, kernel: str) -> Iterator[tuple[str, dict, Results]]:
    """Label, style and rows for each head_dim and pass of one kernel."""
    for head_dim in sorted({row["head_dim"] for row in results}):
        for direction, dashes in DASHES.items():
            style = {"color": COLOURS.get(head_dim, "black"), "linestyle": dashes, "marker": "o"}
            rows = [
                row
                for row in results
                if (row["kernel"], row["head_dim"], row["pass"]) == (kernel, head_dim, direction)
            ]
            yield f"{direction}, head_dim {head_dim}", style, rows


def draw_speed_ups(axes: plt.Axes, results: Results) -> None:
    length = max(row["length"] for row in results)
    at_length = [row for row in results if row["length"] == length]
    shares = [1 - row["sparsity"] for row in at_length if row["efficiency"] is not None]
    ideal = [1 / share for share in sorted(set(shares), reverse=True)]
    axes.plot(ideal, ideal, color="0.6", linewidth=4, label="ideal", zorder=0)
    for label, style, rows in lines(at_length, "attention"):
        masked = [row for row in rows if row["efficiency"] is not None]
        axes.plot(
            [1 / (1 - row["sparsity"]) for row in masked],
            [row["speed_up"] for row in masked],
            label=label,
            markersize=4,
            **style,
        )
    axes.set(xscale="log", yscale="log", title=f"sparse attention, {length:,} tokens")
    axes.set(xlabel="sparsity", ylabel="times as fast as dense")
    axes.set_xticks(ideal, [f"{1 - 1 / x:.0%}" for x in ideal])
    axes.set_yticks(ideal, [f"{x:.3g}x" for x in ideal])
    axes.minorticks_off()


def draw_shares_of_peak(axes: plt.Axes, results: Results) -> None:
    for kernel, width in (("attention", 1.8), ("linear, all", 0.8)):
        for label, style, rows in lines(results, kernel):
            plain = [row for row in rows if row["sparsity"] is None]
            axes.plot(
                [row["length"] for row in plain],
                [100 * row["share_of_peak"] for row in plain],
                label=f"{'dense' if kernel == 'attention' else 'linear'} {label}",
                linewidth=width,
                markersize=4,
                **style,
            )
    lengths = sorted({row["length"] for row in results})
    axes.set(xscale="log", title="share of the FMA peak", xlabel="tokens", ylabel="percent")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_ylim(0, 100)
    axes.minorticks_off()


def draw(record: dict) -> bytes:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    draw_speed_ups(axes[0], record["results"])
    draw_shares_of_peak(axes[1], record["results"])
    for one in axes:
        one.grid(color="0.9")
        one.spines[["top", "right"]].set_visible(False)
        one.legend(frameon=False, fontsize=8)
    machine = f"{record['cpu_model']}, {record['threads']} threads, {record['problem']['dtype']}"
    figure.suptitle(machine, fontsize=10)
    image = io.BytesIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="what saccade bench --json wrote")
    parser.add_argument("--out", type=Path, default=Path("docs/images/cpu_speed.svg"))
    arguments = parser.parse_args()
    image = draw(json.loads(arguments.results.read_text()))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out, image)


if __name__ == "__main__":
    main()
