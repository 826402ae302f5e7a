"""The paper's theory: what the lemmas and theorems say, on written-down functions and on a small real network."""

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from gsam.analysis.eigen import lanczos
from gsam.analysis.settings import load_analysis
from gsam.analysis.task import run as analyze
from gsam.analysis.theory import fig1, fig3, lemma_3_1, lemma_3_2, lemma_3_3, network, theorem_5_1, theorem_5_3
from gsam.analysis.theory.function import Function, descend, one_step_gap, orthogonal, random_direction, worst_gap
from gsam.config import ConfigError
from gsam.optim import GSAMEstimator
from gsam.report import figures
from gsam.report.theory_page import EXPERIMENTS, page
from gsam.report.write import png
from gsam.runtime import Runtime
from tests.runs import CONFIGS

ROOT = Path(__file__).parents[3]
SMALL = {"pictures": 100, "hidden": 4, "decay": 3e-3}


@pytest.fixture(scope="module")
def small(fashion_root):
    return SMALL | {"root": str(fashion_root)}


@pytest.fixture(scope="module")
def minimum(small):
    f = network.objective(network.Network(**small))
    return f, network.converge(f)


@pytest.fixture(scope="module")
def ridge():
    return fig3.measure(fig3.Settings(offsets=[]))


def drawn(name, row):
    """The figure's PNG can be made, and this is the sentence."""
    figure = __import__(f"{figures.__name__}.{name}", fromlist=["draw"])
    assert png(figure.draw(row)).startswith(b"\x89PNG")
    return figure.sentence(row)


# ---- figure 1, lemma 3.1 ----------------------------------------------------------------------------------------------


def test_the_sharpest_of_three_minima_has_the_lowest_perturbed_loss_and_the_largest_gap():
    row = fig1.measure(fig1.Settings())
    one, two, three = row["minima"]
    assert one["fp"] == pytest.approx(three["fp"], rel=1e-3) and one["fp"] < two["fp"]
    assert one["sigma"] > 3 * two["sigma"] > 9 * three["sigma"] and one["gap"] > two["gap"] > three["gap"]
    assert "does not mean a flatter minimum" in drawn("fig1", row) and "orders" in drawn("fig1", row)
    assert "At w₁ and w₃ it is equal" in drawn("fig1", row) and "NOT" not in drawn("fig1", row)


def test_figure_1_says_which_minimum_is_sharp_and_whether_the_perturbed_losses_agree():
    row = fig1.measure(fig1.Settings())
    one, two, three = row["minima"]
    assert "At w₁ and w₃ it is NOT equal" in drawn("fig1", row | {"minima": [one, two, three | {"fp": 1.2}]})
    turned = {"rho": 0.5, "minima": [three, two | {"fp": 2.0}, one]}
    assert "(σ = 0.69, the flattest)" in figures.fig1.sentence(turned)
    assert "(σ = 8.39, the sharpest)" in figures.fig1.sentence(turned)
    agreeing = [at | {"fp": at["sigma"]} for at in (one, two, three)]
    assert "means a flatter minimum here, NOT as in the paper" in figures.fig1.sentence(
        {"rho": 0.5, "minima": agreeing}
    )
    wrong = [one | {"gap": 0.0}, two, three]
    assert "does NOT order" in figures.fig1.sentence({"rho": 0.5, "minima": wrong})


def test_the_perturbed_loss_on_a_line_is_the_maximum_over_the_ball():
    w, rho = torch.linspace(-3, 3, 13, dtype=torch.float64), 0.4
    # The parabola's largest value is at the outer edge, the cosine's at its nearest top or an edge.
    assert torch.allclose(fig1.perturbed(lambda w: w**2, w, rho), (w.abs() + rho) ** 2)
    nearest = (w / (2 * math.pi)).round() * 2 * math.pi
    expected = torch.cos((w - nearest).abs().sub(rho).clamp(min=0))
    assert torch.allclose(fig1.perturbed(torch.cos, w, rho), expected, atol=1e-6)


def test_of_the_minima_of_a_network_pairs_are_counted_where_the_lower_one_is_sharper(small):
    row = lemma_3_1.measure(lemma_3_1.Settings(**small, minima=3))
    a, b, c = row["minima"]
    wrong = [(p["fp"] < q["fp"]) != (p["sigma_max"] < q["sigma_max"]) for p, q in ((a, b), (a, c), (b, c))]
    assert row["pairs"] == 3 and row["against_fp"] == sum(wrong)
    assert all(m["gap"] > 0 and m["fp"] == pytest.approx(m["f"] + m["gap"]) for m in row["minima"])
    assert f"{sum(wrong)} have the lower f_p at the sharper minimum" in drawn("lemma_3_1", row)


