"""The regulatory file as one HTML page and one PDF: whole, self-contained, its links and drawings inside."""

import io
import re
from html.parser import HTMLParser

import pypdf
import pytest

from regulatory import svg
from regulatory.html import html
from regulatory.layered import Box, Link, place
from regulatory.mermaid import UnreadableFlowchart, flowchart, read
from regulatory.pages import Page
from regulatory.pdf import pdf
from trainer.report.words import BANNER

CHART = """flowchart TD
  sender(["PACS"]) -->|C-STORE| receive["receive<br/>bytes to disk"]
  subgraph node ["cxr-node"]
    receive --> gate{"in intended use?"}
    gate -- no --> excluded["excluded with a reason"]
    gate -- "yes, after all" --> predict
  end
  excluded & predict --> report[("Structured Report")]
  predict -.->|fails| receive
  report <-- "asked, answered" --> sender
"""
DRAWN = (
    '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'width="200pt" height="100pt" viewBox="0 0 200 100"><style>*{stroke-linejoin: round}</style>'
    '<defs><path id="m" d="M 0 0 L 0 5" style="stroke: #000000"/><clipPath id="c"><rect x="0" y="0" width="200" '
    'height="100"/></clipPath></defs><g clip-path="url(#c)"><path d="M 10 90 C 50 10 90 10 190 90 Q 10 10 20 20 z" '
    'style="fill: none; stroke: #0072b2; stroke-dasharray: 4,2"/></g><use xlink:href="#m" x="20" y="50"/>'
    '<text style="font: 10px \'DejaVu Sans\'; text-anchor: middle" x="100" y="95" '
    'transform="rotate(-0 100 95)">false positive rate</text></svg>\n'
)
PAGES = (
    Page("README.md", "Order", "readme.md"),
    Page("05_risk/plan.md", "The plan", "plan.md"),
    Page("figures.md", "Figures", "figures.md"),
    Page("99_not_made.md", "Not made", "none.md"),
)
FILES = {
    "README.md": (
        "# Order\n\n- [The plan](05_risk/plan.md#a-part)\n- [a file](../../pyproject.toml)\n"
        "- [gone](figures.md#figure-gone)\n- [raw](05_risk/a.xml)\n"
    ),
    "05_risk/plan.md": (
        "# The plan\n\n<!-- table a -->\n## A part\n\n"
        "It was [0.97](../figures.md#figure-a.auc), <script>alert(1)</script>.\n\n"
        "![a curve](../figures/a.curve.svg)\n\n**Figure: A curve.** From it.\n\n"
        f"```mermaid\n{CHART}```\n\n```\nmake\n```\n"
    ),
    "figures.md": '# Figures\n\n| figure | value |\n|---|---:|\n| <a id="figure-a.auc"></a>`a.auc` | 0.97 |\n',
    "figures/a.curve.svg": DRAWN,
    "05_risk/a.xml": "<a/>",
}


class _Names(HTMLParser):
    """Collects ids, targets, and whatever would load something."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.targets += [given["href"]] if tag == "a" and "href" in given else []
        self.loaded += [value for key, value in attrs if key == "src" or (tag == "link" and key == "href")]


@pytest.fixture(scope="module")
def page():
    return html(FILES, PAGES, "1.2.3")


@pytest.fixture(scope="module")
def names(page):
    found = _Names()
    found.feed(page)
    return found


@pytest.mark.requirement("SRS-REG-008")
def test_every_link_inside_the_page_has_its_target_and_no_id_comes_twice(names):
    """A reviewer follows a number to its row without leaving the file."""
    inside = [target[1:] for target in names.targets if target.startswith("#")]
    assert sorted(set(inside) - set(names.ids)) == []
    assert {"05-risk-plan--a-part", "figures--figure-a.auc"} <= set(inside)
    assert len(names.ids) == len(set(names.ids))


@pytest.mark.requirement("SRS-REG-008")
def test_the_page_needs_nothing_else_and_runs_nothing(page, names):
    """It is mailed, kept for years, and opened on a machine without a network."""
    assert names.loaded == []
    assert "script" not in names.tags
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page


@pytest.mark.requirement("SRS-REG-008")
def test_drawings_and_flowcharts_are_inside_as_curves(page):
    """A flowchart as text, or a picture that is a link, is not legible in print."""
    assert page.count("<svg") == 2
    assert "flowchart TD" not in page
    assert 'aria-label="a curve"' in page
    assert "stroke-linejoin: round" not in page
    assert 'xlink:href="#figures-a-curve-m"' in page


@pytest.mark.requirement("SRS-REG-008")
def test_the_contents_name_every_page_in_reading_order_and_none_that_is_not_there(page):
    """A page that was not made is not promised."""
    contents = page[page.index("<nav") : page.index("</nav>")]
    assert re.findall(r'<a href="#[^"]+">([^<]+)</a>', contents) == ["Order", "The plan", "Figures"]
    assert BANNER in page


@pytest.mark.requirement("SRS-REG-008")
def test_the_pdf_holds_text_contents_links_and_the_banner_on_each_page():
    """Searched, cited by page, and never taken for a cleared product's."""
    document = pypdf.PdfReader(io.BytesIO(pdf(FILES, PAGES, "1.2.3")))
    texts = [page.extract_text() for page in document.pages]
    assert all(BANNER in text for text in texts)
    assert "The plan" in texts[1]
    whole = "\n".join(texts)
    assert "in intended use?" in whole
    assert "false positive rate" in whole
    assert "<script>" in whole
    # A link to a place that is not there would have raised in reportlab; this one ends on the page of figures.
    targets = [
        link["/Dest"] for page in document.pages for link in (found.get_object() for found in page.get("/Annots", []))
    ]
    rows = [target for target in targets if target[1] == "/XYZ"]
    assert [document.get_page_number(target[0].get_object()) for target in rows] == [len(texts) - 1]
    assert [entry.title for entry in document.outline if not isinstance(entry, list)] == [
        "Order",
        "The plan",
        "Figures",
    ]


