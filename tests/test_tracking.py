"""Numbers of a training: the same in metrics.jsonl and TensorBoard; a resumed run forgets what it will do again."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lesionforge import run
from lesionforge.engine.tracking import Tracker
from lesionforge.errors import BadInput


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("name", "holder"), [(run.METRICS, "tracker"), ("tfevents", "events")])
def test_a_full_disk_is_one_line(tmp_path: Path, name: str, holder: str) -> None:
    """No thread writes, so no thread's traceback comes on top."""
    tracker = Tracker(tmp_path, 0, "off", "", {})
    held = tracker if holder == "tracker" else tracker.tensorboard
    held.file.close()
    held.file = open("/dev/full", "w" if holder == "tracker" else "wb")  # noqa: SIM115
    with pytest.raises(BadInput, match=rf"{name}.*: cannot be written, the disk is full"), tracker:
        tracker.write(9, loss=0.5)
