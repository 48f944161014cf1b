"""The result card, as an image and as a dataset."""

from dataclasses import replace

import numpy as np
import pytest

from cxr_node.findings import Exclusion
from cxr_node.reporting.secondary_capture import HEIGHT, PICTURE_WIDTH, WIDTH, build_sc
from cxr_node.reporting.statement import MOST_REASONS, NOTICES, state
from tests.builders import make_material, make_radiograph_dataset

LATERAL = Exclusion("view", "View Position is LL, expected PA or AP", "(0018,5101) View Position", "LL")


@pytest.mark.requirement("SRS-RPT-102")
def test_the_card_says_that_it_is_derived_and_that_words_are_burned_in():
    """A PACS must not take it for a radiograph, nor de-identification for one without a name in its pixels."""
    material = make_material()
    card = build_sc(material)
    assert card.SOPClassUID.name == "Secondary Capture Image Storage"
    assert (card.Modality, list(card.ImageType)) == ("OT", ["DERIVED", "SECONDARY"])
    assert (card.BurnedInAnnotation, card.ConversionType, card.BodyPartExamined) == ("YES", "WSD", "CHEST")
    assert "shows no pixels of the source images" in card.DerivationDescription
    assert "DerivationCodeSequence" not in card
    (source,) = card.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == material.outcome.images[0].image.sop_instance_uid
    assert (card.PhotometricInterpretation, card.Rows, card.Columns) == ("RGB", HEIGHT, WIDTH)
    assert len(card.PixelData) == HEIGHT * WIDTH * 3


@pytest.mark.requirement("SRS-RPT-103")
def test_words_follow_what_came_of_the_study():
    """What a glance takes in is true by itself."""
    first = make_radiograph_dataset()
    second = make_radiograph_dataset(StudyInstanceUID=first.StudyInstanceUID)
    flagged = state(make_material(first, second, exclusions={1: LATERAL}))
    assert flagged.headline == "FLAGGED FOR PRIORITISED READING"
    assert flagged.sentences == (
        "Suspected: pneumonia.",
        "1 of 2 images not analysed: View Position is LL, expected PA or AP.",
    )
    assert flagged.models == ("pneumonia-adult 1.0.0",)
    excluded = state(make_material(first, exclusions={0: LATERAL}))
    assert excluded.headline == "NOT ANALYSED"
    assert "Not analysed: View Position is LL, expected PA or AP." in excluded.sentences
    assert excluded.models == ()
    partly = state(make_material(first, second, probability=0.1, exclusions={1: LATERAL}))
    assert partly.headline == "NOT FULLY ANALYSED"
    kept = state(make_material(first, probability=0.1, was_flagged=True))
    assert kept.headline == "PRIORITY KEPT"
    assert "the priority stays as it was raised" in kept.sentences[0]
    for said in (flagged, excluded, partly, kept):
        assert "not flagged" not in " ".join((said.headline, *said.sentences)).lower()


@pytest.mark.requirement("SRS-RPT-103")
def test_notes_of_the_study_are_told():
    """What is missing of a study belongs to its result."""
    material = make_material()
    noted = replace(material, outcome=replace(material.outcome, notes=("2 images announced by MPPS are missing",)))
    assert "2 images announced by MPPS are missing." in state(noted).sentences


@pytest.mark.requirement("SRS-RPT-103")
def test_long_reasons_never_cover_the_notices():
    """Senders write what they like; that nobody reviewed the result must stay readable."""
    first = make_radiograph_dataset()
    more = [make_radiograph_dataset(StudyInstanceUID=first.StudyInstanceUID) for _ in range(7)]
    plain = make_material(first, *more, exclusions=dict.fromkeys(range(8), LATERAL))
    long = make_material(
        first,
        *more,
        exclusions={number: Exclusion("view", f"{number} " + "x" * 3000 + " word" * 200) for number in range(8)},
    )
    assert len([text for text in state(long).sentences if text.startswith("Not analysed")]) == MOST_REASONS
    foot = [
        np.frombuffer(build_sc(item).PixelData, np.uint8).reshape(HEIGHT, WIDTH, 3)[-120:] for item in (plain, long)
    ]
    assert np.array_equal(*foot)
    assert foot[0].max() > 200
    assert len(NOTICES) == 3


@pytest.mark.requirement("SRS-RPT-103")
def test_in_research_the_card_shows_the_radiograph_with_its_heat_map():
    """Warm where the map is, gray elsewhere."""
    material = make_material(profile="research")
    card = build_sc(material)
    pixels = np.frombuffer(card.PixelData, np.uint8).reshape(card.Rows, card.Columns, 3).astype(int)
    picture = pixels[:, :PICTURE_WIDTH]
    assert card.Columns == WIDTH + PICTURE_WIDTH
    hot, cold = (
        picture[int(0.65 * HEIGHT), int(0.3 * PICTURE_WIDTH)],
        picture[int(0.2 * HEIGHT), int(0.8 * PICTURE_WIDTH)],
    )
    assert hot[0] - hot[2] > 20
    assert np.ptp(cold) <= 2
    assert card.DerivationCodeSequence[0].CodeValue == "130404"
    assert "heat map" in card.DerivationDescription


@pytest.mark.requirement("SRS-RPT-103")
def test_a_wide_image_keeps_its_shape_on_the_card():
    """A stretched chest is another chest."""
    wide = make_radiograph_dataset(np.full((100, 400), 4095, np.uint16), WindowCenter=2048, WindowWidth=4096)
    card = build_sc(make_material(wide, profile="research"))
    pixels = np.frombuffer(card.PixelData, np.uint8).reshape(card.Rows, card.Columns, 3)[:, :PICTURE_WIDTH]
    rows = np.flatnonzero(pixels[:, PICTURE_WIDTH // 2].min(axis=1) > 100)
    assert abs(len(rows) - PICTURE_WIDTH / 4) <= 2
