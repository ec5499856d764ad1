"""The rules of the house: which room may import which, and how long modules, functions and signatures may be.

The import rules stand in pyproject.toml under [tool.importlinter]; `lint-imports` on the command line checks them, too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 6
MANY_PARAMETERS = ("musc_ray/cli/", "musc_ray/core/kernels/")
"""Where a signature is a command's options or a kernel's operands."""

LONG_MODULES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
WIDE_SIGNATURES = {
    "musc_ray/core/operands/prepare.py:prepare",  # called with keywords
    "musc_ray/core/score_features.py:score_features",  # public: called with keywords
}
"""What does not keep a rule yet; these lists only shrink."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    """All modules that are installed or run on a cluster."""
    return sorted(path for folder in ("musc_ray", "jobs", "cluster") for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[tuple[str, Function, bool]]:
    """Yield each function of a module: its name within the module, its syntax, whether it is a method."""

    def walk(node: ast.AST, prefix: str, in_class: bool) -> Iterator[tuple[str, Function, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                yield f"{prefix}{child.name}", child, in_class
                yield from walk(child, f"{prefix}{child.name}.", False)
            elif isinstance(child, ast.ClassDef):
                yield from walk(child, f"{prefix}{child.name}.", True)
            else:
                yield from walk(child, prefix, in_class)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), "", False)


def parameters(function: Function, is_method: bool) -> int:
    """Count the parameters of a function, without `self` and `cls`."""
    arguments = function.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in function.decorator_list)
    return sum(each is not None for each in listed) - (is_method and not static)


def test_rooms_import_what_they_may(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("logging.config.dictConfig", lambda _: None)  # it would silence all loggers from here on
    failed = lint_imports(config_filename="pyproject.toml", no_cache=True, no_logo=True)
    assert not failed, capsys.readouterr().out


def test_modules_are_short():
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    long = {name: count for name, count in lines.items() if count > MAX_MODULE_LINES and name not in LONG_MODULES}
    assert not long, f"Modules of more than {MAX_MODULE_LINES} lines: {long}"


def test_functions_are_short():
    """The signature and the docstring count, decorators do not."""
    long = {}
    for path in modules():
        for name, function, _ in functions(path):
            lines = function.end_lineno - function.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                long[f"{name_of(path)}:{name}"] = lines
    long = {name: lines for name, lines in long.items() if name not in LONG_FUNCTIONS}
    assert not long, f"Functions of more than {MAX_FUNCTION_LINES} lines: {long}"


def test_functions_have_few_parameters():
    wide = {}
    for path in modules():
        if name_of(path).startswith(MANY_PARAMETERS):
            continue
        for name, function, is_method in functions(path):
            if (count := parameters(function, is_method)) > MAX_PARAMETERS:
                wide[f"{name_of(path)}:{name}"] = count
    wide = {name: count for name, count in wide.items() if name not in WIDE_SIGNATURES}
    assert not wide, f"Functions of more than {MAX_PARAMETERS} parameters: {wide}"


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("def f(a, /, b, *args, c, **more): ...", 5),
        ("class C:\n    def f(self, a): ...", 1),
        ("class C:\n    @staticmethod\n    def f(a): ...", 1),
    ],
)
def test_parameters_are_counted_without_self(source, count, tmp_path):
    (tmp_path / "module.py").write_text(source)
    ((_, function, is_method),) = functions(tmp_path / "module.py")
    assert parameters(function, is_method) == count


SWALLOWING = {"exists", "lexists", "isdir", "isfile", "glob", "find", "walk", "du", "ls", "expand_path"}
"""Methods of fsspec's filesystems that answer "not there" to errors; `ls` is called in one place, too."""

ITSELF = "musc_ray/storage/listing.py"


def test_filesystems_are_looked_at_in_one_module():
    """`fs.exists` and its like hide errors: only storage/listing.py, which raises them, looks at filesystems."""
    found = []
    for path in modules():
        if name_of(path) == ITSELF or not name_of(path).startswith("musc_ray/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SWALLOWING:
                owner = ast.unparse(node.func.value)
                if owner == "fs" or owner.endswith(".fs"):
                    found.append(f"{name_of(path)}:{node.lineno} {owner}.{node.func.attr}")
    assert not found, f"Use storage/listing.py: {found}"
