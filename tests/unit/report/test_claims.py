"""What the miniatures say of the paper's claims: the intervals, the rule, and which runs each claim is about."""

from pathlib import Path

import pytest

from gsam.report.figures.fig4 import hessian_row
from gsam.report.figures.fig9 import first_part, last_part
from gsam.report.load import Run
from gsam.report.mini.claims import ASCENT, Claim, claims, difference
from gsam.report.mini.measured import Measured
from gsam.report.mini.why import why
from gsam.report.stats import t_interval


def run(experiment: str, seed: int, top1: float, gaps=(), **settings) -> Run:
    """A finished run; settings: optimizer.<key>=value."""
    config = {"train": {"seed": seed}, "optimizer": settings}
    metrics = [{"step": 10 * (i + 1), "gap": gap, "cos": 0.95} for i, gap in enumerate(gaps)] or [{"step": 10}]
    evals = [{"evalset": "val", "weights": "raw", "step": metrics[-1]["step"], "n": 10_000, "top1": top1 / 100,
              "top5": 1.0, "nll": 0.0, "ece": 0.0}]  # fmt: skip
    return Run(Path(experiment), config, {"experiment": experiment}, metrics, evals, done=True)


def claim_of(runs: list[Run], says: str) -> Claim:
    return next(claim for claim in claims(Measured(runs)) if claim.says.startswith(says))


def test_the_interval_is_students():
    """1, 2, 3: standard error 1/√3, t(0.975, 2) = 4.3027."""
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2 - 2.4841, 2 + 2.4841), abs=1e-4)
    with pytest.raises(ValueError, match="two values or more"):
        t_interval([1.0])


@pytest.mark.parametrize(
    ("values", "within", "verdict"),
    [
        ([1.0, 1.1, 0.9], None, "supported"),
        ([-1.0, -1.1, -0.9], None, "not supported"),
        ([1.0, -1.0, 0.5], None, "undecided"),
        ([3.0], None, "undecided"),  # one seed says nothing
        ([], None, "not run"),
        ([0.1, -0.1, 0.0], 0.5, "supported"),
        ([2.0, 2.1, 1.9], 0.5, "not supported"),
        ([-2.0, -2.1, -1.9], 0.5, "not supported"),
        ([0.4, 0.6, 0.5], 0.5, "undecided"),
    ],
)
def test_one_rule_decides(values, within, verdict):
    assert Claim("a is above b", "Table 1", "points", dict(enumerate(values)), within).verdict == verdict


def test_a_claims_number_has_the_digits_of_its_unit():
    values = {0: 1.0, 1: 2.0, 2: 3.0}
    assert Claim("", "", "points of top-1", values).told == "+2.00 [-0.48, +4.48]"
    assert Claim("", "", "fall of h, %", values).told == "+2 [-0.484, +4.48]"
    assert Claim("", "", "points of top-1", {3: 1.0}).told == "+1.00 (one seed)"
    assert Claim("", "", "points of top-1", {}).told == "not run"


def test_differences_are_paired_by_seed():
    assert difference({0: 3.0, 1: 5.0, 2: 9.0}, {2: 8.0, 1: 1.0, 7: 0.0}) == {1: 4.0, 2: 1.0}


def test_gsam_against_sam_takes_the_seeds_that_both_have():
    gsam = [run("mini/table1/vit_gsam", seed, top1) for seed, top1 in ((0, 85.0), (1, 86.0), (2, 87.0))]
    sam = [run("mini/table1/vit_sam", seed, top1) for seed, top1 in ((0, 84.0), (1, 84.5))]
    found = claim_of(gsam + sam, "GSAM is above SAM: ViT, test")
    assert found.values == pytest.approx({0: 1.0, 1: 1.5})
    unfinished = run("mini/table1/vit_sam", 2, 80.0)
    unfinished.done = False
    assert claim_of([*gsam, *sam, unfinished], "GSAM is above SAM: ViT, test").values.keys() == {0, 1}
    assert claim_of(gsam, "GSAM is above SAM: ViT, test").verdict == "not run"


