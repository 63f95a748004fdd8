"""ensemble: means by hand, weights from val alone, members that do not fit refused, a folder that other verbs read."""

import json

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError
from scipy import special, stats
from test_evaluate import make_run, predictions, scores_of

from lesionforge import metrics
from lesionforge.errors import BadInput
from lesionforge.evaluation import combining
from lesionforge.evaluation.ensemble import EnsembleConfig, ensemble
from lesionforge.evaluation.evaluate import CalibrationConfig, EvaluateConfig, evaluate
from lesionforge.evaluation.submit import SubmitConfig, submit
from lesionforge.resolve import resolve


def member(table, seed, noise=1.0):
    """Another model's predictions of the same lesions, in an order of its own."""
    logits = table["logit"].to_numpy() + noise * np.random.default_rng(seed).normal(size=len(table))
    table = table.with_columns(logit=pl.Series(logits), score=pl.Series(special.expit(logits)))
    return table.sample(fraction=1, shuffle=True, seed=seed)


VAL, TEST = predictions(0, "val"), predictions(1, "test", first_id=5000)


@pytest.fixture
def runs(tmp_path):
    noise = {"a": 0.3, "b": 1.0, "c": 6.0}
    return tuple(
        make_run(tmp_path / name, val=member(VAL, i, noise[name]), test=member(TEST, 10 + i, noise[name]))
        for i, name in enumerate(noise)
    )


def read(folder, name):
    return pl.read_parquet(folder / "predictions" / f"{name}.parquet")


def weights_of(folder):
    return json.loads((folder / "weights.json").read_text())


def columns_of(runs, name, column):
    """(M, N) in the first run's order."""
    first = read(runs[0], name).select("image_id")
    joined = [first.join(read(folder, name), on="image_id", how="left", maintain_order="left") for folder in runs]
    return np.stack([table[column].to_numpy() for table in joined])


def test_probabilities_logits_and_ranks_are_averaged_as_by_hand(runs, tmp_path):
    scores, logits = (columns_of(runs, "test", column) for column in ("score", "logit"))
    ranks = np.stack([stats.rankdata(row) / (len(row) + 1) for row in scores])
    by_hand = {"probabilities": scores.mean(0), "logits": special.expit(logits.mean(0)), "ranks": ranks.mean(0)}
    for combine, expected in by_hand.items():
        ensemble(EnsembleConfig(runs=runs, out=tmp_path / combine, combine=combine))
        found = read(tmp_path / combine, "test")
        assert found.columns == ["image_id", "patient_id", "part", "target", "score", "logit"]
        assert found.schema["score"] == found.schema["logit"] == pl.Float64
        assert found.drop("score", "logit").equals(read(runs[0], "test").drop("score", "logit"))
        np.testing.assert_allclose(found["score"], expected, rtol=1e-13)
        np.testing.assert_allclose(found["logit"], special.logit(expected), rtol=1e-9)
        assert 0 < found["score"].min() < found["score"].max() < 1


def test_given_weights_are_divided_by_their_sum(runs, tmp_path):
    ensemble(EnsembleConfig(runs=runs, out=tmp_path / "e", weights=(1.0, 3.0, 0.0)))
    assert weights_of(tmp_path / "e")["weights"] == {"a": 0.25, "b": 0.75, "c": 0.0}
    scores = columns_of(runs, "test", "score")
    np.testing.assert_allclose(read(tmp_path / "e", "test")["score"], 0.25 * scores[0] + 0.75 * scores[1], rtol=1e-13)


def test_weights_are_chosen_on_val_and_never_on_test(runs, tmp_path, capsys):
    """With test's targets turned round the weights stay what they were."""
    ensemble(EnsembleConfig(runs=runs, out=tmp_path / "e", weights="val"))
    found = weights_of(tmp_path / "e")
    assert sum(found["weights"].values()) == pytest.approx(1)
    assert all(weight >= 0 for weight in found["weights"].values())
    assert found["weights"]["a"] > found["weights"]["c"]
    val = columns_of(runs, "val", "score")
    targets = read(runs[0], "val")["target"]
    paucs = {name: value["estimate"] for name, value in found["val_pauc"].items()}
    assert paucs["a"] == pytest.approx(metrics.pauc(targets, val[0]), abs=1e-12)
    combined = np.average(val, axis=0, weights=list(found["weights"].values()))
    assert paucs["ensemble"] == pytest.approx(metrics.pauc(targets, combined), abs=1e-12)
    assert paucs["ensemble"] >= max(paucs[name] for name in "abc")
    assert found["in_sample"]
    assert "chosen on these very val lesions" in found["note"]
    for value in found["val_pauc"].values():
        assert value["low"] <= value["estimate"] <= value["high"]
    printed = capsys.readouterr().out
    assert "Caruana et al. 2004" in printed
    assert f"{paucs['ensemble']:.4f}" in printed

    for folder in runs:
        turned = read(folder, "test").with_columns(target=1 - pl.col("target"))
        turned.write_parquet(folder / "predictions" / "test.parquet")
    ensemble(EnsembleConfig(runs=runs, out=tmp_path / "again", weights="val"))
    assert weights_of(tmp_path / "again") == found


