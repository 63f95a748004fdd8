"""explain: heat maps of trained runs as Figure 5 of the study, and how much of each map lies in the lesion."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from lesionforge import files, run
from lesionforge.config import Config, HardwareConfig
from lesionforge.errors import BadInput
from lesionforge.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from lesionforge.classifier.explained_lesions import Lesion
    from lesionforge.classifier.saliency import Explained
    from lesionforge.data.store import Store

log = logging.getLogger("lesionforge")

TRUE_MASKS, ESTIMATED_MASKS = "ground-truth", "estimated"
LABELS = {"rollout": "rollout\n(whatever the score)"}  # the others explain the malignant logit


class ExplainConfig(Config):
    """Draw heat maps of trained runs on the same lesions and measure how much of them lies in the lesion."""

    runs: tuple[Path, ...] = Field(min_length=1)
    """Run folders of `lesionforge train`."""
    out: Path
    """Folder to make: figure5.png, a sheet for each run, focus.csv and its relatives."""
    store: Path | None = None
    """Another store, explained whole; none takes each run's own part, which must be the same lesions."""
    part: Literal["train", "val", "test"] = "val"
    """Part of the runs' own split."""
    masks: Path | None = None
    """The phantom's true-masks.npz; none estimates the masks from the crops."""
    methods: tuple[Literal["grad_cam", "grad_cam_pp", "hirescam", "rollout"], ...] = Field(("grad_cam",), min_length=1)
    """Kinds of maps; the first stands in Figure 5. rollout is for plain ViTs and passed over for other runs."""
    num_images: int = Field(64, ge=2)
    """Lesions that are measured, drawn at random: half malignant, half benign; of a class that runs out the other
    gives more."""
    num_shown: int = Field(8, ge=1, le=16)
    """Of these, lesions in the figures, half of them malignant where there are."""
    num_random: int = Field(3, ge=0, le=20)
    """Models with random weights that each run is held against; 0 leaves this check out."""
    num_replicates: int = Field(1000, ge=100, le=100_000)
    """Bootstrap replicates for the intervals."""
    seed: int = Field(0, ge=0)
    """Another seed draws other lesions, other random weights and other replicates."""
    batch_size: int = Field(16, ge=1)
    """Images that pass through a model at once."""
    hardware: HardwareConfig = HardwareConfig()


class Subject(NamedTuple):
    """One run to explain."""

    name: str
    folder: Path
    kind: str  # CNN, transformer or other
    methods: tuple[str, ...]  # of those asked for, the ones that it takes
    store: "Store"
    samples: "pl.DataFrame"  # image_id, patient_id, target of the lesions it may be explained on


def explain(config: ExplainConfig) -> None:
    """Write the figures and tables, print what can be said.

    Raises:
        BadInput: runs of other lesions, a method that no run takes, masks or weights that cannot be read.
    """
    import polars as pl
    import torch

    from lesionforge import tables
    from lesionforge.classifier import explained_lesions, focus_tables, focus_text, sheets
    from lesionforge.engine import inference

    if run.already_done(config.out, config):
        refuse_other_weights(config)
        print(files.read_json(config.out / run.FOCUS)["text"])
        return
    torch.set_num_threads(config.hardware.torch_threads or torch.get_num_threads())
    device = inference.build_accelerator(config.hardware.device, "fp32").device
    subjects = read_subjects(config)
    chosen = explained_lesions.choose(subjects[0].samples, config.num_images, config.seed)
    shown = explained_lesions.choose_shown(chosen[tables.TARGET].to_list(), config.num_shown)
    lesions = explained_lesions.read_lesions(subjects[0].store, chosen, config.masks)
    mask_source = ESTIMATED_MASKS if config.masks is None else TRUE_MASKS
    with files.write_folder_whole(config.out) as folder, run.logged(folder):
        run.record(folder, "explain", config)
        found, maps = [], {}
        for subject in subjects:
            rows, maps[subject.name] = explain_run(subject, chosen, lesions, set(shown), config, device)
            found.append(rows.with_columns(pl.lit(mask_source).alias(tables.MASK)))
        measured = pl.concat(found)
        draw(folder, config, subjects, [lesions[i] for i in shown], shown, measured, maps, mask_source)
        summary = focus_tables.summarise(measured, config.num_replicates, config.seed)
        pairs = focus_tables.compare(measured, config.num_replicates, config.seed)
        text = f"{focus_text.as_text(summary, pairs)}\n\n{sheets.DISCLAIMER}"
        tables.write_table(folder / run.FOCUS_LESIONS, measured)
        tables.write_table(folder / run.FOCUS_TABLE, summary)
        tables.write_table(folder / run.FOCUS_PAIRS, pairs)
        facts = {"runs": summary.to_dicts(), "pairs": pairs.to_dicts(), "text": text}
        files.write_json(folder / run.FOCUS, facts)
        run.mark_done(
            folder,
            weights_sha256=weights_of(config.runs),
            store_sha256=subjects[0].store.digest,
            num_images=len(chosen),
        )
    print(text)
    num_sheets = sum(bool(subject.methods) for subject in subjects)
    of_sheets = "1 sheet" if num_sheets == 1 else f"{num_sheets} sheets"
    log.info("%s: %s, %s, %s", config.out, run.FIGURE5, of_sheets, run.FOCUS_TABLE)


