"""A DICOM node that triages chest radiographs. Research prototype, not cleared for clinical use."""

__version__ = "0.1.0"
