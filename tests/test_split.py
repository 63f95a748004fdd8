"""split: patients, lesions and identical images on one side, both classes in each part, leaks counted and refused."""

import itertools
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lesionforge import run
from lesionforge.data.grouping import balanced_parts, image_groups, majority
from lesionforge.data.parts import leak_report, read_split
from lesionforge.data.split import SplitConfig, split
from lesionforge.data.store import write_store
from lesionforge.errors import BadInput

REAL_DATA = Path(__file__).parents[2] / "shared/data/slice3d-permissive"


def fabricated(num_patients: int, seed: int, institutions: int = 3) -> pl.DataFrame:
    """Patients of 1 to 30 images, a third of them with 1 to 4 malignant ones; each in one institution."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(num_patients):
        num_malignant = int(rng.integers(1, 5)) if patient % 3 == 0 else 0
        for image in range(num_malignant + int(rng.integers(1, 30))):
            rows.append(
                {
                    "image_id": f"ISIC_{len(rows):07d}",
                    "patient_id": f"IP_{patient:07d}",
                    "target": int(image < num_malignant),
                    "source": "real",
                    "attribution": f"Hospital {patient % institutions}",
                }
            )
    return pl.DataFrame(rows)


def store_of(path: Path, samples: pl.DataFrame, twins: tuple[tuple[int, int], ...] = ()) -> Path:
    """A store of tiny noise pictures; in each pair of `twins` the second row has the bytes of the first."""
    rng = np.random.default_rng(0)
    pictures = [
        cv2.imencode(".jpg", rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))[1].tobytes() for _ in range(len(samples))
    ]
    for first, second in twins:
        pictures[second] = pictures[first]
    path.mkdir(parents=True)
    write_store(path, zip(samples["image_id"], pictures, strict=True), samples)
    run.mark_done(path)
    return path


def parts_and_patients(samples: pl.DataFrame, out: Path) -> pl.DataFrame:
    return samples.join(pl.read_parquet(out / "split.parquet"), on="image_id")


def test_five_folds_by_patient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = fabricated(60, seed=1)
    store = store_of(tmp_path / "store", samples)
    split(SplitConfig(store=store, out=tmp_path / "split"))

    joined = parts_and_patients(samples, tmp_path / "split")
    assert joined.height == samples.height
    assert joined.group_by("patient_id").agg(pl.col("fold").n_unique())["fold"].max() == 1
    malignant = joined.filter(target=1).group_by("fold").len().sort("fold")["len"].to_list()
    assert len(malignant) == 5
    mean = samples["target"].sum() / 5
    assert max(abs(num - mean) for num in malignant) <= 0.2 * mean

    report = json.loads((tmp_path / "split/leaks.json").read_text())
    assert report["shared"] == {"patients": 0, "lesions": 0, "identical images": 0}
    assert report["by"] == "patient"
    assert not report["leaky"]
    assert [part["malignant"] for part in report["parts"].values()] == malignant
    assert sum(part["patients"] for part in report["parts"].values()) == 60
    assert "fold 4" in capsys.readouterr().out


def test_fractions_and_the_same_seed_again(tmp_path: Path) -> None:
    samples = fabricated(60, seed=2)
    store = store_of(tmp_path / "store", samples)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        split(SplitConfig(store=store, out=tmp_path / name, fractions=(0.7, 0.15, 0.15), seed=seed))
    a, b, c = (pl.read_parquet(tmp_path / name / "split.parquet") for name in "abc")
    assert a.equals(b)
    assert not a.equals(c)
    share = a["part"].value_counts(normalize=True).sort("part")
    assert share["part"].to_list() == ["test", "train", "val"]
    assert share["proportion"].to_list() == pytest.approx([0.15, 0.7, 0.15], abs=0.02)

    split(SplitConfig(store=store, out=tmp_path / "no-test", fractions=(0.8, 0.2, 0)))
    assert set(pl.read_parquet(tmp_path / "no-test/split.parquet")["part"]) == {"train", "val"}


def test_finished_split_is_left_alone_and_another_config_refused(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", fabricated(30, seed=2))
    split(SplitConfig(store=store, out=tmp_path / "split"))
    written = (tmp_path / "split/split.parquet").stat().st_mtime_ns
    split(SplitConfig(store=store, out=tmp_path / "split"))
    assert (tmp_path / "split/split.parquet").stat().st_mtime_ns == written
    with pytest.raises(BadInput, match="folds: 5 there, 4 now"):
        split(SplitConfig(store=store, out=tmp_path / "split", folds=4))


def test_twenty_planted_copies_stay_on_one_side(tmp_path: Path) -> None:
    """FAULTS 2.5: the same bytes under ids of two patients; 20 of 20 pairs are kept together."""
    samples = fabricated(60, seed=3)
    rng = np.random.default_rng(0)
    chosen = rng.permutation(len(samples))[:40].reshape(20, 2)
    twins = tuple((int(a), int(b)) for a, b in chosen)
    store = store_of(tmp_path / "store", samples, twins)
    split(SplitConfig(store=store, out=tmp_path / "split"))
    fold = pl.read_parquet(tmp_path / "split/split.parquet")["fold"]
    assert sum(fold[a] == fold[b] for a, b in twins) == 20
    joined = parts_and_patients(samples, tmp_path / "split")
    assert joined.group_by("patient_id").agg(pl.col("fold").n_unique())["fold"].max() == 1


def test_leaky_split_by_image_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = fabricated(60, seed=4)
    store = store_of(tmp_path / "store", samples, twins=((0, 400), (1, 401), (2, 402), (3, 403)))
    with caplog.at_level(logging.INFO, "lesionforge"):
        split(SplitConfig(store=store, out=tmp_path / "split", by="image", fractions=(0.7, 0.15, 0.15)))
    report = json.loads((tmp_path / "split/leaks.json").read_text())
    assert report["by"] == "image (leaky)"
    assert report["name"] == "0.7/0.15/0.15 by image (leaky), seed 0"
    assert report["shared"]["patients"] > 40
    assert "LEAKY SPLIT by image (leaky)" in caplog.text
    assert "LEAKY SPLIT" in (tmp_path / "split/log.txt").read_text()
    shares = [part["malignant"] / samples["target"].sum() for part in report["parts"].values()]
    assert shares == pytest.approx([0.7, 0.15, 0.15], abs=0.02)


def test_leave_one_institution_out(tmp_path: Path) -> None:
    samples = fabricated(60, seed=5, institutions=4)
    store = store_of(tmp_path / "store", samples)
    split(SplitConfig(store=store, out=tmp_path / "split", by="institution"))
    joined = parts_and_patients(samples, tmp_path / "split")
    assert joined.select("fold", "attribution").unique().sort("fold").rows() == [(k, f"Hospital {k}") for k in range(4)]
    report = json.loads((tmp_path / "split/leaks.json").read_text())
    assert report["name"] == "4 folds by institution"
    assert report["parts"]["fold 2"]["institution"] == "Hospital 2"

    config = SplitConfig(store=store, out=tmp_path / "one", by="institution", institutions=("Hospital 3",))
    split(config)
    table = read_split(tmp_path / "one", fold=0).join(samples, on="image_id")
    assert set(table.filter(part="val")["attribution"]) == {"Hospital 3"}
    assert set(table.filter(part="train")["attribution"]) == {"Hospital 0", "Hospital 1", "Hospital 2"}
    with pytest.raises(BadInput, match="no image of Elsewhere; the store's institutions: Hospital 0; Hospital 1"):
        split(SplitConfig(store=store, out=tmp_path / "x", by="institution", institutions=("Elsewhere",)))


def test_patient_of_two_institutions_is_moved_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = fabricated(30, seed=5, institutions=4)
    first = samples["patient_id"] == "IP_0000000"
    assert first.sum() > 4
    moved = pl.Series(first.to_numpy() & (np.arange(len(samples)) < 2))
    samples = samples.with_columns(
        pl.when(moved).then(pl.lit("Hospital 1")).otherwise("attribution").alias("attribution")
    )
    store = store_of(tmp_path / "store", samples)
    split(SplitConfig(store=store, out=tmp_path / "split", by="institution"))
    assert "2 images are of a patient, lesion or identical image of another institution" in caplog.text
    joined = parts_and_patients(samples, tmp_path / "split")
    assert joined.filter(patient_id="IP_0000000")["fold"].unique().to_list() == [0]


def test_institution_without_malignant_images(tmp_path: Path) -> None:
    """Every third patient has malignant ones, and every third is of Hospital 0."""
    store = store_of(tmp_path / "store", fabricated(30, seed=5, institutions=3))
    with pytest.raises(
        BadInput, match=r"fold 1: 0 malignant and \d+ benign images of Hospital 1.*--institutions; the others are"
    ):
        split(SplitConfig(store=store, out=tmp_path / "split", by="institution"))


def test_institution_without_attribution(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", fabricated(30, seed=5).drop("attribution"))
    with pytest.raises(BadInput, match="needs the column attribution, which the store lacks; use --by patient"):
        split(SplitConfig(store=store, out=tmp_path / "split", by="institution"))
    assert not (tmp_path / "split").exists()


def test_given_file(tmp_path: Path) -> None:
    samples = fabricated(30, seed=6)
    store = store_of(tmp_path / "store", samples)
    numbers = samples["patient_id"].str.slice(3).cast(pl.Int64)
    given = pl.DataFrame({"isic_id": samples["image_id"], "fold": numbers % 5}).sample(fraction=1, shuffle=True, seed=0)
    given.write_csv(tmp_path / "folds.csv")
    split(SplitConfig(store=store, out=tmp_path / "split", by="file", file=tmp_path / "folds.csv"))
    table = pl.read_parquet(tmp_path / "split/split.parquet")
    assert table["image_id"].to_list() == samples["image_id"].to_list()
    assert table["fold"].to_list() == (numbers % 5).to_list()

    given[:-2].write_csv(tmp_path / "short.csv")
    with pytest.raises(BadInput, match="2 images of the store are not in it: ISIC_"):
        split(SplitConfig(store=store, out=tmp_path / "x", by="file", file=tmp_path / "short.csv"))


def test_given_file_that_leaks_is_refused_unless_allowed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = fabricated(30, seed=6)
    store = store_of(tmp_path / "store", samples, twins=((0, 1),))
    parts = np.array(["train", "val"])[np.arange(len(samples)) % 2]
    pl.DataFrame({"image_id": samples["image_id"], "part": parts}).write_csv(tmp_path / "leaky.csv")
    config = SplitConfig(store=store, out=tmp_path / "split", by="file", file=tmp_path / "leaky.csv")
    with pytest.raises(
        BadInput, match=r"between its parts: \d+ patients, 0 lesions, 1 identical images; .*--allow-leaks"
    ):
        split(config)
    assert not (tmp_path / "split").exists()
    split(config.model_copy(update={"allow_leaks": True}))
    report = json.loads((tmp_path / "split/leaks.json").read_text())
    assert (report["by"], report["name"]) == ("file (leaky)", "by file (leaky), leaky.csv")
    assert "LEAKY SPLIT by file (leaky)" in caplog.text


def test_unknown_patients_need_a_decision(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = fabricated(30, seed=7)
    hidden = samples.with_columns(
        patient_id=pl.when(pl.col("target") == 1).then("patient_id").otherwise(pl.lit(None, pl.String))
    )
    store = store_of(tmp_path / "store", hidden)
    num = int((samples["target"] == 0).sum())
    with pytest.raises(
        BadInput, match=rf"{num} of \d+ images have no patient_id.*--by file.*--unknown-patients each-image"
    ):
        split(SplitConfig(store=store, out=tmp_path / "split"))
    split(SplitConfig(store=store, out=tmp_path / "split", unknown_patients="each-image"))
    report = json.loads((tmp_path / "split/leaks.json").read_text())
    assert report["images_of_unknown_patients"] == num
    assert report["name"] == f"5 folds by patient (patient unknown for {num} images), seed 0"
    assert f"cannot be checked for {num} images" in caplog.text
    assert report["shared"]["patients"] == 0


def test_part_without_both_classes_is_refused(tmp_path: Path) -> None:
    samples = fabricated(9, seed=8).with_columns(
        target=pl.when(pl.col("patient_id") == "IP_0000000").then(pl.col("target")).otherwise(0)
    )
    store = store_of(tmp_path / "store", samples)
    with pytest.raises(BadInput, match=r"without both classes \(fold \d: 0 malignant and \d+ benign images, "):
        split(SplitConfig(store=store, out=tmp_path / "split", folds=3))
    assert not (tmp_path / "split").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": pl.lit(None, pl.Int8)}, "have no target; split the training data"),
        ({"target": pl.lit(0)}, "0 of 100 images are malignant; a split needs both classes"),
        ({"source": pl.lit("synthetic")}, "holds 100 synthetic images; val and test are real"),
    ],
)
def test_store_that_cannot_be_split(tmp_path: Path, change: dict[str, pl.Expr], message: str) -> None:
    store = store_of(tmp_path / "store", fabricated(30, seed=9)[:100].with_columns(**change))
    with pytest.raises(BadInput, match=message):
        split(SplitConfig(store=store, out=tmp_path / "split"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"by": "file"}, "--by file and --file FILE go together"),
        ({"file": "x.csv"}, "--by file and --file FILE go together"),
        ({"fractions": (0.5, 0.5, 0.5)}, "their sum 1"),
        ({"fractions": (1, 0, 0)}, "train and val must be above 0"),
        ({"folds": 1}, "greater than or equal to 2"),
        ({"institutions": ("A",)}, "goes with --by institution"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SplitConfig.model_validate({"store": "s", "out": "o", **settings})


@st.composite
def tables_with_ties(draw: st.DrawFn) -> pl.DataFrame:
    """Up to 60 images of up to 12 patients (some unknown), some with equal bytes, some of one lesion."""
    num = draw(st.integers(2, 60))
    few = st.lists(st.integers(0, 11), min_size=num, max_size=num)
    some = st.lists(st.one_of(st.none(), st.integers(0, 11)), min_size=num, max_size=num)
    # 2 of 3 images have bytes of their own
    bytes_of = [f"shared {k}" if k < 4 else f"own {i}" for i, k in enumerate(draw(few))]
    lesions = [None if k is None or k > 3 else f"IL_{k}" for k in draw(some)]
    patients = [None if k is None else f"IP_{k}" for k in draw(some)]
    targets = [int(k < 4) for k in draw(few)]
    targets[0], targets[1] = 0, 1
    return pl.DataFrame(
        {
            "image_id": [f"ISIC_{i:07d}" for i in range(num)],
            "patient_id": pl.Series(patients, dtype=pl.String),
            "lesion_id": pl.Series(lesions, dtype=pl.String),
            "sha256": bytes_of,
            "target": targets,
        }
    )


def components(samples: pl.DataFrame) -> list[int]:
    """Oracle: spread the smallest row number over equal patients, lesions and bytes until nothing changes."""
    label = list(range(len(samples)))
    rows = samples.select("patient_id", "lesion_id", "sha256").rows()
    changed = True
    while changed:
        changed = False
        for i, a in enumerate(rows):
            for j, b in enumerate(rows):
                if any(x is not None and x == y for x, y in zip(a, b, strict=True)) and label[j] < label[i]:
                    label[i], changed = label[j], True
    return label


@settings(deadline=None, max_examples=60)
@given(tables_with_ties(), st.integers(0, 3), st.integers(2, 5))
def test_no_patient_lesion_or_picture_on_two_sides(samples: pl.DataFrame, seed: int, folds: int) -> None:
    groups = image_groups(samples)
    expected = components(samples)
    pairs = set(zip(groups.tolist(), expected, strict=True))
    assert len(pairs) == len(set(groups.tolist())) == len(set(expected))  # the same partition under other names
    assert set(groups.tolist()) == set(range(groups.max() + 1))

    fold = balanced_parts(groups, samples["target"].to_numpy(), [1 / folds] * folds, seed)
    report = leak_report(samples, samples.select("image_id").with_columns(fold=fold))
    assert report["shared"] == {"patients": 0, "lesions": 0, "identical images": 0}
    assert sum(part["images"] for part in report["parts"].values()) == len(samples)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 5), min_size=6, max_size=40), st.integers(2, 5))
def test_each_part_gets_a_malignant_image_where_there_are_groups_enough(sizes: list[int], folds: int) -> None:
    """One patient may hold many malignant images; still no part stays without, if as many patients have one."""
    groups = np.repeat(np.arange(len(sizes)), [size + 2 for size in sizes])
    first = np.diff(groups, prepend=-1) == 1
    targets = np.where(groups == 0, 1, 0) | (first & (groups < folds))
    targets = targets.astype(np.int64)
    fold = balanced_parts(groups, targets, [1 / folds] * folds, seed=0)
    assert np.bincount(fold, weights=targets, minlength=folds).min() >= 1
    if len(sizes) > 2 * folds:
        assert np.bincount(fold, weights=1 - targets, minlength=folds).min() >= 1


def dealt(sizes: np.ndarray, shares: list[float]) -> np.ndarray:
    """Counts (P, 2) of malignant and benign images that the parts get, for groups of the given sizes (G, 2)."""
    groups = np.repeat(np.arange(len(sizes)), sizes.sum(axis=1))
    targets = np.concatenate([[1] * malignant + [0] * benign for malignant, benign in sizes])
    part = balanced_parts(groups, targets, shares, seed=0)
    return np.stack([np.bincount(part, weights=targets == c, minlength=len(shares)) for c in (1, 0)], axis=1)


def test_small_tables_keep_both_classes_in_each_part() -> None:
    """3 to 11 groups, at least 3 of them with malignant and 5 with benign images; shares 0.7/0.15/0.15."""
    rng = np.random.default_rng(0)
    num = 0
    while num < 200:
        malignant = rng.integers(1, 3, 11) * (rng.random(11) < 0.4)
        sizes = np.stack([malignant, rng.integers(0, 9, 11)], axis=1)[: rng.integers(3, 12)]
        sizes = sizes[sizes.sum(axis=1) > 0]
        if (sizes[:, 0] > 0).sum() >= 3 and (sizes[:, 1] > 0).sum() >= 5:
            num += 1
            assert dealt(sizes, [0.7, 0.15, 0.15]).min() > 0, sizes


def test_balance_is_near_the_best_of_all_dealings() -> None:
    """All 3 ** 8 dealings of 8 groups to 3 parts as the oracle: on the mean over 20 tables hardly any is better."""
    every = np.array(list(itertools.product(range(3), repeat=8)))
    shares = np.array([0.6, 0.2, 0.2])
    excess = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        sizes = np.stack([1 + rng.integers(0, 6, 8), rng.integers(2, 40, 8)], axis=1)
        wanted = np.outer(shares, sizes.sum(axis=0))
        counts = np.stack([(every == part) @ sizes for part in range(3)], axis=1)  # (6561, 3, 2)
        best = ((counts / wanted - 1) ** 2).sum(axis=(1, 2)).min()
        excess.append(((dealt(sizes, shares.tolist()) / wanted - 1) ** 2).sum() - best)
    assert min(excess) >= -1e-9
    assert np.mean(excess) < 0.05


def test_majority() -> None:
    groups, own = np.array([0, 0, 0, 1, 1, 2]), np.array([7, 3, 7, 5, 4, 1])
    assert majority(groups, own).tolist() == [7, 7, 7, 4, 4, 1]


def challenge() -> tuple[np.ndarray, np.ndarray]:
    """Patients and targets in the challenge's numbers: 259 of 1,042 patients have 1 to 14 malignant images."""
    rng = np.random.default_rng(0)
    weight = rng.lognormal(0, 1.1, 1042)
    sizes = 15 + rng.multinomial(401_059 - 15 * 1042, weight / weight.sum())
    malignant = np.zeros(1042, np.int64)
    carriers = rng.permutation(1042)[:259]
    malignant[carriers] = 1
    tail = 1 / np.arange(1, 260)
    while malignant.sum() < 393:
        one = rng.choice(carriers, p=tail / tail.sum())
        malignant[one] += malignant[one] < 14
    patients = np.repeat(np.arange(1042), sizes)
    place = np.arange(len(patients)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return patients, (place < malignant[patients]).astype(np.int64)


def test_the_challenge_is_split_evenly() -> None:
    """Five folds leave about 314 malignant images in training, so every published count can be drawn (STUDY.md)."""
    patients, targets = challenge()
    assert (len(targets), targets.sum()) == (401_059, 393)
    fold = balanced_parts(patients, targets, [0.2] * 5, seed=0)
    malignant = np.bincount(fold, weights=targets)
    assert malignant.min() >= 78
    assert malignant.max() <= 80
    assert np.bincount(fold) / len(fold) == pytest.approx([0.2] * 5, abs=0.002)
    part = balanced_parts(patients, targets, [0.7, 0.15, 0.15], seed=0)
    assert np.bincount(part, weights=targets) == pytest.approx([275, 59, 59], abs=1)


@pytest.mark.real
@pytest.mark.skipif(not REAL_DATA.exists(), reason="the real lesions in ../shared/data are absent")
def test_real_patients_in_five_folds() -> None:
    samples = pl.read_csv(REAL_DATA / "metadata-rows.csv", null_values=["", "NA"], infer_schema_length=None)
    samples = samples.select(pl.col("isic_id").alias("image_id"), pl.col("isic_id").alias("sha256"), "patient_id",
                             "lesion_id", "target")  # fmt: skip
    fold = balanced_parts(image_groups(samples), samples["target"].to_numpy(), [0.2] * 5, seed=0)
    report = leak_report(samples, samples.select("image_id").with_columns(fold=fold))
    assert not any(report["shared"].values())
    assert [part["malignant"] for part in report["parts"].values()] == [53] * 5
