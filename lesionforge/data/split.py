"""split: deal a store's images to train, val and test, or to folds, without a patient on two sides, and prove it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("lesionforge")

LEAKY = "image (leaky)"
UNEVEN = 0.2  # our choice: a part whose malignant images are farther than this from its share is named in the log


class SplitConfig(Config):
    store: Path
    """Store to split; its images must all be real and labelled."""
    out: Path
    """Folder to make: split.parquet (image_id and part or fold) and leaks.json."""
    by: Literal["patient", "institution", "file", "image"] = "patient"
    """patient: nobody stands on two sides, both classes balanced. institution: leave one institution out, one fold each
    (column attribution). file: a given split. image: the published study's LEAKY split, patients on both sides."""
    folds: int = Field(default=5, ge=2)
    """Number of folds; only where --fractions is not given."""
    fractions: tuple[float, float, float] | None = None
    """Shares of train, val and test instead of folds, such as 0.7 0.15 0.15; test may be 0."""
    seed: int = Field(default=0, ge=0)
    """Another seed, another split."""
    file: Path | None = None
    """With --by file: CSV or Parquet with image_id or isic_id, and part (train, val, test) or fold (0, 1, ...)."""
    institutions: tuple[str, ...] = ()
    """With --by institution: those to hold out, one fold each; the others are trained on in every fold. Empty: all."""
    unknown_patients: Literal["refuse", "each-image"] = "refuse"
    """Images without patient_id: refuse them, or treat each as a patient of its own (leaks cannot be seen then)."""
    allow_leaks: bool = False
    """With --by file: take a split that shares patients, lesions or identical images, and call it leaky."""

    @field_validator("fractions")
    @classmethod
    def fractions_are_shares(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and (min(value) < 0 or min(value[:2]) == 0 or abs(sum(value) - 1) > 1e-6):
            raise ValueError(f"train and val must be above 0, test 0 or more, their sum 1; found {value}")
        return value

    @model_validator(mode="after")
    def file_goes_with_by_file(self) -> "SplitConfig":
        if (self.by == "file") != (self.file is not None):
            raise ValueError("--by file and --file FILE go together")
        if self.institutions and self.by != "institution":
            raise ValueError("--institutions goes with --by institution")
        return self


def split(config: SplitConfig) -> None:
    """Write the split table and the leak report of a store."""
    if run.already_done(config.out, config):
        return
    from lesionforge import tables
    from lesionforge.data import parts

    samples = read_samples(config.store)
    check_labels(samples, config.store)
    with files.write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "split", config)
        table, held_out = table_by(config, samples)
        report = parts.leak_report(samples, table)
        leaky = config.by == "image" or any(report["shared"].values())
        for name, institution in held_out.items():
            report["parts"][name]["institution"] = institution
        refuse_one_class(report, config.by)
        if config.by != "image" and leaky and not config.allow_leaks:
            refuse_leaks(report, config)
        report = {"name": name_of(config, report, leaky), "by": by_name(config, leaky), "leaky": leaky, **report}
        warn(config, report)
        tables.write_table(folder / run.SPLIT, table)
        files.write_json(folder / run.LEAKS, report)
        print(as_text(report))
        sha256 = files.sha256_of_file(folder / run.SPLIT)
        run.mark_done(folder, name=report["name"], num_images=len(table), leaky=leaky, split_sha256=sha256)
    log.info("split: %s images, %s -> %s", f"{len(table):,}", report["name"], config.out)


def read_samples(path: Path) -> "pl.DataFrame":
    import polars as pl

    from lesionforge import tables
    from lesionforge.data.store import open_store

    store = open_store(path)
    wanted = (tables.IMAGE_ID, tables.PATIENT_ID, tables.TARGET, tables.SOURCE, tables.SHA256)
    optional = [
        name for name in (tables.LESION_ID, tables.ATTRIBUTION) if name in pl.read_parquet_schema(path / run.SAMPLES)
    ]
    return store.samples([*wanted, *optional])