@pytest.mark.requirement("SRS-REG-008")
def test_the_same_pages_give_the_same_pdf():
    """A new file means that something changed."""
    assert pdf(FILES, PAGES, "1.2.3") == pdf(FILES, PAGES, "1.2.3")


@pytest.mark.requirement("SRS-REG-008")
def test_a_flowchart_is_read_as_it_is_written():
    """A node or an edge that is left out changes what the device is said to do."""
    chart = read(CHART)
    assert list(chart.nodes) == ["sender", "receive", "gate", "excluded", "predict", "report"]
    assert chart.nodes["receive"].lines == ["receive", "bytes to disk"]
    assert [(edge.start, edge.end, edge.label) for edge in chart.edges] == [
        ("sender", "receive", "C-STORE"),
        ("receive", "gate", ""),
        ("gate", "excluded", "no"),
        ("gate", "predict", "yes, after all"),
        ("excluded", "report", ""),
        ("predict", "report", ""),
        ("predict", "receive", "fails"),
        ("report", "sender", "asked, answered"),
    ]
    assert [edge.dashed for edge in chart.edges] == [False] * 6 + [True, False]
    assert [edge.both for edge in chart.edges] == [False] * 7 + [True]
    assert chart.groups == {"node": "cxr-node"}
    drawn = flowchart(CHART)
    assert all(f">{line}</text>" in drawn for node in chart.nodes.values() for line in node.lines)


@pytest.mark.requirement("SRS-REG-008")
@pytest.mark.parametrize("source", ["", "sequenceDiagram\nA->>B: hi", "flowchart TD\nA[", "flowchart TD\nA ~~> B"])
def test_what_is_no_flowchart_is_refused(source):
    """It is printed as text then, not drawn wrongly."""
    with pytest.raises(UnreadableFlowchart):
        read(source)


@pytest.mark.requirement("SRS-REG-008")
@pytest.mark.parametrize("down", [True, False])
def test_boxes_do_not_overlap_and_links_point_one_way(down):
    """What lies on top of something else cannot be read."""
    boxes = {name: Box(80 + 10 * number, 30, "g" if number % 3 == 0 else "") for number, name in enumerate("abcdefgh")}
    links = [
        Link("a", "b"),
        Link("a", "c", 40),
        Link("b", "d"),
        Link("c", "d"),
        Link("a", "h"),
        Link("d", "a"),
        Link("e", "h"),
    ]
    plan = place(boxes, [*links, Link("f", "f")], down)
    spans = [(x, y, boxes[name].width / 2, boxes[name].height / 2) for name, (x, y) in plan.centres.items()]
    for number, (x, y, wide, tall) in enumerate(spans):
        for u, v, other_wide, other_tall in spans[:number]:
            assert abs(x - u) >= wide + other_wide or abs(y - v) >= tall + other_tall
    axis = 1 if down else 0
    assert all(
        plan.centres[link.start][axis] < plan.centres[link.end][axis] for link in links if link != Link("d", "a")
    )
    assert all(wide < x < plan.size[0] - wide and tall < y < plan.size[1] - tall for x, y, wide, tall in spans)
    # The title of a group stands above its boxes, inside the drawing.
    assert plan.groups["g"][1] >= 0
    assert min(y - tall for name, (x, y, wide, tall) in zip(boxes, spans, strict=True) if boxes[name].group) >= 20


@pytest.mark.requirement("SRS-REG-008")
def test_two_drawings_on_a_page_keep_their_own_marks():
    """Clip paths and markers of one drawing would be used by the other: matplotlib calls them alike."""
    one, other = svg.inline(DRAWN, "one"), svg.inline(DRAWN, "other")
    assert set(re.findall(r'id="([^"]+)"', one)).isdisjoint(re.findall(r'id="([^"]+)"', other))
    assert 'clip-path="url(#one-c)"' in one
    assert svg.size(DRAWN) == (200, 100)


@pytest.mark.requirement("SRS-REG-008")
def test_a_tall_flowchart_is_cut_between_its_boxes():
    """Fitted to one page it could not be read, and a box cut in two neither."""
    drawn = flowchart("flowchart TD\n" + "\n".join(f"n{number} --> n{number + 1}" for number in range(30)))
    tall = svg.size(drawn)[1]
    parts = svg.cuts(drawn, 400)
    assert len(parts) >= tall / 400
    assert [parts[0][0], parts[-1][1]] == [0, tall]
    assert all(bottom - top <= 400 for top, bottom in parts)
    boxes = [
        (float(y), float(y) + float(height))
        for y, height in re.findall(r'<rect .*? y="([\d.]+)".*? height="([\d.]+)"', drawn)
    ]
    assert len(boxes) == 31
    assert not [cut for _, cut in parts[:-1] for top, bottom in boxes if top < cut < bottom]
    assert svg.cuts(drawn, tall) == [(0, tall)]
