"""An exploration's JSON as sections of a document, for its own page and for the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.eda.figures import drawn_exploration
from trainer.report.document import Block, Bullets, Document, Paragraph, Picture, Section, Table, facts
from trainer.report.figures import Drawing
from trainer.report.page import html
from trainer.report.words import NOT_MEASURED, count, decimal, estimate, mapping, number, percent, rows_of, value_of

_HALF = ("pixel-spacing", "intensity-health", "intensity-finding", "intensity-view", "age")


def exploration_page(
    record: Mapping[str, Any],
    drawn: Sequence[tuple[Drawing, bytes]],
    grids: Sequence[tuple[str, bytes, str]] = (),
) -> str:
    """Return the HTML page of an exploration; `drawn` are its figures, `grids` are (name, PNG, caption)."""
    cohort = mapping(record.get("cohort"))
    title = f"Exploration: {cohort.get('title', 'unnamed cohort')}"
    return html(Document(title, str(cohort.get("split_rule", "")), tuple(exploration_sections(record, drawn, grids))))


def exploration_sections(
    record: Mapping[str, Any],
    drawn: Sequence[tuple[Drawing, bytes]] | None = None,
    grids: Sequence[tuple[str, bytes, str]] = (),
) -> list[Section]:
    """Return the sections; one that was not run says so in its own place. Figures not given are drawn."""
    figures: dict[str, list[Block]] = {}
    for drawing, content in drawn_exploration(record) if drawn is None else drawn:
        width = 0.5 if drawing.key in _HALF else 0.8 if drawing.key in ("prevalence", "comorbidity") else 1
        figures.setdefault(drawing.group, []).append(Picture(content, drawing.caption, width))

    def section(title: str, group: str, *blocks: Block) -> Section:
        return Section(title, (*blocks, *figures.get(group, ())), 2)

    sections = [
        section("Images and patients", "counts", *_counts(record)),
        section("Prevalence", "prevalence", _prevalence(record)),
        section("Co-occurrence of findings", "co_occurrence", *_said(record, "co_occurrence")),
        section("Comorbidity", "comorbidity", *_comorbidity(record)),
        section("Findings and images per patient", "per_patient", _per_patient(record)),
        section("Age", "age", *_age(record)),
        section("Sex and view", "sex", *_by_value(record)),
        section("Original size and pixel spacing", "size", *_sizes(record)),
        section("Pixels: gray values, sharpness, border", "intensity", *_intensity(record)),
        section("Agreement with other readers", "agreement", *_agreement(record)),
        section("Duplicates and overlap", "duplicates", *_duplicates(record)),
        section("Shortcuts", "shortcuts", *_shortcuts(record)),
    ]
    if grids:
        note = Paragraph("These pictures show cases of the cohort and are not to be published.", "note")
        pictures = [Picture(drawn, caption, 0.8) for _, drawn, caption in grids]
        sections.append(Section("Samples", (note, *pictures), 2))
    not_run = tuple(str(line) for line in rows_of(record.get("not_run")))
    sections.append(Section("Not run", (Bullets(not_run) if not_run else Paragraph("Everything was run."),), 2))
    return sections


def _said(record: Mapping[str, Any], key: str) -> list[Block]:
    value = record.get(key)
    if isinstance(value, str):
        return [Paragraph(value, "note")]
    return [] if value else [Paragraph(NOT_MEASURED, "note")]


def _counts(record: Mapping[str, Any]) -> list[Block]:
    table = mapping(record.get("counts"))
    rows = [
        ("all", count(table.get("images")), count(table.get("patients"))),
        ("with a picture", count(table.get("with_picture")), ""),
        ("listed, no picture found", count(table.get("without_picture")), ""),
    ]
    for key, word in (("parts", "part"), ("sources", "source"), ("subsets", "subset")):
        for name, entry in mapping(table.get(key)).items():
            rows.append((f"{word}: {name}", count(mapping(entry).get("images")), count(mapping(entry).get("patients"))))
    problems = tuple(str(line) for line in rows_of(mapping(record.get("cohort")).get("problems")))
    blocks: list[Block] = [Table(("", "images", "patients"), tuple(rows), shares=(2, 1, 1), numeric=(1, 2))]
    if problems:
        blocks += [Paragraph("Problems of the source:"), Bullets(problems)]
    return blocks


def _prevalence(record: Mapping[str, Any]) -> Block:
    parts = ("train", "tune", "test")
    rows = []
    for name, found in mapping(record.get("prevalence")).items():
        entry = mapping(found)
        by_part = mapping(entry.get("parts"))
        rows.append(
            (
                name.replace("_", " "),
                count(entry.get("present")),
                count(entry.get("absent")),
                count(entry.get("unknown")),
                _share(entry.get("prevalence")),
                *(percent(value_of(mapping(by_part.get(part)).get("prevalence"))) for part in parts),
            )
        )
    header = ("label", "present", "absent", "unknown", "prevalence (95 % CI)", *parts)
    return Table(header, tuple(rows), shares=(1.9, 1, 1, 1, 2.6, 1, 1, 1), numeric=(1, 2, 3, 4, 5, 6, 7))


def _comorbidity(record: Mapping[str, Any]) -> list[Block]:
    table = mapping(record.get("comorbidity"))
    if not table:
        return _said(record, "comorbidity")
    finding = str(table.get("finding"))
    return [
        Paragraph(
            f"{count(table.get('present'))} images have {finding}; {count(table.get('alone'))} of them have nothing "
            "else."
        ),
        Table(
            ("also has", "images", f"share of images with {finding}", "share of images without"),
            tuple(
                (
                    name.replace("_", " "),
                    count(mapping(entry).get("images")),
                    _share(mapping(entry).get("share")),
                    _share(mapping(entry).get("share_without")),
                )
                for name, entry in mapping(table.get("with")).items()
            ),
            shares=(1.6, 0.8, 2, 2),
            numeric=(1, 2, 3),
        ),
    ]


def _per_patient(record: Mapping[str, Any]) -> Block:
    table = mapping(record.get("images_of_a_patient"))
    return Paragraph(
        f"A patient has {decimal(table.get('mean'), 2)} images in the mean, {decimal(table.get('median'), 1)} in the "
        f"median, {count(table.get('most'))} at most."
    )


def _age(record: Mapping[str, Any]) -> list[Block]:
    age = mapping(record.get("age"))
    quartiles = rows_of(age.get("quartiles"))
    above = mapping(age.get("values_above_120"))
    named = ", ".join(f"{value} years: {count(n)}" for value, n in list(above.items())[:30])
    rows = [
        ("known", count(age.get("known"))),
        ("unknown", count(age.get("unknown"))),
        ("median (quartiles), years", _quartiles(quartiles, 0)),
        ("under 18 years", count(age.get("under_18"))),
        ("above 120 years", count(age.get("above_120")) + (f" ({named})" if named else "")),
        ("below 0 years", count(age.get("below_0"))),
    ]
    return [facts(rows)]


def _by_value(record: Mapping[str, Any]) -> list[Block]:
    names = [str(name) for name in rows_of(record.get("main_labels"))]
    rows = []
    for key in ("sex", "view"):
        for value, found in mapping(record.get(key)).items():
            entry = mapping(found)
            present = mapping(entry.get("present"))
            shares = (_share(mapping(present.get(name)).get("prevalence")) for name in names)
            rows.append((f"{key}: {value}", count(entry.get("images")), count(entry.get("patients")), *shares))
    header = ("", "images", "patients", *(f"with {name.replace('_', ' ')}" for name in names))
    return [Table(header, tuple(rows), numeric=tuple(range(1, len(header))))]


def _sizes(record: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    sizes = mapping(record.get("original_size"))
    if sizes:
        text = f"Size as acquired is known for {count(sizes.get('known'))} images, of {count(sizes.get('different'))} "
        blocks += [Paragraph(f"{text}different sizes."), _size_table(sizes.get("commonest"), "Commonest, as acquired")]
    else:
        blocks += [Paragraph(f"Original size: {record.get('original_size', NOT_MEASURED)}", "note")]
    spacing = mapping(record.get("pixel_spacing_mm"))
    if spacing:
        blocks.append(
            Paragraph(
                f"Pixel spacing: median (quartiles) {_quartiles(rows_of(spacing.get('quartiles')), 3)} mm, from "
                f"{decimal(spacing.get('least'))} to {decimal(spacing.get('most'))} mm, known for "
                f"{count(spacing.get('known'))} images."
            )
        )
    else:
        blocks += [Paragraph(f"Pixel spacing: {record.get('pixel_spacing_mm', NOT_MEASURED)}", "note")]
    if rows_of(record.get("picture_size")):
        blocks.append(_size_table(record["picture_size"], "Commonest, of the sampled pictures as stored"))
    return blocks


def _size_table(sizes: Any, title: str) -> Table:
    rows = tuple(
        (f"{count(mapping(entry).get('rows'))} x {count(mapping(entry).get('columns'))}", count(entry.get("images")))
        for entry in rows_of(sizes)
    )
    return Table(("rows x columns", "images"), rows, title, numeric=(1,))


def _intensity(record: Mapping[str, Any]) -> list[Block]:
    sampled = record.get("sampled")
    if not mapping(sampled):
        return [Paragraph(str(sampled or NOT_MEASURED), "note")]
    sampled = mapping(sampled)
    unreadable = tuple(str(line) for line in rows_of(sampled.get("unreadable")))
    blocks: list[Block] = [Paragraph(f"{sampled.get('says', '')} {count(sampled.get('read'))} were read.")]
    if unreadable:
        blocks += [Paragraph("Could not be read:", "bad"), Bullets(unreadable[:50])]
    rows = []
    for entry in map(mapping, rows_of(record.get("intensity"))):
        name = str(entry.get("name")).replace("_", " ")
        if entry.get("too_few"):
            rows.append((name, count(entry.get("images")), f"too few: {entry['too_few']}", "", "", "", ""))
            continue
        rows.append(
            (
                name,
                count(entry.get("images")),
                f"{decimal(entry.get('mean_gray'))} ± {decimal(entry.get('mean_gray_sd'))}",
                decimal(entry.get("pixel_sd")),
                _three(entry.get("sharpness"), 2),
                _three(entry.get("border"), 3),
                count(mapping(entry.get("file_bytes")).get("median")),
            )
        )
    header = ("images", "n", "mean gray ± SD", "SD of pixels", "sharpness", "black border", "file size (bytes)")
    blocks += [
        Table(header, tuple(rows), shares=(1.7, 0.7, 1.8, 1, 2.1, 2.1, 1.2), numeric=(1,)),
        Paragraph(
            "Gray 0 is black, 1 white. Sharpness is log10 of the variance of the Laplacian, border the black share of "
            "the picture at its four sides; both as median (quartiles). File size is the median.",
            "note",
        ),
    ]
    return blocks


def _agreement(record: Mapping[str, Any]) -> list[Block]:
    rows = []
    for row in map(mapping, rows_of(record.get("agreement"))):
        counts = mapping(row.get("confusion"))
        four = ("true_positive", "false_positive", "false_negative", "true_negative")
        rows.append(
            (
                str(row.get("label")).replace("_", " "),
                str(row.get("reader")).replace("_", " "),
                count(row.get("n")),
                " / ".join(count(counts.get(key)) for key in four),
                *(estimate(row.get(key), 2) for key in ("sensitivity", "specificity", "ppv", "npv")),
                decimal(row.get("kappa"), 2),
            )
        )
    if not rows:
        return _said(record, "agreement")
    header = ("label", "reader", "n", "TP / FP / FN / TN", "sensitivity", "specificity", "PPV", "NPV", "kappa")
    return [
        Paragraph("The cohort's label held against the reader, who is the reference. Intervals are Wilson's, 95 %."),
        Table(header, tuple(rows), shares=(1.5, 1.5, 0.8, 1.6, 1.25, 1.25, 1.25, 1.25, 0.8), numeric=(2, 8)),
    ]


def _duplicates(record: Mapping[str, Any]) -> list[Block]:
    table = mapping(record.get("duplicates"))
    declared, same = mapping(table.get("declared")), mapping(table.get("bytes"))
    rows = [
        (
            "declared groups of the same pixels",
            f"{count(declared.get('groups'))} ({count(declared.get('images'))} images)",
        )
    ]
    if same:
        rows += [
            (
                "same bytes, in the sample",
                f"{count(same.get('groups'))} groups of {count(same.get('pictures'))} pictures",
            ),
            ("… over two patients", count(same.get("over_patients"))),
            ("… over two parts", count(same.get("over_parts"))),
            ("… with different labels", count(same.get("other_labels"))),
        ]
    else:
        rows.append(("same bytes", str(table.get("bytes", NOT_MEASURED))))
    for kind, pairs in mapping(record.get("overlap")).items():
        found = [f"{pair}: {count(n)}" for pair, n in mapping(pairs).items() if number(n)]
        rows.append((f"{kind.replace('_', ' ')} in two parts", "; ".join(found) or "0"))
    return [facts(rows)]


def _shortcuts(record: Mapping[str, Any]) -> list[Block]:
    rows, flagged = [], []
    for row in map(mapping, rows_of(record.get("shortcuts"))):
        feature, label = (str(row.get(key)).replace("_", " ") for key in ("feature", "label"))
        if row.get("flagged"):
            flagged.append(f"{feature} tells {label}: AUC {estimate(row.get('auc'))}")
        found = f"not run: {row['not_run']}" if row.get("not_run") else estimate(row.get("auc"))
        rows.append(
            (
                label,
                feature,
                f"{count(row.get('present'))} / {count(row.get('absent'))}",
                found,
                str(row.get("higher_means", "")),
                "flagged" if row.get("flagged") else "",
            )
        )
    blocks: list[Block] = [
        Paragraph(
            "How well one thing that is no anatomy tells a label. Flagged: the lower limit of the interval lies above "
            "0.6, and a model may learn the feature instead of the finding."
        )
    ]
    if flagged:
        blocks += [Paragraph(f"{len(flagged)} flagged:", "bad"), Bullets(tuple(flagged))]
    elif rows:
        blocks.append(Paragraph("None is flagged.", "good"))
    if isinstance(record.get("picture_shortcuts"), str):
        blocks.append(Paragraph(f"File and pixel features: {record['picture_shortcuts']}", "note"))
    header = ("label", "feature", "present / absent", "AUC (95 % CI)", "higher means", "")
    return [*blocks, Table(header, tuple(rows), shares=(1.7, 1.2, 1.3, 2.4, 1, 0.8))]


def _share(value: Any) -> str:
    limits, found = mapping(value), value_of(value)
    if found is None:
        return NOT_MEASURED
    low, high = number(limits.get("low")), number(limits.get("high"))
    if low is None or high is None:
        return percent(found)
    return f"{100 * found:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _quartiles(values: list[Any], places: int) -> str:
    if len(values) != 3:
        return NOT_MEASURED
    return f"{decimal(values[1], places)} ({decimal(values[0], places)} to {decimal(values[2], places)})"


def _three(value: Any, places: int) -> str:
    entry = mapping(value)
    return _quartiles([entry.get(key) for key in ("quartile_1", "median", "quartile_3")], places)
