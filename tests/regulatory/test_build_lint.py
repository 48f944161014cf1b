"""Each rule for the text of the regulatory file can fail."""

import re
from pathlib import Path

import pytest

from regulatory import lint
from regulatory.figures import BuildError, Catalogue, Drawing, Figure, Material, RawFile, Table, Text, gather, published
from regulatory.pages import Page
from regulatory.render import anchors, broken_anchors, render, render_page
from tests.conftest import ROOT

PAGE = Page("04_software/example.md", "An example", "example.md")
FIGURES = Page("figures.md", "Figures", "figures.md")
README = Page("README.md", "Order", "readme.md")
AUC = Figure("a.auc", 0.97, "0.97 (0.95 to 0.98)", "pyproject.toml:version", says="area under the curve")
TABLE = Table("a.table", "Groups", ("group", "n"), (("a|b", "3"), ("c", "12")), "pyproject.toml", numeric=(1,))


@pytest.fixture
def catalogue(tmp_path):
    """A repository of one template, with one item of each kind."""
    (tmp_path / "regulatory/text").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (tmp_path / "regulatory/text/figures.md").write_text("{{ rows() }}\n")
    (tmp_path / "regulatory/text/readme.md").write_text("{{ reading_order() }}\n")
    found = Catalogue(tmp_path)
    drawing = Drawing("a.curve", "ROC", "a curve", "<svg xmlns='http://www.w3.org/2000/svg'/>", "pyproject.toml")
    found.add("topic", Material((AUC,), (TABLE,), (drawing,), (Text("a.text", "- it was 7", "pyproject.toml"),)))
    return found


def _written(catalogue: Catalogue, template: str) -> str:
    (catalogue.root / "regulatory/text/example.md").write_text(template)
    pages = (README, PAGE, FIGURES)
    return render_page(PAGE, catalogue, "1.2.3", pages).text


@pytest.mark.requirement("SRS-REG-005")
def test_a_figure_is_printed_as_a_link_to_its_row(catalogue):
    """The link is the first of the two steps."""
    text = _written(catalogue, 'It was {{ n("a.auc") }}.\n')
    assert "It was [0.97 (0.95 to 0.98)](../figures.md#figure-a.auc)." in text


@pytest.mark.requirement("SRS-REG-005")
def test_a_table_is_printed_with_its_source_and_keeps_its_columns(catalogue):
    """A bar inside a cell would begin a column."""
    text = _written(catalogue, '{{ t("a.table") }}\n')
    assert "**Table: Groups.** From [`pyproject.toml`](../../../pyproject.toml)" in text
    assert "|---|---:|\n| a\\|b | 3 |\n| c | 12 |" in text


@pytest.mark.requirement("SRS-REG-005")
def test_the_row_of_a_figure_names_file_place_and_command(catalogue):
    """The row is the second step."""
    made = Figure("b.n", 3, "3", "pyproject.toml", "/project", "cxr-train export", "cases")
    catalogue.add("other", Material((made,)))
    (catalogue.root / "regulatory/text/example.md").write_text('{{ n("b.n") }}\n')
    pages = (README, PAGE, FIGURES)
    rows = render(catalogue, pages).files["figures.md"]
    assert (
        '| <a id="figure-b.n"></a>`b.n` | 3 | cases | [`pyproject.toml`](../../pyproject.toml) `/project` '
        "| `cxr-train export` |"
    ) in rows


@pytest.mark.requirement("SRS-REG-006")
def test_an_unknown_id_is_named_with_page_line_and_nearest(catalogue):
    """Who misspells an id of hundreds needs the right one, not a traceback."""
    with pytest.raises(BuildError) as raised:
        _written(catalogue, 'One.\n\nIt was {{ n("a.acu") }}.\n')
    assert "04_software/example.md (regulatory/text/example.md:3): unknown Figure 'a.acu'; nearest: a.auc" in str(
        raised.value
    )


@pytest.mark.requirement("SRS-REG-006")
@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ nothing }}", "'nothing' is undefined"),
        ("{% if %}", "example.md:1)"),
        ('{{ t("a.auc") }}', "it is a Figure"),
    ],
)
def test_what_a_template_cannot_have_is_named(catalogue, template, said):
    """Each mistake of a template has its message."""
    with pytest.raises(BuildError, match=re.escape(said)):
        _written(catalogue, template)


@pytest.mark.requirement("SRS-REG-006")
@pytest.mark.parametrize(
    ("template", "said"),
    [
        ('{{ link("05_risk/plan.md", "the plan") }}', "links to the page '05_risk/plan.md', which is not in PAGES"),
        ('{{ repo("no/such.py") }}', "links to 'no/such.py', which is not in the repository"),
        ("[x](page:05_risk/plan.md)", "links to the page '05_risk/plan.md', which is not in PAGES"),
    ],
)
def test_a_link_to_what_is_not_there_is_a_problem_of_the_page(catalogue, template, said):
    """The page is made all the same: the other one may be in the making."""
    _written(catalogue, template)
    assert render(catalogue, (README, PAGE, FIGURES)).problems == [f"regulatory/file/04_software/example.md: {said}"]