def check_labels(samples: "pl.DataFrame", path: Path) -> None:
    """Refuse what cannot be split: unlabelled rows, synthetic rows, one class only."""
    from lesionforge import tables

    if num := samples[tables.TARGET].null_count():
        raise BadInput(
            f"{path}: {num:,} of {len(samples):,} images have no target; split the training data, not the test data"
        )
    if num := int((samples[tables.SOURCE] != tables.REAL).sum()):
        raise BadInput(
            f"{path}: holds {num:,} synthetic images; val and test are real, so split a store of real images only"
        )
    malignant = int(samples[tables.TARGET].sum())
    if malignant in (0, len(samples)):
        raise BadInput(f"{path}: {malignant:,} of {len(samples):,} images are malignant; a split needs both classes")


def table_by(config: SplitConfig, samples: "pl.DataFrame") -> tuple["pl.DataFrame", dict[str, str]]:
    """The split table, and the institution of each fold where folds are institutions."""
    import numpy as np
    import polars as pl

    from lesionforge import tables
    from lesionforge.data import grouping, parts

    if config.file is not None:
        table = parts.read_split_table(config.file)
        parts.check_ids(samples, table)
        return samples.select(tables.IMAGE_ID).join(table, on=tables.IMAGE_ID, how="left", maintain_order="left"), {}
    if config.by == "image":
        groups = np.arange(len(samples))
    else:
        refuse_unknown_patients(config, samples)
        groups = grouping.image_groups(samples)
    if config.by == "institution":
        return by_institution(samples, groups, config.institutions)

    dealt = grouping.balanced_parts(groups, samples[tables.TARGET].to_numpy(), shares_of(config), config.seed)
    labels = pl.Series(tables.FOLD, dealt)
    if config.fractions is not None:
        labels = pl.Series(tables.PART, np.array(tables.PARTS)[dealt])
    return samples.select(tables.IMAGE_ID).with_columns(labels), {}


def shares_of(config: SplitConfig) -> list[float]:
    """Share of each fold, or of train, val and, where it is above 0, test."""
    if config.fractions is None:
        return [1 / config.folds] * config.folds
    return [share for share in config.fractions if share > 0]


def by_institution(
    samples: "pl.DataFrame", groups: Any, chosen: tuple[str, ...]
) -> tuple["pl.DataFrame", dict[str, str]]:
    """One fold an institution, in the order of their names. A group that spans several stays with its most images."""
    import numpy as np
    import polars as pl

    from lesionforge import tables
    from lesionforge.data import grouping, parts

    if tables.ATTRIBUTION not in samples.columns:
        raise BadInput("--by institution needs the column attribution, which the store lacks; use --by patient")
    if num := samples[tables.ATTRIBUTION].null_count():
        raise BadInput(f"--by institution: {num:,} of {len(samples):,} images have no attribution; use --by patient")
    institutions = sorted(samples[tables.ATTRIBUTION].unique())
    if unknown := [name for name in chosen if name not in institutions]:
        raise BadInput(f"no image of {tables.in_short(unknown)}; the store's institutions: {'; '.join(institutions)}")
    number = samples[tables.ATTRIBUTION].replace_strict(institutions, range(len(institutions)), return_dtype=pl.Int64)
    own = number.to_numpy()  # (N,)
    home = grouping.majority(groups, own)
    if moved := int((home != own).sum()):
        log.warning(
            "split: %s images are of a patient, lesion or identical image of another institution too, and go with "
            "the most of their group", f"{moved:,}",
        )  # fmt: skip
    held_out = [i for i, name in enumerate(institutions) if not chosen or name in chosen]
    fold = np.full(len(institutions), parts.NEVER_HELD_OUT)
    fold[held_out] = np.arange(len(held_out))
    table = samples.select(tables.IMAGE_ID).with_columns(pl.Series(tables.FOLD, fold[home]))
    return table, {parts.title(tables.FOLD, k): institutions[i] for k, i in enumerate(held_out)}


def refuse_unknown_patients(config: SplitConfig, samples: "pl.DataFrame") -> None:
    from lesionforge import tables

    num = samples[tables.PATIENT_ID].null_count()
    if num and config.unknown_patients == "refuse":
        raise BadInput(
            f"{config.store}: {num:,} of {len(samples):,} images have no patient_id, so a split by {config.by} cannot "
            f"keep patients apart; give a split (--by file --file FILE), or treat each such image as a patient of its "
            f"own (--unknown-patients each-image)"
        )


