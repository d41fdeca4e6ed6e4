"""What ``ppl sample``, ``report``, ``calibrate``, ``compare`` and ``list`` do."""

import argparse
import contextlib
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppl.datafile import InputError
from ppl.modelfile import (
    fields_of,
    input_errors,
    load_target,
    make_sampler,
    nearest,
    parse_settings,
    sampler_class,
    split_settings,
    table,
)

OK, NOT_TRUSTED, BAD_INPUT, FAILED, INTERRUPTED = 0, 1, 2, 3, 130
DRAWS, SUMMARY, REPORT, CHECKPOINT = "draws.nc", "summary.csv", "report.html", "checkpoint"
RANKS, TABLE = "ranks.csv", "table.csv"
MAX_ROWS = 40  # of the summary that is printed


class Failure(Exception):
    """What is said on standard error, and the exit code."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


def explained(error: Exception) -> tuple[int, str]:
    """Exit code and message of whatever a command raised."""
    if isinstance(error, Failure):
        return error.code, str(error)
    if isinstance(error, InputError):
        return BAD_INPUT, str(error)
    return FAILED, (
        f"{type(error).__name__}: {error} (run the command again with --traceback to see where)"
    )


# The commands ---------------------------------------------------------------------------------


def sample(options: argparse.Namespace) -> int:
    """Run ``ppl sample``."""
    import ppl
    from ppl.sampler import DirectSampler

    out, say = Path(options.out), _Teller(quiet=options.quiet)
    _check_folder(out, resume=options.resume, overwrite=options.overwrite)
    cls = sampler_class(options.sampler)
    fields, sizes = split_settings(options, cls)
    sampler = make_sampler(cls, fields)
    with input_errors():
        target, source = load_target(options.model, options.data)
    say.aside(f"data: {source}" if source else "")
    if options.overwrite:
        _clear(out)
    with _saving(out):
        out.mkdir(parents=True, exist_ok=True)
    # A direct sampler has no state to save: the same key gives the same draws.
    checkpoint = None if isinstance(sampler, DirectSampler) else out / CHECKPOINT
    with input_errors(), _saving(out):
        draws = ppl.sample(
            sampler, target, progress=not options.quiet, checkpoint=checkpoint, **sizes
        )
    interrupted = draws.run.stopped == "interrupted"
    if interrupted and draws.num_samples == 0:
        raise Failure(
            f"interrupted before the first draw; the same command with --resume goes on from "
            f"{out / CHECKPOINT}",
            INTERRUPTED,
        )
    status = _save(draws, out, say)
    if interrupted:
        say.aside(f"interrupted: these are the draws so far; --resume goes on in {out}")
        return INTERRUPTED
    return status


def _save(draws: Any, out: Path, say: "_Teller") -> int:
    """Write draws, summary and report; print the summary and the verdict."""
    import ppl
    from ppl.checkpoint import write_atomically

    summary = draws.summary()
    with _saving(out):
        draws.save(out / DRAWS)
        write_atomically(out / SUMMARY, lambda file: file.write(summary.to_csv().encode()))
    say(_header(draws))
    say(summary.to_string(max_rows=MAX_ROWS, float_format="{:.4g}".format))
    if len(summary) > MAX_ROWS:
        say(f"({len(summary)} rows: all of them are in {out / SUMMARY})")
    status = _say_verdict(draws, say)
    with _saving(out):
        ppl.report(draws, out / REPORT)
    say(f"{out / DRAWS}  {out / SUMMARY}  {out / REPORT}")
    return status


def report(options: argparse.Namespace) -> int:
    """Run ``ppl report``."""
    import ppl

    say = _Teller(quiet=options.quiet)
    runs = [Path(run) for run in options.runs]
    names = [run.resolve().name if run.is_dir() else run.stem for run in runs]
    if len(set(names)) < len(names):
        raise InputError(f"runs side by side need names that differ; got {', '.join(names)}")
    if len(runs) > 1 and not options.out:
        raise InputError("a report on several runs needs --out, such as --out side_by_side.html")
    beside = runs[0] / REPORT if runs[0].is_dir() else runs[0].with_suffix(".html")
    path = Path(options.out or beside)
    draws = {name: _load(run) for name, run in zip(names, runs, strict=True)}
    with _saving(path):
        ppl.report(draws if len(draws) > 1 else draws[names[0]], path)
    codes = []
    for name, each in draws.items():
        say(f"{name}: {_header(each)}" if len(draws) > 1 else _header(each))
        codes.append(_say_verdict(each, say))
    say(str(path))
    return max(codes)


def _load(run: Path) -> Any:
    """Draws of a run's folder, finished or killed, of a checkpoint, or of a file."""
    import ppl

    place = run
    if run.is_dir() and (run / DRAWS).exists():
        place = run / DRAWS
    elif (run / CHECKPOINT).is_dir():
        place = run / CHECKPOINT
    with input_errors(OSError):
        return ppl.load(place)


