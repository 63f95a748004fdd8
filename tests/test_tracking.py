"""Numbers of a training: the same rows in metrics.jsonl and TensorBoard, and a resumed run forgets what it will redo."""

import json
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lesionforge import run
from lesionforge.classifier.tracking import Tracker


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with Tracker(tmp_path, 0, "off", "", {}) as tracker:
        for step in (9, 18, 27):
            tracker.write(step, loss=step / 10, missing=None)
    with open(tmp_path / run.METRICS, "a") as file:
        file.write('{"step": 36, "lo')  # a kill in the middle of a line
    with Tracker(tmp_path, 18, "off", "", {}) as tracker:
        tracker.write(27, loss=7.0)
    rows = [json.loads(line) for line in (tmp_path / run.METRICS).read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(9, 0.9), (18, 1.8), (27, 7.0)]
    events = EventAccumulator(str(tmp_path / run.TENSORBOARD))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, round(event.value, 3)) for event in events.Scalars("loss")] == [(9, 0.9), (18, 1.8), (27, 7.0)]
    assert not list(tmp_path.glob(".*"))
