"""The command line: ``ppl sample``, ``report``, ``calibrate``, ``compare``, ``list``.

The only place that looks samplers and models up by name, by importing what the user names.
"""

import argparse
import contextlib
import importlib
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ppl import commands
from ppl.commands import CHECKPOINT, DRAWS, INTERRUPTED, RANKS, REPORT, SUMMARY, TABLE
from ppl.modelfile import NEIGHBORS, OPTIONS

CODES = """\
exit codes:
  0    done, and the verdict on the draws is good (or to be used with care: see the words)
  1    done and saved, but the verdict is bad, or there is too little to judge
  2    the command, a file or an option cannot be used; nothing was drawn
  3    the run failed for another reason: a full disk, an error in the model or the library
  130  interrupted by Ctrl-C; what was drawn is saved, and --resume goes on
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; messages go to standard error."""
    options = _parser().parse_args(arguments)
    path = list(sys.path)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            light = options.run is commands.list_samplers
            _import_the_library(*(() if light else ("ppl.inference", "ppl.program")))
            code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `ppl list | head`
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        print("ppl: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if options.traceback:
            traceback.print_exc()
        code, message = commands.explained(error)
        text = textwrap.fill(message, 100, break_long_words=False, break_on_hyphens=False)
        print(f"ppl: {text}" if "\n" not in message else f"ppl: {message}", file=sys.stderr)
        return code
    finally:
        sys.path[:] = path


def _show_warning(message: Any, *_: Any, **__: Any) -> None:
    print(f"ppl: warning: {message}", file=sys.stderr)


def _import_the_library(*more: str) -> None:
    """Import `samplers` and `models` from where `ppl` is, whatever lies in the current folder.

    A user's own ``models.py`` would hide the package. The current directory is taken off the path
    meanwhile, then put back, so that a model file may import what lies beside it.
    """
    before, here = list(sys.path), os.getcwd()
    home = str(Path(__file__).resolve().parents[1])
    sys.path[:] = [home, *(p for p in before if p not in ("", ".") and not _same(p, here))]
    try:
        for name in (*NEIGHBORS, *more):
            importlib.import_module(name)
    finally:
        sys.path[:] = before


def _same(path: str, other: str) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


# The parser -----------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppl",
        description="Sample a model, judge the draws, write a report.",
        epilog=CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(
        required=True, metavar="sample | report | calibrate | compare | list"
    )

    def command(name: str, run: Callable, text: str) -> argparse.ArgumentParser:
        made = subparsers.add_parser(
            name,
            help=text,
            description=text,
            epilog=CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(run=run)
        made.add_argument("--traceback", action="store_true", help="show where an error arose")
        return made

    sample = command("sample", commands.sample, "draw from a model's posterior and judge the draws")
    _add_model(sample)
    _add_run(sample, f"folder for {DRAWS}, {SUMMARY}, {REPORT} and {CHECKPOINT}/")

    report = command(
        "report", commands.report, "write the report of a run, or of several side by side"
    )
    report.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder that `ppl sample` wrote, finished or not; or a .nc file",
    )
    report.add_argument("--out", metavar="FILE", help=f"where to write it (RUN/{REPORT})")
    _add_quiet(report)

    calibrate = command(
        "calibrate",
        commands.calibrate,
        "check a sampler on data simulated from a model (simulation-based calibration)",
    )
    _add_model(calibrate)
    _add_run(calibrate, f"folder for {RANKS}, {REPORT} and {CHECKPOINT}/")
    calibrate.add_argument(
        "--num-simulations", type=int, default=200, metavar="N", help="simulated data sets (200)"
    )
    calibrate.add_argument(
        "--around-data",
        action="store_true",
        help="simulate around the given data, from the posterior instead of the prior",
    )

    compare = command(
        "compare", commands.compare, "run several samplers on one model and say which to use"
    )
    _add_model(compare)
    compare.add_argument(
        "--samplers", required=True, metavar="NAME,NAME", help="two or more, as in `ppl list`"
    )
    limit = compare.add_mutually_exclusive_group()
    limit.add_argument(
        "--budget", type=int, metavar="N", help="evaluations of a run, warm-up included (100000)"
    )
    limit.add_argument("--seconds", type=float, metavar="S", help="seconds of a run instead")
    compare.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each (3)")
    compare.add_argument(
        "--reference",
        metavar="NAME,NAME",
        help="two unrelated samplers whose long runs, if they agree, are taken for the truth",
    )
    compare.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SAMPLER.FIELD=VALUE",
        help="a field of one sampler",
    )
    compare.add_argument("--seed", type=int, default=0, metavar="N", help="random key (0)")
    compare.add_argument("--out", metavar="DIR", help=f"folder for {TABLE} and {REPORT}, if any")
    compare.add_argument("--overwrite", action="store_true", help="replace what is in --out")
    _add_quiet(compare)

    table = command("list", commands.list_samplers, "list the samplers")
    table.add_argument("--all", action="store_true", help="not only the core")
    return parser  # fmt: skip


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a NumPyro model (or a target), as file.py:name or package.module:name; "
        "models.programs.rats:model is one that comes with its data",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="FILE",
        help="JSON, CSV or NPZ with the model's arguments by name; may be repeated. "
        "By default data() of the model's module, where there is one",
    )


def _add_run(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument(
        "--sampler",
        required=True,
        metavar="NAME",
        help="as in `ppl list`, or file.py:Class of your own",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help=out)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a field of the sampler, or one of " + ", ".join(OPTIONS),
    )
    parser.add_argument("--seed", type=int, metavar="N", help="random key (0)")
    parser.add_argument("--chains", type=int, metavar="N", help="chains, or independent runs")
    parser.add_argument("--samples", type=int, metavar="N", help="draws in each chain")
    parser.add_argument("--warmup", type=int, metavar="N", help="warm-up steps (1000)")
    again = parser.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out, if there is one; more --samples of `ppl sample` extend "
        "it",
    )
    again.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    _add_quiet(parser)


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only")
