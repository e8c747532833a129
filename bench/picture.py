"""The results as a picture: seconds over models, a colour for each way."""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator

from bench.projects import SAMPLE

STYLE = {"axes.spines.top": False, "axes.spines.right": False}


def draw(results: dict, file: Path) -> None:
    """Draw the median and the spread of each way; a cross is a failure.

    A way that never succeeded on a project has its cross above the upper edge.
    """
    # The others are the same projects under other conditions.
    shown = [r for r in results["rows"] if r["project"].startswith(("models_", SAMPLE.name))]
    rows = sorted(shown, key=lambda row: row["models"])
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        for number, (way, label) in enumerate(results["ways"].items()):
            colour = f"C{number}"
            of_way = [row for row in rows if row["way"] == way]
            if not of_way:
                continue
            done = [row for row in of_way if row["median_seconds"] is not None]
            generated = [row for row in done if row["project"] != SAMPLE.name]
            axes.plot(*points(generated), color=colour)
            axes.errorbar(
                *points(done), spread(done), fmt="o", capsize=3, color=colour, label=label
            )
            failed = [row for row in of_way if not row["ok"]]
            never = [row for row in failed if row not in done]
            sometimes = [row for row in failed if row in done]
            cross = {"marker": "x", "markersize": 9, "linestyle": "", "color": colour}
            axes.plot(*points(sometimes), **cross, gid=f"{way} failed at times")
            axes.plot(
                [row["models"] for row in never],
                [1.02 + 0.04 * number] * len(never),
                **cross,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                gid=f"{way} failed",
            )
        axes.plot([], [], "x", color="grey", label="a run failed")
        axes.set(xscale="log", yscale="log", ylabel="seconds for a whole run", xlabel="models")
        ticks = {row["models"]: tick(row) for row in rows}
        axes.set_xticks(list(ticks), ticks.values())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(axis="y", alpha=0.3)
        figure.legend(loc="outside right upper", frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
        plt.close(figure)


def tick(row: dict) -> str:
    return f"{row['models']}\n(the sample)" if row["project"] == SAMPLE.name else str(row["models"])


def points(rows: list[dict]) -> tuple[list, list]:
    return [row["models"] for row in rows], [row["median_seconds"] for row in rows]


def spread(rows: list[dict]) -> list[list[float]]:
    """Return how far the fastest and the slowest run are from the median."""
    runs = [[s for s in row["wall_seconds"] if s is not None] for row in rows]
    return [
        [row["median_seconds"] - min(s) for row, s in zip(rows, runs, strict=True)],
        [max(s) - row["median_seconds"] for row, s in zip(rows, runs, strict=True)],
    ]
