"""What the published study reports, quoted from its tables; none of it was measured here.

EdgeNeXt Base, EfficientNet B0 and B3 on the challenge's hidden test set, private and public leaderboard.
"""

from typing import NamedTuple


class Published(NamedTuple):
    model: str
    mix: str
    private: float
    public: float | None


SUPER, S11, S13, S115, ONLY = "super-downsampled", "synthetic 1:1", "synthetic 1:3", "synthetic 1:15", "synthetic only"

PUBLISHED = (
    Published("EdgeNeXt Base", SUPER, 0.127, 0.149),
    Published("EdgeNeXt Base", S11, 0.048, 0.049),
    Published("EdgeNeXt Base", S13, 0.123, 0.135),
    Published("EdgeNeXt Base", S115, 0.044, 0.040),
    Published("EdgeNeXt Base", ONLY, 0.026, 0.025),
    Published("EfficientNet B0", SUPER, 0.110, 0.128),
    Published("EfficientNet B0", S11, 0.085, 0.085),
    Published("EfficientNet B0", S13, 0.092, 0.112),
    Published("EfficientNet B0", S115, 0.093, 0.095),
    Published("EfficientNet B3", ONLY, 0.060, 0.060),
    Published("Ensemble of the best", "several", 0.130, 0.147),
    Published("Challenge winner", "metadata and image scores", 0.1726, None),
)

# Recipes and names of models that ask for the same row; a recipe's name is matched whole, a model's by its beginning.
RECIPES = {
    "super_downsampled": SUPER, "synthetic_1_1": S11, "synthetic_1_3": S13, "synthetic_1_15": S115,
    "synthetic_only": ONLY,
}  # fmt: skip
MODELS = {
    "edgenext_base": "EdgeNeXt Base", "edgenext:study": "EdgeNeXt Base", "efficientnet_b0": "EfficientNet B0",
    "efficientnet_b3": "EfficientNet B3", "ensemble": "Ensemble of the best",
}  # fmt: skip

SAMPLING_ERROR = (
    "With the 342 malignant lesions of the hidden test set the 95 % sampling error of these numbers is about ±0.011, "
    "which was not published with them; most of them cannot be told apart."
)


def published_of(model: str, recipe: str) -> Published | None:
    """The published row of a model and a recipe; None where there is none. Its data and split are not ours."""
    mix = RECIPES.get(recipe)
    name = next((published for known, published in MODELS.items() if model.startswith(known)), None)
    return next((row for row in PUBLISHED if row.model == name and row.mix == mix), None)
