"""subgroups: pAUC, sensitivity and specificity by skin tone, sex, age, site, institution, diameter and diagnosis."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

    from lesionforge.evaluation.attributes import Grouping
    from lesionforge.evaluation.subgroup_runs import Asked, Read

log = logging.getLogger("lesionforge")

Attribute = Literal[
    "skin_tone", "sex", "age_band", "site", "institution", "diameter", "diagnosis_family", "diagnosis",
]  # fmt: skip


class SubgroupsConfig(Config):
    """How the runs do in parts of the patients. Exploratory: nothing is corrected for many looks."""

    study: Path | None = None
    """Folder of a study (study.json): all its runs, the mean over seeds and folds for each model and arm."""
    runs: tuple[Path, ...] = ()
    """Instead of --study: run folders, each by itself."""
    reference: Path | None = None
    """With --runs: the one that the others are compared with."""
    store: Path | None = None
    """Store whose metadata make the groups; default: the study's."""
    part: str | None = None
    """Predictions that are scored: val, test or a name; default: the study's; with --runs, test where all have it."""
    attributes: tuple[Attribute, ...] = (
        "skin_tone", "sex", "age_band", "site", "institution", "diameter", "diagnosis_family", "diagnosis",
    )  # fmt: skip
    """What makes groups; one whose columns the store lacks is named and left out."""
    min_malignant: int = Field(10, ge=2)
    """A group with fewer malignant lesions is named and not scored."""
    min_patients: int = Field(5, ge=2)
    """Nor one whose malignant lesions are of fewer patients; one whose patient is unknown counts as of its own."""
    min_benign: int = Field(50, ge=2)
    """A group with fewer benign lesions gets no pAUC and no specificity."""
    num_replicates: int = Field(1000, ge=100, le=100_000)
    """Bootstrap replicates for the intervals, and permutations for the gap by chance."""
    seed: int = Field(0, ge=0)
    """Seed of both."""
    out: Path | None = None
    """Folder to make: subgroups.json, subgroups.csv, gaps.csv, effects.csv; default: `subgroups` in the study."""

    # a study may be named by another path, or moved: what was read of it has digests
    runtime_keys: ClassVar[tuple[str, ...]] = ("out", "study", "hardware.")

    @model_validator(mode="after")
    def study_or_runs(self) -> "SubgroupsConfig":
        if (self.study is None) == (not self.runs):
            raise ValueError("give --study FOLDER or --runs FOLDER FOLDER ..., one of the two")
        if self.runs and (self.out is None or self.store is None):
            raise ValueError("with --runs, name the store with --store and the folder to make with --out")
        if self.reference is not None and self.reference not in self.runs:
            raise ValueError(f"reference: found {self.reference}, expected one of --runs")
        if not self.attributes:
            raise ValueError("attributes: found none, expected one at least")
        if twice := sorted({str(path) for path in self.runs if self.runs.count(path) > 1}):
            raise ValueError(f"{', '.join(twice)} is named twice")
        return self


def subgroups(config: SubgroupsConfig) -> None:
    """Print sensitivity by group, and write subgroups.json, subgroups.csv, gaps.csv and effects.csv.

    Raises:
        BadInput: no cells or no predictions, different lesions in one comparison, a store that lacks lesions or every
            column that makes groups.
    """
    from lesionforge import tables
    from lesionforge.evaluation import subgroup_plan, subgroup_rows, subgroup_runs, subgroup_text

    out = config.out or (config.study or Path()) / run.SUBGROUPS_FOLDER
    done = run.already_done(out, config)
    asked = asked_for(config)
    if done:
        refuse_changed_inputs(out, asked, subgroup_runs.read(asked, config.study is not None).sources)
        print(subgroup_text.as_words(files.read_json(out / run.SUBGROUPS)))
        return
    found = subgroup_runs.read(asked, config.study is not None)
    lesions, groupings, lacking = grouped(config, asked, found)
    with files.write_folder_whole(out) as folder, run.logged(folder):
        run.record(folder, "subgroups", config)
        for cell in found.left_out:
            log.warning("left out: %s", cell)
        measured = subgroup_rows.measured(
            found,
            groupings,
            asked.reference,
            asked.compared_with,
            subgroup_plan.Least(config.min_malignant, config.min_patients, config.min_benign),
            config.num_replicates,
            config.seed,
        )
        result = {
            tables.PART: asked.part,
            tables.REFERENCE: asked.reference,
            "cells": [
                {
                    "run": cell.run,
                    tables.MODEL: cell.model,
                    tables.ARM: cell.arm,
                    tables.FOLD: cell.fold,
                    tables.SEED: cell.seed,
                    tables.THRESHOLD: chosen,
                }
                for cell, chosen in zip(found.cells, found.thresholds, strict=True)
            ],
            "left_out": found.left_out,
            "lacking": lacking,
            "sources": found.sources,
            **measured,
            "caveats": subgroup_text.caveats(
                subgroup_plan.Least(config.min_malignant, config.min_patients, config.min_benign),
                asked.part,
                found,
                lesions,
                groupings,
                lacking,
                measured,
            ),
            "disclaimer": subgroup_text.DISCLAIMER,
        }
        for name, key in ((run.SUBGROUPS_TABLE, "scores"), (run.GAPS, "gaps"), (run.EFFECTS, "effects")):
            tables.write_table(folder / name, subgroup_rows.as_table(key, result[key]))
        files.write_json(folder / run.SUBGROUPS, result)
        run.mark_done(folder, cells=len(found.cells), groups=sum(len(each.groups) for each in groupings))
    print(subgroup_text.as_words(result))
    log.info("subgroups: %d runs, %d lesions -> %s", len(found.cells), len(lesions), out)


def asked_for(config: SubgroupsConfig) -> "Asked":
    from lesionforge.evaluation import subgroup_runs

    if config.study is not None:
        return subgroup_runs.asked_of_study(config.study, config.part, config.store)
    assert config.store is not None  # the config's own rule
    return subgroup_runs.asked_of_runs(config.runs, config.reference, config.part, config.store)


def refuse_changed_inputs(out: Path, asked: "Asked", sources: dict[str, str]) -> None:
    """Finished subgroups stand only for the predictions that they were made from."""
    before: dict[str, Any] = files.read_json(out / run.SUBGROUPS)["sources"]
    changed = sorted(name for name in before.keys() | sources.keys() if before.get(name) != sources.get(name))
    if changed:
        raise BadInput(
            f"{out}: made from other predictions of {asked.part} ({', '.join(changed[:3])} differ); delete it, or name "
            "another --out"
        )


def grouped(config: SubgroupsConfig, asked: "Asked", found: "Read") -> "tuple[pl.DataFrame, list[Grouping], list[str]]":
    """The lesions with their metadata, the groups of each attribute, and the attributes that the store cannot make."""
    from lesionforge.evaluation import attributes, subgroup_runs

    columns = list(dict.fromkeys(column for name in config.attributes for column in attributes.COLUMNS[name]))
    lesions = subgroup_runs.with_metadata(found.lesions, asked.store, columns)
    lacking: list[str] = [name for name in config.attributes if not attributes.has_columns(name, lesions.columns)]
    if len(lacking) == len(config.attributes):
        raise BadInput(
            f"{asked.store}: has no column that makes groups (looked for {', '.join(columns)}); prepare it with "
            "--metadata, or name another --store"
        )
    wanted = [name for name in config.attributes if name not in lacking]
    groupings = [attributes.grouping_of(name, lesions) for name in wanted]
    return lesions, [attributes.everything(len(lesions)), *groupings], lacking
