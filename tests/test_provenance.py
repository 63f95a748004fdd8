"""Nothing leaks: a generator that saw val or test is refused in every form tried, so is a chain with a link altered.

Each story is told to `read_data`, which reads what a training learns from, in the words that a user gets.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from synthetic_stores import manifest_of, write_synthetic_store

from lesionforge import run, tables
from lesionforge.classifier.settings import TrainConfig
from lesionforge.classifier.train import train
from lesionforge.classifier.training_data import TrainingData, read_data
from lesionforge.config import MixConfig
from lesionforge.data.manifests import manifest_id
from lesionforge.data.prepare import PrepareConfig, prepare
from lesionforge.data.provenance import copy_provenance, read_provenance, refuse_leaky
from lesionforge.data.store import open_store
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_file, write_json

Tamper = Callable[[Path], object]

COLUMNS = (tables.IMAGE_ID, tables.PATIENT_ID, tables.SHA256)


@pytest.fixture(scope="module")
def lesions(blobs: Path) -> pl.DataFrame:
    """What is known of the 120 blobs: three a patient; 0-71 train, 72-95 val, 96-119 test."""
    return pl.read_parquet(blobs / run.SAMPLES, columns=list(COLUMNS)).select(COLUMNS)


@pytest.fixture(scope="module")
def fair(lesions: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose generator saw the first 30 lesions, all of part train."""
    return write_synthetic_store(tmp_path_factory.mktemp("fair") / "syn", lesions.head(30))


@pytest.fixture
def learn(blobs: Path, blob_split: Path, tmp_path: Path) -> Callable[..., TrainingData]:
    """What a training on some synthetic store reads."""

    def read(*synthetic: Path, split: Path = blob_split, fold: int | None = None, out: str = "run") -> TrainingData:
        (tmp_path / out).mkdir(exist_ok=True)
        mix = MixConfig(malignant=5, benign=20, synthetic_malignant=3).model_dump()
        return read_data(tmp_path / out, blobs, synthetic, split, fold, mix, True)

    return read


