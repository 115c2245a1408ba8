"""The architecture: import order, no cycles, no unsafe code, and the public names are the listed ones."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import autodistill

ROOT = Path(autodistill.__file__).resolve().parent.parent
PACKAGES = ("search_spaces", "advisors", "autodistill")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}

# The modules and folders of `autodistill` in import order: each imports only from itself and from those before it.
ORDER = (
    # small modules without dependencies on folders
    "errors",
    "machine_faults",
    "interrupts",
    "package_check",
    "files",
    "remote_files",
    "file_hashes",
    "json_files",
    "tensors",
    "tensor_files",
    "seeds",
    "randomness",
    "processes",
    "transport",
    "environment",
    "samples",
    "batch",
    "random_data",
    "data_stream",
    "teacher",
    "padding",
    "training",
    "forecast",
    # folders, and the modules that combine them
    "models",
    "losses",
    "metrics",
    "config",
    "distillation",
    "initialization",
    "elastic",
    "distiller",
    "preparation",
    "frameworks",
    "search",
    "export",
    "doctor",
    "report",
    "standalone",
    "set_up_checks",
    "scaling",
    "auto_distillation",
    "integrations",
    "cli",
)

# Libraries that a package or a folder must not import, by the prefix of the name of a module.
FORBIDDEN_LIBRARIES = {
    "search_spaces": {"torch", "transformers", "optuna", "skopt", "sklearn", "scipy"},
    "advisors": {"torch", "transformers"},
    "autodistill.search": {"torch", "transformers", "safetensors"},
}


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"))


def imports_of(module: str) -> Iterator[str]:
    """All imports of a module; a name that is imported from a package counts as a module if it is one."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in FILES else str(node.module)


def rank(module: str) -> int | None:
    """The position of a module of this project in the import order; None for other libraries."""
    package, *rest = module.split(".")
    if package not in PACKAGES:
        return None
    if package != "autodistill":
        return PACKAGES.index(package) - len(PACKAGES)
    return ORDER.index(rest[0]) if rest and rest[0] in ORDER else len(ORDER)


def upward_imports(imports: dict[str, list[str]]) -> list[str]:
    """The imports of entries that come later in the order."""
    return [
        f"{module} imports {imported}"
        for module, names in imports.items()
        for imported in names
        if (there := rank(imported)) is not None and (here := rank(module)) is not None and there > here
    ]


def forbidden_imports(imports: dict[str, list[str]]) -> list[str]:
    """The imports of forbidden libraries."""
    return [
        f"{module} imports {imported}"
        for module, names in imports.items()
        for imported in names
        for prefix, libraries in FORBIDDEN_LIBRARIES.items()
        if is_within(module, prefix) and any(is_within(imported, library) for library in libraries)
    ]


IMPORTS = {module: list(imports_of(module)) for module in FILES}


def test_import_order_lists_every_module_and_folder_once() -> None:
    parts = {path.stem for path in (ROOT / "autodistill").glob("*.py")} | {
        path.parent.name for path in (ROOT / "autodistill").glob("*/__init__.py")
    }
    assert sorted(ORDER) == sorted(parts - {"__init__", "__main__"})


def test_every_package_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(module for module, path in FILES.items() if path.name == "__init__.py")


def test_no_import_points_upward() -> None:
    assert upward_imports(IMPORTS) == []


def test_no_forbidden_library_is_imported() -> None:
    assert forbidden_imports(IMPORTS) == []


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("search_spaces.space", "advisors.base"),
        ("advisors.grid", "autodistill.errors"),
        ("autodistill.errors", "autodistill.files"),
        ("autodistill.models.taps", "autodistill.config.search"),
        ("autodistill.distillation.flash", "autodistill.auto_distillation"),
    ],
)
def test_import_that_points_upward_is_found(module: str, imported: str) -> None:
    assert upward_imports({module: [imported]}) == [f"{module} imports {imported}"]


@pytest.mark.parametrize(
    ("module", "imported"),
    [("search_spaces.space", "torch"), ("advisors.grid", "torch.nn"), ("autodistill.search.loop", "torch")],
)
def test_forbidden_library_is_found(module: str, imported: str) -> None:
    assert forbidden_imports({module: [imported]}) == [f"{module} imports {imported}"]


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_import_each_other_in_no_cycle(package: str) -> None:
    graph = {
        module: {name for name in names if is_within(name, package) and name != module}
        for module, names in IMPORTS.items()
        if is_within(module, package)
    }
    assert any(graph.values())
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_import_from_modules_and_not_from_their_package(package: str) -> None:
    assert [module for module, names in IMPORTS.items() if is_within(module, package) and package in names] == []


# --- tests mirror the source ------------------------------------------------------------------------------------------

TESTED = [module for module, path in FILES.items() if path.stem not in ("__init__", "__main__")]


def file_of_tests(module: str) -> Path:
    """The test file of `package.folder.name`, `tests/package/folder/test_name.py`."""
    *folders, name = module.split(".")
    return ROOT.joinpath("tests", *folders, f"test_{name}.py")


@pytest.mark.parametrize("module", TESTED)
def test_every_module_has_a_file_of_tests_of_its_name(module: str) -> None:
    assert file_of_tests(module).exists()


# --- nothing unsafe --------------------------------------------------------------------------------------------------

