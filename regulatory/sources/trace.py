"""Tables of traceability: needs, the matrix of each area, the tests of each requirement."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from regulatory import trace
from regulatory.evidence_record import COMMAND, PATH, command_of, source_of
from regulatory.figures import Figure, Material, Table
from regulatory.trace import Area, Requirement, Trace

SOURCE = "regulatory/needs.toml, regulatory/requirements.toml, regulatory/risks.toml, tests"
# A cell holds no more names than fit on a printed page.
NAMES_IN_A_CELL = 10


def gather(root: Path) -> Material:
    """Return figures and tables; what hangs together with nothing is the matter of the source `orphans`."""
    made = trace.read(root)
    figures = [
        _figure("trace.needs", len(made.needs), "regulatory/needs.toml", "user needs"),
        _figure("trace.requirements", len(made.requirements), "regulatory/requirements.toml", "software requirements"),
        _figure("trace.controls", len(made.risks.controls), "regulatory/risks.toml", "risk controls"),
        _figure("trace.tests", len(made.tests), "tests", "test functions; one with parameters counts once"),
        Figure(
            "trace.areas",
            [area.id for area in made.areas],
            str(len(made.areas)),
            "regulatory/needs.toml",
            "area",
            says="areas that requirements are grouped by",
        ),
        Figure(
            "trace.area-titles",
            {area.id: area.title for area in made.areas},
            str(len(made.areas)),
            "regulatory/needs.toml",
            "area",
            says="titles of the areas that requirements are grouped by",
        ),
        *_run_figures(made),
    ]
    tables = [_needs(root, made), _results(root, made)]
    for area in made.areas:
        tables += [_matrix(root, made, area), _tests(made, area)]
    return Material(figures=tuple(figures), tables=tuple(tables))


def _figure(name: str, count: int, source: str, says: str) -> Figure:
    return Figure(name, count, str(count), source, says=f"number of {says}")


def _run_figures(made: Trace) -> Iterable[Figure]:
    run = made.run
    where = PATH.as_posix()
    if run is None:
        shown = {"run": trace.NOT_RUN, "run-day": trace.NOT_RUN, "run-commit": trace.NOT_RUN}
    else:
        counted = f"{run['passed']} passed, {run['failed']} failed, {run['skipped']} skipped"
        later = ", with changes that were not committed" if run["changed_since"] else ""
        shown = {"run": counted, "run-day": run["measured_on"], "run-commit": f"{run['commit']}{later}"}
    says = {
        "run": "tests of the last recorded run, each set of parameters counted",
        "run-day": "day of the last recorded run",
        "run-commit": "commit of the last recorded run",
    }
    for name, text in shown.items():
        yield Figure(f"trace.{name}", run is not None, text, where, "", COMMAND, says[name])


def _counted(requirements: Iterable[Requirement]) -> str:
    """How many requirements came to what: "40 passed, 2 not run"."""
    counts = Counter(item.result for item in requirements)
    return ", ".join(f"{counts[result]} {result}" for result in sorted(counts))


def _needs(root: Path, made: Trace) -> Table:
    by_id = {item.id: item for item in made.requirements}
    rows = tuple(
        (
            need.id,
            need.user,
            need.says,
            str(len(need.requirements)),
            _counted(by_id[name] for name in need.requirements),
        )
        for need in made.needs
    )
    return Table(
        "trace.needs",
        "User needs, and what the tests of their requirements came to",
        ("Need", "User", "What is needed", "Requirements", "Last run"),
        rows,
        source_of(root, SOURCE),
        command=command_of(root),
        numeric=(3,),
    )


def _results(root: Path, made: Trace) -> Table:
    rows = tuple(
        (
            area.id,
            area.title,
            str(len(own)),
            str(len({test.id for item in own for test in item.tests})),
            _counted(own),
        )
        for area in made.areas
        for own in [_of(made, area)]
    )
    return Table(
        "trace.results",
        "Requirements and tests by area",
        ("Area", "Title", "Requirements", "Test functions", "Last run, requirements"),
        rows,
        source_of(root, SOURCE),
        command=command_of(root),
        numeric=(2, 3),
    )


def _of(made: Trace, area: Area) -> tuple[Requirement, ...]:
    return tuple(sorted((item for item in made.requirements if item.area == area.id), key=lambda item: item.id))


def _matrix(root: Path, made: Trace, area: Area) -> Table:
    rows = tuple(
        (
            item.id,
            ", ".join(item.needs),
            ", ".join(item.controls) or "none",
            ", ".join(f"`{module}`" for module in item.code),
            str(len(item.tests)),
            item.result,
        )
        for item in _of(made, area)
    )
    return Table(
        f"trace.matrix.{area.id}",
        f"{area.title}: from need to result",
        ("Requirement", "Needs", "Risk controls", "Code", "Tests", "Last run"),
        rows,
        source_of(root, SOURCE),
        command=command_of(root),
        numeric=(4,),
    )


def _tests(made: Trace, area: Area) -> Table:
    rows = []
    for item in _of(made, area):
        by_file: dict[str, list[str]] = {}
        for test in item.tests:
            by_file.setdefault(test.file, []).append(test.name)
        for file, names in by_file.items():
            for first in range(0, len(names), NAMES_IN_A_CELL):
                shown = ", ".join(f"`{name}`" for name in names[first : first + NAMES_IN_A_CELL])
                rows.append((item.id, f"[{file.removeprefix('tests/')}](repo:{file})", shown))
    return Table(
        f"trace.tests.{area.id}",
        f"{area.title}: tests of each requirement",
        ("Requirement", "File in tests", "Tests"),
        tuple(rows),
        "tests",
    )
