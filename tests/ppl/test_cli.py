"""The command line: what each command writes, says and exits with."""

import errno
import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import ppl
from ppl import cli, commands, datatree, markov

pytestmark = pytest.mark.usefixtures("unoptimized")

# One density for all tests, imported as a module so that it is compiled once.
DENSITY = """
import jax.numpy as jnp
import numpyro.distributions as dist
import ppl

target = ppl.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
known = ppl.from_distribution(dist.Normal(jnp.zeros(2), 1.0).to_event(1))
nowhere = ppl.from_log_density(lambda x: jnp.sum(x) * jnp.nan, jnp.zeros(2))
"""
MODEL = """
import numpyro
import numpyro.distributions as dist


def model(y, sigma=1.0):
    mu = numpyro.sample("mu", dist.Normal(0, 5))
    numpyro.sample("y", dist.Normal(mu, sigma).expand([3]).to_event(1), obs=y)
"""
WALK = ["--sampler", "RandomWalk", "--chains", "2", "--samples", "120", "--warmup", "40", "--quiet"]
DIRECT = ["sample", "cli_density:known", "--sampler", "ExactDraws", "--samples", "500"]


@pytest.fixture(scope="module")
def density(tmp_path_factory):
    folder = tmp_path_factory.mktemp("density")
    (folder / "cli_density.py").write_text(DENSITY)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, density):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_page(monkeypatch):
    """A stand-in for the report, which has tests of its own and takes its time."""

    def report(draws, path):
        path.write_text("page")

    monkeypatch.setattr(ppl, "report", report, raising=False)


@pytest.fixture
def run(capsys):
    def run(*arguments):
        capsys.readouterr()
        code = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def values(path):
    return ppl.load(path)["x"]


# ppl sample -----------------------------------------------------------------------------------


def test_a_good_run_exits_with_0_and_leaves_draws_summary_and_report(run, folder):
    code, out, err = run(*DIRECT, "--out", "run", "--seed", 3)
    assert code == commands.OK, err
    assert "Reliable: nothing speaks against these draws." in out
    assert out.splitlines()[-1].split() == ["run/draws.nc", "run/summary.csv", "run/report.html"]
    assert values("run/draws.nc").shape == (1, 500, 2)
    table = (folder / "run" / "summary.csv").read_text()
    assert table.startswith(",mean,sd,")
    assert "\nx[1]," in table
    assert "</html>" in (folder / "run" / "report.html").read_text()
    assert "0%|" in err, "the progress bar stands on standard error"


def test_a_bad_run_is_saved_and_exits_with_1(run, folder, no_page):
    code, out, _ = run("sample", "cli_density:target", *WALK[:-1], "--samples", 20, "--out", "run")
    assert code == commands.NOT_TRUSTED
    assert "Cannot be judged." in out
    assert "- To do: Run longer." in out
    assert (folder / "run" / "draws.nc").exists()


def test_a_numpyro_model_is_fitted_to_a_data_file(run, folder, no_page):
    (folder / "model.py").write_text(MODEL)
    (folder / "d.csv").write_text("y\n1.0\n2.0\n3.0\n")
    command = ["sample", "model.py:model", "--data", "d.csv", "--out", "run", *WALK[:-1]]
    _, out, err = run(*command, "--set", "step_size=0.5")
    assert "ppl: data: d.csv" in err
    assert "mu " in out
    assert ppl.load("run/draws.nc")["mu"].shape == (2, 120)


def test_quiet_prints_nothing(run, folder, no_page):
    code, out, err = run(*DIRECT, "--out", "run", "--quiet")
    assert (code, out, err) == (0, "", "")


def test_the_seed_decides_the_draws(run, folder, no_page):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(*DIRECT, "--out", name, "--quiet", "--set", f"rng_key={seed}")
    np.testing.assert_array_equal(values("a/draws.nc"), values("b/draws.nc"))
    assert not np.array_equal(values("a/draws.nc"), values("c/draws.nc"))


# The output folder ----------------------------------------------------------------------------