def refuse_one_class(report: dict[str, Any], by: str) -> None:
    from lesionforge.data.parts import ALWAYS_TRAINED_ON
    from lesionforge.tables import in_short

    bad = {name: part for name, part in report["parts"].items() if not (part["malignant"] and part["benign"])}
    if len(report["parts"]) > 2:
        bad.pop(ALWAYS_TRAINED_ON, None)  # others are trained on beside it
    if bad:
        listed = in_short(
            [
                f"{name}: {part['malignant']:,} malignant and {part['benign']:,} benign images"
                + (f" of {part['institution']}" if "institution" in part else "")
                for name, part in bad.items()
            ]
        )
        cure = "ask for fewer or larger parts, or prepare more images"
        if by == "institution":
            cure = "name those that have both with --institutions; the others are then trained on in every fold"
        raise BadInput(f"a part without both classes ({listed}); {cure}")


def refuse_leaks(report: dict[str, Any], config: SplitConfig) -> None:
    shared = ", ".join(f"{num:,} {what}" for what, num in report["shared"].items())
    raise BadInput(
        f"{config.file}: shared between its parts: {shared}; mend the file, use --by patient, or take it as it is and "
        f"call it leaky with --allow-leaks"
    )


def by_name(config: SplitConfig, leaky: bool) -> str:
    return LEAKY if config.by == "image" else f"{config.by} (leaky)" if leaky else config.by


def name_of(config: SplitConfig, report: dict[str, Any], leaky: bool) -> str:
    """What logs and reports call this split."""
    by = by_name(config, leaky)
    if unknown := report["images_of_unknown_patients"]:
        by += f" (patient unknown for {unknown:,} images)"
    if config.file is not None:
        return f"by {by}, {config.file.name}"
    if config.by == "institution":
        return f"{sum('institution' in part for part in report['parts'].values())} folds by {by}"
    what = f"{config.folds} folds" if config.fractions is None else "/".join(f"{share:g}" for share in config.fractions)
    return f"{what} by {by}, seed {config.seed}"


def warn(config: SplitConfig, report: dict[str, Any]) -> None:
    if report["leaky"]:
        log.warning(
            "LEAKY SPLIT by %s: %s; scores on it are too good and say nothing about new patients",
            report["by"], ", ".join(f"{num:,} {what} shared" for what, num in report["shared"].items()),
        )  # fmt: skip
    if unknown := report["images_of_unknown_patients"]:
        log.warning("split: shared patients cannot be checked for %s images without patient_id", f"{unknown:,}")
    if config.by != "patient":
        return
    counts = [part["malignant"] for part in report["parts"].values()]
    for (name, part), share in zip(report["parts"].items(), shares_of(config), strict=True):
        wanted = share * sum(counts)
        if abs(part["malignant"] - wanted) > max(UNEVEN * wanted, 1):
            log.warning(
                "split: %s holds %s malignant images, its share is %.1f", name, f"{part['malignant']:,}", wanted
            )


def as_text(report: dict[str, Any]) -> str:
    """The leak report as a person reads it."""
    columns = ("images", "patients", "malignant", "benign")
    width = max(len("shared between parts"), *(len(name) for name in report["parts"]))
    lines = [
        f"split {report['name']}",
        f"{'':{width}}" + "".join(f"{name:>12}" for name in columns) + "% malignant".rjust(13),
    ]
    for name, part in report["parts"].items():
        share = part["malignant"] / part["images"]
        institution = f"  {part['institution']}" if "institution" in part else ""
        lines.append(f"{name:{width}}" + "".join(f"{part[c]:>12,}" for c in columns) + f"{share:>13.3%}{institution}")
    shared = ", ".join(f"{num:,} {what}" for what, num in report["shared"].items())
    lines.append(f"{'shared between parts':{width}}  {shared}")
    if unknown := report["images_of_unknown_patients"]:
        lines.append(f"{'':{width}}  shared patients cannot be checked for {unknown:,} images without patient_id")
    return "\n".join(lines)
