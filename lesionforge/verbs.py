"""The verbs of the command line: where each lives and what its help says. Names only, so that nothing is imported."""

import importlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lesionforge.config import Config


class Verb(NamedTuple):
    module: str  # in the package
    config: str  # name of the class; the function has the verb's name
    help: str


# In the order of the data flow.
VERBS = {
    "phantom": Verb("data.phantom", "PhantomConfig", "Draw a stand-in for SLICE-3D in the challenge's own files."),
    "download": Verb("data.download", "DownloadConfig", "Fetch the challenge's files or the ISIC site's archives."),
    "prepare": Verb("data.prepare", "PrepareConfig", "Turn HDF5 or a folder of images, with its CSV, into a store."),
    "split": Verb("data.split", "SplitConfig", "Deal a store's images to train, val and test, or to folds."),
    "preview": Verb("data.preview", "PreviewConfig", "Show what the augmentation does, as one picture."),
    "finetune": Verb("diffusion.finetune", "FinetuneConfig", "Teach a generator malignant lesions, from part train."),
    "generate": Verb(
        "diffusion.generate", "GenerateConfig", "Make candidates from a generator, with all that made each on record."
    ),
    "audit": Verb(
        "auditing.audit", "AuditConfig", "Judge candidates: copies, artefacts, likeness; keep the sound as a store."
    ),
    "train": Verb("classifier.train", "TrainConfig", "Train a classifier on one training distribution."),
    "predict": Verb(
        "classifier.predict", "PredictConfig", "Score images with a trained run, an exported folder or ONNX."
    ),
    "explain": Verb(
        "classifier.explain", "ExplainConfig", "Show where models look, and measure how much of it is lesion."
    ),
    "export": Verb("classifier.export", "ExportConfig", "Ship a run: a timm folder with a model card, and ONNX."),
    "ensemble": Verb("evaluation.ensemble", "EnsembleConfig", "Join predictions of several runs into one table."),
    "evaluate": Verb("evaluation.evaluate", "EvaluateConfig", "Measure predictions: pAUC and more, with intervals."),
    "subgroups": Verb(
        "evaluation.subgroups",
        "SubgroupsConfig",
        "Measure by skin tone, sex, age, site, institution, diameter, diagnosis.",
    ),
    "compare": Verb(
        "evaluation.compare", "CompareConfig", "Tell arms apart: paired differences, or what the data could show."
    ),
    "submit": Verb("evaluation.submit", "SubmitConfig", "Write predictions as a submission to the challenge."),
    "report": Verb(
        "reporting.report", "ReportConfig", "Show a study as one page: results, figures, data, failures, record."
    ),
    "study": Verb(
        "study.study", "StudyConfig", "Run a whole comparison, models x recipes x folds x seeds, to a report."
    ),
}

# Words that list something, and need no recipe.
LISTS = {
    "recipes": "List the shipped recipes, or print one.",
    "models": "List the ten families, each in three sizes.",
}


def config_class_of(name: str) -> "type[Config]":
    """The settings of a verb; its module is imported, and nothing heavy with it."""
    verb = VERBS[name]
    config_class: type[Config] = getattr(importlib.import_module(f"lesionforge.{verb.module}"), verb.config)
    return config_class
