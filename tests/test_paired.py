"""Scores of many runs on the same resamples, against lesions written out again, and swapped by hand."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from test_metrics import challenge_pauc

from lesionforge import bootstrap, metrics
from lesionforge.evaluation import paired
from lesionforge.evaluation.paired import Lesions

NAMES = (metrics.PAUC, metrics.ROC_AUC, metrics.AVERAGE_PRECISION, metrics.SENSITIVITY_AT_90)


def lesions_of_patients(seed, num_patients=25, num_alone=40):
    """Some patients with many lesions, some lesions of unknown patients, in no order."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(num_patients), rng.integers(1, 9, size=num_patients))
    patients = rng.permutation(np.concatenate([patients, np.full(num_alone, -1)]))
    malignant = rng.random(len(patients)) < 0.25
    scores = np.round(rng.normal(size=(3, len(patients))) + malignant, 1)  # ties
    return Lesions(malignant, bootstrap.clusters_of(patients)), scores


def naive(malignant, scores):
    return {
        metrics.PAUC: challenge_pauc(malignant.astype(int), scores),
        metrics.ROC_AUC: sk.roc_auc_score(malignant, scores),
        metrics.AVERAGE_PRECISION: sk.average_precision_score(malignant, scores),
    }


def test_each_replicate_is_that_of_the_drawn_lesions_written_out_the_same_for_all_runs():
    lesions, scores = lesions_of_patients(0)
    found = paired.replicates(lesions, scores, NAMES, 30, seed=7)
    clusters = paired.split_clusters(lesions.clusters)
    order = np.concatenate([clusters.several, clusters.lone])
    ((_, drawn),) = paired.draws(clusters, 30, 7)
    assert (drawn.sum(axis=1) == len(order)).all()
    for row, times in enumerate(drawn.astype(int)):
        of_cluster = np.empty(len(order), int)
        of_cluster[order] = times
        rows = np.repeat(np.arange(len(lesions.malignant)), of_cluster[lesions.clusters])
        for run in range(3):
            for name, expected in naive(lesions.malignant[rows], scores[run, rows]).items():
                assert found[name][row, run] == pytest.approx(expected, abs=1e-12)


def test_pieces_change_nothing(monkeypatch):
    lesions, scores = lesions_of_patients(1)
    whole = paired.replicates(lesions, scores, NAMES, 40, seed=3)
    swapped = paired.swapped(lesions, scores[:1], scores[1:2], NAMES, 40, seed=3)
    without = paired.left_out(lesions, scores, NAMES)
    monkeypatch.setattr(bootstrap, "NUMBERS_AT_ONCE", 500)
    for name in NAMES:
        np.testing.assert_array_equal(paired.replicates(lesions, scores, NAMES, 40, seed=3)[name], whole[name])
        np.testing.assert_array_equal(
            paired.swapped(lesions, scores[:1], scores[1:2], NAMES, 40, seed=3)[name], swapped[name]
        )
        np.testing.assert_array_equal(paired.left_out(lesions, scores, NAMES)[name], without[name])


def test_without_a_cluster_is_without_its_lesions():
    lesions, scores = lesions_of_patients(2)
    found = paired.left_out(lesions, scores, NAMES)
    with_malignant = np.unique(lesions.clusters[lesions.malignant])
    assert len(found[metrics.PAUC]) == len(with_malignant) == paired.clusters_by_class(lesions)[0]
    expected = []
    for cluster in with_malignant:
        kept = lesions.clusters != cluster
        expected.append(challenge_pauc(lesions.malignant[kept].astype(int), scores[0, kept]))
    np.testing.assert_allclose(np.sort(found[metrics.PAUC][:, 0]), np.sort(expected), atol=1e-12)


def test_swaps_of_few_patients_are_those_by_hand():
    """With four patients all sixteen swaps can be counted: the random ones are among them, and p is near the exact."""
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(4), 5)
    malignant = np.tile([True, False, False, True, False], 4)
    mine, theirs = rng.normal(size=(2, 20)) + malignant
    ranks = [stats.rankdata(scores) for scores in (mine, theirs)]
    assert (paired.ranks_of(mine) + 1 == ranks[0] + 0.5 - 0.5).all()
    exact = []
    for coins in product([False, True], repeat=4):
        swap = np.array(coins)[clusters]
        sides = np.where(swap, ranks[1], ranks[0]), np.where(swap, ranks[0], ranks[1])
        exact.append(np.subtract(*(sk.roc_auc_score(malignant, side) for side in sides)))
    lesions = Lesions(malignant, clusters)
    drawn = paired.swapped(lesions, mine[None], theirs[None], [metrics.ROC_AUC], 4000, seed=0)[metrics.ROC_AUC]
    assert np.abs(drawn[:, None] - np.array(exact)).min(axis=1).max() < 1e-12
    found = sk.roc_auc_score(malignant, mine) - sk.roc_auc_score(malignant, theirs)
    expected = np.mean(np.abs(exact) >= abs(found) - 1e-12)
    assert paired.permutation_p(drawn, found) == pytest.approx(expected, abs=0.03)


def test_a_scale_of_its_own_does_not_matter_to_swaps():
    lesions, scores = lesions_of_patients(3)
    as_given = paired.swapped(lesions, scores[:1], scores[1:2], NAMES, 50, seed=0)
    stretched = paired.swapped(lesions, np.exp(scores[:1]) - 40, scores[1:2], NAMES, 50, seed=0)
    for name in NAMES:
        np.testing.assert_array_equal(as_given[name], stretched[name])


def test_the_p_of_a_permutation_counts_itself():
    assert paired.permutation_p(np.array([0.1, -0.3, 0.2]), 0.2) == 3 / 4
    assert paired.permutation_p(np.array([0.1, -0.1]), 5.0) == 1 / 3