def calibrate(options: argparse.Namespace) -> int:
    """Run ``ppl calibrate``."""
    import ppl
    from ppl.checkpoint import write_atomically
    from ppl.sampler import DirectSampler

    out, say = Path(options.out), _Teller(quiet=options.quiet)
    _check_folder(out, resume=options.resume, overwrite=options.overwrite)
    cls = sampler_class(options.sampler)
    fields, sizes = split_settings(options, cls)
    if "thin" in sizes:
        raise InputError("calibrate thins each fit by its effective size: it takes no thin")
    sampler = make_sampler(cls, fields)
    with input_errors():
        target, source = load_target(options.model, options.data)
    say.aside(f"data: {source}" if source else "")
    if options.overwrite:
        _clear(out)
    with _saving(out):
        out.mkdir(parents=True, exist_ok=True)
    with input_errors(), _saving(out):
        result = ppl.calibrate(
            target, sampler, num_simulations=options.num_simulations,
            around_data=options.around_data, progress=not options.quiet,
            checkpoint=None if isinstance(sampler, DirectSampler) else out / CHECKPOINT, **sizes,
        )  # fmt: skip
    with _saving(out):
        text = result.ranks.to_csv()
        write_atomically(out / RANKS, lambda file: file.write(text.encode()))
        result.report(out / REPORT)
    _say_judgement(result.judgement, say)
    say(f"{out / RANKS}  {out / REPORT}")
    return OK if result.passed else NOT_TRUSTED


def compare(options: argparse.Namespace) -> int:
    """Run ``ppl compare``."""
    import ppl
    from ppl.checkpoint import write_atomically
    from ppl.reference import NotCertified

    say, out = _Teller(quiet=options.quiet), Path(options.out) if options.out else None
    if out is not None:
        _check_folder(out, resume=False, overwrite=options.overwrite)
    names = _names(options.samplers, "--samplers")
    certifiers = _names(options.reference, "--reference") if options.reference else []
    fields: dict[str, dict[str, Any]] = {name: {} for name in [*names, *certifiers]}
    classes = {name: sampler_class(name) for name in fields}
    for key, value in parse_settings(options.set).items():
        name, _, field = key.rpartition(".")
        if name not in fields:
            raise InputError(f"--set {key}: write SAMPLER.FIELD, such as {names[0]}.step_size=0.1")
        known = fields_of(classes[name])
        if field not in known:
            raise InputError(f"{name} has no field {field!r}; {nearest(field, known)}")
        fields[name][field] = value
    made = {name: make_sampler(cls, fields[name]) for name, cls in classes.items()}
    budget, seconds = options.budget, options.seconds
    with input_errors():
        target, source = load_target(options.model, options.data)
        say.aside(f"data: {source}" if source else "")
        sizes: dict[str, Any] = {"progress": not options.quiet}
        truth = None
        if certifiers:
            pair = {name: made[name] for name in certifiers}
            try:
                truth = ppl.reference(target, pair, options.seed, **sizes)
            except NotCertified as error:
                raise Failure(str(error), NOT_TRUSTED) from error
            say(truth.run.notes[-1])
        if budget is not None or seconds is not None:
            sizes["budget"] = budget if seconds is None else ppl.elapsed(seconds)
        chosen = {name: made[name] for name in names}
        result = ppl.compare(
            target, chosen, options.seed, num_seeds=options.seeds, reference=truth, **sizes
        )
    shown = result.table.drop(columns="why").dropna(axis=1, how="all").T
    say(shown.to_string(float_format="{:.4g}".format))
    say(str(result.recommendation))
    if out is not None:
        with _saving(out):
            out.mkdir(parents=True, exist_ok=True)
            text = result.table.to_csv()
            write_atomically(out / TABLE, lambda file: file.write(text.encode()))
            result.report(out / REPORT)
        say(f"{out / TABLE}  {out / REPORT}")
    return OK if result.recommendation.sampler is not None else NOT_TRUSTED


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(set(names)) < max(len(names), 2):
        raise InputError(f"{option} takes two samplers or more, each once; got {text}")
    return names