def weights_of(folders: tuple[Path, ...]) -> dict[str, str]:
    """SHA-256 of each run's weights, by the run's name."""
    digests = [files.read_json(folder / run.DONE)["weights_sha256"] for folder in folders]
    return dict(zip(names_of(folders), digests, strict=True))


def refuse_other_weights(config: ExplainConfig) -> None:
    """A finished explanation stands only for the weights that it explained."""
    before, now = files.read_json(config.out / run.DONE)["weights_sha256"], weights_of(config.runs)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        raise BadInput(
            f"{config.out}: made from other weights of {', '.join(changed)}; delete it, or name another --out"
        )


def read_subjects(config: ExplainConfig) -> list[Subject]:
    """The runs with their lesions, all that can be refused looked at."""
    from lesionforge import tables
    from lesionforge.classifier import saliency
    from lesionforge.engine import trained

    subjects = []
    for folder, name in zip(config.runs, names_of(config.runs), strict=True):
        built = trained.load_run(folder)
        plain = saliency.can_roll_out(built.model)
        methods = tuple(method for method in dict.fromkeys(config.methods) if plain or method != "rollout")
        if methods != config.methods:
            log.info("%s: no plain ViT, so no rollout of it", name)
        store, samples = lesions_of(config, folder)
        subjects.append(Subject(name, folder, saliency.kind_of(built.model), methods, store, samples))
    if not any("rollout" in subject.methods for subject in subjects) and "rollout" in config.methods:
        raise BadInput("methods: rollout is for ViT, DeiT III, BEiT v2 and EVA-02, and no run is one; use grad_cam")
    first = subjects[0]
    for other in subjects[1:]:
        ids = first.samples[tables.IMAGE_ID].to_list(), other.samples[tables.IMAGE_ID].to_list()
        differ = sorted(set(ids[0]) ^ set(ids[1]))
        if differ:
            raise BadInput(
                f"runs: {first.name} and {other.name} have other lesions in part {config.part}, {len(differ):,} of "
                f"them in one only ({tables.in_short(differ)}); explain them apart, or on one --store"
            )
    return subjects


def names_of(folders: tuple[Path, ...]) -> list[str]:
    """What the runs are called: their folders, with as many folders above as it takes to tell them apart."""
    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise BadInput("runs: a run is named twice; name each once")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["-".join(path.parts[-depth:]).replace("/", "") for path in paths]


def lesions_of(config: ExplainConfig, folder: Path) -> "tuple[Store, pl.DataFrame]":
    """The store and the lesions that a run may be explained on."""
    from lesionforge import tables
    from lesionforge.data.parts import part_of, read_split
    from lesionforge.data.store import open_store
    from lesionforge.engine.trained import read_config

    columns = [tables.IMAGE_ID, tables.PATIENT_ID, tables.TARGET]
    if config.store is not None:
        store = open_store(config.store)
        return store, store.samples(columns)
    data = read_config(folder)["data"]
    store = open_store(Path(data["store"]))
    return store, part_of(store.samples(columns), read_split(Path(data["split"]), data["fold"]), config.part)[columns]


