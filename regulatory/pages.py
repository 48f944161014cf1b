"""The pages of the regulatory file, in reading order."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Page:
    """One page of regulatory/file, made from regulatory/text/TEMPLATE.

    `given` are further variables for the template, for pages that are made once for each model package; `says` is the
    line that the reading order prints beside it.
    """

    file: str
    title: str
    template: str
    given: tuple[tuple[str, str], ...] = ()
    says: str = ""

    @property
    def chapter(self) -> str:
        """Return the folder, "" for a page of its own."""
        return self.file.rpartition("/")[0]


FIGURES = "figures.md"
README = "README.md"

PAGES: tuple[Page, ...] = (
    Page(README, "The regulatory file of cxr-node", "readme.md", says="this page"),
    # Add yours in the order of the number that its file name begins with.
    Page(
        "00_checklists/checklists.md",
        "Checklists",
        "checklists.md",
        says="how far the lists of others are met",
    ),
    Page(
        "00_checklists/cfr_892_2080.md",
        "Checklist: 21 CFR 892.2080",
        "checklist.md",
        (("name", "cfr_892_2080"),),
        "the special controls of triage software",
    ),
    Page(
        "00_checklists/fda_ai_lifecycle.md",
        "Checklist: FDA draft on AI-enabled device software",
        "checklist.md",
        (("name", "fda_ai_lifecycle"),),
        "submission areas and labelling items",
    ),
    Page(
        "00_checklists/gmlp.md",
        "Checklist: Good Machine Learning Practice",
        "checklist.md",
        (("name", "gmlp"),),
        "the ten principles",
    ),
    Page(
        "00_checklists/claim_2024.md",
        "Checklist: CLAIM 2024",
        "checklist.md",
        (("name", "claim_2024"),),
        "reporting of AI in medical imaging",
    ),
    Page(
        "00_checklists/tripod_ai.md",
        "Checklist: TRIPOD+AI",
        "checklist.md",
        (("name", "tripod_ai"),),
        "reporting of prediction models",
    ),
    Page(
        "00_checklists/stard_ai.md",
        "Checklist: STARD-AI",
        "checklist.md",
        (("name", "stard_ai"),),
        "reporting of accuracy studies with AI",
    ),
    Page(
        "01_intended_use.md",
        "Intended use",
        "intended_use.md",
        says="for whom, for what, on which images, and what it is not for",
    ),
    Page(
        "02_device_description.md",
        "Device description",
        "device_description.md",
        says="what the device is made of, the way of an image, inputs, outputs and behaviour in failure",
    ),
    Page(
        "03_predicate_comparison.md",
        "Comparison with cleared devices",
        "predicate_comparison.md",
        says="why there is no predicate to name, and the figures of cleared devices beside ours",
    ),
    Page(
        "04_software/plan.md",
        "Software development plan",
        "software_plan.md",
        says="how the software is made, and why it is of class B",
    ),
    Page(
        "04_software/requirements.md",
        "Software requirements specification",
        "software_requirements.md",
        says="what the software must do, sentence by sentence",
    ),
    Page(
        "04_software/architecture.md",
        "Software architecture",
        "software_architecture.md",
        says="layers, processes, parts and modules, from the import graph",
    ),
    Page(
        "04_software/documentation_level.md",
        "Documentation level",
        "software_documentation_level.md",
        says="basic or enhanced, and why",
    ),
    Page(
        "04_software/soup.md",
        "Software of unknown provenance",
        "software_soup.md",
        says="components with reason, version, licence and known anomalies",
    ),
    Page(
        "04_software/problems.md",
        "Problem list",
        "software_problems.md",
        says="unresolved problems and limits, with the hazards they bear on",
    ),
    Page(
        "04_software/release.md",
        "Release record",
        "software_release.md",
        says="versions, what changed and by which evidence they were verified",
    ),
    Page(
        "05_risk/plan.md",
        "Risk management plan",
        "risk_plan.md",
        says="scope, scales and method",
    ),
    Page(
        "05_risk/hazards.md",
        "Hazard table",
        "risk_hazards.md",
        says="each hazard with controls, their tests and what is left",
    ),
    Page(
        "05_risk/report.md",
        "Risk management report",
        "risk_report.md",
        says="what the assessment came to, and that benefit was not shown",
    ),
    Page(
        "06_data/cohorts.md",
        "Data cards",
        "data_cohorts.md",
        says="the images that were learned from and tested on: size, balance, patients, completeness",
    ),
    Page(
        "06_data/splits_and_leakage.md",
        "Splits and leakage",
        "data_splits.md",
        says="how the parts were made, and what tells the label without anatomy",
    ),
    Page(
        "06_data/reference_standard.md",
        "Reference standard",
        "data_reference.md",
        says="whose labels, and how far they are right",
    ),
    Page(
        "07_model/pneumonia-adult_training.md",
        "Training record: pneumonia-adult",
        "model_training.md",
        given=(("package", "pneumonia-adult"),),
        says="pneumonia, adults: settings, layers, curves, threshold and why",
    ),
    Page(
        "07_model/pneumonia-adult_card.md",
        "Model card: pneumonia-adult",
        "model_card.md",
        given=(("package", "pneumonia-adult"),),
        says="pneumonia, adults: what it is for, what it reached, its limits",
    ),
    Page(
        "07_model/pneumonia-paediatric_training.md",
        "Training record: pneumonia-paediatric",
        "model_training.md",
        given=(("package", "pneumonia-paediatric"),),
        says="pneumonia, children: settings, layers, curves, threshold and why",
    ),
    Page(
        "07_model/pneumonia-paediatric_card.md",
        "Model card: pneumonia-paediatric",
        "model_card.md",
        given=(("package", "pneumonia-paediatric"),),
        says="pneumonia, children: what it is for, what it reached, its limits",
    ),
    Page(
        "07_model/abnormal-adult_training.md",
        "Training record: abnormal-adult",
        "model_training.md",
        given=(("package", "abnormal-adult"),),
        says="any finding, adults: settings, layers, curves, threshold and why",
    ),
    Page(
        "07_model/abnormal-adult_card.md",
        "Model card: abnormal-adult",
        "model_card.md",
        given=(("package", "abnormal-adult"),),
        says="any finding, adults: what it is for, what it reached, its limits",
    ),
    Page(
        "08_validation/protocol.md",
        "Validation protocol",
        "validation_protocol.md",
        says="what was fixed before, and what the records can show of that",
    ),
    Page(
        "08_validation/report.md",
        "Validation report",
        "validation_report.md",
        says="performance by set with intervals, criteria met and not met, limits found",
    ),
    Page(
        "08_validation/baselines.md",
        "Baselines",
        "validation_baselines.md",
        says="what trivial predictors reach, and the ladder of others",
    ),
    Page(
        "08_validation/subgroups.md",
        "Subgroups",
        "validation_subgroups.md",
        says="sex, age, view and co-findings, with those too few to measure",
    ),
    Page(
        "08_validation/calibration.md",
        "Calibration",
        "validation_calibration.md",
        says="probabilities before and after the map",
    ),
    Page(
        "08_validation/gate.md",
        "The gate before the models",
        "validation_gate.md",
        says="images that must not be scored: catch rate and over-refusal",
    ),
    Page(
        "08_validation/cross_population.md",
        "Other readers and populations",
        "validation_cross.md",
        says="the same threshold outside of what was learned from",
    ),
    Page(
        "09_triage_effectiveness.md",
        "Triage effectiveness and time to notification",
        "triage_effectiveness.md",
        says="who waits less and who waits longer, by a queueing model with its assumptions, and how fast a flag comes",
    ),
    Page(
        "10_validation_plan.md",
        "Plan of a clinical validation",
        "validation_plan.md",
        says="population, reference standard, goals and computed sample size; nothing of it was done",
    ),
    Page(
        "11_labelling/ifu.md",
        "Instructions for Use",
        "ifu.md",
        says="the labelling: population, users, warnings, inputs, operation, performance",
    ),
    Page(
        "12_usability.md",
        "Usability",
        "usability.md",
        says="users and hazard-related use scenarios; no user test was done",
    ),
    Page(
        "13_cybersecurity/threats.md",
        "Threat model",
        "security_threats.md",
        says="assets, trust boundaries, and threats with control and tests",
    ),
    Page(
        "13_cybersecurity/sbom.md",
        "Software bill of materials",
        "security_sbom.md",
        says="components, models and data sets",
    ),
    Page(
        "13_cybersecurity/vulnerabilities.md",
        "Known vulnerabilities",
        "security_vulnerabilities.md",
        says="the last search, as recorded",
    ),
    Page(
        "13_cybersecurity/plan.md",
        "Security architecture, update and disclosure plan",
        "security_plan.md",
        says="listeners and calls, updates, disclosure, and what is expected",
    ),
    Page(
        "14_dicom_conformance_statement.md",
        "DICOM Conformance Statement",
        "conformance.md",
        says="what is accepted and proposed on the wire, in the order of PS3.2 Annex N; proved by a test",
    ),
    Page(
        "15_pccp.md",
        "Predetermined change control plan",
        "pccp.md",
        says="which updates need no new submission, and the program that decides it",
    ),
    Page(
        "16_monitoring_plan.md",
        "Monitoring plan",
        "monitoring_plan.md",
        says="what the node watches by itself, how often it is wrong, which changes it finds after how many studies",
    ),
    Page(
        "17_traceability.md",
        "Traceability",
        "traceability.md",
        says="from need to test result; orphans break the build",
    ),
    Page(
        "18_course_crosswalk.md",
        "Crosswalk to the course template",
        "course_crosswalk.md",
        says="where each heading of the student template is answered, and which defects are kept out",
    ),
    Page(
        "19_eu_note.md",
        "A note on the European Union",
        "eu_note.md",
        says="what the device would be under the medical device regulation and the AI act",
    ),
    Page(
        FIGURES,
        "Figures and where they come from",
        "figures.md",
        says="each figure's source and the command that made it",
    ),
)
