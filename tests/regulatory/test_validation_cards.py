"""Model cards in CHAI's form: whole, in order, with the figures of the records."""

import json
import tomllib
from xml.etree import ElementTree

import pytest

from regulatory.chai import FIELDS, NAMESPACE, Field, check
from regulatory.chai.__main__ import main
from regulatory.sources import cards
from regulatory.sources.cohorts import explored
from regulatory.sources.records import released
from tests.conftest import ROOT

CARDS = {file.path: file.text for file in cards.gather(ROOT).files}
PATH = "07_model/pneumonia-paediatric_card.xml"
SPACE = {"mc": NAMESPACE}


def _leaves(fields: tuple[Field, ...], above: str = ""):
    for field in fields:
        path = f"{above}/mc:{field.name}"
        if field.inside:
            yield from _leaves(field.inside, path)
        elif field.required:
            yield f".{path}"


REQUIRED = list(_leaves(FIELDS))


@pytest.mark.requirement("SRS-REG-027")
@pytest.mark.parametrize("path", sorted(CARDS))
def test_a_card_has_every_field_of_the_form(path):
    assert check(CARDS[path]) == []


@pytest.mark.requirement("SRS-REG-027")
@pytest.mark.parametrize("field", REQUIRED, ids=lambda path: path.rpartition(":")[2])
def test_a_card_without_a_field_is_found(field):
    """Whatever stops being written must be missed."""
    root = ElementTree.fromstring(CARDS[PATH])
    above, name = field.rsplit("/", 1)
    parent = root.find(above, SPACE) if above != "." else root
    for child in parent.findall(name, SPACE):
        parent.remove(child)
    problems = check(ElementTree.tostring(root, encoding="unicode"))
    assert any(f"expected the element {name.removeprefix('mc:')}, found none" in problem for problem in problems)


@pytest.mark.requirement("SRS-REG-027")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda text: text.replace("<ReleaseStage>", "<Stage>").replace("</ReleaseStage>", "</Stage>"),
            "unknown element",
        ),
        (lambda text: text.replace("<ModelDeveloper>", "<ModelDeveloper><b/>"), "expected text, found elements"),
        (lambda text: text.replace('"estimate": 0.9724', '"estimate": 0.2'), "0.2 is outside of"),
        (lambda text: text.replace('"estimate_ci"', '"guess"'), "found 'guess'"),
        (lambda text: text.replace(NAMESPACE, "https://example.org"), "expected the element AppliedModelCard"),
        (lambda text: text[:-30], "not XML"),
    ],
    ids=["unknown", "nested", "outside", "kind", "namespace", "cut"],
)
def test_a_card_of_another_form_is_found(change, said):
    changed = change(CARDS[PATH])
    assert changed != CARDS[PATH]
    assert any(said in problem for problem in check(changed))


@pytest.mark.requirement("SRS-REG-027")
def test_elements_out_of_order_are_found():
    """The form is a sequence: a reader by its schema would refuse the card."""
    root = ElementTree.fromstring(CARDS[PATH])
    first = root[0]
    root.remove(first)
    root.insert(1, first)
    assert any("out of order" in problem for problem in check(ElementTree.tostring(root, encoding="unicode")))


@pytest.mark.requirement("SRS-REG-027")
def test_a_cards_figures_are_those_of_the_evaluation():
    for package in released(ROOT):
        root = ElementTree.fromstring(CARDS[f"07_model/{package.name}_card.xml"])
        item = package.sets[package.main_set]
        found = {
            result.findtext("mc:Label", None, SPACE): json.loads(result.findtext("mc:ValueJson", "", SPACE))
            for result in root.iterfind(".//mc:UsefulnessUsabilityEfficacy//mc:MetricResult", SPACE)
        }
        for key in ("auc", "sensitivity", "specificity"):
            value = found[f"{key} on {package.main_set}"]
            assert [value["estimate"], value["lower"], value["upper"]] == [
                item[key][name] for name in ("value", "low", "high")
            ]
        assert f"{package.point['threshold']:.4f}" in root.findtext(".//mc:HowToUse", "", SPACE)


@pytest.mark.requirement("SRS-REG-027")
def test_every_limit_of_the_manifest_stands_on_the_card():
    for package in released(ROOT):
        root = ElementTree.fromstring(CARDS[f"07_model/{package.name}_card.xml"])
        said = root.findtext(".//mc:KnownRisksAndLimitations", "", SPACE)
        assert all(limit in said for limit in package.manifest["limitations"])


@pytest.mark.requirement("SRS-REG-027")
def test_a_card_with_an_element_that_the_form_has_not_is_not_made():
    words = tomllib.loads((ROOT / cards.WORDS).read_text())
    use = tomllib.loads((ROOT / cards.USE).read_text())
    values = cards.card(released(ROOT)[0], words, use, {item.name: item.words for item in explored(ROOT)})
    values["Warnings"]["Praise"] = "None needed."
    with pytest.raises(cards.CardError, match="Warnings has no element Praise"):
        cards.xml(values)


@pytest.mark.requirement("SRS-REG-027")
def test_the_command_says_what_is_wrong_with_a_file(tmp_path, capsys):
    good, bad = tmp_path / "good.xml", tmp_path / "bad.xml"
    good.write_text(CARDS[PATH])
    bad.write_text(CARDS[PATH].replace("<ModelName>", "<ModelName></ModelName><ModelName>"))
    assert main([str(good)]) == 0
    assert main([str(good), str(bad)]) == 1
    assert "bad.xml: AppliedModelCard/BasicInfo: ModelName stands there 2 times" in capsys.readouterr().out


@pytest.mark.requirement("SRS-REG-027")
def test_the_command_reads_a_schema_without_fetching_another(tmp_path, capsys):
    """A schema that asks for that of XML signatures, as CHAI's does, is read where there is no network."""
    schema = tmp_path / "schema.xsd"
    schema.write_text(
        f'<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:ds="http://www.w3.org/2000/09/xmldsig#" '
        f'targetNamespace="{NAMESPACE}" elementFormDefault="qualified">'
        '<xs:import namespace="http://www.w3.org/2000/09/xmldsig#" schemaLocation="http://localhost:9/xmldsig.xsd"/>'
        '<xs:element name="AppliedModelCard"><xs:complexType><xs:sequence>'
        '<xs:element name="Nothing"/><xs:element ref="ds:Signature" minOccurs="0"/>'
        "</xs:sequence></xs:complexType></xs:element></xs:schema>"
    )
    good = tmp_path / "good.xml"
    good.write_text(CARDS[PATH])
    assert main([str(good), "--schema", str(schema)]) == 1
    assert "BasicInfo" in capsys.readouterr().out
