"""The study's ten families, each in a tiny, a small and the study's size: what a short name stands for.

`vit` is the study's size, `vit:small` and `vit:tiny` the others. Sizes are timm's; where timm has none so small, the
family's architecture is narrowed by the arguments given here, and comes with random weights only.
"""

from typing import Any, NamedTuple

HALF, IMAGENET, CLIP = "0.5", "ImageNet", "CLIP"  # mean and standard deviation of the normalisation
NORMALISATIONS = {  # name: (mean, std), RGB in [0, 1]
    HALF: ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    IMAGENET: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    CLIP: ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}
NO_WEIGHTS = "-"  # licence of weights that do not exist


class Family(NamedTuple):
    timm_name: str  # with the tag of its weights, where it has any
    pixels: int  # size that the weights were trained at
    normalisation: str
    parameters: float  # millions, with one output
    licence: str  # of the weights
    timm_args: dict[str, Any]  # that make the architecture smaller than timm's


SWIN_TINY = {"embed_dim": 48, "depths": (2, 2, 4, 2), "num_heads": (2, 4, 8, 16)}
NARROW, HALF_WIDE = {"embed_dim": 192, "num_heads": 3}, {"embed_dim": 384, "num_heads": 6}  # ViT's tiny and small
DENSE_TINY, DENSE_SMALL = {"growth_rate": 16, "block_config": (4, 8, 12, 8)}, {"growth_rate": 24}

# The study's size is STUDY.md's choice; EVA-02's is the small one. EfficientNet's tiny is TinyNet-E, EfficientNet-B0
# scaled down by its authors (Han et al. 2020).
# short name                     timm architecture and weights tag                    pixels  normalised   M params  licence
FAMILIES = {
    "vit:tiny":           Family("vit_tiny_patch16_224.augreg_in21k_ft_in1k",            224, HALF,          5.52, "apache-2.0", {}),
    "vit:small":          Family("vit_small_patch16_224.augreg_in21k_ft_in1k",           224, HALF,         21.67, "apache-2.0", {}),
    "vit":                Family("vit_base_patch16_224.augreg_in21k_ft_in1k",            224, HALF,         85.80, "apache-2.0", {}),
    "swin:tiny":          Family("swin_tiny_patch4_window7_224",                         224, IMAGENET,      6.01, NO_WEIGHTS,   SWIN_TINY),
    "swin:small":         Family("swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",        224, IMAGENET,     27.52, "mit",        {}),
    "swin":               Family("swin_base_patch4_window7_224.ms_in22k_ft_in1k",        224, IMAGENET,     86.74, "mit",        {}),
    "eva02:tiny":         Family("eva02_tiny_patch14_336.mim_in22k_ft_in1k",             336, CLIP,          5.56, "mit",        {}),
    "eva02:small":        Family("eva02_small_patch14_336.mim_in22k_ft_in1k",            336, CLIP,         21.74, "mit",        {}),
    "eva02":              Family("eva02_small_patch14_336.mim_in22k_ft_in1k",            336, CLIP,         21.74, "mit",        {}),
    "edgenext:tiny":      Family("edgenext_xx_small.in1k",                               256, IMAGENET,      1.16, "mit",        {}),
    "edgenext:small":     Family("edgenext_small.usi_in1k",                              256, IMAGENET,      5.28, "mit",        {}),
    "edgenext":           Family("edgenext_base.in21k_ft_in1k",                          256, IMAGENET,     17.93, "mit",        {}),
    "deit3:tiny":         Family("deit3_small_patch16_224",                              224, IMAGENET,      5.53, NO_WEIGHTS,   NARROW),
    "deit3:small":        Family("deit3_small_patch16_224.fb_in22k_ft_in1k",             224, IMAGENET,     21.67, "apache-2.0", {}),
    "deit3":              Family("deit3_base_patch16_224.fb_in22k_ft_in1k",              224, IMAGENET,     85.82, "apache-2.0", {}),
    "beitv2:tiny":        Family("beitv2_base_patch16_224",                              224, IMAGENET,      5.52, NO_WEIGHTS,   NARROW),
    "beitv2:small":       Family("beitv2_base_patch16_224",                              224, IMAGENET,     21.65, NO_WEIGHTS,   HALF_WIDE),
    "beitv2":             Family("beitv2_base_patch16_224.in1k_ft_in22k_in1k",           224, IMAGENET,     85.76, "apache-2.0", {}),
    "convnext:tiny":      Family("convnext_atto.d2_in1k",                                224, IMAGENET,      3.37, "apache-2.0", {}),
    "convnext:small":     Family("convnext_tiny.fb_in22k_ft_in1k",                       224, IMAGENET,     27.82, "apache-2.0", {}),
    "convnext":           Family("convnext_base.fb_in22k_ft_in1k",                       224, IMAGENET,     87.57, "apache-2.0", {}),
    "resnet:tiny":        Family("resnet10t.c3_in1k",                                    176, IMAGENET,      4.92, "apache-2.0", {}),
    "resnet:small":       Family("resnet18.a1_in1k",                                     224, IMAGENET,     11.18, "apache-2.0", {}),
    "resnet":             Family("resnet50.a1_in1k",                                     224, IMAGENET,     23.51, "apache-2.0", {}),
    "densenet:tiny":      Family("densenet121",                                          224, IMAGENET,      0.68, NO_WEIGHTS,   DENSE_TINY),
    "densenet:small":     Family("densenet121",                                          224, IMAGENET,      3.93, NO_WEIGHTS,   DENSE_SMALL),
    "densenet":           Family("densenet121.ra_in1k",                                  224, IMAGENET,      6.95, "apache-2.0", {}),
    "efficientnet:tiny":  Family("tinynet_e.in1k",                                       106, IMAGENET,      0.76, "apache-2.0", {}),
    "efficientnet:small": Family("efficientnet_lite0.ra_in1k",                           224, IMAGENET,      3.37, "apache-2.0", {}),
    "efficientnet":       Family("efficientnet_b0.ra_in1k",                              224, IMAGENET,      4.01, "apache-2.0", {}),
    "efficientnet_b3":    Family("efficientnet_b3.ra2_in1k",                             288, IMAGENET,     10.70, "apache-2.0", {}),
}  # fmt: skip

