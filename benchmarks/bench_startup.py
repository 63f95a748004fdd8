"""What a small job costs before it does anything: imports, Snakemake, SLURM; and what chaining commands saves.

    python benchmarks/bench_startup.py [--rounds 3] [--jobs 20] [--write]

A cell of a study is train, predict and evaluate: three commands, or one chain of three in one process. Here on 120
drawn lesions and a tiny model, so that nearly all is start-up. CPU seconds of the process and all its children; on
SLURM those of the node: its daemons and jobs. That needs root and Debian's slurm-wlm; without them its rows say so.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import anchor  # first: it pins the threads

# isort: split
from lesionforge import run

sys.path.append(str(anchor.TOP / "tests"))

PYTHON = sys.executable
IMPORTS = {
    "python alone": "pass",
    "lesionforge train --help": "from lesionforge import cli; cli.main(['train', '--help'])",
    "import torch": "import torch",
    "import torch, timm, polars, cv2": "import torch, timm, polars, cv2",
    "import snakemake": "import snakemake.cli",
}
SNAKEFILE = """\
rule all:
    input: [f"{{n}}.done" for n in range({jobs})]
rule one:
    output: "{{n}}.done"
    resources: gpu=0, mem_mb=100, runtime=5
    shell: "true > {{output}}"