# ---- figure 3 ---------------------------------------------------------------------------------------------------------


def test_sgd_and_sam_end_in_different_sharp_minima_and_gsam_in_the_flat_one(ridge):
    sgd, sam, gsam = (ridge["ends"][name] for name in ("SGD", "SAM", "GSAM"))
    assert sgd["sigma_max"] > 30 and sam["sigma_max"] > 30 and gsam["sigma_max"] < 0.5
    assert math.hypot(sgd["x"] - sam["x"], sgd["y"] - sam["y"]) > 0.5
    assert max(at["grad_norm"] for at in (sgd, sam, gsam)) < 0.05  # they have arrived
    assert ridge["q"] < 1 < 1.6 * ridge["q"]
    assert "as in the paper" in drawn("fig3", ridge) and "NOT" not in drawn("fig3", ridge)


def test_without_the_ascent_step_gsam_is_sam_and_the_report_says_that_the_figure_is_not_the_papers(ridge):
    settings = fig3.Settings(alpha=0.0)
    path = fig3.trajectory("GSAM", torch.tensor(settings.start, dtype=torch.float64), settings)
    assert torch.equal(path, torch.tensor(ridge["series"]["SAM"], dtype=torch.float64))
    changed = ridge | {"ends": ridge["ends"] | {"GSAM": ridge["ends"]["SAM"]}}
    assert "NOT as in the paper" in figures.fig3.sentence(changed)


def test_a_method_that_stops_on_the_ridge_has_reached_no_flat_minimum():
    """The largest curvature is negative there, so below that of every flat minimum."""
    row = fig3.measure(fig3.Settings(alpha=0.1, steps=200, offsets=[0.001]))
    assert row["ends"]["GSAM"]["sigma_max"] < 0 and row["ends"]["GSAM"]["f"] > 1
    found = drawn("fig3", row)
    assert "NOT as in the paper" in found and "f = 1.232, NO minimum" in found
    assert "reached by SGD 0, SAM 0, GSAM 0" in found
    assert "does NOT attract GSAM ((1 + α) q = 0.89 < 1)" in found and "it repels SAM (q = ρk/s = 0.81 < 1)" in found


def test_a_sam_that_stays_on_the_ridge_has_no_close_up():
    row = fig3.measure(fig3.Settings(rho=0.15, steps=100, offsets=[]))
    assert row["vectors"] is None
    assert "does NOT repel SAM (q = ρk/s = 1.42 > 1)" in drawn("fig3", row)


def test_the_trajectories_move_as_a_gif(ridge):
    with Image.open(io.BytesIO(figures.fig3.animate(ridge, frames=5))) as moving:
        assert moving.format == "GIF" and moving.n_frames > 5


def test_gradients_and_curvature_of_the_surface_are_those_of_differences():
    w, v, small = torch.tensor([1.5, 0.3]).double(), torch.tensor([0.6, -0.8]).double(), 1e-5
    f = Function(fig3.surface, w)
    assert f.gradient()[1] @ v == pytest.approx((f.loss(w + small * v) - f.loss(w - small * v)) / (2 * small), rel=1e-6)
    difference = (f.gradient(w + small * v)[1] - f.gradient(w - small * v)[1]) / (2 * small)
    assert torch.allclose(f.hvp(v), difference, rtol=1e-6) and torch.allclose(f.hessian() @ v, f.hvp(v))


# ---- lemmas 3.2 and 3.3 -------------------------------------------------------------------------------------------------


def test_the_gap_is_the_gradients_at_small_radius_and_negative_somewhere_at_large(small):
    row = lemma_3_2.measure(lemma_3_2.Settings(**small, starts=2, iterations=[0, 10], points=40, rhos=[1e-5, 1.0]))
    for name in ("network", "surface"):
        near, far = row[name]["rows"]
        assert near["negative"] == 0 and 0.99 < near["low"] <= near["high"] < 1.01
    assert far["negative"] > 0 and "h is negative at no point at tested radii up to" in drawn("lemma_3_2", row)