UNSAFE_CALLS = re.compile(
    r"^(eval|exec|compile|__import__|(torch|pickle|marshal|shelve|joblib|numpy|np)\.(load|loads|open)|yaml\.(?!safe_)\w*load\w*"
    r"|os\.system|os\.popen)$"
)
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
SENDING = "autodistill.transport"  # what is sent to other processes is pickled, and never written to disk


def unsafe_parts(tree: ast.Module) -> list[str]:
    calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [call for call in calls if UNSAFE_CALLS.match(call)] + [
        name for name in imported if name.split(".")[0] in UNSAFE_MODULES
    ]


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_evaluated_or_unpickled(module: str) -> None:
    allowed = ["cloudpickle"] if module == SENDING else []
    assert unsafe_parts(tree_of(module)) == allowed


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "torch.load(path)",
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "import pickle",
        "np.load(path)",
        "from pickle import loads",
        "pickle.loads(data)",
        "exec(text)",
    ],
)
def test_unsafe_code_is_found(code: str) -> None:
    assert unsafe_parts(ast.parse(code))


@pytest.mark.parametrize("code", ["model.eval()", "yaml.safe_load(text)", "load_file(path)", "re.compile('x')"])
def test_safe_code_is_not_taken_for_unsafe(code: str) -> None:
    assert unsafe_parts(ast.parse(code)) == []


# --- public names ----------------------------------------------------------------------------------------------------

LISTING = [module for module in FILES if hasattr(importlib.import_module(module), "__all__")]


LAZY_PACKAGES = ("advisors", "autodistill")


def public_names(module: types.ModuleType) -> set[str]:
    """The names that can be imported from a module, including lazy ones."""
    return {
        name
        for name in dir(module)
        if not name.startswith("_")
        and not isinstance(getattr(module, name), types.ModuleType)
        and name != "annotations"
    }


def typed_imports(package: str) -> dict[str, str]:
    """The modules of the names that the stub of a package imports."""
    stub = ast.parse(FILES[package].with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or "": str(node.module) for node in imports for alias in node.names}


def lazy_table(package: str) -> dict[str, str]:
    """The modules of the names that a package resolves lazily."""
    (table,) = (
        node.value
        for node in tree_of(package).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_MODULES"
    )
    modules: dict[str, str] = ast.literal_eval(table)
    return modules


@pytest.mark.parametrize("package", PACKAGES)
def test_list_of_public_names_is_what_the_package_exports_in_order(package: str) -> None:
    module = importlib.import_module(package)
    assert set(module.__all__) == public_names(module)
    assert sorted(module.__all__) == module.__all__


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_lazy_table_typed_imports_and_list_of_public_names_agree(package: str) -> None:
    table = lazy_table(package)
    assert table == typed_imports(package)
    assert sorted(table) == list(table) == importlib.import_module(package).__all__


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_lazy_name_is_the_object_of_its_module(package: str) -> None:
    for name, module in lazy_table(package).items():
        assert getattr(importlib.import_module(package), name) is getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("package", LAZY_PACKAGES)
def test_name_that_a_lazy_package_does_not_have_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'no_such_name'"):
        _ = importlib.import_module(package).no_such_name


HEAVY_LIBRARIES = ("torch", "transformers", "optuna", "skopt", "sklearn", "scipy", "pandas", "datasets")


def loaded_libraries(program: str) -> list[str]:
    """The heavy libraries that a new process has imported at the end of a program."""
    program += f"\nimport json, sys\nprint(json.dumps([name for name in {HEAVY_LIBRARIES} if name in sys.modules]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    libraries: list[str] = json.loads(result.stdout)
    return libraries


@pytest.mark.parametrize(
    "program",
    [
        "import autodistill, advisors",
        "import autodistill.errors, advisors.base",
        "from advisors import Advisor, AdvisorError, Observation, RandomAdvisor",
        "from autodistill import ConfigurationError, Metric, SearchResult, SearchSpace, Trial, results_table",
    ],
)
def test_import_loads_no_heavy_library(program: str) -> None:
    assert loaded_libraries(program) == []


def test_heavy_library_is_found() -> None:
    assert loaded_libraries("from advisors import TPEAdvisor") == ["optuna"]


def test_every_error_can_be_imported_from_the_package() -> None:
    errors = importlib.import_module("autodistill.errors")
    assert set(errors.__all__) <= set(autodistill.__all__)


def documented_parts(name: str, value: object) -> Iterator[tuple[str, str | None]]:
    """The docstrings of a listed function, or of a listed class and its public methods and properties.

    A method may leave its docstring to the class it overrides.
    """
    if inspect.isclass(value):
        yield name, vars(value).get("__doc__")
        for attribute, member in vars(value).items():
            is_method = isinstance(member, property | classmethod | staticmethod) or inspect.isfunction(member)
            if is_method and not attribute.startswith("_"):
                texts = (getattr(vars(base).get(attribute), "__doc__", None) for base in value.__mro__)
                yield f"{name}.{attribute}", next((text for text in texts if text), None)
    elif inspect.isfunction(value):
        yield name, value.__doc__


@pytest.mark.parametrize("module", LISTING)
def test_every_listed_name_has_a_docstring_with_its_public_methods(module: str) -> None:
    namespace = importlib.import_module(module)
    parts = [part for name in namespace.__all__ for part in documented_parts(name, getattr(namespace, name))]
    assert parts
    missing = []
    for name, text in parts:
        if not text or text.startswith(f"{name}("):  # the docstring that a dataclass generates
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("module", FILES)
def test_every_module_has_a_docstring(module: str) -> None:
    assert ast.get_docstring(tree_of(module))