def test_an_output_folder_that_exists_asks_for_resume_or_overwrite(run, folder, no_page):
    (folder / "run").mkdir()
    (folder / "run" / "notes.txt").write_text("mine")
    code, _, err = run(*DIRECT, "--out", "run")
    assert code == commands.BAD_INPUT
    assert "--out run exists and is not empty. Add --resume to go on" in err
    assert "--overwrite to replace" in err
    assert sorted(p.name for p in (folder / "run").iterdir()) == ["notes.txt"]


def test_overwrite_replaces_the_run_and_nothing_else(run, folder, no_page):
    old = folder / "run" / "checkpoint"
    old.mkdir(parents=True)
    (old / "meta.json").write_text("not even JSON")
    (folder / "run" / "draws.nc").write_text("old")
    (folder / "run" / "notes.txt").write_text("mine")
    code, _, err = run("sample", "cli_density:target", *WALK, "--out", "run", "--overwrite")
    assert code in (commands.OK, commands.NOT_TRUSTED), err
    assert json.loads((old / "meta.json").read_text())["fingerprint"]
    assert (folder / "run" / "notes.txt").read_text() == "mine"
    assert values("run/draws.nc").shape == (2, 120, 2)


def test_an_output_that_is_a_file_is_refused(run, folder):
    (folder / "run").write_text("a file")
    code, _, err = run(*DIRECT, "--out", "run", "--overwrite")
    assert code == commands.BAD_INPUT
    assert "--out run is a file; name a folder" in err


def test_ctrl_c_saves_the_draws_so_far_and_resume_gives_those_of_the_whole_run(
    run, folder, no_page, monkeypatch
):
    command = ["sample", "cli_density:target", *WALK]
    run(*command, "--out", "whole")
    advance, calls = markov.Chains._advance, []

    def interrupted(self, *args, **kwargs):
        advance(self, *args, **kwargs)
        calls.append(self.rows.count)
        if self.rows.count:
            raise KeyboardInterrupt

    monkeypatch.setattr(markov.Chains, "_advance", interrupted)
    code, _, _ = run(*command, "--out", "run")
    assert code == commands.INTERRUPTED
    partial = values("run/draws.nc")
    assert 0 < partial.shape[1] < 120
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(ppl, "report", lambda draws, path: None, raising=False)
    code, _, err = run(*command, "--out", "run", "--resume")
    assert code in (commands.OK, commands.NOT_TRUSTED), err
    np.testing.assert_array_equal(values("run/draws.nc"), values("whole/draws.nc"))
    np.testing.assert_array_equal(values("run/draws.nc")[:, : partial.shape[1]], partial)


