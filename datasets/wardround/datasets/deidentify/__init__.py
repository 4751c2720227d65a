"""De-identification of DICOM files after PS3.15 Annex E: a folder in, a folder and a report out."""

from wardround.datasets.deidentify.process import Done, Run, deidentify_folder
from wardround.datasets.deidentify.profile import Box, Profile, load_profile
from wardround.datasets.deidentify.pseudonyms import Pseudonyms, key_id, open_key
from wardround.datasets.deidentify.reasons import REASONS
from wardround.datasets.deidentify.report import Outcome, Report
from wardround.datasets.deidentify.table import Option

__all__ = [
    "REASONS",
    "Box",
    "Done",
    "Option",
    "Outcome",
    "Profile",
    "Pseudonyms",
    "Report",
    "Run",
    "deidentify_folder",
    "key_id",
    "load_profile",
    "open_key",
]
