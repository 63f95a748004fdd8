"""The kinds of lesion overlap as they should, and are named as in the challenge's files."""

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lesionforge.data.lesion_types import TYPES, draw_diagnoses, draw_lesions, draw_types
from lesionforge.tables import IDDX, MITOTIC_INDEX, THICKNESS


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """(targets, types) of 24,000 lesions, a tenth malignant."""
    targets = (np.arange(24_000) % 10 == 0).astype(np.int64)
    return targets, draw_types(targets, np.random.default_rng(0))


def test_every_type_has_the_target_it_was_drawn_for(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    targets, types = drawn
    np.testing.assert_array_equal(np.array([kind.target for kind in TYPES])[types], targets)
    assert set(types.tolist()) == set(range(len(TYPES)))


def test_the_drawn_traits_tell_malignant_from_benign_well_but_not_perfectly(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    """Logistic regression: an AUC of 0.875 on asymmetry, border, variegation, diameter; 0.946 with redness."""
    targets, types = drawn
    lesions = draw_lesions(types, np.random.default_rng(1))
    traits = np.log(np.stack([lesions[k] for k in ("asymmetry", "border", "variegation", "diameter", "haem")], axis=1))
    for seen, low, high in ((4, 0.86, 0.89), (5, 0.93, 0.96)):
        model = LogisticRegression(max_iter=500).fit(traits[:12_000, :seen], targets[:12_000])
        assert low < roc_auc_score(targets[12_000:], model.decision_function(traits[12_000:, :seen])) < high
    for trait in traits.T:
        assert 0.6 < roc_auc_score(targets, trait) < 0.87  # none tells all


def test_traits_stay_in_range(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    lesions = draw_lesions(drawn[1], np.random.default_rng(2))
    for name in ("asymmetry", "border", "variegation", "elongation", "scale"):
        assert (lesions[name] >= 0).all()
        assert (lesions[name] <= 1).all()
    assert lesions["diameter"].min() >= 0.9
    assert lesions["diameter"].max() <= 22


def test_diagnoses_are_null_where_the_real_file_is(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    targets, types = drawn
    table = draw_diagnoses(types, np.random.default_rng(3)).with_columns(pl.Series("target", targets))
    assert table.columns == [*IDDX, MITOTIC_INDEX, THICKNESS, "target"]
    malignant, benign = table.filter(target=1), table.filter(target=0)
    assert malignant["iddx_1"].unique().to_list() == ["Malignant"]
    assert benign["iddx_1"].unique().to_list() == ["Benign"]
    assert malignant["iddx_2"].null_count() == 0
    assert 0.001 < 1 - benign["iddx_2"].null_count() / len(benign) < 0.006  # 0.3 %
    assert table["iddx_5"].null_count() == len(table)
    for column in (MITOTIC_INDEX, THICKNESS):
        assert benign[column].null_count() == len(benign)
        assert 0.80 < malignant[column].null_count() / len(malignant) < 0.93
    joined = table.select(pl.concat_str([f"iddx_{i}" for i in range(1, 6)], separator="::", ignore_nulls=True))
    assert joined.to_series().to_list() == table["iddx_full"].to_list()


@pytest.mark.real
def test_every_diagnosis_is_one_of_the_real_file(drawn: tuple[np.ndarray, np.ndarray], real_lesions) -> None:
    real = pl.read_csv(real_lesions / "metadata-rows.csv", infer_schema_length=None)
    table = draw_diagnoses(drawn[1], np.random.default_rng(4))
    for column in ("iddx_full", MITOTIC_INDEX):
        assert set(table[column].drop_nulls()) <= set(real[column].drop_nulls())
