"""Statistics over the seeds of a study's runs."""

import tracemalloc

import numpy as np
import pytest

from sb3_rlx2.studies.statistics import (
    Estimate,
    estimate,
    iqm,
    mean,
    percent_of,
    performance_profile,
    probability_of_improvement,
    run_score,
    score_form,
)

pytest.importorskip("scipy")


def test_measures_are_those_of_rliable():
    rliable = pytest.importorskip("rliable")
    from rliable import metrics

    assert rliable
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(2, 7, 3))
    assert iqm(list(ours.T)) == pytest.approx(metrics.aggregate_iqm(ours))
    for count in range(1, 12):
        own = random.normal(size=(count, 1))
        assert iqm([own[:, 0]]) == pytest.approx(metrics.aggregate_iqm(own))
    assert mean(list(ours.T)) == pytest.approx(metrics.aggregate_mean(ours))
    found = probability_of_improvement(list(ours.T), list(theirs.T), reps=50)
    assert found.value == pytest.approx(metrics.probability_of_improvement(ours, theirs))
    profile = performance_profile(list(ours.T), np.array([0.0, 0.5]))
    assert profile == pytest.approx([(ours > 0).mean(), (ours > 0.5).mean()])


def test_intervals_hold_the_true_value_about_as_often_as_they_say():
    random = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        scores = [random.normal(size=20), random.normal(size=30)]
        found = estimate(scores, mean, confidence=0.9, reps=500, seed=seed)
        held += found.low <= 0.0 <= found.high
    assert 165 <= held <= 195


def test_one_seed_has_no_interval():
    found = estimate([np.array([3.0])], iqm)
    assert found.text() == "3.00"
    assert np.isnan(probability_of_improvement([np.array([1.0])], [np.array([0.0])]).low)


def test_each_environment_is_resampled_within_itself():
    constant = estimate([np.full(5, 1.0), np.full(7, 9.0)], mean, reps=100)
    assert constant.low == constant.high == constant.value


def test_each_environment_counts_the_same_whatever_its_number_of_seeds():
    for high, low in ((5, 2), (2, 5)):
        scores = [np.full(high, 100.0), np.full(low, 50.0)]
        assert estimate(scores, mean, reps=10).value == estimate(scores, iqm, reps=10).value == 75.0
        assert list(performance_profile(scores, np.array([0.0, 75.0]))) == [1.0, 0.5]


def test_the_middle_half_is_that_of_scores_repeated_until_environments_have_the_same_number():
    random = np.random.default_rng(3)
    scores = [random.normal(size=(5, count)) for count in (4, 6, 7)]
    repeated = np.concatenate([np.repeat(own, 84 // own.shape[-1], axis=-1) for own in scores], axis=-1)
    assert iqm(scores) == pytest.approx(np.sort(repeated)[:, 63:189].mean(-1))


def test_numbers_of_seeds_without_a_common_divisor_take_no_memory():
    scores = [np.arange(float(count)) for count in (50, 49, 47, 43)]  # 20 million if repeated to the same number
    tracemalloc.start()
    estimate(scores, iqm, reps=10)
    performance_profile(scores, np.zeros(10))
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_a_run_that_diverged_is_below_all_others():
    diverged, others = np.array([1.0, 2.0, 3.0, np.nan]), np.zeros(4)
    assert probability_of_improvement([diverged], [others]).value == 0.75
    assert probability_of_improvement([others], [diverged]).value == 0.25
    assert probability_of_improvement([diverged[3:]], [diverged[3:]]).value == 0.5


def test_an_interval_around_0_keeps_its_digits():
    assert Estimate(0.0, -0.04, 0.3).text() == "0.000 [-0.040, 0.300]"
    assert Estimate(0.0, 0.0, 0.0).text() == "0 [0, 0]"
    assert Estimate(0.0, np.nan, np.nan).text() == "0"


def test_percentages_need_a_reference_above_0():
    own = {name: np.array([-300.0]) for name in "abc"}
    assert percent_of(own, {"a": np.array([-150.0]), "b": np.array([0.0]), "d": np.array([1.0])}) == {}
    assert percent_of(own, {"a": np.array([-150.0]), "c": np.array([600.0])})["c"] == [-50.0]


@pytest.mark.parametrize(
    ("score", "text"),
    [
        *((1234.5, "1234"), (-99.6, "-100"), (9.876, "9.88"), (0.5, "0.500"), (0.0123, "0.0123"), (0.0, "0")),
        *((np.nan, "nan"), (-np.inf, "-inf")),
    ],
)
def test_small_scores_have_three_digits(score, text):
    assert f"{score:{score_form(score)}}" == text


def test_the_score_of_a_run_is_the_mean_of_its_last_evaluations():
    assert run_score([9, *range(10)]) == 4.5
    assert run_score([1, 2, 3], n_last=2) == 2.5


def test_seeds_of_an_environment_are_drawn_independently_of_the_others():
    scores = np.arange(8.0)
    found = estimate([scores, -scores], mean)  # the same seeds in both would give 0 each time
    assert found.low < -0.5 < 0.5 < found.high


def test_an_environment_with_one_seed_leaves_no_interval():
    assert np.isnan(estimate([np.array([1.0]), np.arange(5.0)], mean).low)


def test_both_methods_are_resampled():
    varied = np.array([0.0, 0.0, 1.0, 1.0])
    for ours, theirs in ((np.full(4, 0.5), varied), (varied, np.full(4, 0.5))):
        found = probability_of_improvement([ours], [theirs])
        assert found.low < found.value == 0.5 < found.high


def test_equal_scores_are_half_an_improvement():
    assert probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0, 2.0])]).value == 0.5


def test_a_profile_counts_scores_above_a_threshold():
    assert performance_profile([np.array([1.0, 2.0])], np.array([1.0, 2.0])).tolist() == [0.5, 0.0]
