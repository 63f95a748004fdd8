"""Scores in groups: sklearn's on the same rows, replicates as if the drawn lesions were written out again."""

import numpy as np
import pytest
from sklearn.metrics import auc, recall_score, roc_curve

from lesionforge import bootstrap, metrics
from lesionforge.evaluation import paired, subgroup_scores
from lesionforge.evaluation.subgroup_scores import Population, Scored, measure

N = 400
RNG = np.random.default_rng(0)
MALIGNANT = RNG.random(N) < 0.15
CLUSTERS = np.unique(np.where(RNG.random(N) < 0.5, RNG.integers(30, size=N), 1000 + np.arange(N)), return_inverse=True)[
    1
]
SCORES = np.round(RNG.normal(MALIGNANT * 1.2, 1, size=(3, N)), 1)  # with ties
GROUPS = [np.arange(N), np.flatnonzero(RNG.random(N) < 0.4), np.arange(100, 180)]
WHOLE = Population(MALIGNANT, CLUSTERS, (np.arange(N),))
RUNS = [Scored(0, scores, threshold) for scores, threshold in zip(SCORES, (0.5, 0.8, None), strict=True)]


def official_pauc(malignant: np.ndarray, scores: np.ndarray) -> float:
    """The challenge's formula with sklearn's curve."""
    fpr, tpr, _ = roc_curve(~malignant, -scores)
    stop = np.searchsorted(fpr, 0.2, "right")
    y = np.append(tpr[:stop], np.interp(0.2, [fpr[stop - 1], fpr[stop]], [tpr[stop - 1], tpr[stop]]))
    return auc(np.append(fpr[:stop], 0.2), y)


def test_points_equal_sklearn() -> None:
    found = measure(WHOLE, RUNS, [[0], [1], [0, 1], [2]], GROUPS, [True] * 3, 100, 0).point
    for group, rows in enumerate(GROUPS):
        y = MALIGNANT[rows]
        paucs = [official_pauc(y, SCORES[run, rows]) for run in range(3)]
        called = [SCORES[0, rows] >= 0.5, SCORES[1, rows] >= 0.8]
        recalls = [recall_score(y, each) for each in called]
        specificities = [recall_score(~y, ~each) for each in called]
        assert np.allclose(found[metrics.PAUC][:, group], [*paucs[:2], np.mean(paucs[:2]), paucs[2]])
        assert np.allclose(found[metrics.RECALL][:3, group], [*recalls, np.mean(recalls)])
        assert np.allclose(found[metrics.SPECIFICITY][:3, group], [*specificities, np.mean(specificities)])
    assert np.isnan(found[metrics.RECALL][3]).all()  # no threshold


def test_replicates_equal_lesions_written_out_again() -> None:
    found = measure(WHOLE, RUNS, [[0], [0, 1]], GROUPS, [True] * 3, 40, 7).replicates
    clusters = paired.split_clusters(CLUSTERS)
    order = np.concatenate([clusters.several, clusters.lone])
    _, drawn = next(paired.draws(clusters, 40, 7))
    for replicate in (0, 17, 39):
        times = np.zeros(len(order), int)
        times[order] = drawn[replicate]
        for group, rows in enumerate(GROUPS):
            again = np.repeat(rows, times[CLUSTERS[rows]])
            y = MALIGNANT[again]
            paucs = [metrics.pauc(y, SCORES[run, again]) for run in (0, 1)]
            recalls = [recall_score(y, SCORES[run, again] >= RUNS[run].threshold) for run in (0, 1)]
            assert np.allclose(found[metrics.PAUC][replicate, :, group], [paucs[0], np.mean(paucs)])
            assert np.allclose(found[metrics.RECALL][replicate, :, group], [recalls[0], np.mean(recalls)])