def test_the_verdict_on_lemma_3_2_is_that_of_the_smallest_radius(small):
    rows = [{"rho": rho, "negative": 0, "low": 1.0, "median": 1.0, "high": 1.0} for rho in (1.0, 1e-5, 0.1)]
    row = {"network": {"points": 25, "rows": rows}, "surface": {"points": 25, "rows": rows}}
    found = figures.lemma_3_2.sentence(row)
    assert "h ≥ 0 holds" in found and "only" not in found and "at tested radii up to ρ = 1;" in found
    far = [line | {"negative": 5 * (line["rho"] == 1.0)} for line in rows]
    found = figures.lemma_3_2.sentence(row | {"surface": {"points": 25, "rows": far}})
    assert (
        "up to ρ = 0.1, and at 5 of them at ρ = 1" in found and "only for small ρ on the surface of Figure 3" in found
    )
    near = [line | {"negative": 9 * (line["rho"] == 1e-5)} for line in rows]
    found = figures.lemma_3_2.sentence(row | {"network": {"points": 25, "rows": near}})
    assert "h ≥ 0 does NOT hold" in found and "already at the smallest tested radius, and at 9 of them" in found


def test_at_a_minimum_the_estimate_tends_to_lanczos_eigenvalue(small, minimum):
    f, w = minimum
    dominant = lanczos(lambda v: f.hvp(v, w), random_direction(w), 1, tol=1e-10, iterations=400).values[0].item()
    row = lemma_3_3.measure(lemma_3_3.Settings(**small, rhos=[1e-2, 1e-4, 1e-3], before=[5]))
    assert row["grad_norm"] < 1e-10 and row["sigma_min"] > 0
    assert row["sigma_max"] == pytest.approx(dominant, rel=1e-8)
    errors = [line["error"] for line in row["rows"]]
    assert errors[0] < 1e-3 and errors[0] < errors[1] / 5 < errors[2] / 25  # it falls with the radius
    (before,) = row["before"]
    assert before["rows"][0]["estimate"] == pytest.approx(2 * before["grad_norm"] / 1e-4, rel=0.1)
    assert "the lemma holds" in drawn("lemma_3_3", row)
    assert "the lemma holds" in figures.lemma_3_3.sentence(row | {"rows": row["rows"][::-1]})


def test_projected_ascent_finds_the_top_of_a_parabola(minimum):
    curvature = torch.tensor([5.0, 3.0, -1.0, 0.1]).double()
    f = Function(lambda w: 0.5 * (curvature * w * w).sum(), torch.zeros(4).double())
    assert worst_gap(f, f.weights, 0.2, random_direction(f.weights)) == pytest.approx(0.5 * 5 * 0.2**2, rel=1e-4)


def test_a_loss_without_a_minimum_is_refused(small):
    f = network.objective(network.Network(**small | {"decay": 0.0, "pictures": 10}))
    with pytest.raises(ValueError, match="no minimum reached: .* choose another seed"):
        network.converge(f)


# ---- theorems -----------------------------------------------------------------------------------------------------------


def test_the_means_of_the_squared_gradients_stay_below_the_proofs_bounds(small):
    settings = theorem_5_1.Settings(**small, steps=200, seeds=2, hessians=3, batch=10)
    row = theorem_5_1.measure(settings)
    series, constants = row["series"], row["constants"]
    for key in ("f", "fp"):
        for means in series[key]:
            assert means[-1] < means[0] and all(m <= b for m, b in zip(means, series[f"bound_{key}"], strict=True))
    assert series["T"][-1] == 200 and 0 < constants["beta_min"] <= constants["beta_max"]
    assert "2 seeds" in drawn("theorem_5_1", row)


def test_a_mean_over_steps_weighs_each_measured_step_by_those_it_stands_for():
    path = {"t": [1, 2, 3, 13], "weight": [1, 1, 10, 10], "f": [4.0, 2.0, 1.0, 0.5]}
    assert theorem_5_1._means(path, "f", [1, 2, 4, 14]) == pytest.approx([4, 3, 8 / 4, (6 + 10 + 1) / 14])


def test_learning_rate_and_radius_follow_the_theorems_schedule():
    """On f = |w|^2 / 2, where g_p is g but for the radius: w falls by eta_t (1 + rho_t / |w|) of itself."""
    start = torch.tensor([3.0, 4.0]).double()
    method = GSAMEstimator(rho_max=0.1, rho_min=0.0, alpha=0.4)
    path = descend(lambda w: 0.5 * (w * w).sum(), start, method, 5, lambda t: 0.3 / math.sqrt(t + 1), 0.3)
    lengths = path.norm(dim=1).tolist()
    for t, (now, then) in enumerate(zip(lengths[:-1], lengths[1:], strict=True), start=1):
        assert then == pytest.approx(now - 0.3 / math.sqrt(t) * (now + 0.1 / math.sqrt(t)))


