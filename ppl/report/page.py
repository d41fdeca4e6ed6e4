"""One self-contained HTML page about draws: a verdict in words, then what it rests on.

The page needs neither network nor JavaScript, follows the reader's light or dark setting, and is
written for a phone as well as for a desk.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl.draws import Draws
from ppl.precision import full_precision
from ppl.same_target import require_same_target


@full_precision
def report(
    draws: Draws | Mapping[str, Draws], path: str | os.PathLike[str], *, truth: Any = None
) -> Path:
    """Write a page that says how far the draws may be trusted, and why.

    Parameters
    ----------
    draws
        Draws of one run, or several by name: then a comparison comes first, and after it the
        sections of each.
    path
        File to write. It is written under a temporary name and renamed: when anything fails, the
        file is what it was before. Missing folders are made.
    truth
        The true image, for draws of one that was seen through a linear operator, where it is
        known: the errors against it are then reported as well.

    Returns
    -------
    pathlib.Path
        Where the page is.

    Raises
    ------
    ValueError
        If there are no draws to report, or draws of different targets.
    IsADirectoryError
        If ``path`` is a folder.
    """
    path = Path(path)
    _check_file(path)
    if isinstance(draws, Mapping) and not draws:
        raise ValueError("no draws to report: the mapping is empty")
    if isinstance(draws, Mapping):
        require_same_target(draws)
    return write(path, html(draws, truth=truth))


def html(draws: Draws | Mapping[str, Draws], *, truth: Any = None) -> str:
    """The page as text."""
    from ppl.report import chains, comparison, kernel, model, pictures, run, values
    from ppl.report.subject import Subject

    if isinstance(draws, Mapping):
        subjects = [
            Subject(each, str(name), f"s{i + 1}-", truth)
            for i, (name, each) in enumerate(draws.items())
        ]
        shared = [comparison.overview(subjects), comparison.agreement(subjects)]
        title = subjects[0].draws.run.target
    else:
        subjects, shared = [Subject(draws, truth=truth)], []
        title = draws.run.target
    sections = (
        pictures.image,
        values.summary,
        values.weights,
        values.densities,
        chains.ranks,
        chains.traces,
        chains.ess_evolution,
        kernel.energy,
        kernel.divergences,
        kernel.pairs,
        kernel.sampler,
        kernel.history,
        model.prior_posterior,
        model.predictive,
        run.cost,
        run.reproduction,
        run.notes,
    )
    parts = [
        {"subject": subject, "facts": key_facts(subject), "sections": _written(subject, sections)}
        for subject in subjects
    ]
    return render(title, parts, [section for section in shared if section is not None])


def render(
    title: str,
    parts: Sequence[Mapping[str, Any]],
    shared: Sequence[Any] = (),
    *,
    kind: str = "Inference report",
) -> str:
    """The page of given sections; ``kind`` stands above its title."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("template.html.j2")
    return template.render(title=title, parts=parts, shared=shared, kind=kind)


def _written(subject: Any, functions: Sequence[Any]) -> list[Any]:
    found = (function(subject) for function in functions)
    return [section for section in found if section is not None]


def key_facts(subject: Any) -> list[tuple[str, str]]:
    """The line of key facts under the verdict."""
    from ppl.report.blocks import plural, seconds

    draws, run = subject.draws, subject.draws.run
    first, second = draws.num_evaluations
    time = seconds(run.wall_seconds)
    if run.seconds.get("compile"):
        time += f", {seconds(run.seconds['compile'])} of it compilation"
    rows = [
        ("Sampler", f"{run.sampler_name}, {run.exactness}"),
        ("Draws", f"{plural(draws.num_chains, subject.unit)} × {draws.num_samples:,}"),
        ("Evaluations", f"{first:,} {run.counted[0]}, {second:,} {run.counted[1]}"),
        ("Time", time),
    ]
    if "device" in run.versions:
        rows.append(("Device", run.versions["device"]))
    if draws.log_evidence is not None:
        rows.append(("Log evidence", subject.evidence))
    return rows


def write(path: Path, text: str) -> Path:
    """Write a page, making missing folders."""
    _check_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, text)
    return path


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; name a file in it, such as {path}/report.html"
        )


def _replace(path: Path, text: str) -> None:
    """Write all of the file or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
