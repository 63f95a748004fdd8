"""Commands one after the other in the same processes, for torchrun: loading torch and diffusers costs more than a run.

    torchrun ... rank_commands.py JOBS.json    # [{"words": [...], "stop": none or [rank, calls of the UNet]}]

Writes JOBS.RANK.json: the exit codes.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch.nn.modules.module import register_module_forward_pre_hook

from lesionforge.cli import main

SECONDS = 280  # two processes on two cores load torch in one minute at worst


def torchrun(folder: Path, jobs: list[dict[str, Any]]) -> tuple[list[list[int]], str]:
    """(exit codes of each job in each of two processes, what they said)."""
    file = folder / "jobs.json"
    file.write_text(json.dumps(jobs))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run([*start, __file__, str(file)], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(file.with_suffix(f".{rank}.json").read_text()) for rank in (0, 1)], ended.stderr


def code_of(words: list[str], calls: int) -> int | str | None:
    """calls: of the UNet, at the last of which this process gets a SIGTERM; 0 for none."""
    left = calls

    def count(module: object, _: object) -> None:
        nonlocal left
        if type(module).__name__ == "UNet2DConditionModel":
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGTERM)

    hook = register_module_forward_pre_hook(count)
    try:
        return main(words)
    except SystemExit as ended:
        return ended.code
    finally:
        hook.remove()


if __name__ == "__main__":
    jobs, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    codes = []
    for job in json.loads(jobs.read_text()):
        stopped, calls = job["stop"] or (rank, 0)
        codes.append(code_of(job["words"], calls if stopped == rank else 0))
        jobs.with_suffix(f".{rank}.json").write_text(json.dumps(codes))
