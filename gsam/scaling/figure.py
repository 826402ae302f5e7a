"""Efficiency against the number of GPUs, a line per method."""

from matplotlib.figure import Figure

from gsam.report.figures.theory_style import BLUE, GREEN, ORANGE, PURPLE, RED, plain
from gsam.scaling.cost import efficiency
from gsam.scaling.inputs import Inputs
from gsam.scaling.text import AT_ONCE, BATCH, EXAMPLE
from gsam.scaling.traffic import METHODS

COLOURS = dict(zip([method.label for method in METHODS], (BLUE, ORANGE, GREEN, RED, PURPLE), strict=True))
WIDTHS = (8.0, 5.5, 2.4, 3.8, 1.2)  # thin on top of thick: a line that lies on others leaves them visible
GPUS = (1, 2, 4, 8, 16, 32, 64)


def draw(inputs: Inputs) -> Figure:
    """Two panels: the nodes' fast network and the slow one."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    network = inputs.networks[EXAMPLE]
    for axis, machine, key in zip(axes, (inputs.machine, inputs.slow), ("network", "slow_network"), strict=True):
        for method, width in zip(METHODS, WIDTHS, strict=True):
            values = [100 * efficiency(method, network, machine, gpus, BATCH, AT_ONCE) for gpus in GPUS]
            axis.plot(
                GPUS,
                values,
                "o-",
                ms=width + 2,
                lw=width,
                color=COLOURS[method.label],
                label=method.label,
                zorder=10 - width,
            )
        axis.axvline(8, color="0.6", lw=0.8, ls=":")
        gigabits = 8 * inputs.value(f"{key}_bytes_per_s") / 1e9
        plain(axis, f"Nodes of 8, {gigabits:,.0f} Gb/s between them", "GPUs (one node up to 8)", "")
        axis.set_xscale("log", base=2)
        axis.set_xticks(GPUS, [str(gpus) for gpus in GPUS])
        axis.set_ylim(0, 105)
    axes[0].set_ylabel("efficiency, t(1) / (R t(R)), %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(METHODS), frameon=False)
    figure.suptitle(
        f"{EXAMPLE}, global batch {BATCH:,}, {AT_ONCE} images at a time: worked out, not measured", fontsize=10
    )
    return figure
