"""The items of CLAIM and CLEAR Derm as tables: what each asks, and what of it a study's files can answer.

`found` names facts of `checklists.Facts` in braces; `ask` is what only the authors know, and keeps the item theirs;
`absent` is said where the first fact of `found` is on record as none.
"""

from typing import NamedTuple


class Entry(NamedTuple):
    number: str
    section: str
    item: str
    found: str = ""
    ask: str = ""
    absent: str = ""


TITLE, INTRODUCTION, DESIGN, DATA = "Title and abstract", "Introduction", "Study design", "Data"
STANDARD, PARTITIONS, MODEL = "Reference standard", "Data partitions", "Model"
TRAINING, EVALUATION, RESULTS = "Training", "Evaluation", "Results"
DISCUSSION, OTHER = "Discussion", "Other information"

CLAIM = (
    Entry("1", TITLE, "Title says that it is AI, and of which kind", "working title: {title}",
          "Name the method (deep learning, diffusion-made training images) in the final title."),
    Entry("2", TITLE, "Structured abstract", "question of the study: {question}",
          "Write the abstract: design, methods, results with intervals, conclusion."),
    Entry("3", INTRODUCTION, "Background, intended use and clinical role",
          ask="Write the background and the role in care that is meant. The software is for research, not a medical "
          "device."),
    Entry("4", INTRODUCTION, "Aims and hypotheses", "arms compared: {arms}; question: {question}",
          "Say which comparison was the primary one, and that it was chosen before the results were seen."),
    Entry("5", DESIGN, "Prospective or retrospective",
          "Retrospective: images that were collected before the study are read from files; compared on {part}"),
    Entry("6", DESIGN, "Goal of the study", "comparison of training distributions on the same lesions: {question}"),
    Entry("7", DATA, "Sources of the data", "{sources}",
          "Cite the data sets and give the dates and places of collection."),
    Entry("8", DATA, "Who and what was included", "every image of the store that its split deals to a part: {counts}",
          "Give the criteria by which the data set's own makers chose patients and lesions."),
    Entry("9", DATA, "Preprocessing", "images resized to {image_size}; training images varied: {augmentation}. "
          "Images of val and test are only resized"),
    Entry("10", DATA, "Selection of subsets of the data", "images drawn for training by seed and by count, not by "
          "content: {mixes}"),
    Entry("11", DATA, "Definitions of the data's elements", "target 1 is malignant, 0 benign, as the data set labels "
          "them; metadata keep the names of the source's files",
          "Point to the data set's description of its elements."),
    Entry("12", DATA, "De-identification",
          ask="Say how the source removed what identifies a patient. The software reads ids, never names."),
    Entry("13", DATA, "Missing data", "{missing}. A value that is missing is a group of its own, never filled in"),
    Entry("2024-a", DATA, "How the images were acquired",
          ask="Name the device, the light and the resolution (SLICE-3D: crops from 3D total-body photography)."),
    Entry("14", STANDARD, "Definition of the reference standard",
          ask="Say what makes a lesion malignant or benign in the source (histology, follow-up, an expert's look)."),
    Entry("15", STANDARD, "Why this reference standard",
          ask="Give the reason and its limits: benign lesions are often not biopsied."),
    Entry("16", STANDARD, "Who annotated, with what training",
          ask="Name the annotators' qualifications as the source describes them; this study added no labels."),
    Entry("17", STANDARD, "Tools of annotation", ask="Name the source's tools, or say that none are on record."),
    Entry("18", STANDARD, "Agreement between and within annotators",
          ask="Give the source's figures, or say that none are known."),
    Entry("19", PARTITIONS, "Intended sample size and its reason", "{counts}. {difference_intervals}",
          "Say which sample size was intended and why (lesionforge compare --plan says how small a difference data "
          "can show); the counts are what there was, not a reason."),
    Entry("20", PARTITIONS, "How data were dealt to the parts", "split: {split}"),
    Entry("21", PARTITIONS, "Level at which the parts are apart", "{leaks}"),
    Entry("22", MODEL, "The model, its inputs and outputs", "models: {models}; input: one colour image of "
          "{image_size}; output: a score from 0 to 1 for malignancy"),
    Entry("23", MODEL, "Software", "{software}; run on {hardware}"),
    Entry("24", MODEL, "How parameters started", "weights at the start: {weights}"),
    Entry("25", TRAINING, "Training: data, augmentation, settings", "{training}; augmentation: {augmentation}; images: "
          "{mixes}. Every run's whole settings are in its config.yaml"),
    Entry("26", TRAINING, "How the final model was selected", "{selection}"),
    Entry("27", TRAINING, "Ensembles", "{ensemble}", absent="No ensemble is part of this study."),
    Entry("28", EVALUATION, "Metrics", "{metrics}; threshold: {threshold}"),
    Entry("29", EVALUATION, "Statistics and uncertainty", "{statistics}"),
    Entry("30", EVALUATION, "Robustness", "{seeds}. {subgroups}",
          "Add what was tried beyond seeds, folds and subgroups."),
    Entry("31", EVALUATION, "Explanations", "{explanations}", absent="No heat maps were made in this study."),
    Entry("32", EVALUATION, "Data from elsewhere", "{external}",
          absent="No external test set: all lesions come from the same sources as those of training, so nothing here "
          "says how the models do elsewhere."),
    Entry("33", RESULTS, "Flow of patients and images", "{counts}. Used for training: {mixes}",
          "Add the steps before the store was prepared (a flow diagram)."),
    Entry("34", RESULTS, "Patients of each part", "{demographics}"),
    Entry("35", RESULTS, "Performance on all parts", "{results}. {other_results}"),
    Entry("36", RESULTS, "Estimates with their precision", "{results}"),
    Entry("37", RESULTS, "Failures", "{failures}", "Say what a dermatologist sees in them."),
    Entry("38", DISCUSSION, "Limitations", ask="Write them; the report names leaks, small groups, unknown patients and "
          "intervals that are too narrow where it saw them."),
    Entry("39", DISCUSSION, "What it means for practice",
          ask="Write it, with no claim beyond the intervals; not a medical device."),
    Entry("40", OTHER, "Registration", ask="Give the number, or say that the study was not registered."),
    Entry("41", OTHER, "Where the full protocol is", "the study's settings and exact commands: {commands}",
          "Say where readers find them."),
    Entry("2024-b", OTHER, "Availability of software, models and data", "lesionforge, commit {commits}; licences of "
          "the data: {licences}", "Say where weights and data may be had."),
    Entry("42", OTHER, "Funding", ask="Name the sources and the funders' role."),
)  # fmt: skip