"""
PROFILE = """\
executor: slurm
jobs: 4
slurm-status-command: squeue
slurm-init-seconds-before-status-checks: 1
"""
CELL = """--data.image-size 32 --data.batch-size 8 --data.samples-per-epoch 80 --model.name test_resnet
    --model.weights random --optim.epochs 1 --hardware.device cpu --hardware.torch-threads 1
    --hardware.loader-threads 1"""


def main() -> None:
    arguments = anchor.parser(__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--jobs", type=int, default=20, help="of the trivial workflow")
    arguments.add_argument("--slurm-jobs", type=int, default=4)
    given = arguments.parse_args()
    packages = ("torch", "timm", "snakemake", "snakemake-executor-plugin-slurm")
    said = " ".join(word for word in sys.argv[1:] if word != "--write")
    head = anchor.header(packages).replace("; one core used", "; one thread a process")
    lines = [head.replace("bench_startup.py", f"bench_startup.py {said}".rstrip()), ""]
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        for rows in (starts(given), cells(folder, given), local(folder, given), on_slurm(folder, given)):
            lines += [*rows, ""]
            print("\n".join(rows), flush=True)
    anchor.show("\n".join(lines).rstrip(), "startup", given.write)


def cpu_of(command: list[str], rounds: int = 1, **options: object) -> float:
    """The smallest CPU seconds of several rounds, children included."""
    seconds = []
    for _ in range(rounds):
        started = anchor.cpu_seconds()
        ended = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
        seconds.append(anchor.cpu_seconds() - started)
        if ended.returncode:
            sys.exit(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
    return min(seconds)


def row(what: str, seconds: float, note: str = "") -> str:
    return f"{what:46}{seconds:8.2f} s   {note}".rstrip()


def starts(given: argparse.Namespace) -> list[str]:
    times = {what: cpu_of([PYTHON, "-c", code], given.rounds) for what, code in IMPORTS.items()}
    return [f"{'start-up of one process':46}CPU seconds", *[row(what, seconds) for what, seconds in times.items()]]


def cells(folder: Path, given: argparse.Namespace) -> list[str]:
    """train, predict, evaluate as three commands and as one chain."""
    import conftest

    # the tests' own drawn lesions; pytest keeps the plain function of a fixture in __wrapped__
    store = conftest.blobs.__wrapped__(SimpleNamespace(mktemp=lambda name: make(folder / name)))
    split = conftest.blob_split.__wrapped__(store)
    times: dict[str, list[float]] = {"three commands": [], "one chain": []}
    steps: list[float] = []
    for number in range(given.rounds):
        for kind in times:
            out = folder / "runs" / f"{kind.replace(' ', '-')}-{number}"
            train = ["train", "--out", str(out), "--data.store", str(store), "--data.split", str(split), *CELL.split()]
            commands = [train, ["predict", "--run", str(out)], ["evaluate", "--run", str(out)]]
            if kind == "one chain":
                words = [word for command in commands for word in ("::", *command)][1:]
                times[kind].append(cpu_of([PYTHON, "-m", "lesionforge.chain", *words]))
            else:
                parts = [cpu_of([PYTHON, "-m", "lesionforge", *command]) for command in commands]
                steps = parts if not steps or sum(parts) < sum(steps) else steps
                times[kind].append(sum(parts))
            assert (out / "evaluation" / run.SCORES).is_file()
    three, one = min(times["three commands"]), min(times["one chain"])
    detail = ", ".join(f"{verb} {s:.1f}" for verb, s in zip(("train", "predict", "evaluate"), steps, strict=True))
    return [
        f"{'a cell of 10 steps: train, predict, evaluate':46}CPU seconds",
        row("three commands", three, detail),
        row("one chain, as a study runs it", one, f"{three - one:.1f} s less, {three / one:.2f}x"),
    ]


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def snakemake(folder: Path, jobs: int, *words: str) -> list[str]:
    (folder / "Snakefile").write_text(SNAKEFILE.format(jobs=jobs))
    return [PYTHON, "-m", "snakemake", "--directory", str(folder), "--snakefile", str(folder / "Snakefile"), *words]


def local(folder: Path, given: argparse.Namespace) -> list[str]:
    words = ("--executor", "local", "--cores", "1", "--forceall", "--nolock", "--scheduler", "greedy")
    many, one = (
        cpu_of(snakemake(make(folder / f"local-{jobs}"), jobs, *words), given.rounds) for jobs in (given.jobs, 1)
    )
    return [
        f"{'Snakemake here, jobs that do nothing':46}CPU seconds",
        row("1 job", one, "start-up of Snakemake and its workflow"),
        row(f"{given.jobs} jobs", many),
        row("each further job", (many - one) / (given.jobs - 1)),
    ]


def on_slurm(folder: Path, given: argparse.Namespace) -> list[str]:
    """CPU of the node: its daemons and what they started, not the Snakemake that submits."""
    import slurm_cluster

    head = [f"{'Snakemake on SLURM, jobs that do nothing':46}CPU seconds"]
    try:
        cluster = slurm_cluster.start_or_skip()
    except BaseException as skipped:  # pytest's Skipped, which is no Exception
        if type(skipped).__name__ != "Skipped":
            raise
        return [*head, f"not measured: {skipped}"]
    try:
        where, num = make(folder / "slurm"), given.slurm_jobs
        (where / "profile").mkdir()
        (where / "profile" / "config.yaml").write_text(PROFILE)
        before, started = cluster.cpu_seconds(), time.monotonic()
        ended = cluster.run(*snakemake(where, num, "--profile", str(where / "profile")), timeout=600, cwd=where)
        wall, seconds = time.monotonic() - started, cluster.cpu_seconds() - before
        if ended.returncode:
            sys.exit(f"{ended.stdout}{ended.stderr}")
        plain = cluster.cpu_seconds()
        submitted = cluster.run("sbatch", "--wait", "--output=/dev/null", "--wrap", "srun -n1 true", timeout=600)
        assert submitted.returncode == 0, submitted.stderr
        plain = cluster.cpu_seconds() - plain
    finally:
        cluster.stop()
    return [
        *head,
        row(f"{num} jobs on the node", seconds, f"{wall:.0f} s by the clock, until Snakemake knew of their end"),
        row("each job", seconds / num, "two more Snakemakes: the job's, and its step's"),
        row("sbatch and srun alone, without Snakemake", plain),
    ]


if __name__ == "__main__":
    main()
