"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

from sb3_rlx2 import __version__

project = "sb3-rlx2"
author = "The sb3-rlx2 developers"
copyright = author
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "benchmark_results",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path = ["style"]
html_css_files = ["tables.css"]
html_title = f"sb3-rlx2 {version}"

myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3

# Types stand in the signatures; they are not repeated as links
autodoc_typehints = "none"
autodoc_member_order = "bysource"
add_module_names = False

# Every reference to code of ours must lead somewhere; others' is not documented here
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!sb3_rlx2).*")]