def test_ties_of_the_selection_are_broken_the_same_way_every_time():
    """Two members that rank alike share the weight of the first round, and a useless one gets none."""
    good = VAL["logit"].to_numpy()
    useless = np.random.default_rng(0).normal(size=len(good)) * 1e-9
    weights, how = combining.chosen_on_val(VAL, np.stack([good, 2 * good, useless]))
    assert weights.tolist() == [1, 0, 0]  # the best round is the first; its tie goes to the first member
    assert "1 of 50 rounds" in how
    assert combining.chosen_on_val(VAL, np.stack([useless, good]))[0].tolist() == [0, 1]


def test_an_ensemble_beats_its_members_where_their_noise_is_their_own(runs, tmp_path):
    paths = tuple(make_run(tmp_path / f"n{i}", val=member(VAL, i, 2.0)) for i in range(8))
    ensemble(EnsembleConfig(runs=paths, out=tmp_path / "e", combine="logits"))
    paucs = {name: value["estimate"] for name, value in weights_of(tmp_path / "e")["val_pauc"].items()}
    assert paucs.pop("ensemble") > max(paucs.values())


def test_files_of_other_programs_are_joined_and_their_parts_kept(tmp_path, caplog):
    both = pl.concat([VAL, TEST])
    member(both, 1).drop("logit").write_csv(tmp_path / "a.csv")
    member(both, 2).write_parquet(tmp_path / "b.parquet")
    paths = (tmp_path / "a.csv", tmp_path / "b.parquet")
    ensemble(EnsembleConfig(predictions=paths, out=tmp_path / "e", combine="logits"))
    assert sorted(path.name for path in (tmp_path / "e/predictions").iterdir()) == ["test.parquet", "val.parquet"]
    logits = [member(both, seed).sort("image_id").filter(part="test")["logit"].to_numpy() for seed in (1, 2)]
    np.testing.assert_allclose(read(tmp_path / "e", "test").sort("image_id")["logit"], np.mean(logits, axis=0))

    for path, seed in ((tmp_path / "c.csv", 1), (tmp_path / "d.csv", 2)):
        member(TEST, seed).select(isic_id="image_id", score="score").write_csv(path)
    with caplog.at_level("INFO", "lesionforge"):
        ensemble(EnsembleConfig(predictions=(tmp_path / "c.csv", tmp_path / "d.csv"), out=tmp_path / "f"))
    assert "480 rows have no part; they count as test" in caplog.text
    assert weights_of(tmp_path / "f")["val_pauc"] is None


def test_other_images_are_refused_both_ways(runs, tmp_path):
    table = read(runs[1], "test").sort("image_id")
    extra = table.head(2).with_columns(image_id="new_" + pl.col("image_id"))
    pl.concat([table[3:], extra]).write_parquet(runs[1] / "predictions" / "test.parquet")
    with pytest.raises(BadInput) as error:
        ensemble(EnsembleConfig(runs=runs, out=tmp_path / "e"))
    message = str(error.value)
    assert "part test: the members do not hold the same images" in message
    assert "3 images of a are not in b: ISIC_0005000, ISIC_0005001, ISIC_0005002" in message
    assert "2 images of b are not in a: new_ISIC_0005000, new_ISIC_0005001" in message
    assert not (tmp_path / "e").exists()


def test_other_targets_and_patients_are_refused_and_missing_ones_filled(runs, tmp_path):
    table = read(runs[1], "test")
    table.with_columns(target=pl.lit(None, pl.Int8), patient_id=pl.lit(None, pl.String)).write_parquet(
        runs[1] / "predictions" / "test.parquet"
    )
    ensemble(EnsembleConfig(runs=(runs[1], runs[0]), out=tmp_path / "e"))
    known = read(tmp_path / "e", "test").sort("image_id")
    assert known["target"].equals(TEST["target"])
    assert known["patient_id"].equals(TEST["patient_id"])
    table.with_columns(target=1 - pl.col("target"), patient_id=pl.lit("x")).write_parquet(
        runs[1] / "predictions" / "test.parquet"
    )
    with pytest.raises(BadInput, match="480 have another target than a") as error:
        ensemble(EnsembleConfig(runs=runs, out=tmp_path / "f"))
    assert "480 have another patient_id than a" in str(error.value)