def refusal(learn: Callable[..., TrainingData], *synthetic: Path, **settings: Any) -> str:
    with pytest.raises(BadInput) as caught:
        learn(*synthetic, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_fair_store_is_taken_and_what_its_generator_saw_is_kept(
    fair: Path, lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path, caplog: Any
) -> None:
    with caplog.at_level(logging.INFO, "lesionforge"):
        data = learn(fair)
    assert data.mix.filter(source="synthetic").height == 3
    assert "6 images; their generator saw 30 real images, none of val or test" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    seen = pl.read_parquet(tmp_path / "run" / run.SEEN)
    assert seen.select(COLUMNS).sort(tables.IMAGE_ID).equals(lesions.head(30))
    assert set(seen[tables.GENERATOR]) == set(read_provenance(fair).manifests)


# What the generator saw beside 30 lesions of part train, and what is said of it.
LEAKS = {
    "an image of val": (lambda known: known[72], "saw images of this run's val or test, 1 of them: ISIC_0000072"),
    "an image of test": (lambda known: known[119], "saw images of this run's val or test, 1 of them: ISIC_0000119"),
    "by its id alone": (
        lambda known: known[80].with_columns(patient_id=None, sha256=None),
        "saw images of this run's val or test, 1 of them: ISIC_0000080",
    ),
    "the bytes of one under another id": (
        lambda known: known[73].with_columns(image_id=pl.lit("HAM_7"), patient_id=None),
        "saw images, byte for byte, of this run's val or test, 1 of them: HAM_7",
    ),
    "a patient of test": (
        lambda known: known[100].with_columns(image_id=pl.lit("ISIC_9"), sha256=pl.lit("0" * 64)),
        "saw images of patients of this run's val or test, 1 of them: ISIC_9",
    ),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_generator_that_saw_val_or_test_is_refused(
    leak: str, lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    added, message = LEAKS[leak]
    seen = pl.concat([lesions.head(30), added(lesions).cast({name: pl.String for name in COLUMNS})])  # noqa: C420
    said = refusal(learn, write_synthetic_store(tmp_path / "syn", seen))
    assert message in said
    assert "(sd lora)" in said
    assert "lesionforge finetune" in said
    assert not (tmp_path / "run" / run.MIX).exists()


def test_one_leaky_generator_of_two_is_enough(
    fair: Path, lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    """Also where a fair store stands before it, and where no image of the leaky one is drawn."""
    both = write_synthetic_store(tmp_path / "syn", [lesions.head(30), lesions[90:91]], num_images=4)
    assert "ISIC_0000090" in refusal(learn, fair, both)


def test_the_patient_of_an_image_is_found_in_the_real_store(
    blobs: Path, lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    """An image-wise split leaves a patient's images in train and val; only the id of the one in train is declared."""
    split = tmp_path / "image-wise.csv"
    parts = ["val" if i % 3 == 2 else "train" for i in range(120)]
    tables.write_table(split, pl.DataFrame({tables.IMAGE_ID: lesions[tables.IMAGE_ID], tables.PART: parts}))
    nulls = [pl.lit(None, pl.String).alias(name) for name in COLUMNS[1:]]
    store = write_synthetic_store(tmp_path / "syn", lesions[0:1].with_columns(nulls))
    assert "saw images of patients of this run's val or test, 1 of them: ISIC_0000000" in refusal(
        learn, store, split=split
    )
    by_bytes = lesions[0:1].with_columns(pl.lit("X").alias(tables.IMAGE_ID), nulls[0])
    store = write_synthetic_store(tmp_path / "bytes", by_bytes)
    assert "images of patients" in refusal(learn, store, split=split, out="again")


def test_a_source_image_of_val_is_refused(
    lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    """Image-to-image and inpainting start from a real image: that one counts as seen."""
    fair = write_synthetic_store(tmp_path / "fair", lesions.head(30), sources=lesions[30:33])
    assert learn(fair).mix.height == 28
    assert set(pl.read_parquet(tmp_path / "run" / run.SEEN)[tables.IMAGE_ID]) == set(lesions.head(33)[tables.IMAGE_ID])
    leaky = write_synthetic_store(tmp_path / "leaky", lesions.head(30), sources=lesions[70:73])
    assert "they started from images of this run's val or test, 1 of them: ISIC_0000072" in refusal(
        learn, leaky, out="again"
    )


def manifest_file(store: Path) -> Path:
    return next((store / run.PROVENANCE).glob("*.json"))


def seen_file(store: Path) -> Path:
    return manifest_file(store).with_suffix(".parquet")


def edit(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def rewrite_rows(store: Path, *expressions: pl.Expr, honest_done: bool = True) -> None:
    """Another samples table, with its hashes in store.json and, where `honest_done`, in done.json."""
    path = store / run.SAMPLES
    tables.write_table(path, pl.read_parquet(path, memory_map=False).with_columns(*expressions))
    sha256, size = sha256_of_file(path), path.stat().st_size
    edit(store / run.STORE, samples_sha256=sha256, samples_size=size)
    if honest_done:
        edit(store / run.DONE, store_sha256=sha256)


def record_provenance(store: Path) -> None:
    """done.json brought into line with the altered folder."""
    files = {path.name: sha256_of_file(path) for path in (store / run.PROVENANCE).iterdir()}
    edit(store / run.DONE, provenance_sha256=files)


def hide_an_image(store: Path) -> None:
    """What was seen without its last image, the manifest and done.json brought into line: only the id tells."""
    seen = pl.read_parquet(seen_file(store), memory_map=False).head(-1)
    honest = manifest_of(seen)
    tables.write_table(seen_file(store), seen)
    edit(manifest_file(store), num_seen=len(seen), seen_sha256=honest["seen_sha256"])
    record_provenance(store)


def rename_too(store: Path) -> None:
    """The same, with the files called by the new id: then the rows' generator has no manifest."""
    hide_an_image(store)
    old, name = manifest_file(store), manifest_id(read_json(manifest_file(store)))
    seen_file(store).rename(old.with_name(f"{name}.parquet"))
    old.rename(old.with_name(f"{name}.json"))
    record_provenance(store)


def flip_a_bit(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def copy_in(store: Path, other: str) -> None:
    shutil.rmtree(store / run.PROVENANCE)
    shutil.copytree(store.parent / other / run.PROVENANCE, store / run.PROVENANCE)


ALTERED: dict[str, tuple[Tamper, str]] = {
    "no provenance": (
        lambda s: (shutil.rmtree(s / run.PROVENANCE), write_json(s / run.DONE, {})),
        "no provenance, so what the generator of these images learned from is unknown",
    ),
    "provenance folder gone": (lambda s: shutil.rmtree(s / run.PROVENANCE), "not as it was written: "),
    "manifest edited": (lambda s: edit(manifest_file(s), fold=3), r"\.json altered"),
    "manifest edited, done.json too": (
        lambda s: (edit(manifest_file(s), fold=3), record_provenance(s)),
        "altered, it is not the manifest whose id is its name",
    ),
    "manifest deleted": (lambda s: manifest_file(s).unlink(), r"\.json gone"),
    "manifest and seen deleted, done.json too": (
        lambda s: (seen_file(s).unlink(), manifest_file(s).unlink(), record_provenance(s)),
        "no manifest of a generator in it",
    ),
    "manifest added": (
        lambda s: write_json(s / run.PROVENANCE / f"{'0' * 64}.json", {"version": 1}),
        r"0\.json added",
    ),
    "an id hidden": (hide_an_image, "altered, it is not the manifest whose id is its name"),
    "an id hidden and the files renamed": (rename_too, "are of a generator whose manifest is not here: SYN_0000"),
    "seen edited": (
        lambda s: tables.write_table(seen_file(s), pl.read_parquet(seen_file(s), memory_map=False).head(-1)),
        r"\.parquet altered",
    ),
    "seen edited, done.json too": (
        lambda s: (
            tables.write_table(seen_file(s), pl.read_parquet(seen_file(s), memory_map=False).head(-1)),
            record_provenance(s),
        ),
        "altered, its SHA-256 is not the manifest's seen_sha256",
    ),
    "seen deleted": (lambda s: seen_file(s).unlink(), r"\.parquet gone"),
    "seen deleted, done.json too": (
        lambda s: (seen_file(s).unlink(), record_provenance(s)),
        "so what the generator saw is unknown",
    ),
    "seen truncated": (lambda s: seen_file(s).write_bytes(seen_file(s).read_bytes()[:100]), r"\.parquet altered"),
    "sources deleted": (lambda s: (s / run.PROVENANCE / run.SOURCES).unlink(), r"sources\.parquet gone"),
    "sources deleted, done.json too": (
        lambda s: ((s / run.PROVENANCE / run.SOURCES).unlink(), record_provenance(s)),
        r"started from a real image that sources\.parquet does not list: SYN_0000",
    ),
    "rows of an unknown generator": (
        lambda s: rewrite_rows(s, pl.lit("f" * 64).alias(tables.GENERATOR)),
        "6 images are of a generator whose manifest is not here: SYN_0000",
    ),
    "a row without a generator": (
        lambda s: rewrite_rows(
            s, pl.when(pl.col(tables.IMAGE_ID) != "SYN_0002").then(pl.col(tables.GENERATOR)).alias(tables.GENERATOR)
        ),
        "1 images are of a generator whose manifest is not here: SYN_0002",
    ),
    "a source image left out": (
        lambda s: rewrite_rows(s, pl.lit(None, pl.String).alias(tables.SOURCE_IMAGE)),
        "6 images started from a real image that no source_image names",
    ),
    "samples rewritten": (
        lambda s: rewrite_rows(s, pl.lit(None, pl.String).alias(tables.SOURCE_IMAGE), honest_done=False),
        r"samples\.parquet: not the table that done\.json was written with",
    ),
    "samples of another store": (
        lambda s: shutil.copy(s.parent / "other" / run.SAMPLES, s / run.SAMPLES),
        r"samples\.parquet: ",
    ),
    "a whole other store under the old done.json": (
        lambda s: [shutil.copy(s.parent / "other" / n, s / n) for n in (run.SAMPLES, run.STORE, run.IMAGES)],
        r"not the table that done\.json was written with",
    ),
    "a bit of an image": (
        lambda s: flip_a_bit(s / run.IMAGES, (s / run.IMAGES).stat().st_size // 2),
        r"images\.bin: ",
    ),
    "provenance of another store": (lambda s: copy_in(s, "other"), "not as it was written: "),
    "provenance of another store, done.json too": (
        lambda s: (copy_in(s, "other"), record_provenance(s)),
        "are of a generator whose manifest is not here",
    ),
    "done.json without its hashes": (
        lambda s: write_json(s / run.DONE, {"finished": "now"}),
        "does not say which provenance and which samples it was written with",
    ),
    "done.json of another store": (lambda s: shutil.copy(s.parent / "other" / run.DONE, s / run.DONE), "not as it was"),
    "done.json edited": (lambda s: edit(s / run.DONE, store_sha256="0" * 64), "not the table that done"),
    "done.json with text for hashes": (lambda s: edit(s / run.DONE, provenance_sha256="none"), "does not say which"),
    "a version to come": (
        lambda s: (edit(manifest_file(s), version=2), record_provenance(s)),
        "version 2, expected 1",
    ),
}


@pytest.mark.parametrize("form", ALTERED)
def test_a_chain_with_a_link_altered_is_refused(
    form: str, lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    """Nobody has seen val or test here: what is refused is that it cannot be known any more."""
    store = write_synthetic_store(tmp_path / "syn", lesions.head(30), sources=lesions[30:33])
    write_synthetic_store(tmp_path / "other", lesions.head(20), seed=1)
    tamper, message = ALTERED[form]
    tamper(store)
    with pytest.raises(BadInput, match=message):
        learn(store)
    assert not (tmp_path / "run" / run.MIX).exists()


def test_a_bit_in_the_middle_of_a_large_store_is_found(
    lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    """Where the quick look at a file's first and last 64 KiB does not reach."""
    store = write_synthetic_store(tmp_path / "syn", lesions.head(30), num_images=150)
    size = (store / run.IMAGES).stat().st_size
    assert size > 2.2 * 64 * 1024
    flip_a_bit(store / run.IMAGES, size // 2)
    assert "1 of 150 images are damaged" in refusal(learn, store)


def test_a_resumed_run_looks_again(
    lesions: pl.DataFrame, learn: Callable[..., TrainingData], blobs: Path, tmp_path: Path
) -> None:
    store = write_synthetic_store(tmp_path / "syn", lesions.head(30))
    learn(store)
    learn(store)
    shutil.rmtree(store)
    write_synthetic_store(store, lesions.head(29))  # the same images of another generator
    assert "was started on other data: a store or the split was altered" in refusal(learn, store)
    shutil.rmtree(store)
    write_synthetic_store(store, lesions.head(30))
    seen_file(store).write_bytes(b"")
    assert "not as it was written" in refusal(learn, store)


@pytest.fixture(scope="module")
def folds(lesions: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds by patient, as a table."""
    path = tmp_path_factory.mktemp("folds") / "folds.csv"
    tables.write_table(path, lesions.select(tables.IMAGE_ID).with_columns(fold=pl.int_range(120) // 3 % 3))
    return path


def fold_group(folder: Path, lesions: pl.DataFrame, **changes: Any) -> Path:
    """A group of three stores, the generator of each trained on the other two folds."""
    for fold in range(3):
        seen = lesions.with_row_index().filter(pl.col("index") // 3 % 3 != fold).select(COLUMNS)
        write_synthetic_store(folder / run.MEMBERS / f"fold-{fold}", seen, seed=fold, fold=fold, **changes)
    run.mark_done(folder, members=[f"fold-{fold}" for fold in range(3)])
    return folder


def test_the_generator_of_another_fold_is_refused_and_a_group_gives_the_right_one(
    lesions: pl.DataFrame, folds: Path, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    group = fold_group(tmp_path / "group", lesions)
    said = refusal(learn, group / run.MEMBERS / "fold-1", split=folds, fold=0)
    assert "their generator (sd lora, fold 1) saw images of this run's val or test, 42 of them" in said
    assert "--data.fold all makes one a fold" in said
    data = learn(group, split=folds, fold=2, out="again")
    assert data.stores[1].path == group / run.MEMBERS / "fold-2"


def test_a_group_without_a_fold_is_refused(
    lesions: pl.DataFrame, folds: Path, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    group = fold_group(tmp_path / "group", lesions)
    assert "a group, one member a fold (fold-0, fold-1, fold-2), and no fold is asked for" in refusal(learn, group)
    write_json(group / run.DONE, {"members": ["fold-1", "fold-2"]})
    assert "has no member fold-0; it has fold-1, fold-2" in refusal(learn, group, split=folds, fold=0)
    shutil.rmtree(group / run.MEMBERS / "fold-1")
    assert "members fold-1 are gone from this group" in refusal(learn, group, split=folds, fold=0)
    (group / run.DONE).unlink()
    assert "an unfinished group" in refusal(learn, group, split=folds, fold=0)


def config_of(out: Path, store: Path, split: Path, synthetic: Path, **model: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "out": out,
            "data": {
                "store": store, "split": split, "synthetic": [synthetic], "fold": "all", "image_size": 32,
                "batch_size": 8, "mix": {"malignant": 4, "benign": 8, "synthetic_malignant": 4},
            },
            "model": {"name": "test_resnet", "weights": "random", **model},
            "optim": {"epochs": 1, "lr": 2e-3},
            "val_every": 0,
            "hardware": {"device": "cpu", "torch_threads": 1, "cache": "memory"},
        }
    )  # fmt: skip


def test_one_generator_a_fold_is_one_flag(blobs: Path, lesions: pl.DataFrame, folds: Path, tmp_path: Path) -> None:
    """Each member learns from its own fold's images; one store for all folds, and a start that knows another fold's
    generator, are refused before the first training."""
    group = fold_group(tmp_path / "group", lesions)
    with pytest.raises(BadInput, match=r"fold-1-seed-0: .*their generator \(sd lora, fold 0\) saw images"):
        train(config_of(tmp_path / "one", blobs, folds, group / run.MEMBERS / "fold-0"))
    assert not (tmp_path / "one").exists()

    train(config_of(tmp_path / "runs", blobs, folds, group))
    for fold in range(3):
        member = tmp_path / "runs" / run.MEMBERS / f"fold-{fold}-seed-0"
        ids = set(pl.read_parquet(member / run.SEEN)[tables.GENERATOR])
        assert ids == set(read_provenance(group / run.MEMBERS / f"fold-{fold}").manifests)
    with pytest.raises(BadInput, match=r"fold-1-seed-0: model\.init_from: .* has learned from images"):
        train(config_of(tmp_path / "two", blobs, folds, group, init_from=member.with_name("fold-0-seed-0")))


def test_a_generator_of_another_split_without_overlap_is_taken_and_named(
    lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path, caplog: Any
) -> None:
    store = write_synthetic_store(tmp_path / "syn", lesions.head(30), split_sha256="5" * 64)
    with caplog.at_level(logging.INFO, "lesionforge"):
        learn(store)
    assert "the generator had another split; it saw nothing of val or test here" in caplog.text


def test_what_cannot_be_compared_is_counted(
    lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path, caplog: Any
) -> None:
    elsewhere = pl.DataFrame({tables.IMAGE_ID: ["HAM_1", "HAM_2"], tables.PATIENT_ID: ["P", None]})
    elsewhere = elsewhere.with_columns(pl.lit(None, pl.String).alias(tables.SHA256))
    learn(write_synthetic_store(tmp_path / "syn", pl.concat([lesions.head(3), elsewhere])))
    assert "2 of these are not in the real store; they can be compared by what is declared of them only" in caplog.text
    assert "1 of these are of unknown patients" in caplog.text


def test_provenance_is_copied_whole_and_only_when_it_is_sound(lesions: pl.DataFrame, tmp_path: Path) -> None:
    """An audit's survivors keep the provenance of the candidates."""
    store = write_synthetic_store(tmp_path / "syn", [lesions.head(30), lesions.head(20)], sources=lesions[30:33])
    copied = copy_provenance(store, tmp_path / "audited")
    assert copied == read_json(store / run.DONE)["provenance_sha256"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "audited" / run.PROVENANCE).iterdir()} == {
        path.name: path.read_bytes() for path in (store / run.PROVENANCE).iterdir()
    }
    manifest_file(store).unlink()
    with pytest.raises(BadInput, match="gone"):
        copy_provenance(store, tmp_path / "again")


def test_a_generator_that_saw_nothing_is_refused(lesions: pl.DataFrame, tmp_path: Path) -> None:
    store = write_synthetic_store(tmp_path / "syn", lesions.head(0))
    with pytest.raises(BadInput, match="0 images, the manifest says 0, expected at least one"):
        refuse_leaky([open_store(store)], lesions[72:])
    nameless = pl.concat([lesions.head(2), lesions[3].with_columns(image_id=pl.lit(None, pl.String))])
    with pytest.raises(BadInput, match="1 rows without an image id"):
        read_provenance(write_synthetic_store(tmp_path / "nameless", nameless))


@pytest.fixture
def outside(fair: Path, tmp_path: Path) -> dict[str, Any]:
    """Images of a generator from elsewhere, with their table."""
    store = open_store(fair)
    (tmp_path / "images").mkdir()
    for row, image_id in enumerate(store.image_ids):
        (tmp_path / "images" / f"{image_id}.jpg").write_bytes(store.read(row))
    table = pl.DataFrame({tables.IMAGE_ID: store.image_ids, tables.TARGET: [1] * 6, tables.GENERATOR: ["gan"] * 6})
    tables.write_table(tmp_path / "images.csv", table)
    return {"images": tmp_path / "images", "metadata": tmp_path / "images.csv", "source": "synthetic"}


def test_images_from_elsewhere_are_taken_once_it_is_declared_what_they_learned_from(
    outside: dict[str, Any], lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path, caplog: Any
) -> None:
    prepare(PrepareConfig(**outside, out=tmp_path / "undeclared"))
    assert "is not declared (--trained-on TABLE): train will not take them" in caplog.text
    assert "`lesionforge prepare --source synthetic --trained-on TABLE` declares" in refusal(
        learn, tmp_path / "undeclared"
    )
    tables.write_table(tmp_path / "seen.csv", pl.DataFrame({tables.ISIC_ID: ["ISIC_0000001.jpg", "ISIC_0000002"]}))
    with caplog.at_level(logging.INFO, "lesionforge"):
        prepare(PrepareConfig(**outside, trained_on=tmp_path / "seen.csv", out=tmp_path / "declared"))
    assert "learned from 2 real images; 2 without a patient_id, 2 without a sha256" in caplog.text
    data = learn(tmp_path / "declared", out="again")
    assert set(data.stores[1].samples()["generator_in_table"]) == {"gan"}
    seen = pl.read_parquet(tmp_path / "again" / run.SEEN)
    assert set(seen[tables.SHA256]) == {None, *lesions[1:3][tables.SHA256]}  # as declared, and as the store knows them


def test_a_declared_leak_is_refused(
    outside: dict[str, Any], lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    table = pl.DataFrame({"image_id": ["x"], "patient_id": [lesions[tables.PATIENT_ID][100]]})
    tables.write_table(tmp_path / "seen.parquet", table)
    prepare(PrepareConfig(**outside, trained_on=tmp_path / "seen.parquet", out=tmp_path / "declared"))
    assert "their generator (declared) saw images of patients of this run's val or test" in refusal(
        learn, tmp_path / "declared"
    )


def test_source_images_of_outside_ones_are_declared_with_them(
    outside: dict[str, Any], lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    table = tables.read_table(outside["metadata"]).with_columns(pl.lit("ISIC_0000072").alias(tables.SOURCE_IMAGE))
    tables.write_table(outside["metadata"], table)
    tables.write_table(tmp_path / "seen.csv", lesions.head(3))
    settings = {**outside, "trained_on": tmp_path / "seen.csv", "out": tmp_path / "declared"}
    with pytest.raises(BadInput, match="1 images of column source_image are not in it: ISIC_0000072; add"):
        prepare(PrepareConfig(**settings))
    tables.write_table(tmp_path / "seen.csv", pl.concat([lesions.head(3), lesions[72]]))
    prepare(PrepareConfig(**settings))
    assert "ISIC_0000072" in refusal(learn, tmp_path / "declared")


def test_a_declaration_for_real_images_is_refused(outside: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--trained-on says what a generator learned from; say --source synthetic too"):
        prepare(PrepareConfig(**{**outside, "source": "real"}, trained_on=tmp_path / "seen.csv", out=tmp_path / "s"))


def test_candidates_that_no_audit_has_seen_are_refused(
    lesions: pl.DataFrame, learn: Callable[..., TrainingData], tmp_path: Path
) -> None:
    store = write_synthetic_store(tmp_path / "candidates", lesions.head(30))
    (store / run.CONFIG).write_text("# lesionforge generate --recipe config.yaml\n")
    assert "candidates that no audit has looked at" in refusal(learn, store)
