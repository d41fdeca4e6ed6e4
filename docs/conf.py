"""The documentation site: ``make docs``.

Examples are executed by the build; the table of methods and a page for every sampler are written
from the classes (`docs/_ext/methods.py`); everything else is prose in this folder.
"""

import os
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
os.environ["TQDM_DISABLE"] = "1"  # a page is no terminal: no progress bars

project = "ppl"
author = "The ppl authors"
copyright = "2026, the ppl authors"
release = metadata.version("ppl")

extensions = [
    "docstrings",  # before napoleon, which reads what it leaves
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
    "methods",
    "solver_errors",
    "inverse_tables",
]
exclude_patterns = ["_build", "_ext"]
default_role = "py:obj"
add_module_names = False
highlight_language = "none"  # formulas; code says that it is Python

# Prose ------------------------------------------------------------------------------------------

myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

# Docstrings -------------------------------------------------------------------------------------

autodoc_typehints = "none"  # signatures would drown in shapes; the parameters say them
autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_google_docstring = False
napoleon_custom_sections = [("Differences from the paper", "notes_style")]
napoleon_use_rtype = False
napoleon_attr_annotations = False
napoleon_use_ivar = True  # attributes in a list, not described a second time

# Examples ---------------------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": ["_build/gallery"],  # copies: what they write stays in the build
    "gallery_dirs": ["examples"],
    "filename_pattern": r"\.py$",
    "within_subsection_order": "methods.ReadingOrder",
    "download_all_examples": False,
    "min_reported_time": 10_000,
    "show_memory": False,
    "abort_on_example_error": True,
    "parallel": 2,  # examples at a time, each on one thread (see the Makefile)
    "copyfile_regex": r"^$",
    "show_signature": False,
    "capture_repr": (),  # what an example prints, and nothing else
}

# Pages ------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = "ppl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