def test_the_ascent_step_lowers_the_gap_by_what_the_proof_says_and_between_its_bounds(small):
    row = theorem_5_3.measure(theorem_5_3.Settings(**small, steps=20, hessians=2))
    predicted, measured = row["series"]["predicted"], row["series"]["measured"]
    assert min(measured) > 0 and measured[3:] == pytest.approx(predicted[3:], rel=0.2)
    assert row["lower"] < sum(measured) < row["upper"]
    found = drawn("theorem_5_3", row)
    assert "20 of 20 ascent steps lower h" in found and "the smallest seen at 2 points" in found
    ends = {"SAM": {"gap": 0.02, "sigma_max": 2.0}, "GSAM": {"gap": 0.03, "sigma_max": 1.0}}
    tight = figures.theorem_5_3.sentence(row | {"ends": ends, "lower": sum(measured) / 2})
    assert "GSAM's h(ρ₀) is NOT the lower (0.03000, SAM 0.02000) and its σ_max is the lower" in tight
    assert "nearly empty" in figures.theorem_5_3.sentence(row | {"lower": 1e-12}) and "nearly empty" not in tight


def test_the_orthogonal_part_leaves_the_perturbed_loss_alone_to_first_order(small):
    f = network.objective(network.Network(**small))
    gradient, (_, sharp) = f.gradient()[1], one_step_gap(f, f.weights, 0.2)
    perp = orthogonal(gradient, sharp)
    assert abs(perp @ sharp) < 1e-12 and perp.norm() > 0
    assert torch.equal(orthogonal(gradient, torch.zeros_like(gradient)), gradient)


# ---- settings and page --------------------------------------------------------------------------------------------------


def configured(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return load_analysis(compose("analyze", list(overrides)))


def test_the_files_hold_the_defaults():
    chosen = configured(f"analysis=[{','.join([*EXPERIMENTS, 'theory'])}]").analyses
    for name, settings in chosen.items():
        default = type(settings)()
        if hasattr(default, "root"):
            settings = replace(settings, root=default.root)
        assert settings == default, name


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fig1.rho=0", "fig1.rho=0.0: a radius is positive"),
        ("fig2.steps=0", "fig2.steps=0: between 1 and 400"),
        ("fig3.start=[1.0]", "fig3.start=\\[1.0\\]: two numbers"),
        ("fig3.start=[-1,0.01]", "outside the surface that is drawn; x is between -0.3 and 7.2"),
        ("fig3.offsets=[2.0]", "offsets too\\) between -1.4 and 1.4"),
        ("lemma_3_1.minima=1", "at least two minima"),
        ("lemma_3_2.rhos=[]", "lemma_3_2.rhos=\\[\\]: positive radii"),
        ("lemma_3_3.pictures=70000", "Fashion-MNIST's training set has 1 to 60,000"),
        ("theorem_5_1.batch=1000", "theorem_5_1.batch=1000: between 1 and pictures=500"),
        ("theorem_5_3.alpha=-1", "must be positive"),
        ("theory.docs=page.html", "must end with .md"),
    ],
)
def test_impossible_settings_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        configured(f"analysis={override.split('.')[0]}", override)


def test_the_experiments_of_the_page_lie_in_the_folder_that_out_names(tmp_path, monkeypatch):
    monkeypatch.setattr("gsam.analysis.theory.page.EXPERIMENTS", {"fig1": EXPERIMENTS["fig1"]})
    with Runtime.start() as runtime:
        analyze(configured("analysis=theory", f"out={tmp_path}/page"), runtime)
    assert (tmp_path / "page" / "fig1" / "analysis.jsonl").exists() and len(list(tmp_path.iterdir())) == 1


def test_the_page_shows_every_experiment_and_says_what_was_not_run():
    text = (ROOT / "docs" / "theory.md").read_text()
    for name, (title, claim) in EXPERIMENTS.items():
        assert f"## {title}" in text and claim in text and f"img/theory/{name}.png" in text, "write it again"
        assert (ROOT / "docs" / "img" / "theory" / f"{name}.png").exists()
    assert (ROOT / "docs" / "img" / "theory" / "fig3.gif").stat().st_size < 1 << 20 and "not run" not in text
    assert page({}, "img").count("**Found:** not run.") == len(EXPERIMENTS)
