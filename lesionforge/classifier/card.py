"""The model card of an exported model: what it is, what it learned from, how it scored, what it is not for.

Markdown with the hub's YAML front matter; every number in it is read from the run's own files.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lesionforge import run, tables
from lesionforge.engine.model import HUB, Built
from lesionforge.engine.tracking import read_metrics
from lesionforge.errors import BadInput
from lesionforge.files import read_json, sha256_of_file

TAGS = ["image-classification", "timm", "lesionforge", "dermatology", "skin-lesion", "isic-2024", "medical-imaging"]


def card_text(folder: Path, built: Built, done: Mapping[str, Any], recipe: Mapping[str, Any], facts: dict) -> str:
    """The card.

    Args:
        folder: the run's.
        done, recipe: its done.json and its resolved config.
        facts: weights_sha256 and licence of the export; onnx_in_words, how it was checked, where there is such a file.
    """
    front = {
        "license": facts["licence"],
        **({"license_name": "not-stated"} if facts["licence"] == "other" else {}),
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": TAGS,
        **({"base_model": f"timm/{built.name}"} if done["model"]["weights"] == HUB else {}),
    }
    sections = {
        "How to load": loading(built, facts),
        "Data": data_words(folder),
        "Training": training_words(folder, done, recipe),
        "Scores": score_words(folder),
        "Limits": limit_words(done, recipe),
        "Recipe": "The run's resolved config; absolute paths are cut to their last part.\n\n```yaml\n"
        + yaml.safe_dump(without_folders(recipe), sort_keys=False, allow_unicode=True, width=120)
        + "```",
    }
    title = (
        f"# {built.name}, malignant or benign skin lesion\n\nOne logit per image: the larger, the more the image looks "
        "like the malignant lesions of its training data. **Research software, not a medical device.**"
    )
    body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections.items())
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{title}\n\n{body}\n"


def loading(built: Built, facts: Mapping[str, Any]) -> str:
    lines = [
        "```python",
        "import timm, torch",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:NAME, once it is there',
        f"# images: (B, 3, {built.image_size}, {built.image_size}) float, RGB, normalised",
        "score = torch.sigmoid(model(images)).squeeze(1)",
        "```",
        "",
        "`lesionforge predict --model FOLDER --images lesion.jpg --out scored` does the same, resizing and "
        "normalisation included.",
        "",
        f"- Input: the whole image, RGB, stretched to {built.image_size} x {built.image_size} pixels, values from 0 to "
        "1, then normalised.",
        f"- Normalisation: mean {numbers(built.mean)}, standard deviation {numbers(built.std)}.",
        f"- `{run.MODEL_WEIGHTS}`: SHA-256 `{facts['weights_sha256']}`.",
    ]
    if "onnx_in_words" in facts:
        lines.append(
            f"- `{run.ONNX}`: `images` uint8 (batch, {built.image_size}, {built.image_size}, 3) RGB in, `logits` "
            f"float32 (batch,) out, the normalisation inside. Checked: {facts['onnx_in_words']}."
        )
    return "\n".join(lines)


def data_words(folder: Path) -> str:
    inputs, mix = read_json(folder / run.INPUTS), tables.read_table(folder / run.MIX)
    counts = mix.group_by(tables.SOURCE, tables.TARGET).len().sort(tables.SOURCE, tables.TARGET)
    named = {1: "malignant", 0: "benign"}
    listed = ", ".join(f"{num:,} {source} {named[target]}" for source, target, num in counts.iter_rows())
    digests = ", ".join(f"`{digest}`" for digest in inputs["stores"])
    return "\n".join(
        [
            f"- Training images: {listed} ({len(mix):,} in all).",
            f"- Split: {inputs.get('split_name', 'not named')}.",
            f"- SHA-256 of the samples table of each store, in their order: {digests}.",
        ]
    )


def training_words(folder: Path, done: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    optim, num_epochs = recipe["optim"], num_epochs_run(folder, recipe)
    early = ", stopped early" if num_epochs < optim["epochs"] else ""
    return (
        f"First weights: {done['model']['weights']}. {counted(done['num_steps'], 'step')} of "
        f"{counted(recipe['data']['batch_size'], 'image')}, {num_epochs} of {counted(optim['epochs'], 'epoch')}"
        f"{early}; the weights are those of epoch {done['weights_epoch']}. AdamW, peak learning rate {optim['lr']:g}, "
        f"{optim['precision']}, seed {recipe['seed']}. The whole recipe stands below."
    )


def num_epochs_run(folder: Path, recipe: Mapping[str, Any]) -> int:
    """How many epochs the training had; only early stopping makes them fewer than the recipe's."""
    planned: int = recipe["optim"]["epochs"]
    if not recipe["optim"].get("patience"):
        return planned
    rows = read_metrics(folder / run.METRICS)
    if not rows:
        raise BadInput(f"{folder / run.METRICS}: missing or empty, so nothing says when training stopped; put it back")
    return int(rows[-1]["epoch"])


