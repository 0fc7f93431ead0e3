"""``pellucid sweep``: the grid of a Weights & Biases sweep file on this machine, run by run.

A command, because it must be there without a clone, and should fail and stop as the others do.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pellucid.cli import Parser, configs_directory, shipped_sweeps
from pellucid.cli.options import PellucidCLI
from pellucid.cli.quiet import quiet
from pellucid.cli.sweep_file import find_sweep, read_sweep
from pellucid.errors import RunFailure, UserError, nearest
from pellucid.report.page import build_report
from pellucid.report.runs import read_runs
from pellucid.report.tradeoff import text_tradeoff

_WRONG_INPUT = 2
# Ctrl-C, and the signal that ends a job of a cluster: nobody wants the next run then.
_CTRL_C = 130
_STOPPED = (_CTRL_C, 143, -2, -15)


@dataclass(frozen=True)
class Point:
    """One run of a sweep."""

    name: str
    """The options that make it what it is, for people."""
    words: tuple[str, ...]
    """What follows ``pellucid run``."""
    config: Mapping[str, Any]
    """All its settings."""
    folder: Path
    """Where its run directory will be."""


def plan(words: Sequence[str]) -> tuple[list[Point], Path]:
    """All runs that a command line asks for, each with its settings checked.

    Args:
        words: Names or paths of sweeps, then options for all their runs, which may begin with
            ``--``.

    Returns:
        The runs in their order, and the directory that will hold them.

    Raises:
        UserError: If a file or an option is wrong, or two runs would be the same.
    """
    count = next((n for n, word in enumerate(words) if word.startswith("-")), len(words))
    names, extra = words[:count], words[count:]
    extra = extra[1:] if extra[:1] == ["--"] else extra
    if not names:
        raise UserError("sweep", f"name a sweep; {nearest('', shipped_sweeps())}")
    sweeps = [read_sweep(find_sweep(name)) for name in names]
    # A directory of their own, so that their report lies beside them.
    root = f"--run_root={Path('runs') / sweeps[0].path.stem}"
    points: list[Point] = []
    for grid in sweeps:
        shared = (*grid.words, root)
        for own in grid.points():
            points.append(_point((*shared, *own, *extra), own))
            for number, other in enumerate(points[:-1], 1):
                if _same(other.config, points[-1].config):
                    raise UserError(
                        "sweep",
                        f"runs {number} ({other.name}) and {len(points)} ({points[-1].name}) are "
                        "the same: a value is there twice, or an option after the sweeps sets a "
                        "parameter; change the file instead (pellucid configs cp)",
                    )
    roots = {str(point.config["run_root"]) for point in points}
    return points, Path(roots.pop()) if len(roots) == 1 else Path("runs")


def _point(words: tuple[str, ...], own: Sequence[str]) -> Point:
    with quiet():
        cli = PellucidCLI("run", words)
    name = cli.config.experiment or cli.given.experiment() or type(cli.model).__name__.lower()
    # As a run writes it and reads it again, so that the two compare equal.
    config = yaml.safe_load(yaml.safe_dump(cli.complete_config() | {"experiment": name}))
    options = ", ".join(option.removeprefix("--").replace("=", " ") for option in own)
    return Point(f"{name}, {options}", words, config, Path(config["run_root"]) / name)


def _same(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configs give the same figures; where they lie and who is told is no matter."""
    free = {"run_root", "logger"}
    keys = (config.keys() | other.keys()) - free
    return all(config.get(key) == other.get(key) for key in keys)


def find_finished(point: Point) -> Path | None:
    """The run directory in which a run has been finished before; None if there is none."""
    for results in sorted(point.folder.glob("*/results.json")):
        try:
            config = yaml.safe_load((results.parent / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(config, dict) and _same(config, point.config):
            return results.parent
    return None


def start(words: Sequence[str]) -> int:
    """Run ``pellucid run`` in a process of its own, which leaves no memory and no logger behind.

    Args:
        words: What follows it.

    Returns:
        Its exit status; 130 after Ctrl-C.
    """
    environment = dict(os.environ)
    checkout = Path(__file__).resolve().parents[2]
    if configs_directory().parent == checkout:
        # A clone need not be installed, and the user may be anywhere.
        paths = [str(checkout), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    process = subprocess.Popen(
        [sys.executable, "-m", "pellucid.cli", "run", *words], env=environment
    )
    try:
        return process.wait()
    except KeyboardInterrupt:
        # Ctrl-C has reached the run too: it keeps its last checkpoint and says how to go on.
        process.wait()
        return _CTRL_C


def sweep(words: Sequence[str]) -> None:
    """Run what is not finished yet, one after the other, and write the report on all of it.

    Args:
        words: The words after the command.

    Raises:
        UserError: If a file or an option is wrong.
        RunFailure: If a run failed; the others are made all the same.
        KeyboardInterrupt: If a run was stopped.
    """
    if not words or {"-h", "--help"} & set(words):
        _parser().print_help()
        raise SystemExit(0 if words else _WRONG_INPUT)
    points, root = plan(words)
    done: list[Path] = []
    failed: list[str] = []
    for number, point in enumerate(points, 1):
        print(f"\nrun {number} of {len(points)}: {point.name}", flush=True)
        if finished := find_finished(point):
            print(f"finished before: {finished}")
            done.append(finished)
            continue
        status = start(point.words)
        if status in _STOPPED:
            print("the sweep goes on with the first unfinished run when it is started again")
            raise KeyboardInterrupt
        if status == _WRONG_INPUT:
            problem = "its options were refused; no later run was started"
            raise UserError(f"run {number} of {len(points)}", problem)
        if (finished := find_finished(point)) and status == 0:
            done.append(finished)
        else:
            failed.append(str(number))
    _report(done, root)
    if failed:
        runs = f"run{'s' * (len(failed) > 1)} {', '.join(failed)} of {len(points)} failed"
        raise RunFailure(f"{runs}; start the sweep again to repeat them: {_again(words)}")


def _report(runs: Sequence[Path], root: Path) -> None:
    if not runs:
        return
    try:
        page = build_report(runs, root / "report.html")
        figures = text_tradeoff(read_runs(runs))
    except (ValueError, OSError) as error:
        raise UserError("report", str(error)) from error
    print(f"\n{figures}\n" if figures else "")
    print(f"report: {page}")


def _again(words: Sequence[str]) -> str:
    return shlex.join(["pellucid", "sweep", *words])


def _parser() -> Parser:
    parser = Parser(
        prog="pellucid sweep",
        description="Run the grids of sweep files, then write the report on all their runs. "
        "Runs that have been finished before are not repeated.",
        epilog="Options of pellucid run, such as --trainer.max_epochs 5, can follow; "
        "the runs lie in runs/<first sweep>, or in --run_root.",
    )
    parser.add_argument("sweeps", nargs="+", metavar="SWEEP", help="a file, or a shipped sweep")
    return parser
