"""Skin-lesion classifiers on ISIC 2024 / SLICE-3D, measured honestly. Research software, not a medical device."""

__version__ = "0.1.0"