def test_by_places_and_lesion_by_lesion_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (WHOLE, RUNS, [[0], [1], [0, 1, 2]], GROUPS, [True] * 3, 50, 0)
    by_lesion = measure(*asked)
    monkeypatch.setattr(subgroup_scores, "FEW_LESIONS", 0)
    by_place = measure(*asked)
    for name, values in by_lesion.replicates.items():
        assert np.allclose(values, by_place.replicates[name], rtol=0, atol=1e-12, equal_nan=True)
        assert np.allclose(by_lesion.point[name], by_place.point[name], rtol=0, atol=1e-12, equal_nan=True)


def test_intervals_are_those_of_evaluate() -> None:
    """Other random numbers, the same bootstrap: ends within what a thousand replicates leave open."""
    found = measure(WHOLE, RUNS[:1], [[0]], GROUPS[:1], [True], 2000, 0)
    evaluated = bootstrap.estimates(MALIGNANT, SCORES[0], CLUSTERS, 0.5, 2000, 1)
    for name in (metrics.PAUC, metrics.RECALL, metrics.SPECIFICITY):
        ours = bootstrap.estimate(float(found.point[name][0, 0]), found.replicates[name][:, 0, 0])
        assert np.isclose(ours.estimate, evaluated[name].estimate)
        assert np.allclose([ours.low, ours.high], [evaluated[name].low, evaluated[name].high], atol=0.02)


def test_folds_are_weighted_by_their_malignant_lesions() -> None:
    """Two folds without a common lesion, each scored by a model on its own scale."""
    halves = (np.arange(150), np.arange(150, N))
    population = Population(MALIGNANT, CLUSTERS, halves)
    runs = [Scored(0, SCORES[0, halves[0]], 0.5), Scored(1, 100 + SCORES[0, halves[1]], 100.5)]
    found = measure(population, runs, [[0, 1], [1]], GROUPS[:2], [True] * 2, 100, 0)
    for group, rows in enumerate(GROUPS[:2]):
        y, called = MALIGNANT[rows], SCORES[0, rows] >= 0.5
        assert np.isclose(found.point[metrics.RECALL][0, group], recall_score(y, called))
        in_folds = [np.intersect1d(rows, half) for half in halves]
        paucs = [metrics.pauc(MALIGNANT[each], SCORES[0, each]) for each in in_folds]
        weights = [MALIGNANT[each].sum() for each in in_folds]
        assert np.isclose(found.point[metrics.PAUC][0, group], np.average(paucs, weights=weights))
        later = in_folds[1]
        assert np.isclose(found.point[metrics.PAUC][1, group], paucs[1])
        assert np.isclose(
            found.point[metrics.RECALL][1, group], recall_score(MALIGNANT[later], SCORES[0, later] >= 0.5)
        )


def test_runs_are_paired() -> None:
    """Equal runs differ by nothing in every replicate, and a shifted scale changes no pAUC."""
    runs = [RUNS[0], RUNS[0]._replace(scores=3 * RUNS[0].scores - 9, threshold=3 * 0.5 - 9)]
    found = measure(WHOLE, runs, [[0], [1]], GROUPS, [True] * 3, 200, 0).replicates
    for values in found.values():
        assert np.allclose(values[:, 0], values[:, 1], equal_nan=True)


def test_a_group_without_a_class_is_undefined_and_pauc_is_left_out_where_not_wanted() -> None:
    benign = np.flatnonzero(~MALIGNANT)[:20]
    found = measure(WHOLE, RUNS[:1], [[0]], [benign, GROUPS[0]], [True, False], 100, 0).point
    assert np.isnan(found[metrics.PAUC][0]).all()
    assert np.isnan(found[metrics.RECALL][0, 0])
    assert found[metrics.SPECIFICITY][0, 0] == np.mean(SCORES[0, benign] < 0.5)


def test_pieces_of_replicates_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = (WHOLE, RUNS, [[0], [1]], GROUPS, [True] * 3, 30, 0)
    whole = measure(*asked).replicates
    monkeypatch.setattr(bootstrap, "NUMBERS_AT_ONCE", 2000)
    pieces = measure(*asked).replicates
    for name, values in whole.items():
        assert np.allclose(values, pieces[name], equal_nan=True)
