"""NIH ChestX-ray14: frontal, with report-mined labels, and radiologists' labels where others gave them.

RSNA's and Google's labels may be used for evaluation only, by their terms: they are `references`, and no label to
learn from is made of them.

Sources: Wang et al., CVPR 2017 (https://nihcc.app.box.com/v/ChestXray-NIHCC); RSNA Pneumonia Detection Challenge 2018,
Shih et al. 2019; Majkowska et al., Radiology 2020.
"""

from pathlib import Path

from trainer.cohorts.case import Cohort, CohortError
from trainer.cohorts.nih_selection import is_selection, read_selection
from trainer.cohorts.nih_shipped import TABLES, folders_of, read_shipped
from trainer.cohorts.nih_tfrecords import is_tfrecords, read_tfrecords
from trainer.cohorts.tables import find


def nih(data: Path) -> Cohort:
    """Read the cohort in the form that the folder has, and split it by patient.

    - ``cxr14/labels.csv`` and its neighbours: a selection, see `nih_selection`;
    - ``NNN-SIZE.tfrec`` files: TFRecords of all images, see `nih_tfrecords`;
    - ``Data_Entry_2017….csv``: as NIH ships it, see `nih_shipped`.

    `labels` has the 14 findings of the report and ``abnormal``, any of them. `references` has ``rsna``,
    ``rsna_abnormal`` and ``google_…``. Children and ages that cannot be are `apart`: the models are for adults.

    Raises
    ------
    CohortError
        The folder has none of the three forms, or its tables contradict one another.
    """
    if is_selection(data):
        return read_selection(data)
    if is_tfrecords(data):
        return read_tfrecords(data)
    if find(folders_of(data), TABLES) is not None:
        return read_shipped(data)
    raise CohortError(
        f"{data}: expected cxr14/labels.csv, a folder of NNN-SIZE.tfrec files, or {' or '.join(TABLES)}, found none"
    )
