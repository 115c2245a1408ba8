"""A user's own module that bears the name of one of our packages is detected and named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import autodistill
from autodistill.package_check import PACKAGES, check_packages

ROOT = Path(autodistill.__file__).resolve().parent.parent
GUARD = "import importlib.util, sys; spec = importlib.util.spec_from_file_location('guard', sys.argv[1]); \
guard = importlib.util.module_from_spec(spec); spec.loader.exec_module(guard); guard.check_packages()"


def run_in(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=directory, env=environment, text=True, capture_output=True, timeout=60
    )


def test_packages_beside_this_one_are_accepted() -> None:
    check_packages()


@pytest.mark.parametrize("name", PACKAGES)
def test_file_of_that_name_in_the_working_directory_is_an_import_error(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("print('mine')\n")
    result = run_in(tmp_path, "-c", "import autodistill")
    assert result.returncode == 1
    assert "mine" not in result.stdout  # the user's file never ran
    last = result.stderr.strip().splitlines()[-1]
    assert last == (
        f"ImportError: autodistill needs its own package '{name}', but {(tmp_path / name).resolve()}.py has that name "
        "and comes first on the import path; rename that file."
    )


def test_package_of_that_name_is_detected_too(tmp_path: Path) -> None:
    (tmp_path / "advisors").mkdir()
    (tmp_path / "advisors" / "__init__.py").touch()
    result = run_in(tmp_path, "-c", "import autodistill")
    assert f"but {tmp_path.resolve()}/advisors/__init__.py has that name" in result.stderr


def test_folder_of_that_name_without_code_is_no_obstacle(tmp_path: Path) -> None:
    for name in PACKAGES:
        (tmp_path / name).mkdir()
    result = run_in(tmp_path, "-c", GUARD, str(ROOT / "autodistill" / "package_check.py"))
    assert (result.returncode, result.stderr) == (0, "")


def test_missing_packages_are_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "autodistill").mkdir()
    copy = tmp_path / "autodistill" / "package_check.py"
    copy.write_text((ROOT / "autodistill" / "package_check.py").read_text())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-S", "-c", GUARD, str(copy)],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert "autodistill needs its package 'search_spaces' at " in result.stderr
