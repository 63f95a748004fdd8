"""The settings of `lesionforge study`: the axes (models, recipes, folds, seeds), the generators and the sizes."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lesionforge.config import Config
from lesionforge.recipe import did_you_mean

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")  # of a model, recipe or generator: a part of folder names, without "-"
ENSEMBLE = "ensemble"  # the row of a study whose scores are means over its models


class StudyDataConfig(Config):
    """What is learned from and scored on."""

    store: Path
    """Store of real lesions (`lesionforge prepare`)."""
    split: Path
    """Split of that store (`lesionforge split`): with parts, or with folds if `folds` are named."""
    hidden: Path | None = None
    """Store of the challenge's test images: scored by the first seed's runs, and submitted."""
    sample_submission: Path | None = None
    """The challenge's sample_submission.csv, for the submissions of `hidden`."""

    @model_validator(mode="after")
    def both_for_submissions(self) -> "StudyDataConfig":
        if (self.hidden is None) != (self.sample_submission is None):
            raise ValueError("hidden and sample_submission make a submission together; give both, or neither")
        return self


class ArmConfig(Config):
    recipe: str
    """Training distribution: a shipped recipe (`lesionforge recipes`), or a YAML file."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of `train` for this recipe, over those of the models."""
    generator: str | None = None
    """Which of `generators` gives the synthetic images."""
    compared_with: str | None = None
    """Another recipe of this study that this one is compared with, instead of `reference`."""
    start_from: str | None = None
    """Another recipe of this study: each run starts from that one's weights (same model, fold and seed)."""


class GeneratorConfig(Config):
    finetune: dict[str, Any] = Field(default_factory=dict)
    """Settings of `finetune`; the key recipe names a shipped one. One generator a fold, from that fold's part train."""
    generate: dict[str, Any] = Field(default_factory=dict)
    """Settings of `generate`; the key recipe names a shipped one."""
    audit: dict[str, Any] = Field(default_factory=dict)
    """Settings of `audit`."""
    features_from: str | None = None
    """MODEL/RECIPE: the audit compares sets of images in the features of that run (first seed) of this study."""
    store: Path | None = None
    """An audited store made before, instead of all this; not with folds."""


class SizesConfig(Config):
    """How large the study is: what one changes first to make it smaller."""

    counts: float = Field(1.0, gt=0)
    """Factor on every count of every recipe (real, benign, synthetic, images per epoch), so that arms stay matched;
    counts that the study's own settings name stay."""
    epochs: int | None = Field(None, ge=1)
    """Epochs of every training; none leaves each recipe's own."""
    image_size: int | None = Field(None, ge=16, le=1024)
    """Pixels of every training; none takes the size that each architecture's weights were trained at."""
    batch_size: int | None = Field(None, ge=1)
    """Images per step of every training; none leaves each recipe's own."""
    candidates: int | None = Field(None, ge=1)
    """Images that each generator makes before the audit; none leaves its own number."""


class OnlyConfig(Config):
    """Part of the study to run now; the rest stays in the plan and is named in the report as not yet run."""

    models: tuple[str, ...] = ()
    recipes: tuple[str, ...] = ()
    folds: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()


