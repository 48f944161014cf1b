"""What the source says of itself, by its syntax tree: which test names which requirement, which module imports which.

Nothing is imported or run, so a tree elsewhere (a copy with one thing changed) is read as well as this one.
"""

import ast
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PACKAGES = ("cxr_node", "storage", "trainer", "regulatory")


@dataclass(frozen=True)
class MarkedTest:
    """A test function.

    `id` : as pytest writes it, without parameters: "tests/storage/test_jobs.py::test_name"
    `imports` : dotted modules of this project that its file imports, sorted
    """

    id: str
    requirements: tuple[str, ...]
    imports: tuple[str, ...]

    @property
    def file(self) -> str:
        return self.id.split("::")[0]

    @property
    def name(self) -> str:
        return self.id.split("::", 1)[1]


def modules_of(root: Path) -> frozenset[str]:
    """Return the dotted names of every module and package below `root`."""
    names = set()
    for top in PACKAGES:
        for path in (root / top).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return frozenset(names)


def tests_of(root: Path) -> tuple[MarkedTest, ...]:
    """Return every test function below `root`/tests, in the order of their files and lines."""
    there = modules_of(root)
    found: list[MarkedTest] = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        tests, names = _tests_in(path, *_state(path))
        imports = tuple(sorted({_module(name, there) for name in names} - {""}))
        where = path.relative_to(root).as_posix()
        found += [MarkedTest(f"{where}::{name}", marks, imports) for name, marks in tests]
    return tuple(found)


def imports_of(root: Path) -> dict[str, frozenset[str]]:
    """Return, for each module of the project, the modules of the project that it imports, at any depth of its code."""
    there = modules_of(root)
    named = names_of(root)
    return {module: frozenset({_module(name, there) for name in named[module]} - {"", module}) for module in named}


def names_of(root: Path) -> dict[str, tuple[str, ...]]:
    """Return, for each module of the project, every dotted name that it imports, `from a import b` as a.b."""
    return {module: _facts(path, *_state(path))[0] for module, path in _files(root).items()}


def openings_of(root: Path) -> dict[str, str]:
    """Return the first sentence of each module's docstring, "" where it has none; a package by its `__init__`."""
    return {module: _facts(path, *_state(path))[1] for module, path in _files(root).items()}


def constant_of(path: Path, name: str) -> object:
    """Return the value of a constant written out in a module.

    Raises
    ------
    ValueError
        There is no assignment of a literal to that name.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name and getattr(node, "value", None) is not None:
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    raise ValueError(f"{path.name}: no constant {name} written out at the top level")


def _files(root: Path) -> dict[str, Path]:
    """The file of each module that has one; a folder without `__init__` has none."""
    found: dict[str, Path] = {}
    for module in sorted(modules_of(root)):
        path = root.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.exists():
            found[module] = path
    return found


def _state(path: Path) -> tuple[int, int]:
    """What tells whether a file changed since it was read."""
    told = path.stat()
    return told.st_mtime_ns, told.st_size


def _module(name: str, there: frozenset[str]) -> str:
    """The module that an imported name lies in: `storage.jobs.Jobs` is in `storage.jobs`; "" where it is not ours."""
    while name and name not in there:
        name = name.rpartition(".")[0]
    return name


@lru_cache(maxsize=2048)
def _facts(path: Path, _mtime: int, _size: int) -> tuple[tuple[str, ...], str]:
    """What a module imports, and the first sentence of its docstring. Kept, for several sources ask."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    paragraph = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    opening = paragraph.partition(". ")[0].rstrip(".") + "." if paragraph else ""
    return tuple(sorted(_names(tree))), opening


@lru_cache(maxsize=2048)
def _tests_in(path: Path, _mtime: int, _size: int) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], tuple[str, ...]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    everywhere: list[str] = []
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(target, ast.Name) and target.id == "pytestmark" for target in targets):
            everywhere += _marks(node)
    found: list[tuple[str, tuple[str, ...]]] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            inherited = [*everywhere, *(mark for item in node.decorator_list for mark in _marks(item))]
            found += [(f"{node.name}::{name}", marks) for name, marks in _functions(node.body, inherited)]
    found += _functions(tree.body, everywhere)
    return tuple(found), tuple(sorted(_names(tree)))


def _functions(body: list[ast.stmt], inherited: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The test functions of a body with their marks; one of a parameter (`pytest.param`) counts for the function."""
    return [
        (
            node.name,
            tuple(dict.fromkeys([*inherited, *(mark for item in node.decorator_list for mark in _marks(item))])),
        )
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    ]


def _marks(node: ast.AST) -> list[str]:
    """The identifiers in every `….requirement("…")` below a node."""
    return [
        argument.value
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "requirement"
        for argument in call.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    ]


def _names(tree: ast.AST) -> set[str]:
    """Dotted names that a file imports, `from a.b import c` as a.b.c, those of this project and others."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:  # among tests only, of helpers beside them: no module of the product
                continue
            names |= {f"{node.module}.{item.name}" for item in node.names}
    return names