def test_the_worst_alpha_is_that_of_the_lowest_interval_and_the_best_radius_that_of_the_highest_mean():
    alphas = [run("mini/fig9", seed, top1, alpha=a) for a, tops in ((0.2, (84.5, 84.6)), (0.4, (84, 85.5)))
              for seed, top1 in enumerate(tops)]  # fmt: skip
    table = [run("mini/table1/vit_sam", seed, 84.0) for seed in (0, 1)]  # places of both axes too
    table += [run("mini/table1/vit_gsam", seed, 88.0) for seed in (0, 1)]
    assert claim_of([*alphas, *table], "GSAM is above SAM at every α").values == pytest.approx({0: 0.0, 1: 1.5})
    radii = [
        run("mini/fig7/sam_rho", seed, top1, rho=rho)
        for rho, top1 in ((0.05, 83), (0.2, 85), (0.4, 80))
        for seed in (0, 1)
    ]
    ours = [
        run("mini/fig7/gsam_rho", seed, top1, rho_max=rho)
        for rho, top1 in ((0.1, 83), (0.2, 84), (0.8, 86))
        for seed in (0, 1)
    ]
    radius = "no radius brings SAM to GSAM"
    assert claim_of([*radii, *ours, *table], radius).values == pytest.approx({0: 3.0, 1: 3.0})
    # A place that did not run could be the best or the worst.
    assert claim_of([*radii[2:], *ours, *table], radius).verdict == "not run"
    assert claim_of([*radii, *ours], radius).verdict == "not run"
    # One that only has lucky seeds is not the best: they count where all places have them.
    lucky = [run("mini/table1/vit_sam", seed, 99.0) for seed in (2, 3)]
    assert claim_of([*radii, *ours, *table, *lucky], radius).values == pytest.approx({0: 3.0, 1: 3.0})
    assert claim_of([*alphas[:2], *table], "GSAM is above SAM at every α").verdict == "not run"


def test_the_best_lambda_may_be_zero():
    """λ = 0 is the decayed ρ alone, a row of Table 2 too."""
    gsam = [run("mini/table1/vit_gsam", seed, 86.0) for seed in (0, 1)]
    zero = [run("mini/table6/decayed", seed, 85.0 + seed / 2) for seed in (0, 1)]
    more = [run("mini/table2/weighted", seed, 84.0, lam=lam) for lam in (0.1, 0.3, 0.5) for seed in (0, 1)]
    found = claim_of([*gsam, *zero, *more], "GSAM is above min(f_p + λh)")
    assert found.says.endswith("at its best λ = 0") and found.values == pytest.approx({0: 1.0, 1: 0.5})
    better = [run("mini/table6/decayed", seed, 83.0) for seed in (0, 1)]
    assert claim_of([*gsam, *better, *more], "GSAM is above min(f_p + λh)").says.endswith("λ = 0.1")
    unfinished = claim_of([*gsam, *more], "GSAM is above min(f_p + λh)")
    assert unfinished.verdict == "not run" and unfinished.says.endswith("at its best λ")


def test_the_gap_at_the_end_of_training():
    assert last_part([1.0] * 18 + [5.0, 7.0]) == 6.0 and first_part([9.0, 9.0, 1.0, 3.0] + [0.0] * 16) == 2.0
    seeds = (0, 1, 2)
    flat = [run("mini/table6/decayed", seed, 80.0, gaps=[1.0] * 10) for seed in seeds]
    lower = [run("mini/fig9", seed, 80.0, gaps=[1.0] * 9 + [0.4 + 0.05 * seed], alpha=0.4) for seed in seeds]
    assert claim_of(flat + lower, "h at the largest α is smaller").values == pytest.approx({0: 60.0, 1: 55.0, 2: 50.0})
    rest = [run(name, seed, 80.0, gaps=[1.0] * 9 + [0.9], **at) for seed in seeds
            for name, at in (("mini/fig9", {"alpha": 0.2}), ("mini/table1/vit_gsam", {}))]  # fmt: skip
    assert claim_of(lower + rest, "h grows").verdict == "not run"  # without α = 0
    grows = claim_of(flat + lower + rest, "h grows")
    assert grows.values == pytest.approx({0: -0.6, 1: -0.55, 2: -0.5}) and grows.verdict == "not supported"