@pytest.mark.requirement("SRS-REG-006")
def test_a_page_that_fails_does_not_stop_the_others(catalogue):
    """Six topics feed one file."""
    (catalogue.root / "regulatory/text/example.md").write_text('{{ n("a.acu") }}\n')
    made = render(catalogue, (README, PAGE, FIGURES))
    assert set(made.files) == {"README.md", "figures.md"}
    assert len(made.problems) == 1


@pytest.mark.requirement("SRS-REG-006")
def test_an_anchor_that_is_not_there_is_named():
    """A crosswalk full of links to headings that moved would look complete."""
    files = {
        "a.md": "[x](04/b.md#second-part) [y](04/b.md#third)",
        "04/b.md": "# B\n```\n## Third\n```\n## Second part\n",
    }
    assert broken_anchors(files) == ["regulatory/file/a.md: links to 04/b.md#third; there is no such heading"]
    assert anchors("## A `b`: c (d)\n## A\n## A\n") == {"a-b-c-d", "a", "a-1"}


@pytest.mark.requirement("SRS-REG-006")
@pytest.mark.parametrize(
    ("item", "said"),
    [
        (Figure("a.n", 3, "", "pyproject.toml", says="n"), "shows nothing"),
        (Figure("a.n", 3, "3", "pyproject.toml"), "does not say what it is"),
        (Figure("a.n", 3, "3", "no/such.json", says="n"), "names the source 'no/such.json', which is not there"),
        (Figure("a n", 3, "3", "pyproject.toml", says="n"), "has an id"),
        (Table("a.t", "T", ("a", "b"), (("1",),), "pyproject.toml"), "has 2 columns, but row 0 has 1 cells"),
    ],
)
def test_an_item_that_cannot_be_traced_is_a_problem(catalogue, item, said):
    """What has no source cannot be walked to."""
    catalogue.add("other", Material((item,)) if isinstance(item, Figure) else Material(tables=(item,)))
    assert [problem for problem in catalogue.problems if said in problem]


@pytest.mark.requirement("SRS-REG-006")
def test_a_result_without_its_command_is_a_problem(catalogue):
    """The second step of the walk ends in a command."""
    source = "regulatory/evidence/load.json"
    (catalogue.root / "regulatory/evidence").mkdir()
    (catalogue.root / source).write_text("{}")
    catalogue.add(
        "other", Material((Figure("b.n", 3, "3", source, says="n"), Figure("b.m", 3, "3", source, "", "make", "m")))
    )
    assert len(catalogue.problems) == 1
    assert "'b.n' comes from the result 'regulatory/evidence/load.json' but names no command" in catalogue.problems[0]


@pytest.mark.requirement("SRS-REG-006")
def test_what_was_not_run_may_have_no_source_yet(catalogue):
    """A benchmark nobody ran has no record; the page says so instead of failing."""
    catalogue.add(
        "other", Material((Figure("b.n", None, "not run", "regulatory/evidence/none.json", "", "make", "n"),))
    )
    assert catalogue.problems == []


@pytest.mark.requirement("SRS-REG-006")
def test_two_topics_cannot_mean_different_things_by_one_id(catalogue):
    """The page would print whichever came first."""
    catalogue.add("other", Material((AUC,)))
    assert catalogue.problems == ["source other: Figure 'a.auc' is already one of source topic"]


@pytest.mark.requirement("SRS-REG-007")
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("The threshold is 0.85.", ["0.85"]),
        ("In `threshold = 0.39` it is.", ["0.39"]),
        ("1,000 studies, 95 % of them", ["1,000", "95"]),
        ('{{ n("a.1") }} and {% if raw("b") > 3 %}more{% endif %}', []),
        ("By 21 CFR 892.2080(b)(2), PS3.2 Annex N, IEC 62304:2006+A1:2015, K191556 and SRS-REG-007", []),
        ("(0018,5101) in `tests/test_x1.py`, by Okabe 2008, on 2025-01-07", []),
        ("## 3.2 Part\n1. first\n\n```\nmake --jobs 4\n```\n", []),
        ("Read [decision 0004](../x1.md#a-2), JPEG 2000, ChestX-ray14", []),
        ("In 2000 studies", ["2000"]),
    ],
)
def test_a_number_in_hand_written_text_is_found_and_a_name_is_not(text, found):
    """A typed number is the one that nobody changes when the result does."""
    allowed = lint.patterns(ROOT, lint.ALLOWED, "allowed")
    assert [what.split("'")[1] for _, what in lint.own_numbers(text, allowed)] == found


