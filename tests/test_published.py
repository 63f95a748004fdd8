"""The published numbers, by the names of our models and recipes."""

from lesionforge.recipe import shipped
from lesionforge.reporting.published import PUBLISHED, RECIPES, published_of


def test_published_numbers_are_found_by_model_and_recipe() -> None:
    one = published_of("edgenext_base.in21k_ft_in1k", "super_downsampled")
    assert one is not None
    assert (one.private, one.public) == (0.127, 0.149)
    assert published_of("efficientnet_b0.ra_in1k", "synthetic_1_15") is not None
    assert published_of("edgenext_xx_small", "super_downsampled") is None, "another size is another model"
    assert published_of("edgenext_base", "matched_budget_1x") is None


def test_recipes_are_the_shipped_ones() -> None:
    assert RECIPES.keys() <= shipped().keys()
    assert all(0.02 <= row.private <= 0.2 for row in PUBLISHED)
