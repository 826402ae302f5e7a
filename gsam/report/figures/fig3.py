"""Figure 3: SGD, SAM and GSAM on a surface with sharp minima and a ridge, from the row of `analysis=fig3`."""

from __future__ import annotations

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .theory_style import METHODS, RED, plain

MARKERS = {"SGD": "o", "SAM": "s", "GSAM": "^"}
FLAT = 3.0  # sigma_max below which a minimum counts as flat: the sharp ones have more than 30, the flat one has 0.33
ARRIVED = 0.05  # gradient norm below which an end counts as reached: the slope along the ridge is about 0.3
KINDS = {"flat": "a flat minimum", "sharp": "a sharp minimum", "none": "NO minimum"}


def draw(row: dict) -> Figure:
    """Above: the surface in perspective, and the step that takes SAM off the ridge. Below: the trajectories on the contours."""
    figure = Figure(figsize=(11, 8.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.15, 1])
    if row["vectors"] is None:  # SAM stays on the ridge: there is no step to look at
        _perspective(top, row)
    else:
        left, right = top.subfigures(1, 2, width_ratios=[1.35, 1])
        _perspective(left, row)
        _step(right.subplots(), row)
    _trajectories(bottom.subplots(), row)
    return figure


def animate(row: dict, frames: int = 60) -> bytes:
    """The trajectories as they grow, a GIF; early steps slower, because everything is decided there."""
    figure = Figure(figsize=(7.6, 3.3), dpi=80, layout="constrained")
    axis = figure.subplots()
    paths = {name: np.array(path) for name, path in row["series"].items()}
    _contours(axis, row)
    lines = {
        name: axis.plot([], [], color=METHODS[name], lw=2.4, marker=MARKERS[name], ms=8, mec="black", markevery=[-1],
                        label=name)[0]
        for name in paths
    }  # fmt: skip
    axis.legend(loc="upper right", ncols=3, fontsize=9)
    last = row["steps"]
    shown = np.unique(np.concatenate([last * np.linspace(0, 1, frames) ** 1.7, [last] * 2]).astype(int))

    def update(step: int) -> list:
        for name, line in lines.items():
            line.set_data(*paths[name][: step + 1].T)
        axis.set_title(f"step {step} of {last}", loc="left", fontsize=11, fontweight="bold")
        return list(lines.values())

    animation = FuncAnimation(figure, update, frames=[*shown, *[last] * 12])
    return _gif(animation)


def _gif(animation: FuncAnimation) -> bytes:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:  # the writer takes a path only
        animation.save(Path(folder) / "fig3.gif", writer=PillowWriter(fps=12))
        return (Path(folder) / "fig3.gif").read_bytes()


def sentence(row: dict) -> str:
    """What was found, and whether it is what the paper says."""
    ends, q = row["ends"], row["q"]
    as_said = [kind(ends[name]) for name in MARKERS] == ["sharp", "sharp", "flat"]
    where = ", ".join(
        f"{name} σ_max = {at['sigma_max']:.2f} (f = {at['f']:.3f}, {KINDS[kind(at)]})" for name, at in ends.items()
    )
    often = ", ".join(f"{name} {sum(kind(start[name]) == 'flat' for start in row['starts'])}" for name in ends)
    further = f"Of {len(row['starts'])} further starts beside the ridge a flat minimum was reached by {often}. "
    return (
        f"The trajectories end at {where}: {'as' if as_said else 'NOT as'} in the paper, where SGD and SAM are caught by "
        f"sharp minima and GSAM reaches a flat one. {further if row['starts'] else ''}The surface is made for this: near the "
        f"ridge a method is driven off while its number is below 1, and held above: {_held('SAM', 'q = ρk/s', q, False)} and "
        f"{_held('GSAM', '(1 + α) q', (1 + row['alpha']) * q, True)} at the start. It is no evidence about networks."
    )


def kind(end: dict) -> str:
    """What a trajectory's end is: a "flat" or "sharp" minimum, or "none" where it still moves or curvature is negative."""
    if end["grad_norm"] > ARRIVED or end["sigma_min"] <= 0:
        return "none"
    return "flat" if end["sigma_max"] < FLAT else "sharp"


def _held(method: str, name: str, value: float, wanted: bool) -> str:
    """Whether the ridge holds a method, and NOT where that is not what the surface was made for."""
    held = value > 1
    what = (
        ("attracts" if held else "repels") if held == wanted else ("does NOT attract" if wanted else "does NOT repel")
    )
    return f"it {what} {method} ({name} = {value:.2f} {'>' if held else '<'} 1)"


def _perspective(figure: Figure, row: dict) -> None:
    axis = figure.add_subplot(projection="3d", computed_zorder=False)
    x, y = np.meshgrid(row["grid"]["x"], row["grid"]["y"])
    f = np.array(row["grid"]["f"])
    axis.plot_surface(x, y, f, cmap="cividis", rcount=81, ccount=140, lw=0, antialiased=True, alpha=0.9, zorder=1)
    for name, path in row["series"].items():
        points = np.array(path)
        heights = _heights(row, points) + 0.03
        axis.plot(*points.T, heights, color=METHODS[name], lw=3, zorder=3)
        axis.plot(*points[-1:].T, heights[-1:], MARKERS[name], color=METHODS[name], mec="black", ms=9, zorder=4)
    axis.set_box_aspect((2.6, 1.5, 1.3), zoom=1.3)
    axis.view_init(elev=33, azim=-52)
    axis.set_xlabel("$x$", labelpad=8)
    axis.set_ylabel("$y$", labelpad=2)
    axis.set_zlabel("loss $f$", labelpad=0)
    axis.set(xticks=range(0, 8, 2), yticks=(-1, 0, 1), zticks=(0.5, 1, 1.5, 2))
    axis.set_title("The surface", loc="left", fontsize=11, fontweight="bold")


