"""What a user installs: the wheel, and three packages whose names her own files may have."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"ppl", "samplers", "models"}


def run(*command, cwd, **environment):
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    build = run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)),
        cwd=ROOT,
    )
    assert build.returncode == 0, build.stdout + build.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_exactly_the_three_packages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    (metadata,) = (name for name in top if name.endswith(".dist-info"))
    assert top == PACKAGES | {metadata}


def test_the_wheel_says_that_it_is_typed(wheel):
    assert {f"{name}/py.typed" for name in PACKAGES} <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_holds_every_tracked_file_of_the_packages(wheel):
    """Data files too: an ignore rule that catches one would go unnoticed in a checkout."""
    listed = run("git", "ls-files", *sorted(PACKAGES), cwd=ROOT)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert tracked <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_imports_outside_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = "import ppl, samplers, models; print(ppl.__file__, samplers.__file__, models.__file__)"
    result = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(site))
    assert result.returncode == 0, result.stderr
    assert all(path.startswith(str(site)) for path in result.stdout.split())


def test_the_floor_imports_neither_neighbor():
    code = "import sys, ppl; print([n for n in ('samplers', 'models') if n in sys.modules])"
    result = run(sys.executable, "-c", code, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_the_floor_works_where_a_users_own_files_hide_its_neighbors(tmp_path):
    for name in ("models", "samplers"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('this is the user's own file')\n")
    result = run(sys.executable, "-c", "import ppl", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_hooks_run_what_the_gate_runs():
    hooks = re.findall(r"entry: (.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    gate = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert gate is not None
    commands = gate[1].replace("$(BIN)", ".venv/bin").replace("\t", "").splitlines()
    assert hooks == commands