def test_every_rho_and_alpha_stands_beside_sam():
    """Differences are of the seeds that both have; a row of Table 1 stands at its place among those of its grid."""
    sam = [run("mini/table1/vit_sam", seed, 84.0 + seed, gaps=[0.2] * 10) for seed in (0, 1, 2)]
    ours = [run("mini/fig9", seed, 85.0 + seed, gaps=[0.1] * 10, alpha=0.4) for seed in (0, 1)]
    ours += [run("mini/table6/constant_ascent", seed, 85.0 + seed) for seed in (0, 1)]
    ours += [run("mini/fig4", seed, 85.0 + seed, rho=0.1, alpha=0.1) for seed in (1, 2)]
    found = Measured(sam + ours)
    _, text, grid, said, *_ = why(found, claims(found))
    rows = {row[0]: row[1:] for row in grid.rows}
    assert rows["SAM, constant ρ = 0.1"] == ["3", "85.00 ± 2.48", "-", "0.2000 ± 0.0000"]
    assert rows["GSAM, ρ_max = 0.4, α = 0.4"] == ["2", "85.50 ± 6.35", "+1.00 ± 0.00", "0.1000 ± 0.0000"]
    assert rows["GSAM, ρ_max = 0.4, α = 0.0"] == ["not run"] * 4
    assert rows["GSAM, constant ρ = 0.1, α = 0.1"][:2] == ["3", "86.00 ± 2.48"]  # of two experiments, each seed once
    assert [*rows][-6:] == ["GSAM, ρ_max = 0.2, α = 0.1", *(f"GSAM, ρ_max = 0.4, α = {a}" for a in (0.0, 0.1, 0.2, 0.4)),
                            "GSAM, ρ_max = 0.8, α = 0.1"]  # fmt: skip
    assert len(rows) == 4 + 6 + 7 and text.lines[0].startswith("GSAM does not beat SAM here: of 6 comparisons")
    assert said.lines[-1].startswith("h at the largest α is smaller than at α = 0: not run (fall of h") and len(said.lines) == 3


def test_flatter_without_a_higher_top_1_is_the_reason_where_the_claims_say_so():
    higher, flatter = ({0: sign * 1.0, 1: sign * 1.1, 2: sign * 0.9} for sign in (-1, 1))

    def told(top1: dict, sigma: dict) -> bool:
        lines = [Claim("a higher top-1", "", "", top1, topic=ASCENT), Claim("a smaller σ_max", "", "", sigma, topic=ASCENT)]
        blocks = why(Measured([]), lines)
        return any("minima of the ViT flatter" in line for block in blocks for line in getattr(block, "lines", []))

    assert told(higher, flatter) and told({0: 1.0}, flatter)
    assert not told(flatter, flatter) and not told(higher, {0: 1.0}) and not told(higher, higher)


def test_corruptions_of_light_are_told_from_the_others():
    """Means over severities and corruptions of a group."""

    def scored(method: str, seed: int, **tops: float) -> Run:
        found = run(f"mini/table1/vit_{method}", seed, 80.0)
        found.results = [{"corruption": name, "severity": s, "top1": top1 / 100} for name, top1 in tops.items() for s in (1, 5)]
        return found

    runs = [scored("sam", seed, fog=50 + seed, snow=60, pixelate=70) for seed in (0, 1, 2)]
    runs += [scored("gsam", seed, fog=52 + seed, snow=58 + seed, pixelate=71) for seed in (0, 1, 2)]
    found = Measured(runs)
    grid = why(found, claims(found))[-1]
    rows = {row[0]: row[1:] for row in grid.rows}
    assert rows["ViT: GSAM - SAM"] == ["+0.50 ± 1.24", "+1.00 ± 0.00"] and rows["Mixer: GSAM - SAM"] == ["not run"] * 2


def test_a_claim_without_any_run_is_not_run():
    assert {claim.verdict for claim in claims(Measured([]))} == {"not run"}


def test_the_dominant_eigenvalue_is_that_of_power_iteration_or_lanczos():
    """hessian.starts=0 leaves sigma_max empty; of several rows that of most pictures counts."""
    found = run("mini/fig4", 0, 80.0, rho=0.1, alpha=0.4)
    assert hessian_row(found) is None
    found.analyses = [{"analysis": "hessian", "n": 100, "sigma_max": None, "top": [3.0, 2.0]}]
    assert hessian_row(found)["sigma_max"] == 3.0
    found.analyses.append({"analysis": "hessian", "n": 1000, "sigma_max": -4.0, "top": [3.5]})
    found.analyses.append({"analysis": "hessian", "n": 2000, "sigma_max": None, "top": []})
    assert hessian_row(found)["sigma_max"] == -4.0
