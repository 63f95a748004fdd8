"""The scores, against the challenge's formula, sklearn and curves drawn by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from lesionforge import metrics
from lesionforge.errors import BadInput


def challenge_pauc(targets, scores, min_tpr=0.8):
    """The challenge's formula, restated: flip labels and scores, cut the ROC curve at max_fpr, take the area."""
    fpr, tpr, _ = sk.roc_curve(np.abs(np.asarray(targets) - 1), -1.0 * np.asarray(scores))
    max_fpr = abs(1 - min_tpr)
    stop = np.searchsorted(fpr, max_fpr, side="right")
    last = np.interp(max_fpr, fpr[stop - 1 : stop + 1], tpr[stop - 1 : stop + 1])
    return sk.auc(np.append(fpr[:stop], max_fpr), np.append(tpr[:stop], last))


def draw(seed, num_lesions, num_malignant, decimals=None, shift=1.0):
    """Targets in random order and overlapping scores, rounded to make ties."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(num_lesions) < num_malignant).astype(int)
    scores = rng.normal(size=num_lesions) + shift * targets
    return targets, scores if decimals is None else np.round(scores, decimals)


@st.composite
def cases(draw_from):
    num_lesions = draw_from(st.integers(2, 4000))
    num_malignant = draw_from(st.one_of(st.just(1), st.integers(1, num_lesions - 1)))
    decimals = draw_from(st.sampled_from([None, 0, 1, 2]))
    return draw(draw_from(st.integers(0, 2**32)), num_lesions, num_malignant, decimals, draw_from(st.floats(-2, 4)))


@settings(max_examples=1000, deadline=None)
@given(cases())
def test_pauc_is_the_challenges_formula(case):
    targets, scores = case
    assert metrics.pauc(targets, scores) == pytest.approx(challenge_pauc(targets, scores), rel=0, abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(cases())
def test_auc_and_average_precision_are_sklearns(case):
    targets, scores = case
    assert metrics.roc_auc(targets, scores) == pytest.approx(sk.roc_auc_score(targets, scores), abs=1e-12)
    expected = sk.average_precision_score(targets, scores)
    assert metrics.average_precision(targets, scores) == pytest.approx(expected, abs=1e-12)


def test_curves_drawn_by_hand():
    half = np.repeat([0, 1], 50)
    assert metrics.pauc(half, half) == pytest.approx(0.2, abs=1e-15)
    assert metrics.pauc(half, 1 - half) == 0.0
    assert metrics.pauc(half, np.full(100, 0.3)) == pytest.approx(0.02, abs=1e-15)
    # One of five malignant lesions is below half of the benign ones: x runs to 0.2 at the height 0.5.
    assert metrics.pauc([0, 1, 0, 1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]) == pytest.approx(0.2 * 0.5)
    # Four malignant lesions: the lowest spans x from 0 to 0.25, so the area ends within it.
    assert metrics.pauc([0, 1, 0, 1, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(0.2 * 0.5)
    # All malignant lesions tied with one of two benign ones, the other below: from (0, 1/2) straight to (1, 1).
    assert metrics.pauc([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.5]) == pytest.approx(0.2 * (0.5 + 0.6) / 2)


def test_random_scores_give_two_hundredths():
    values = [metrics.pauc(*draw(seed, 5000, 500, shift=0)) for seed in range(40)]
    assert np.mean(values) == pytest.approx(0.02, abs=0.002)


def test_logits_and_probabilities_score_alike():
    targets, logits = draw(0, 3000, 30)
    assert metrics.pauc(targets, logits) == metrics.pauc(targets, 1 / (1 + np.exp(-logits)))


def test_one_class_has_no_score():
    for score in (metrics.pauc, metrics.roc_auc, metrics.average_precision):
        assert score([0, 0, 0], [0.1, 0.2, 0.3]) is None
        assert score([1, 1], [0.1, 0.2]) is None
        assert score([], []) is None
    with pytest.raises(BadInput, match="one class only"):
        metrics.choose_threshold([1, 1], [0.1, 0.2], "youden")


def test_what_is_not_a_score_or_target_is_refused():
    with pytest.raises(BadInput, match="2 of 3 scores are not finite"):
        metrics.pauc([0, 1, 1], [0.1, np.nan, np.inf])
    with pytest.raises(BadInput, match="1 of 3 targets are neither 0"):
        metrics.pauc([0, 1, 2], [0.1, 0.2, 0.3])
    with pytest.raises(BadInput, match=r"found \(2,\) targets and \(3,\) scores"):
        metrics.pauc([0, 1], [0.1, 0.2, 0.3])


def all_scores(targets, scores, threshold=None):
    """Every score by the path that replicates take, without resampling."""
    from lesionforge import bootstrap

    found = bootstrap.estimates(targets, scores, np.arange(len(targets)) // 4, threshold, num_replicates=10)
    return {name: value.estimate for name, value in found.items()}


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("threshold", [-9.0, 0.5, 0.7, 9.0])
def test_scores_at_a_threshold_are_sklearns(threshold, decimals):
    targets, scores = draw(3, 800, 60, decimals)
    called = (scores >= threshold).astype(int)
    found = all_scores(targets, scores, threshold)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(targets, called))
    assert found["recall"] == pytest.approx(sk.recall_score(targets, called))
    assert found["specificity"] == pytest.approx(sk.recall_score(targets, called, pos_label=0))
    assert found["f1"] == pytest.approx(sk.f1_score(targets, called))
    if called.any():
        assert found["precision"] == pytest.approx(sk.precision_score(targets, called))
    else:
        assert found["precision"] is None


@pytest.mark.parametrize("seed", range(20))
def test_sensitivity_and_triage_by_trying_every_threshold(seed):
    targets, scores = draw(seed, 300, 5 + 3 * seed, decimals=seed % 3 or None)
    benign, malignant = scores[targets == 0], scores[targets == 1]
    thresholds = np.append(np.unique(scores), np.inf)
    sensitivity = np.array([np.mean(malignant >= t) for t in thresholds])
    specificity = np.array([np.mean(benign < t) for t in thresholds])
    found = all_scores(targets, scores)
    assert found["sensitivity_at_90_specificity"] == sensitivity[specificity >= 0.9 - 1e-12].max()
    assert found["sensitivity_at_95_specificity"] == sensitivity[specificity >= 0.95 - 1e-12].max()
    highest = thresholds[sensitivity >= 0.8 - 1e-12].max()
    assert found["triage_per_malignancy"] == np.sum(scores >= highest) / np.sum(malignant >= highest)


def test_triage_is_one_for_a_perfect_score_and_one_over_the_prevalence_for_a_random_one():
    targets = np.repeat([0, 1], [900, 100])
    assert all_scores(targets, targets + np.linspace(0, 0.1, 1000))["triage_per_malignancy"] == 1
    targets, scores = draw(0, 100_000, 1000, shift=0)
    assert all_scores(targets, scores)["triage_per_malignancy"] == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [None, 0])
def test_retrieval_by_breaking_ties_at_random_many_times(seed, decimals):
    rng = np.random.default_rng(seed)
    targets, scores = draw(seed, 240, 30, decimals)
    patients = rng.integers(0, 8, size=240)
    found = metrics.retrieved(targets == 1, scores, patients, num_best=5)
    hits = np.zeros(240)
    num_tries = 1 if decimals is None else 2000
    for _ in range(num_tries):
        order = np.lexsort((rng.random(240), -scores))
        for patient in range(8):
            hits[order[patients[order] == patient][:5]] += 1
    assert found == pytest.approx(hits[targets == 1] / num_tries, abs=0 if decimals is None else 0.06)


def test_fifteen_lesions_or_fewer_are_always_retrieved():
    targets = np.zeros(15, int)
    targets[0] = 1
    assert metrics.retrieved(targets == 1, -1.0 * targets, np.zeros(15, np.int64)) == [1.0]
    targets = np.append(targets, 0)
    assert metrics.retrieved(targets == 1, -1.0 * targets, np.zeros(16, np.int64)) == [0.0]
    # Sixteen in a tie for fifteen places.
    assert metrics.retrieved(targets == 1, np.zeros(16), np.zeros(16, np.int64)) == [15 / 16]


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("seed", range(10))
def test_chosen_thresholds_are_the_best_of_all(seed, decimals):
    targets, scores = draw(seed, 400, 40, decimals)
    thresholds = np.unique(scores)
    called = [scores >= t for t in thresholds]
    youden = [np.mean(c[targets == 1]) - np.mean(c[targets == 0]) for c in called]
    f1 = [sk.f1_score(targets, c) for c in called]
    enough = [np.mean(c[targets == 1]) >= 0.8 - 1e-12 for c in called]
    assert metrics.choose_threshold(targets, scores, "youden") == thresholds[np.isclose(youden, max(youden))].max()
    assert metrics.choose_threshold(targets, scores, "f1") == thresholds[np.isclose(f1, max(f1))].max()
    assert metrics.choose_threshold(targets, scores, "sensitivity_80") == thresholds[enough].max()