DERM_DATA, TECHNIQUE, ASSESSMENT, APPLICATION = "Data", "Technique", "Technical assessment", "Application"

CLEAR_DERM = (
    Entry("1", DERM_DATA, "Kinds of images", ask="Say what they are (SLICE-3D: crops from 3D total-body photography, "
          "like close-up photographs, no dermoscopy)."),
    Entry("2", DERM_DATA, "Artefacts in the images",
          ask="Say how often hair, pen, rulers and blur occur in the real images, or that it was not counted."),
    Entry("3", DERM_DATA, "Technical details of acquisition", ask="Name camera, light and distance."),
    Entry("4", DERM_DATA, "Preprocessing", "images resized to {image_size}; training images varied: {augmentation}"),
    Entry("5", DERM_DATA, "Synthetic images", "{generators}. {audit}",
          "Say whether the synthetic images are made public.", absent="No synthetic images were used."),
    Entry("6", DERM_DATA, "Public images referenced", "{sources}; licences: {licences}", "Cite the data sets."),
    Entry("7", DERM_DATA, "Metadata of the patients", "{demographics}"),
    Entry("8", DERM_DATA, "Skin colour, and how it was assessed", "{skin_tone}. By the individual typology angle of "
          "the skin around the lesion, measured in the image under the camera's own light: not a colorimeter, and not "
          "Fitzpatrick's types"),
    Entry("9", DERM_DATA, "Biases from the patients' data and metadata", "{subgroups}",
          "Discuss who is missing from the data. The models read images only, no metadata."),
    Entry("10", DERM_DATA, "Parts of the data", "split: {split}. {leaks}"),
    Entry("11", DERM_DATA, "Sample size of each part", "{counts}"),
    Entry("12", DERM_DATA, "External test set", "{external}",
          absent="No external test set: nothing here says how the models do elsewhere."),
    Entry("13", DERM_DATA, "Images of several vendors",
          ask="Name the devices; the software keeps the institution (attribution) and no device."),
    Entry("14", DERM_DATA, "Classes and their balance", "{malignant_share}"),
    Entry("15", DERM_DATA, "Images outside the distribution",
          ask="Say what the models do with them. No such image was tested, and a score is given for any image."),
    Entry("16", TECHNIQUE, "How lesions were labelled, and by whom", ask="Describe the source's labels."),
    Entry("17", TECHNIQUE, "Accepted diagnostic labels", ask="Name the terms; ISIC's diagnoses where the source has "
          "them. The models tell malignant from benign only."),
    Entry("18", TECHNIQUE, "Histology of malignant lesions", ask="Say for how many malignant lesions it was read."),
    Entry("19", TECHNIQUE, "How the algorithm was developed",
          "models: {models}; weights at the start: {weights}; {training}; {selection}; {software}"),
    Entry("20", ASSESSMENT, "How others can evaluate the algorithm", "commands: {commands}; commit {commits}",
          "Say where the weights or a demonstration are."),
    Entry("21", ASSESSMENT, "Measures of performance", "{metrics}. {results}"),
    Entry("22", ASSESSMENT, "Benchmarks, comparison and what is new", "compared with the reference arm on the same "
          "lesions: {statistics}", "Say what is new, and how it stands beside published numbers."),
    Entry("23", ASSESSMENT, "Bias", "{subgroups}"),
    Entry("24", APPLICATION, "Use and conditions in scope",
          ask="Name the use, the conditions and the patients that the training data cover. Research software."),
    Entry("25", APPLICATION, "Effects on patients and care team", ask="Discuss false alarms and missed cancers; "
          "not a medical device."),
)  # fmt: skip
