"""Words that triage must not use: the list finds them, and what users see holds none."""

import ast
import html
import re

import pytest

from cxr_node.reporting.sr import NOTICE
from cxr_node.reporting.statement import NOTICES
from regulatory.lint import WORDING, patterns, wrong_words
from regulatory.sources.intended_use import statements
from tests.conftest import ROOT

LIST = patterns(ROOT, WORDING, "word")

CLAIMS = (
    "The AI can rule out pneumonia.",
    "A rule-out device for the emergency room.",
    "Pneumonia is ruled out by a low score.",
    "The image is free of disease.",
    "No pneumonia was found.",
    "Normal studies can be skipped.",
    "Negatives are de-prioritised.",
    "The device lowers the priority of negatives.",
    "It discards normal images.",
    "The software diagnoses pneumonia.",
    "A diagnostic tool for radiologists.",
    "Images for diagnosis.",
    "It localises the opacity.",
    "It highlights the lesion.",
    "The heat map pinpoints the finding.",
    "A screening tool for pneumonia.",
    "Assists in screening for tuberculosis.",
    "An aid in mammography.",
    "It replaces the radiologist.",
    "Serves as a second reader.",
    "The device is FDA cleared.",
    "cxr-node is approved for clinical use.",
)

HARMLESS = (
    "Not for diagnosis.",
    "Standards for reporting diagnostic accuracy studies.",
    "A study that is not flagged may still be abnormal.",
    "No image crossed an operating point. This does not say that disease is absent.",
    "Digital Mammography X-Ray Image Storage - For Presentation",
    "Admitting Diagnoses Description",
    "The priority is never lowered.",
    "What was ruled out: forking from the process.",
    "Research prototype, not cleared for clinical use.",
    "The radiologist reads every study.",
    "RSNA readers call it Normal.",
    "Not a validated localisation of anything.",
)

# What people see: pages, manuals, README, model cards in the packages, configuration that explains itself.
SEEN = sorted(
    path
    for pattern in (
        "README.md",
        "node.toml",
        "deploy/**/*.md",
        "cxr_node/worklist/web/templates/**/*.html",
        "cxr_node/packages/*/README.md",
        "cxr_node/deliver/templates/*",
        "trainer/README.md",
        "trainer/report/templates/*",
    )
    for path in ROOT.glob(pattern)
    if path.is_file()
)


@pytest.mark.requirement("SRS-REG-075")
@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_outside_triage_is_found(claim):
    """Each of these stood, in some form, in a student submission or a vendor's card."""
    found = wrong_words(claim, LIST)
    assert found, claim
    assert all(reason for _, reason in found)


@pytest.mark.requirement("SRS-REG-075")
@pytest.mark.parametrize("claim", CLAIMS)
def test_the_same_words_may_say_what_the_device_does_not_do(claim):
    """Between the marks, and only there."""
    assert wrong_words(f"[[not]]{claim}[[/not]]", LIST) == []


@pytest.mark.requirement("SRS-REG-075")
@pytest.mark.parametrize("sentence", HARMLESS)
def test_honest_sentences_pass(sentence):
    """A list that cries wolf is switched off."""
    assert wrong_words(sentence, LIST) == []


@pytest.mark.requirement("SRS-REG-075")
def test_every_word_of_the_list_is_tried():
    """A pattern that no claim meets may be a slip that finds nothing."""
    for word in LIST:
        assert any(word.expression.search(claim) for claim in CLAIMS), word.expression.pattern


@pytest.mark.requirement("SRS-REG-076")
@pytest.mark.parametrize("path", SEEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_people_see_holds_none_of_these_words(path):
    """Pages, manuals and the documents in the packages, as they are committed."""
    text = path.read_text("utf-8")
    if path.suffix == ".html":
        text = html.unescape(re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", " ", text, flags=re.DOTALL))
    assert wrong_words(text, LIST) == []


@pytest.mark.requirement("SRS-REG-076")
def test_what_the_node_says_of_a_study_holds_none_of_these_words():
    """Headline, sentences and notices of every kind of outcome, as the program makes them."""
    said = [line for _, one in statements() for line in (one.headline, *one.sentences)]
    assert len(said) > 8
    assert [wrong_words(line, LIST) for line in (*said, *NOTICES, NOTICE)] == [[]] * (len(said) + len(NOTICES) + 1)


def _spoken(path):
    """Every text in the code of a module that is no docstring: what it may show, log or write."""
    tree = ast.parse(path.read_text("utf-8"))
    silent = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent
    ]


@pytest.mark.requirement("SRS-REG-076")
def test_no_text_in_the_code_of_the_node_holds_one_of_these_words():
    """Pages, commands and messages are made of texts in the code too. The name of a modality is a name."""
    found, texts = [], 0
    for path in sorted((ROOT / "cxr_node").rglob("*.py")):
        for text in _spoken(path):
            texts += 1
            if text != "Mammography":
                found += [f"{path.relative_to(ROOT)}: {what}" for _, what in wrong_words(text, LIST)]
    assert texts > 5000
    assert found == []


@pytest.mark.requirement("SRS-REG-076")
def test_there_is_something_to_look_at():
    """A pattern that finds no file would pass for ever."""
    names = {path.name for path in SEEN}
    assert {"README.md", "node.toml", "operating.md"} <= names
    assert sum(path.suffix == ".html" for path in SEEN) > 10
