"""lr, rho and alpha against values worked out by hand from the official formulas."""

import pytest

from gsam.optim.schedule import Follow, Schedules, Shape
from gsam.train.stepper import schedules
from tests.runs import compose_train

# ViT-B/32 of the paper: lr 3e-3 -> 3e-5, rho 0.6 -> 0.1, 10,000 warm-up steps of 93,835.
VIT = Schedules(Shape.linear, 93_835, 10_000, 3e-3, 3e-5, 0.1, 0.6, Follow.lr, 0.6, Follow.constant)


@pytest.mark.parametrize(
    ("step", "lr", "rho"),
    [
        (0, 0.0, 0.1 - 0.5 / 99),  # below rho_min while lr < lr_min, as the official code
        (100, 3e-5, 0.1),
        (5_000, 1.5e-3, 0.1 + 0.5 * (1.5e-3 - 3e-5) / 2.97e-3),
        (10_000, 3e-3, 0.6),
        (10_000 + 83_835 // 3, 3e-3 - 2.97e-3 / 3, 0.6 - 0.5 / 3),
        (93_835, 3e-5, 0.1),
    ],
)
def test_linear_with_warmup(step, lr, rho):
    assert VIT.lr(step) == pytest.approx(lr, rel=1e-9, abs=1e-12)
    assert VIT.rho(step) == pytest.approx(rho, rel=1e-9)
    assert VIT.alpha(step) == 0.6


def test_cosine_is_half_way_in_the_middle_and_rho_follows_it():
    s = Schedules(Shape.cosine, 1100, 100, 1.0, 0.2, 0.0, 0.4, Follow.lr)
    assert s.lr(600) == pytest.approx(0.6)
    assert s.rho(600) == pytest.approx(0.2)
    assert s.lr(350) == pytest.approx(0.2 + 0.8 * (1 + 2**-0.5) / 2)
    assert s.lr(1100) == pytest.approx(0.2)


def test_rho_is_rho_max_where_the_learning_rate_does_not_move():
    s = Schedules(Shape.constant, 100, 0, 0.1, 0.1, 0.0, 0.4, Follow.lr)
    assert s.at(50) == (0.1, 0.4, 0.0)


def test_rho_and_alpha_of_their_own():
    s = Schedules(Shape.linear, 100, 10, 0.1, 0.0, 0.1, 0.3, Follow.linear, 0.8, Follow.lr)
    assert s.rho(0) == pytest.approx(0.3) and s.rho(50) == pytest.approx(0.2) and s.rho(100) == pytest.approx(0.1)
    assert s.alpha(10) == pytest.approx(0.8) and s.alpha(100) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("how", "share"),
    [(Follow.constant, 1.0), (Follow.linear, 0.75), (Follow.cosine, (1 + 2**-0.5) / 2), (Follow.polynomial, 0.75**2)],
)
def test_each_shape_of_rho_and_alpha_after_a_quarter(how, share):
    """Without warm-up, whatever the learning rate does: high * share + low * (1 - share)."""
    s = Schedules(Shape.constant, 100, 10, 0.1, 0.0, 0.1, 0.3, how, 0.8, how)
    assert s.rho(25) == pytest.approx(0.1 + 0.2 * share)
    assert s.alpha(25) == pytest.approx(0.8 * share)


def test_inverse_square_root_of_rho_and_alpha():
    s = Schedules(Shape.constant, 100, 10, 0.1, 0.0, 0.1, 0.3, Follow.inverse_sqrt, 0.8, Follow.inverse_sqrt)
    assert s.rho(3) == pytest.approx(0.15) and s.rho(24) == pytest.approx(0.1)  # not below rho_min
    assert s.alpha(24) == pytest.approx(0.8 / 5)


def test_polynomial_and_inverse_square_root():
    s = Schedules(Shape.polynomial, 1100, 100, 1.0, 0.2, power=3.0)
    assert s.lr(600) == pytest.approx(0.2 + 0.8 * 0.5**3)
    s = Schedules(Shape.inverse_sqrt, 10_000, 400, 1.0, 0.1)
    assert s.lr(200) == pytest.approx(0.5) and s.lr(400) == pytest.approx(1.0)
    assert s.lr(1600) == pytest.approx(0.5)  # lr_max sqrt(warmup / step)
    # Theorem 5.1 has 1 / sqrt(t), where t = step + 1.
    assert Schedules(Shape.inverse_sqrt, 10_000, 0, 1.0, 0.1).lr(3) == pytest.approx(0.5)
    assert Schedules(Shape.inverse_sqrt, 10_000, 0, 1.0, 0.1).lr(9_999) == pytest.approx(0.1)


def test_alpha_that_follows_the_learning_rate_never_turns_around():
    """rho may become negative in warm-up, as in the official code; a negative alpha would widen the gap."""
    made = Schedules(Shape.linear, 100, 10, 0.1, 0.05, rho_max=0.2, alpha_max=0.8, alpha_follows=Follow.lr)
    assert made.rho(0) < 0 and made.alpha(0) == 0 and made.alpha(10) == pytest.approx(0.8)


def test_every_setting_of_a_training_reaches_its_schedule():
    words = "base.lr=0.5 schedule=cosine schedule.lr_min=0.1 schedule.power=3 optimizer=gsam optimizer.rho_max=0.4 "
    words += "optimizer.rho_min=0.2 optimizer.rho_schedule=polynomial optimizer.clamp_rho=true optimizer.alpha=0.7 "
    words += "optimizer.alpha_schedule=linear"
    made = schedules(compose_train(*words.split()), total=100, warmup=10)
    assert made == Schedules(
        Shape.cosine, 100, 10, 0.5, 0.1, 0.2, 0.4, Follow.polynomial, 0.7, Follow.linear, power=3.0, clamp_rho=True
    )
    lr, rho, alpha = made.at(55)
    assert (lr, rho, alpha) == pytest.approx((0.3, 0.2 + 0.2 * 0.45**3, 0.7 * 0.45))


def test_methods_without_a_radius_have_none():
    made = schedules(compose_train("optimizer=vanilla", "base.lr=0.5"), total=100, warmup=0)
    assert made.at(50)[1:] == (0.0, 0.0)


def test_the_clamp_keeps_rho_at_rho_min_in_warmup():
    clamped = Schedules(Shape.linear, 1000, 100, 1.0, 0.1, 0.2, 0.6, Follow.lr, clamp_rho=True)
    free = Schedules(Shape.linear, 1000, 100, 1.0, 0.1, 0.2, 0.6, Follow.lr)
    assert free.rho(0) < 0.2 == clamped.rho(0)
    assert all(free.rho(s) == clamped.rho(s) for s in range(10, 1000, 90))