def list_samplers(options: argparse.Namespace) -> int:
    """Run ``ppl list``."""
    rows = table()
    shown = rows if options.all else [row for row in rows if row.tier == "core"]
    width = max(len(row.name) for row in shown)
    for row in shown:
        print(f"{row.name:<{width}}  {row.exactness:<20}  {row.title}")
    if len(shown) < len(rows):
        print(f"and {len(rows) - len(shown)} more: ppl list --all", file=sys.stderr)
    return OK


# The output folder ----------------------------------------------------------------------------


def _check_folder(out: Path, *, resume: bool, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; name a folder")
    if not out.is_dir() or not any(out.iterdir()) or resume or overwrite:
        return
    raise InputError(
        f"--out {out} exists and is not empty. Add --resume to go on with the run in it (and to "
        f"extend it, with more --samples), --overwrite to replace its {DRAWS}, {SUMMARY}, "
        f"{REPORT} and {CHECKPOINT}/, or name another folder"
    )


def _clear(out: Path) -> None:
    """Remove the files of an earlier run; whatever else is in the folder stays."""
    for name in (DRAWS, SUMMARY, RANKS, REPORT):
        (out / name).unlink(missing_ok=True)
    if (out / CHECKPOINT).is_dir():
        shutil.rmtree(out / CHECKPOINT)


@contextlib.contextmanager
def _saving(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Failure(
            f"could not write to {place}: {error}. No file there is half-written. Free some space "
            "(or get the right to write) and give the command again; `ppl sample` goes on where "
            "it was with --resume",
            FAILED,
        ) from error


# Words ----------------------------------------------------------------------------------------


class _Teller:
    """Prints results to standard output and remarks to standard error, unless told to be quiet."""

    def __init__(self, *, quiet: bool):
        self.quiet = quiet

    def __call__(self, text: str) -> None:
        if not self.quiet:
            print(text)

    def aside(self, text: str) -> None:
        """Print a remark."""
        if text and not self.quiet:
            print(f"ppl: {text}", file=sys.stderr)


def _header(draws: Any) -> str:
    """First and last lines of the draws' own description: what they are, what they cost."""
    lines = repr(draws).splitlines()
    return "\n".join(
        [lines[0], *(x for x in lines[1:] if " evaluations in " in x or "note: " in x)]
    )


def _say_verdict(draws: Any, say: _Teller) -> int:
    from ppl.diagnostics.convergence import judge

    verdict = judge(draws)
    _say_judgement(verdict, say)
    return OK if verdict.status in ("good", "caution") else NOT_TRUSTED


def _say_judgement(verdict: Any, say: _Teller) -> None:
    say(verdict.headline)
    for line in (*verdict.reasons, *(f"To do: {advice}" for advice in verdict.advice)):
        say(textwrap.fill(line, 100, initial_indent="- ", subsequent_indent="  "))