class StudyConfig(Config):
    """One study: its axes, and how it is run."""

    out: Path
    """Folder of the study; run the same command again to go on, change a setting to run what depends on it anew."""
    name: str = "study"
    """What the study is called; a folder holds one study."""
    title: str = ""
    """Heading of the report."""
    question: str = ""
    """What the study asks, in a sentence or two, for the first screen of the report."""
    data: StudyDataConfig
    models: dict[str, dict[str, Any]]
    """Axis: name -> settings of `train`, such as {model: {name: edgenext:tiny}, optim: {lr: 1e-3}}."""
    recipes: dict[str, ArmConfig]
    """Axis: name -> training distribution; generator, start_from and settings where it has them."""
    reference: str
    """The recipe that all others are compared with."""
    reference_model: str | None = None
    """The model that all others are compared with, within each recipe; none compares recipes only."""
    folds: tuple[int, ...] = ()
    """Axis: folds that are held out, for a split with folds."""
    seeds: tuple[int, ...] = (0,)
    """Axis: seeds of the trainings; the images of a mix stay the same, its recipe's data.mix.seed draws them."""
    generators: dict[str, GeneratorConfig] = Field(default_factory=dict)
    """Name -> how it is taught, what it makes, how that is audited."""
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of every training; over the recipe, under the sizes and the model's and the recipe's own."""
    sizes: SizesConfig = SizesConfig()
    part: Literal["auto", "val", "test"] = "auto"
    """Part that is compared: auto takes test where the split has one, else val; with folds it is val, held out."""
    ensemble: bool = False
    """Also the mean of the models' probabilities, for each recipe, fold and seed."""
    maps: tuple[str, ...] = ()
    """Models whose heat maps are drawn, of the reference's first fold and seed (extra `explain`)."""
    evaluate: dict[str, Any] = Field(default_factory=dict)
    """Settings of `evaluate` for every run."""
    published: bool = False
    """Show the published numbers of the study beside ours, marked as published."""
    only: OnlyConfig = OnlyConfig()
    cores: int | None = Field(None, ge=1)
    """CPU cores to use together; none takes all of this machine."""
    threads: int | None = Field(None, ge=1)
    """CPU cores of one job; none takes 1 where jobs run on the CPU, each GPU's share of the cores otherwise (4 with a
    profile). On the CPU results are the same to the bit for equal numbers only."""
    gpus: int | None = Field(None, ge=0)
    """GPUs to use, one job on each; none takes all of this machine, 0 none."""
    profile: Path | None = None
    """Snakemake profile, a folder with config.yaml: runs the jobs on a cluster instead (docs/cluster.md)."""
    dry_run: bool = False
    """Show the jobs and an estimate of time and disk; nothing is written."""

    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "only.", "cores", "threads", "gpus", "profile", "dry_run")

    @model_validator(mode="after")
    def axes_are_whole(self) -> "StudyConfig":
        axes: dict[str, Iterable[Any]] = {"models": self.models, "recipes": self.recipes, "seeds": self.seeds}
        if empty := [name for name, values in axes.items() if not list(values)]:
            raise ValueError(
                f"{', '.join(empty)}: found no value, expected one at least; name them in the study's YAML"
            )
        for axis in (self.models, self.recipes, self.generators):
            for name in axis:
                if not NAME.fullmatch(name) or name == ENSEMBLE:
                    raise ValueError(
                        f"found the name '{name}', expected letters, digits, _ and . ('ensemble' is taken)"
                    )
        for axis_name, numbers in (("folds", self.folds), ("seeds", self.seeds)):
            if len(set(numbers)) < len(numbers):
                raise ValueError(f"{axis_name}: found {list(numbers)}, expected each once")
        return self

    @model_validator(mode="after")
    def names_exist(self) -> "StudyConfig":
        self.require("reference", [self.reference], self.recipes)
        self.require("reference_model", [self.reference_model] if self.reference_model else [], self.models)
        self.require("maps", self.maps, self.models)
        self.require("only.models", [name for name in self.only.models if name != ENSEMBLE], self.models)
        self.require("only.recipes", self.only.recipes, self.recipes)
        self.require("only.folds", self.only.folds, self.folds)
        self.require("only.seeds", self.only.seeds, self.seeds)
        for name, arm in self.recipes.items():
            self.require(f"recipes.{name}.generator", [arm.generator] if arm.generator else [], self.generators)
            others = [other for other in self.recipes if other != name]
            self.require(f"recipes.{name}.start_from", [arm.start_from] if arm.start_from else [], others)
            self.require(f"recipes.{name}.compared_with", [arm.compared_with] if arm.compared_with else [], others)
            chain = [name]
            while (before := self.recipes[chain[-1]].start_from) is not None:
                if before in chain:
                    raise ValueError(f"recipes.{name}.start_from: {' -> '.join([*chain, before])} is a circle")
                chain.append(before)
        for name, generator in self.generators.items():
            if generator.features_from is not None:
                model, _, recipe = generator.features_from.partition("/")
                self.require(f"generators.{name}.features_from (MODEL/RECIPE)", [model], self.models)
                self.require(f"generators.{name}.features_from (MODEL/RECIPE)", [recipe], self.recipes)
                if self.recipes[recipe].generator is not None:
                    raise ValueError(f"generators.{name}.features_from: {recipe} has synthetic images itself")
            if generator.store is not None and (generator.finetune or generator.generate or generator.audit):
                raise ValueError(f"generators.{name}: store is instead of finetune, generate and audit; leave one away")
            if generator.store is not None and self.folds:
                raise ValueError(
                    f"generators.{name}.store: found one store for {len(self.folds)} folds, expected a generator a "
                    "fold; give finetune, generate and audit instead"
                )
        if self.ensemble and len(self.models) < 2:
            raise ValueError("ensemble: found one model, expected two or more")
        return self

    @staticmethod
    def require(what: str, found: Iterable[Any], known: Iterable[Any]) -> None:
        """Refuse a value that is on no axis."""
        known = [*known]
        for value in found:
            if value not in known:
                hint = did_you_mean(value, known) if isinstance(value, str) else ""
                listed = ", ".join(map(str, known)) or "none: the study has no such axis"
                raise ValueError(f"{what}: found {value}, expected one of {listed}{hint}")
