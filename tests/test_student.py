"""Student's t against scipy's."""

import pytest
from scipy import special, stats

from lesionforge.evaluation import student


@pytest.mark.parametrize("df", [0.7, 1, 2.3, 4, 18.5, 200, 1e4])
def test_probabilities_and_quantiles_are_scipys(df):
    for t in (0, 1e-6, 0.1, 1, 1.96, 3, 10, 60):
        assert student.two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(t, df), rel=1e-9, abs=1e-300)
        assert student.two_sided_p(-t, df) == student.two_sided_p(t, df)
    for p in (0.001, 0.025, 0.4, 0.5, 0.8, 0.975, 0.9995):
        assert student.quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-9, abs=1e-12)


def test_the_incomplete_beta_function_is_scipys():
    for a in (0.3, 1, 7.5, 60):
        for b in (0.5, 2, 30):
            for x in (0, 1e-8, 0.2, 0.5, 0.93, 1):
                assert student.incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-10)