def test_ctrl_c_before_the_first_draw_says_how_to_go_on(run, folder, no_page, monkeypatch):
    def interrupted(self, *args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(markov.Chains, "_advance", interrupted)
    code, _, err = run("sample", "cli_density:target", *WALK, "--out", "run")
    assert code == commands.INTERRUPTED
    assert "interrupted before the first draw; the same command with --resume goes on" in err
    assert not (folder / "run" / "draws.nc").exists()


def test_resume_with_another_seed_is_refused_and_more_samples_extend(run, folder, no_page):
    command = ["sample", "cli_density:target", *WALK, "--out", "run"]
    run(*command)
    before = values("run/draws.nc")
    code, _, err = run(*command, "--resume", "--seed", 1)
    assert code == commands.BAD_INPUT
    assert "was made with another rng_key" in " ".join(err.split())
    run(*command, "--resume", "--samples", 200)
    after = values("run/draws.nc")
    assert after.shape == (2, 200, 2)
    np.testing.assert_array_equal(after[:, :120], before)


@pytest.mark.parametrize("what", ["draws.nc", "checkpoint"])
def test_a_full_disk_is_said_and_leaves_nothing_half_written(
    run, folder, no_page, monkeypatch, what
):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    place = "write_netcdf" if what == "draws.nc" else None
    if place:
        monkeypatch.setattr(datatree, place, full)
    else:
        monkeypatch.setattr("ppl.checkpoint.Checkpoint.save_chunk", full)
    code, _, err = run("sample", "cli_density:target", *WALK, "--out", "run")
    assert code == commands.FAILED
    said = " ".join(err.split())
    assert "could not write to run: " in said
    assert "No space left on device" in said
    assert "goes on where it was with --resume" in said
    left = {p.name for p in (folder / "run").iterdir()}
    assert left == {"checkpoint"}


# Errors ---------------------------------------------------------------------------------------

TARGET, WALKER = "cli_density:target", WALK[:2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([TARGET, "--sampler", "Nuts"], "there is no sampler 'Nuts'; did you mean 'NUTS'"),
        ([TARGET, "--sampler", "RWM"], "there is no sampler 'RWM'; that method is RandomWalk"),
        ([TARGET, "--sampler", "Dense"], "there is no sampler 'Dense'; there are: NUTS, HMC"),
        ([TARGET, "--sampler", "ULA"], "ULA needs step_size: add --set step_size=..."),
        ([TARGET, *WALKER, "--set", "stepsize=1"], "did you mean 'step_size'"),
        ([TARGET, *WALKER, "--set", "step_size=0"], "step_size must be a positive number; got 0"),
        ([TARGET, *WALKER, "--chains", "0"], "num_chains must be an integer, at least 1; got 0"),
        ([TARGET, *WALKER, "--set", "num_samples=0"], "num_samples must be an integer, at least"),
        ([TARGET, *WALKER, "--data", "d.json"], "it takes no --data"),
        (["absent.py:model", *WALKER], "there is no file absent.py"),
        (["cli_density:targt", *WALKER], "cli_density has no 'targt'; did you mean 'target'"),
        (["cli_density:nowhere", *WALKER], "no finite start"),
        ([TARGET, "--sampler", "ExactDraws"], "ExactDraws needs 'sample'"),
        ([*DIRECT[1:4], "--warmup", "5"], "it takes no num_warmup= (got 5)"),
    ],
)
def test_bad_input_is_one_paragraph_and_exit_code_2(run, folder, arguments, message):
    code, out, err = run("sample", *arguments, "--out", "run", "--quiet")
    assert (code, out) == (commands.BAD_INPUT, "")
    assert err.startswith("ppl: ")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_a_model_that_observes_nothing_is_a_warning_in_one_line(run, folder, no_page, monkeypatch):
    (folder / "model.py").write_text(MODEL.replace(", obs=y", "").replace("y,", "y=0,"))
    monkeypatch.setattr(ppl, "sample", lambda *args, **kwargs: 1 / 0)
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # as outside of pytest
        code, _, err = run("sample", "model.py:model", *WALK, "--out", "run")
    assert code == commands.FAILED
    assert err.splitlines()[0].startswith("ppl: warning: ")
    assert "observes nothing" in err


def test_an_error_of_the_library_exits_with_3_and_is_traced_on_request(
    run, folder, monkeypatch, no_page
):
    monkeypatch.setattr(ppl, "sample", lambda *args, **kwargs: 1 / 0)
    code, _, err = run(*DIRECT, "--out", "run")
    assert code == commands.FAILED
    assert "ppl: ZeroDivisionError: division by zero (run the command again with --traceb" in err
    code, _, err = run(*DIRECT, "--out", "run", "--traceback")
    assert code == commands.FAILED
    assert "Traceback (most recent call last)" in err


def test_a_metric_is_named_by_what_is_imported(run, folder, no_page, monkeypatch):
    given = []
    monkeypatch.setattr(ppl, "sample", lambda sampler, *args, **kwargs: given.append(sampler))
    run("sample", TARGET, "--sampler", "NUTS", "--set", "metric=samplers:Diagonal", "--out", "run")
    assert type(given[0].metric).__name__ == "Diagonal"


