"""ensemble: several predictions of the same lesions joined into one, in a folder that evaluate and submit read."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from lesionforge import files, run
from lesionforge.config import Config
from lesionforge.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("lesionforge")

IN_SAMPLE = "the weights were chosen on these very val lesions, so the ensemble's val pAUC flatters; look at test"

Member = dict[str, tuple[Path, "pl.DataFrame"]]  # part -> its file and its predictions


class EnsembleConfig(Config):
    """Join predictions of the same lesions. The folder is like a run's: evaluate and submit take it with --run."""

    runs: tuple[Path, ...] = ()
    """Run folders, two or more; each with the same parts of predictions/val.parquet and test.parquet."""
    predictions: tuple[Path, ...] = ()
    """Instead of runs: CSV or Parquet files with image_id (or isic_id), score and, if known, part, target, patient_id,
    logit. Rows without a part count as test."""
    out: Path
    """Folder to make: predictions/, weights.json, inputs.json."""
    names: tuple[str, ...] = ()
    """Further predictions of the runs to join beside val and test: predictions/NAME.parquet."""
    combine: Literal["probabilities", "logits", "ranks"] = "probabilities"
    """What is averaged: scores, their log-odds, or ranks within the part, scaled to (0, 1). A rank is no probability,
    and needs the whole part: one lesion more moves all."""
    weights: Literal["equal", "val"] | tuple[Annotated[float, Field(ge=0)], ...] = "equal"
    """equal; val: chosen for the largest pAUC on val, never on test; or a number for each member, in their order."""
    num_replicates: int = Field(1000, ge=100, le=100_000)
    """Bootstrap replicates for the intervals of the members' val pAUC."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""

    @model_validator(mode="after")
    def two_members_and_their_weights(self) -> "EnsembleConfig":
        if bool(self.runs) == bool(self.predictions):
            raise ValueError("give --runs FOLDER FOLDER ... or --predictions FILE FILE ..., one of the two")
        members = self.runs or self.predictions
        if len(members) < 2:
            raise ValueError(f"found one member ({members[0]}), expected two or more")
        if self.names and not self.runs:
            raise ValueError("names are of the predictions of runs; files hold their parts in the column part")
        if twice := sorted({str(path) for path in members if members.count(path) > 1}):
            raise ValueError(f"{', '.join(twice)} is named twice; give it a larger weight instead")
        if isinstance(self.weights, tuple):
            if len(self.weights) != len(members):
                raise ValueError(f"found {len(self.weights)} weights for {len(members)} members, expected one for each")
            if not 0 < sum(self.weights) < math.inf:
                raise ValueError("weights: found none above 0, expected one at least")
        return self


def ensemble(config: EnsembleConfig) -> None:
    """Write predictions/PART.parquet, weights.json and inputs.json, and print weights and val pAUC.

    Raises:
        BadInput: members without the same parts, images, targets or patients; weights from val without val's targets.
    """
    from lesionforge import tables
    from lesionforge.evaluation import combining, origin

    finished = run.already_done(config.out, config)
    members = read_members(config)
    sources = sources_of(config, members)
    if finished:
        if files.read_json(config.out / run.INPUTS) != sources:
            raise BadInput(
                f"{config.out}: made from predictions that have changed since; delete it, or name another --out"
            )
        show(files.read_json(config.out / run.ENSEMBLE_WEIGHTS))
        return
    names = list(members)
    parts = common_parts(members)
    joined = {part: combining.aligned(part, {name: members[name][part][1] for name in names}) for part in parts}
    values = {part: combining.values_of(part, found, config.combine) for part, found in joined.items()}
    val = joined.get(tables.VAL)
    if config.weights == "val":
        if val is None:
            raise BadInput(
                "weights val: no member has val predictions; weights are chosen on val only, or give numbers"
            )
        weights, how = combining.chosen_on_val(val.known, values[tables.VAL])
    elif config.weights == "equal":
        weights, how = combining.normalised([1.0] * len(names)), "equal"
    else:
        weights, how = combining.normalised(config.weights), "given, divided by their sum"
    combined = {
        part: combining.combined(joined[part].known, values[part], weights, config.combine, part) for part in parts
    }
    val_paucs = None
    if val is not None and combining.has_both_classes(val.known):
        scores = {name: table[tables.SCORE] for name, table in zip(names, val.tables, strict=True)}
        scores |= {"ensemble": combined[tables.VAL][tables.SCORE]}
        val_paucs = combining.paucs(val.known, scores, config.num_replicates, config.seed)
    in_sample = config.weights == "val"
    result = {
        "combine": config.combine,
        "weights": dict(zip(names, weights.tolist(), strict=True)),
        "how": how,
        "in_sample": in_sample,
        "note": IN_SAMPLE if in_sample else None,
        "notes_on_val": list(dict.fromkeys(note for path in config.runs for note in origin.notes_of_member(path))),
        "val_pauc": val_paucs,
    }
    with files.write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "ensemble", config)
        for part, table in combined.items():
            tables.write_table(folder / run.PREDICTIONS / f"{part}.parquet", table)
        files.write_json(folder / run.ENSEMBLE_WEIGHTS, result)
        files.write_json(folder / run.INPUTS, sources)
        run.mark_done(folder, num_members=len(names), parts={part: len(table) for part, table in combined.items()})
    show(result)
    log.info("ensemble of %d: %s -> %s", len(names), ", ".join(combined), config.out)


def read_members(config: EnsembleConfig) -> dict[str, Member]:
    """{name: {part: (file, predictions)}}; called as the folder or file, by the path where two are alike."""
    from lesionforge import tables
    from lesionforge.evaluation import predictions

    paths = config.runs or config.predictions
    short = [path.resolve().name for path in paths]
    names = [str(path) if short.count(name) > 1 else name for path, name in zip(paths, short, strict=True)]
    found: dict[str, Member] = {}
    for name, path in zip(names, paths, strict=True):
        if config.runs:
            found[name] = predictions.read_parts(path, config.names)
            continue
        table = predictions.read_predictions(path)
        if num_without := table[tables.PART].null_count():
            log.info("%s: %s rows have no part; they count as test", path, f"{num_without:,}")
            table = table.with_columns(table[tables.PART].fill_null(tables.TEST))
        by_part = table.partition_by(tables.PART, as_dict=True, maintain_order=True)
        found[name] = {str(part): (path, rows) for (part,), rows in by_part.items()}
        if unfit := [part for part in found[name] if part in ("", ".", "..") or Path(part).name != part]:
            raise BadInput(f"{path}: found the part {unfit[0]!r}, expected a name that a file can have")
    return found


def common_parts(members: dict[str, Member]) -> list[str]:
    """The parts that all members have; one that only some have is refused."""
    parts = list(dict.fromkeys(part for member in members.values() for part in member))
    lacking = [
        f"{name} has no {part}, {next(other for other in members if part in members[other])} has"
        for part in parts
        for name in members
        if part not in members[name]
    ]
    if lacking:
        raise BadInput(
            f"the members do not hold the same parts: {'; '.join(lacking)}; make what is missing with "
            "`lesionforge predict`, or leave the member out"
        )
    return parts


def sources_of(config: EnsembleConfig, members: dict[str, Member]) -> dict[str, Any]:
    """inputs.json: SHA-256 of each table that is read, and the name of the split, which says whether it leaks."""
    described: list[dict[str, Any]] = []
    for path, (name, member) in zip(config.runs or config.predictions, members.items(), strict=True):
        tables_read = {part: files.sha256_of_file(file) for part, (file, _) in member.items()}
        inputs = path / run.INPUTS
        split = files.read_json(inputs).get("split_name") if inputs.is_file() else None
        described.append({"name": name, "split_name": split, "tables": tables_read})
    return {"split_name": joint_split([member["split_name"] for member in described]), "members": described}


def joint_split(names: list[str | None]) -> str | None:
    """The name that all members give their split; where they differ, all names if one leaks, else None."""
    different = list(dict.fromkeys(names))
    if len(different) == 1:
        return different[0]
    log.warning("the members were trained on different splits: %s", ", ".join(map(str, different)))
    leaky = any("(leaky)" in name for name in different if name)
    return " | ".join(map(str, different)) if leaky else None


def show(result: dict[str, Any]) -> None:
    width = max(len(name) for name in (*result["weights"], "ensemble"))
    paucs = result["val_pauc"] or {}
    print(f"mean of {result['combine']}; weights {result['how']}")
    print(f"  {'':{width}}  weight" + ("  val pAUC  95 % interval" if paucs else ""))
    for name in (*result["weights"], *(["ensemble"] if paucs else [])):
        line = f"  {name:{width}}  " + (f"{result['weights'][name]:6.3f}" if name in result["weights"] else " " * 6)
        if name in paucs:
            estimate, low, high = (paucs[name][key] for key in ("estimate", "low", "high"))
            line += f"  {estimate:8.4f}" + (f"  {low:.4f} to {high:.4f}" if low is not None else "  -")
        print(line)
    for note in [*([result["note"]] if result["note"] else []), *result.get("notes_on_val", [])]:
        print(f"  - {note}")
