"""Studies: many runs from one file, each resumable, with statistics over all of them."""

from sb3_rlx2.studies.study_file import Method, RunSettings, Study, expand, read_study

__all__ = ["Method", "RunSettings", "Study", "expand", "read_study"]