@pytest.mark.parametrize("arguments", [[], ["smaple"], ["sample", "m.py:m", "--out", "run"]])
def test_wrong_usage_exits_with_2(run, arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == commands.BAD_INPUT


def test_help_explains_the_exit_codes(capsys):
    for arguments in (["--help"], ["sample", "--help"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
        out = capsys.readouterr().out
        for code in (0, 1, 2, 3, 130):
            assert f"\n  {code} " in out


# ppl report, ppl compare, ppl list ------------------------------------------------------------


def test_reports_of_one_run_and_of_several_side_by_side(run, folder, monkeypatch):
    pages = []
    monkeypatch.setattr(
        ppl, "report", lambda draws, path: pages.append((draws, path)), raising=False
    )
    run(*DIRECT, "--out", "a", "--quiet")
    run("sample", TARGET, *WALK, "--out", "b")
    (folder / "b" / "draws.nc").unlink()  # a killed run: the checkpoint is what there is
    pages.clear()
    code, out, err = run("report", "a")
    assert code == commands.OK, err
    assert out.splitlines()[-1] == "a/report.html"
    code, out, err = run("report", "a", "b/", "--out", "both.html")
    assert "a: Draws: ExactDraws" in out
    assert "b: Draws: RandomWalk" in out
    code, _, _ = run("report", "a/draws.nc", "--quiet")
    assert code == commands.OK
    (one, first), (several, second), (_, third) = pages
    assert one["x"].shape == (1, 500, 2)
    assert {name: draws["x"].shape for name, draws in several.items()} == {
        "a": (1, 500, 2),
        "b": (2, 120, 2),
    }
    assert [str(p) for p in (first, second, third)] == [
        "a/report.html", "both.html", "a/draws.html",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent: it does not exist"),
        (["empty"], "holds no checkpoint"),
        (["a.nc", "empty"], "a report on several runs needs --out"),
        (["empty", "sub/empty", "--out", "x.html"], "need names that differ; got empty, empty"),
        (["a.nc"], "a.nc"),
    ],
)
def test_a_report_on_what_is_no_run_is_refused(run, folder, arguments, message):
    (folder / "empty").mkdir()
    (folder / "sub" / "empty").mkdir(parents=True)
    (folder / "a.nc").write_text("no NetCDF")
    code, _, err = run("report", *arguments)
    assert code == commands.BAD_INPUT
    assert message in " ".join(err.split())


COMPARE = ["compare", TARGET, "--samplers", "RandomWalk,ULA", "--set", "ULA.step_size=0.1"]


def test_compare_runs_samplers_by_name_and_says_which_to_use(run, folder):
    few = ["--budget", 2000, "--seeds", 1, "--quiet"]
    code, out, err = run("compare", "cli_density:known", *COMPARE[2:], *few, "--out", "c")
    assert code == commands.OK, err
    code, out, err = run("compare", "cli_density:known", *COMPARE[2:], *few[:-1])
    assert "Use " in out
    assert "agree with the reference (exact draws of the target)" in out
    table = (folder / "c" / "table.csv").read_text()
    assert table.startswith("sampler,right,draws,evaluations")
    assert {line.split(",")[0] for line in table.splitlines()[1:]} == {"RandomWalk", "ULA"}
    assert "Comparison of samplers" in (folder / "c" / "report.html").read_text()
    code, _, err = run(*COMPARE, *few, "--out", "c")
    assert code == commands.BAD_INPUT
    assert "exists and is not empty" in err


@pytest.mark.slow
def test_compare_exits_by_whether_a_sampler_can_be_used(run):
    code, out, _ = run(*COMPARE[:3], "ULA,MCLMC", *COMPARE[4:], "--budget", 3000, "--seeds", 1)
    assert code == commands.NOT_TRUSTED
    assert "None of the samplers can be recommended" in out
    assert "there is no exact sampler to hold it against" in " ".join(out.split())


@pytest.mark.slow
def test_compare_certifies_a_reference_by_two_samplers(run, monkeypatch):
    monkeypatch.setattr(ppl.reference, "DRAWS", 3000, raising=False)
    arguments = ["--reference", "RandomWalk,MALA", "--budget", 3000, "--seeds", 1]
    code, out, err = run(*COMPARE, *arguments)
    assert code == commands.OK, err
    assert "certified: RandomWalk and MALA agree" in out
    assert "agree with the reference (draws of" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samplers", "RandomWalk"], "--samplers takes two samplers or more, each once"),
        (["--samplers", "ULA,ULA"], "--samplers takes two samplers or more, each once"),
        ([*COMPARE[2:4], "--set", "step_size=1"], "write SAMPLER.FIELD, such as RandomWalk.step"),
        ([*COMPARE[2:4], "--set", "ULA.size=1"], "ULA has no field 'size'; did you mean 'step_s"),
        ([*COMPARE[2:], "--budget", 300], "a budget of 300 evaluations is smaller than one warm"),
        ([*COMPARE[2:], "--seconds", "-1"], "seconds must be positive; got -1"),
        ([*COMPARE[2:], "--reference", "MALA"], "--reference takes two samplers or more"),
        ([*COMPARE[2:], "--reference", "MALA,ULA"], "'ULA' is biased: a reference needs"),
    ],
)
def test_compare_refuses_what_it_cannot_use(run, arguments, message):
    code, _, err = run("compare", TARGET, *arguments)
    assert code == commands.BAD_INPUT
    assert message in " ".join(err.split())