def test_parts_that_only_some_hold_are_refused(runs, tmp_path):
    (runs[2] / "predictions" / "test.parquet").unlink()
    with pytest.raises(BadInput, match="c has no test, a has; make what is missing with `lesionforge predict`"):
        ensemble(EnsembleConfig(runs=runs, out=tmp_path / "e"))
    make_run(runs[0], hidden=TEST)
    with pytest.raises(BadInput, match="b: no predictions hidden; make them with `lesionforge predict --name`"):
        ensemble(EnsembleConfig(runs=runs[:2], out=tmp_path / "e", names=("hidden",)))
    with pytest.raises(BadInput, match="expected a plain file name"):
        ensemble(EnsembleConfig(runs=runs[:2], out=tmp_path / "e", names=("../x",)))


def test_weights_from_val_need_val_with_targets(runs, tmp_path):
    hidden = tuple(make_run(tmp_path / f"h{i}", test=member(TEST, i)) for i in range(2))
    with pytest.raises(BadInput, match="weights val: no member has val predictions"):
        ensemble(EnsembleConfig(runs=hidden, out=tmp_path / "e", weights="val"))
    blind = tuple(
        make_run(tmp_path / f"b{i}", val=member(VAL, i).with_columns(target=pl.lit(None, pl.Int8))) for i in range(2)
    )
    with pytest.raises(BadInput, match="480 have no target"):
        ensemble(EnsembleConfig(runs=blind, out=tmp_path / "e", weights="val"))


def test_log_odds_of_certain_scores_are_refused(tmp_path):
    for name, score in (("a", 1.0), ("b", 0.4), ("c", 3.0)):
        table = TEST.with_columns(score=pl.when(target=1).then(pl.lit(score)).otherwise("score")).drop("logit")
        table.write_csv(tmp_path / f"{name}.csv")
    a, b, c = (tmp_path / f"{name}.csv" for name in "abc")
    with pytest.raises(BadInput, match=r"a\.csv, part test: .*\n.* have a score of exactly 0 or 1 and no logit"):
        ensemble(EnsembleConfig(predictions=(a, b), out=tmp_path / "e", combine="logits"))
    with pytest.raises(BadInput, match="outside \\[0, 1\\], which is no probability; combine ranks instead"):
        ensemble(EnsembleConfig(predictions=(b, c), out=tmp_path / "e"))
    ensemble(EnsembleConfig(predictions=(b, c), out=tmp_path / "e", combine="ranks"))


def test_settings_that_cannot_be_are_refused(tmp_path):
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "e"
    wrong = {
        "one of the two": {},
        "expected two or more": {"runs": (a,)},
        "is named twice": {"runs": (a, b, a)},
        "2 weights for 3 members": {"runs": (a, b, out), "weights": (1.0, 2.0)},
        "expected one at least": {"runs": (a, b), "weights": (0.0, 0.0)},
        "files hold their parts in the column part": {"predictions": (a, b), "names": ("x",)},
    }
    for message, settings in wrong.items():
        with pytest.raises(ValidationError, match=message):
            EnsembleConfig(out=out, **settings)
    with pytest.raises(ValidationError):
        EnsembleConfig(runs=(a, b), out=out, weights=(-1.0, 2.0))


def test_weights_are_given_as_words_or_numbers():
    def weights(*words):
        flags = {"--runs": (("runs",), ["a", "b"]), "--out": (("out",), ["e"]), "--weights": (("weights",), words)}
        return resolve(EnsembleConfig, None, flags).weights

    assert weights("val") == "val"
    assert weights("1", "0.5") == (1.0, 0.5)
    assert weights("[2, 1]") == (2.0, 1.0)


def test_evaluate_and_submit_take_the_folder_as_a_run(runs, tmp_path, capsys):
    for i, folder in enumerate(runs):
        hidden = member(TEST, 20 + i).with_columns(target=pl.lit(None, pl.Int8), part=pl.lit("hidden"))
        make_run(folder, hidden=hidden)
        (folder / "inputs.json").write_text('{"split_name": "by image (leaky), seed 0"}')
    ensemble(EnsembleConfig(runs=runs, out=tmp_path / "e", names=("hidden",), weights="val"))
    assert read(tmp_path / "e", "hidden")["target"].is_null().all()
    evaluate(EvaluateConfig(run=tmp_path / "e"))
    result = scores_of(tmp_path / "e/evaluation")
    assert list(result["parts"]) == ["val", "test"]
    assert "the split LEAKS" in capsys.readouterr().out
    pauc = metrics.pauc(read(runs[0], "test")["target"], read(tmp_path / "e", "test")["score"])
    assert result["parts"]["test"]["scores"]["pauc"]["estimate"] == pytest.approx(pauc, abs=1e-12)
    TEST.select(isic_id="image_id", target=pl.lit(0.3)).write_csv(tmp_path / "sample.csv")
    submit(
        SubmitConfig(run=tmp_path / "e", name="hidden", sample_submission=tmp_path / "sample.csv", out=tmp_path / "s")
    )
    submitted = pl.read_csv(tmp_path / "s/submission.csv")
    assert dict(submitted.iter_rows()) == dict(read(tmp_path / "e", "hidden").select("image_id", "score").iter_rows())