@pytest.mark.requirement("SRS-REG-007")
def test_a_number_in_a_template_fails_the_build_with_file_and_line(catalogue):
    """The message says where to look and what to write instead."""
    (catalogue.root / "regulatory/text/example.md").write_text("One.\n\nTwo, 0.85.\n")
    (problem,) = lint.lint(catalogue.root, catalogue, ["example.md"])
    assert problem.startswith("regulatory/text/example.md:3: the number '0.85' stands in hand-written text")


@pytest.mark.requirement("SRS-REG-007")
def test_a_forbidden_word_fails_in_text_and_in_what_is_generated_unless_it_is_denied(catalogue):
    """Rule-out wording in a generated limitation is as wrong as in a sentence somebody wrote."""
    (catalogue.root / lint.WORDING).write_text(
        "[[word]]\npattern = '(?i)rule[sd]? out'\nreason = 'triage never says that disease is absent'\n"
    )
    (catalogue.root / "regulatory/text/example.md").write_text(
        "It rules out disease.\n[[not]]It does not rule out disease.[[/not]]\n"
    )
    catalogue.add("other", Material(texts=(Text("b.text", "Used to rule out it.", "pyproject.toml"),)))
    problems = lint.lint(catalogue.root, catalogue, ["example.md"])
    assert [problem.split(": ")[0] for problem in problems] == ["regulatory/text/example.md:1", "source other"]
    assert all("triage never says that disease is absent" in problem for problem in problems)


@pytest.mark.requirement("SRS-REG-007")
def test_a_mark_without_its_partner_is_found_and_marks_are_not_printed(catalogue):
    """An open mark would excuse the rest of the page."""
    assert len(lint.wrong_words("[[not]] never closed", ())) == 1
    assert "[[" not in _written(catalogue, "It does [[not]]not rule out[[/not]] disease.\n")
    assert "not rule out disease" in _written(catalogue, "It does [[not]]not rule out[[/not]] disease.\n")


@pytest.mark.requirement("SRS-REG-007")
@pytest.mark.parametrize("entry", ["pattern = 'a'", "reason = 'b'", "pattern = '('\nreason = 'b'"])
def test_an_exception_without_pattern_or_reason_is_refused(tmp_path, entry):
    """An exception that nobody explains is a hole."""
    (tmp_path / "list.toml").write_text(f"[[allowed]]\n{entry}\n")
    with pytest.raises(BuildError, match=r"list\.toml"):
        lint.patterns(tmp_path, "list.toml", "allowed")


@pytest.mark.requirement("SRS-REG-006")
def test_what_no_page_shows_is_named(catalogue):
    """A table that was made and left out may be the one with the bad news."""
    (catalogue.root / "regulatory/text/spare.md").write_text("Never read.\n")
    problems = lint.unused(catalogue.root, catalogue, [TABLE], [PAGE])
    assert [problem.split(";")[0] for problem in problems] == [
        "source topic: Drawing 'a.curve' is on no page",
        "source topic: Text 'a.text' is on no page",
        "regulatory/text/figures.md: no page uses this template",
        "regulatory/text/readme.md: no page uses this template",
        "regulatory/text/spare.md: no page uses this template",
    ]


@pytest.mark.requirement("SRS-REG-005")
@pytest.mark.parametrize(
    "entry", ["value = 1\nshown = '1'\nsays = 'a'", "value = 1\nshown = '1'\nsays = 'a'\ncitation = ''"]
)
def test_a_published_number_without_its_citation_is_refused(tmp_path, entry):
    """A number from nowhere is hearsay."""
    (tmp_path / "regulatory/text").mkdir(parents=True)
    (tmp_path / "regulatory/text/published.toml").write_text(f'["a.b"]\n{entry}\n')
    with pytest.raises(BuildError, match=r"\[a\.b\]"):
        published(tmp_path)
    assert "source published raised BuildError" in gather(Path(tmp_path), {}).problems[0]


@pytest.mark.requirement("SRS-REG-004")
def test_a_file_that_is_no_page_bears_the_banner_behind_its_declaration(catalogue):
    """A model card in XML travels alone too, and must stay well-formed."""
    card = RawFile("07_model/a_card.xml", '<?xml version="1.0"?>\n<card/>\n', "pyproject.toml")
    catalogue.add("other", Material(files=(card,)))
    text = render(catalogue, (README, FIGURES)).files["07_model/a_card.xml"]
    assert text.splitlines()[0] == '<?xml version="1.0"?>'
    assert text.splitlines()[1].startswith("<!-- Research prototype, not cleared for clinical use.")
    assert text.splitlines()[2] == "<card/>"