CALIBRATE = ["calibrate", "cli_density:known", "--sampler", "ExactDraws", "--samples", "300"]


def test_calibrate_writes_ranks_and_a_page_and_exits_by_its_verdict(run, folder):
    code, out, err = run(*CALIBRATE, "--out", "c", "--num-simulations", 50, "--seed", 1)
    assert code == commands.OK, err
    assert "Calibrated: nothing in 50 simulations" in out
    assert out.splitlines()[-1].split() == ["c/ranks.csv", "c/report.html"]
    assert (folder / "c" / "ranks.csv").read_text().startswith("simulation,x[0],x[1],log_density")
    assert "Calibration report" in (folder / "c" / "report.html").read_text()
    code, out, _ = run(*CALIBRATE, "--out", "c", "--num-simulations", 5, "--overwrite")
    assert code == commands.NOT_TRUSTED
    assert "50 simulations are needed for a pass; there are 5" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", TARGET, *WALK], "has no 'simulate'"),
        ([*CALIBRATE, "--around-data"], "has no 'replicate'"),
        ([*CALIBRATE, "--set", "thin=2"], "it takes no thin"),
        ([*CALIBRATE, "--num-simulations", 0], "must be a positive integer; got 0"),
    ],
)
def test_calibrate_refuses_what_it_cannot_use(run, arguments, message):
    code, _, err = run(*arguments, "--out", "c")
    assert code == commands.BAD_INPUT
    assert message in " ".join(err.split())


def test_list_shows_every_sampler_of_the_table_with_its_exactness(run):
    import samplers

    code, out, _ = run("list", "--all")
    assert code == commands.OK
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert set(lines) == {row.name for row in samplers.table()}
    assert " exact " in lines["NUTS"]
    assert " biased " in lines["ULA"]


# The current directory ------------------------------------------------------------------------


def test_a_users_own_models_and_samplers_do_no_harm(folder):
    for name in ("models", "samplers", "jax"):
        (folder / f"{name}.py").write_text("raise RuntimeError('a file of the user')\n")
    (folder / "neighbor.py").write_text("SIZE = 3\n")
    (folder / "mine.py").write_text("from neighbor import SIZE\nmodel = SIZE\n")
    command = [sys.executable, "-m", "ppl"]
    listed = subprocess.run([*command, "list"], capture_output=True, text=True, timeout=120)
    assert listed.returncode == 0, listed.stderr
    assert "NUTS" in listed.stdout
    arguments = ["sample", "mine.py:model", "--sampler", "RandomWalk", "--out", "run"]
    sampled = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=120)
    assert sampled.returncode == commands.BAD_INPUT, sampled.stderr
    assert "mine.py:model is 3; expected a NumPyro model" in sampled.stderr


def test_the_path_is_put_back(run, folder, no_page):
    before = list(sys.path)
    run(*DIRECT, "--out", "run", "--quiet")
    assert sys.path == before