def score_words(folder: Path) -> str:
    """The scores of RUN/evaluation with their intervals, where it is of the predictions that lie in the run."""
    path = folder / run.EVALUATION / run.SCORES
    if not path.is_file():
        return "Not evaluated."
    found = read_json(path)
    for part in found["parts"]:
        predictions = folder / run.PREDICTIONS / f"{part}.parquet"
        is_of = found["sources"].get(f"predictions of {part}")
        if is_of is not None and not (predictions.is_file() and sha256_of_file(predictions) == is_of):
            return f"Not evaluated: the scores in the run are of other predictions of {part} than it holds now."
    lines = []
    for part, scored in found["parts"].items():
        level = f"{100 * scored['level']:g} %"
        lines += [
            f"### {part}",
            "",
            f"{counted(scored[tables.NUM_MALIGNANT], 'malignant lesion')} in "
            f"{counted(scored[tables.NUM_IMAGES], 'image')}, {counted(scored[tables.NUM_PATIENTS], 'known patient')}; "
            f"threshold: {scored[tables.THRESHOLD]['how']}.",
            "",
            f"| score | estimate | {level} interval |",
            "|---|---|---|",
        ]
        for name, value in scored["scores"].items():
            low, high = value[tables.LOW], value[tables.HIGH]
            interval = "-" if low is None else f"{low:z.4f} to {high:z.4f}"
            estimate = value[tables.ESTIMATE]
            lines.append(f"| {name} | {'undefined' if estimate is None else f'{estimate:z.4f}'} | {interval} |")
        lines += ["", *(f"- {note}" for note in scored["notes"]), ""]
    return "\n".join(lines).rstrip()


def limit_words(done: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    if recipe["select"] == "best_val":
        val = (
            f"The weights are those of epoch {done['weights_epoch']}, chosen by the pAUC on val, so the scores on val "
            "flatter"
        )
    else:
        val = "The weights are the last epoch's: within this run val chose none of them"
    return "\n".join(
        [
            "- Research software, not a medical device: it is not for diagnosis, nor for deciding who is seen by whom.",
            "- One data set: it learned from the images above and no others; on other cameras, crops, clinics and "
            "people its scores are unknown.",
            "- The skin tone of the people in the data is not recorded, so how scores differ by skin tone is unknown.",
            f"- {val}. Whether settings of the recipe were chosen on val, the run cannot know; thresholds are.",
            "- A score is no probability of disease: the training mix has another share of malignant lesions than any "
            "clinic.",
        ]
    )


def without_folders(value: Any) -> Any:
    """A config with each absolute path cut to its last part: a card is read by strangers."""
    if isinstance(value, Mapping):
        return {key: without_folders(each) for key, each in value.items()}
    if isinstance(value, list):
        return [without_folders(each) for each in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def counted(num: int, name: str) -> str:
    return f"{num:,} {name}{'' if num == 1 else 's'}"