def _heights(row: dict, points: np.ndarray) -> np.ndarray:
    """f along a path, from the grid."""
    from scipy.interpolate import RegularGridInterpolator

    grid = row["grid"]
    surface = RegularGridInterpolator((grid["y"], grid["x"]), np.array(grid["f"]), bounds_error=False)
    return surface(points[:, ::-1])  # nan, so not drawn, where a path leaves the grid


def _step(axis: Axes, row: dict) -> None:
    """g, the perturbed point, g_p and GSAM's direction at the point where SAM leaves the ridge."""
    at = {name: np.array(vector) for name, vector in row["vectors"].items()}
    reach = 0.24
    low, high = _window(axis, row, at["w"])
    _contours(axis, row, levels=np.linspace(low, high, 24))
    arrow = {"arrowstyle": "-|>", "lw": 2.2, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 16}
    texts = {
        "g": ("SGD", r"$-\nabla f$"),
        "gp": ("SAM", r"$-\nabla f_p$"),
        "gsam": ("GSAM", r"$-\nabla f_p + \alpha\nabla f_\perp$"),
    }
    scale = 0.75 * reach / max(np.linalg.norm(at[name]) for name in texts)
    for name, (method, text) in texts.items():
        tip = at["w"] - scale * at[name]
        axis.annotate("", tip, at["w"], arrowprops={**arrow, "color": METHODS[method]})
        below = name == "gsam"
        axis.text(tip[0] + 0.012, tip[1] - 0.012 * below, f"{method}  {text}", color="white", va="top" if below else "center",
                  bbox={"facecolor": METHODS[method], "edgecolor": "none", "pad": 1.5}, fontsize=9)  # fmt: skip
    axis.annotate("", at["adversary"], at["w"], arrowprops={**arrow, "color": "white", "ls": "--", "lw": 1.6})
    axis.plot(*at["w"], "o", color="white", mec="black", ms=8)
    axis.plot(*at["adversary"], "o", color=RED, mec="white", ms=7)
    axis.text(at["w"][0], at["w"][1] + 0.025, "$w_t$", color="black", ha="center", fontsize=12)
    axis.text(
        at["adversary"][0] - 0.015,
        at["adversary"][1],
        "$w_t^{adv}$",
        color="black",
        ha="right",
        va="center",
        fontsize=12,
    )
    axis.axhline(0, color="black", ls=":", lw=1.2)
    axis.text(at["w"][0] - 0.15, -0.008, "ridge", color="black", va="top")
    axis.set_title("One step, where SAM leaves the ridge", loc="left", fontsize=11, fontweight="bold")


def _window(axis: Axes, row: dict, centre: np.ndarray) -> tuple[float, float]:
    """Limits of the close-up around a point; returns the lowest and the highest loss in it."""
    xlim, ylim = (centre[0] - 0.17, centre[0] + 0.37), (centre[1] - 0.17, centre[1] + 0.25)
    axis.set(xlim=xlim, ylim=ylim)
    x, y, f = (np.array(row["grid"][key]) for key in ("x", "y", "f"))
    inside = f[(y >= ylim[0]) & (y <= ylim[1])][:, (x >= xlim[0]) & (x <= xlim[1])]
    return inside.min() - 0.02, inside.max() + 0.02


def _trajectories(axis: Axes, row: dict) -> None:
    contours = _contours(axis, row)
    for name, path in row["series"].items():
        points, end = np.array(path), row["ends"][name]
        label = rf"{name}: ends at $\sigma_{{max}}$ = {end['sigma_max']:.2f}, $f$ = {end['f']:.3f}"
        axis.plot(*points.T, color="white", lw=4)
        axis.plot(*points.T, color=METHODS[name], lw=2.4)
        axis.plot(*points[-1:].T, MARKERS[name], color=METHODS[name], mec="black", ms=11, zorder=4)
        axis.plot([], [], color=METHODS[name], lw=2.4, marker=MARKERS[name], mec="black", ms=9, label=label)
    axis.plot(*row["series"]["SGD"][0], "o", color="white", mec="black", ms=7, zorder=5)
    axis.annotate("start", row["series"]["SGD"][0], (-16, 14), textcoords="offset points", color="white")
    axis.legend(loc="upper right", fontsize=9)
    axis.set_title("Where they go", loc="left", fontsize=11, fontweight="bold")
    axis.figure.colorbar(contours, ax=axis, pad=0.01, label="loss $f$")


def _contours(axis: Axes, row: dict, levels: object = 28) -> object:
    grid = row["grid"]
    contours = axis.contourf(grid["x"], grid["y"], grid["f"], levels=levels, cmap="cividis")
    axis.contour(grid["x"], grid["y"], grid["f"], levels=levels, colors="black", linewidths=0.25, alpha=0.5)
    plain(axis, "", "$x$", "$y$")
    axis.set_aspect("equal")
    axis.grid(False)
    return contours