# What the study counts an architecture as, by the beginning of timm's name; of other architectures it says nothing.
KINDS = {
    "transformer": ("vit_", "swin_", "eva02_", "edgenext", "deit3_", "beitv2_"),
    "CNN": ("convnext", "resnet", "densenet", "efficientnet", "tinynet", "mobilenetv2"),
}


def timm_name_of(name: str) -> str:
    """timm's name, without the weights' tag, of a short name or of one of timm's own."""
    return (FAMILIES[name].timm_name if name in FAMILIES else name).split(".")[0]


def kind_of(name: str) -> str | None:
    """transformer or CNN; None for an architecture that the study does not have."""
    return next((kind for kind, starts in KINDS.items() if timm_name_of(name).startswith(starts)), None)


def as_text() -> str:
    """The table, aligned, for a terminal."""
    titles = ("short name", "timm architecture and weights", "pixels", "normalised", "M params", "licence of weights")
    rows = [
        (name, family.timm_name, str(family.pixels), family.normalisation, f"{family.parameters:.2f}", family.licence)
        for name, family in FAMILIES.items()
    ]
    widths = [max(len(cell) for cell in column) for column in zip(titles, *rows, strict=True)]
    to_right = (False, False, True, False, True, False)
    lines = [
        "  ".join(
            f"{cell:>{width}}" if right else f"{cell:<{width}}"
            for cell, width, right in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in (titles, *rows)
    ]
    narrowed = [
        f"{name}: {', '.join(f'{key} {value}' for key, value in family.timm_args.items())}"
        for name, family in FAMILIES.items()
        if family.timm_args
    ]
    return "\n".join(
        [*lines, "", "Narrowed by us, random weights only:", *narrowed, "Any other name that timm knows is taken too."]
    )