def test_the_split_is_named_where_all_agree_or_one_leaks(runs, tmp_path, caplog):
    def split_name(*names):
        for folder, name in zip(runs, names, strict=True):
            (folder / "inputs.json").write_text(json.dumps({"split_name": name}))
        out = tmp_path / f"e{len(list(tmp_path.iterdir()))}"
        ensemble(EnsembleConfig(runs=runs, out=out))
        return json.loads((out / "inputs.json").read_text())["split_name"]

    assert split_name("given", "given", "given") == "given"
    assert not caplog.text
    assert split_name("given", "given", "other") is None
    assert "trained on different splits: given, other" in caplog.text
    assert split_name("given", "x (leaky)", "given") == "given | x (leaky)"


def test_a_finished_ensemble_stands_until_its_members_change(runs, tmp_path, capsys):
    config = EnsembleConfig(runs=runs, out=tmp_path / "e")
    ensemble(config)
    printed, before = capsys.readouterr().out, (tmp_path / "e/weights.json").stat().st_mtime_ns
    ensemble(config)
    assert capsys.readouterr().out == printed
    assert (tmp_path / "e/weights.json").stat().st_mtime_ns == before
    with pytest.raises(BadInput, match="another config"):
        ensemble(EnsembleConfig(runs=runs, out=tmp_path / "e", combine="ranks"))
    member(VAL, 99).write_parquet(runs[0] / "predictions" / "val.parquet")
    with pytest.raises(BadInput, match="made from predictions that have changed since"):
        ensemble(config)


def test_two_runs_of_the_same_name_are_told_apart(tmp_path):
    paths = tuple(make_run(tmp_path / place / "x", val=member(VAL, i)) for i, place in enumerate("pq"))
    ensemble(EnsembleConfig(runs=paths, out=tmp_path / "e"))
    assert list(weights_of(tmp_path / "e")["weights"]) == [str(path) for path in paths]


def notes_of(folder):
    return scores_of(folder / "evaluation")["parts"]["val"]["notes"]


def test_evaluate_says_beside_val_what_was_chosen_on_val(runs, tmp_path, capsys):
    (runs[1] / "config.yaml").write_text("select: best_val\n")
    of_weights = "val: the weights of the ensemble were chosen on these lesions, so this score flatters"
    of_member = "val: of a member the epoch was chosen by its pAUC on these lesions, so this score flatters"
    expected = {"equal": [of_member], "val": [of_weights, of_member]}
    for weights, notes in expected.items():
        ensemble(EnsembleConfig(runs=runs, out=tmp_path / weights, weights=weights))
        assert of_member in capsys.readouterr().out
        evaluate(EvaluateConfig(run=tmp_path / weights))
        assert [note for note in notes_of(tmp_path / weights) if "flatters" in note] == notes
        printed = capsys.readouterr().out
        assert all(printed.count(note) == 1 for note in notes)


def test_ranks_are_not_judged_as_probabilities(runs, tmp_path, capsys):
    ensemble(EnsembleConfig(runs=runs, out=tmp_path / "e", combine="ranks"))
    evaluate(EvaluateConfig(run=tmp_path / "e"))
    for found in scores_of(tmp_path / "e/evaluation")["parts"].values():
        assert found["calibration"]["versions"] == {}
        assert found["scores"]["pauc"]["estimate"] is not None
    printed = capsys.readouterr().out
    assert "calibration: undefined, ranks are no probabilities" in printed
    assert "Brier" not in printed
    assert not (tmp_path / "e/evaluation/reliability.png").exists()
    asked = CalibrationConfig(methods=("temperature",))
    with pytest.raises(BadInput, match="no probabilities and have no log-odds; combine probabilities or logits"):
        evaluate(EvaluateConfig(run=tmp_path / "e", calibration=asked, out=tmp_path / "t"))
    assert not (tmp_path / "t").exists()


def test_the_prior_of_an_ensemble_is_not_in_its_folder(runs, tmp_path):
    ensemble(EnsembleConfig(runs=runs, out=tmp_path / "e"))
    asked = CalibrationConfig(methods=("prior",), prevalence=0.001)
    with pytest.raises(BadInput, match=r"\(no mix\.parquet in it\).*give it with --calibration\.training-prior"):
        evaluate(EvaluateConfig(run=tmp_path / "e", calibration=asked))