def explain_run(
    subject: Subject,
    chosen: "pl.DataFrame",
    lesions: "list[Lesion]",
    shown: set[int],
    config: ExplainConfig,
    device: Any,
) -> "tuple[pl.DataFrame, dict[tuple[str, int], np.ndarray]]":
    """A row for each method and lesion; {(method, lesion): map} of the lesions shown."""
    import numpy as np
    import polars as pl
    import torch

    from lesionforge import tables
    from lesionforge.classifier import saliency
    from lesionforge.data.loader import load_batches
    from lesionforge.engine import inference, trained

    built = trained.load_run(subject.folder)
    models = [built, *(saliency.with_random_weights(built, config.seed, i) for i in range(config.num_random))]
    for one in models:
        one.model.to(device)
    normalise = inference.Normalise(built.mean, built.std).to(device)
    rows: list[dict[str, Any]] = []
    kept = {}
    order = np.arange(len(chosen))
    batches = load_batches(
        [subject.store], chosen, order, config.batch_size, built.image_size, None, 0, 0, config.hardware.loader_threads
    )  # fmt: skip
    with progress(f"explaining {subject.name}", len(chosen)) as advance:
        for batch in batches:
            images = normalise(torch.from_numpy(batch.images).to(device))
            for method in subject.methods:
                explained = [saliency.explain_images(one, images, method) for one in models]
                for i, position in enumerate(batch.positions.tolist()):
                    rows.append(
                        {
                            tables.METHOD: method,
                            tables.IMAGE_ID: lesions[position].image_id,
                            tables.SCORE: float(inference.sigmoid(explained[0].logits[i])),
                            **measure(explained, i, lesions[position].mask),
                        }
                    )
                    if position in shown:
                        kept[method, position] = explained[0].maps[i]
            advance(len(batch.images))
    name, kind = pl.lit(subject.name).alias(tables.RUN), pl.lit(subject.kind).alias(tables.KIND)
    return chosen.join(pl.DataFrame(rows), on=tables.IMAGE_ID, maintain_order="left").select(name, kind, pl.all()), kept


def measure(explained: "list[Explained]", i: int, mask: "np.ndarray") -> dict[str, float]:
    """What the i-th lesion of a batch tells: the run first, then models of random weights; NaN where nothing can be
    said."""
    import numpy as np

    from lesionforge import tables
    from lesionforge.classifier.cells import as_cells
    from lesionforge.classifier.focus import lesion_focus, rank_correlation
    from lesionforge.data.lesion_mask import fit_mask

    own, *random = explained
    inside = fit_mask(mask, *own.maps.shape[1:])
    focuses = [lesion_focus(one.maps[i], inside) for one in explained]
    correlations = [rank_correlation(own.small[i], one.small[i]) for one in random]
    known = [[value for value in values if not np.isnan(value)] for values in (focuses[1:], correlations)]
    random_focus, correlation = (float(np.mean(values)) if values else float("nan") for values in known)
    return {
        tables.CELLS: own.cells.number,
        tables.FOCUS: focuses[0],
        tables.AREA_SHARE: float(inside.mean()),
        tables.PERFECT_FOCUS: lesion_focus(as_cells(inside, own.cells), inside),
        tables.RANDOM_FOCUS: random_focus,
        tables.RANK_CORRELATION: correlation,
    }


def draw(
    folder: Path, config: ExplainConfig, subjects: list[Subject], lesions: "list[Lesion]", shown: list[int],
    measured: "pl.DataFrame", maps: dict[str, dict[tuple[str, int], Any]], mask_source: str,
) -> None:  # fmt: skip
    """Figure 5 with all runs, CNNs above transformers, and a sheet with all methods for each run."""
    from lesionforge import tables
    from lesionforge.classifier.focus_text import of_a_map
    from lesionforge.classifier.sheets import Row, draw_sheet

    values = {
        (row[tables.RUN], row[tables.METHOD], row[tables.IMAGE_ID]): row for row in measured.iter_rows(named=True)
    }

    def row_of(subject: Subject, method: str, label: str) -> Row:
        found = [values[subject.name, method, lesion.image_id] for lesion in lesions]
        captions = [
            f"score {row[tables.SCORE]:.3f}\n{of_a_map(row[tables.FOCUS], row[tables.AREA_SHARE])}" for row in found
        ]
        return Row(label, [maps[subject.name][method, i] for i in shown], captions, method == "rollout")

    outline = f"the lesion's {mask_source} mask"
    first = config.methods[0]
    in_figure = sorted((s for s in subjects if first in s.methods), key=lambda subject: subject.kind)
    rows = [row_of(subject, first, f"{subject.name}\n({subject.kind})") for subject in in_figure]
    draw_sheet(folder / run.FIGURE5, f"What the malignant score rests on: {first}", lesions, rows, outline)
    for subject in subjects:
        if subject.methods:
            rows = [row_of(subject, method, LABELS.get(method, method)) for method in subject.methods]
            draw_sheet(
                folder / f"{run.SHEET}-{subject.name}.png", f"{subject.name} ({subject.kind})", lesions, rows, outline
            )
