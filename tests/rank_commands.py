"""Commands one after the other in the same processes, for torchrun: loading torch and diffusers costs more than a run.

    torchrun ... rank_commands.py JOBS.json    # [{"words": [...], "stop": none or [rank, calls of the UNet]}]

Writes JOBS.RANK.json: the exit codes.
"""

import json
import os
import signal
import sys
from pathlib import Path

from torch.nn.modules.module import register_module_forward_pre_hook

from lesionforge.cli import main


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
