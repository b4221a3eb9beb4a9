"""How the site is built: `make docs`. Nothing is fetched from the network, and warnings are errors."""

import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from torchfit import __version__  # noqa: E402

# Sphinx reads one folder; the notebooks live at the top, where people look for them.
shutil.copytree(HERE.parent / "notebooks", HERE / "notebooks", dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))

project = "torchfit"
author = "The torchfit maintainers"
copyright = "the torchfit maintainers"
version = release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"
exclude_patterns = ["_build", "notebooks/README.md", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

nb_execution_mode = "off"  # the notebooks are committed with their outputs, and the tests execute them
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "deflist", "substitution"]
myst_substitutions = {"version": __version__}
myst_heading_anchors = 3

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures stay readable; docstrings tell the shapes, which types cannot
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"  # docstrings write `names` as Markdown does
toc_object_entries_show_parents = "hide"

nitpicky = True
# Classes of other projects, and private bases, have no page here.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|pandas|nn|collections|typing|sklearn|keras|optional|Tensor|Any)\b.*"),
    (r"py:.*", r"torchfit\.(_|\w+\._).*"),
    (r"py:(class|obj)", r"(object|abc\.ABC|dict|str|int|float|bool|None|Exception|tuple|list)"),
]

html_theme = "pydata_sphinx_theme"
html_title = "torchfit"
html_static_path = ["_static"]
html_css_files = ["torchfit.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "torchfit"},
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 7,
    "show_prev_next": True,
    "show_toc_level": 3,
    "secondary_sidebar_items": {"*": ["page-toc"], "api/**": ["page-toc"], "notebooks/*": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "search_bar_text": "Search",
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
html_sidebars = {"*": []}  # only the reference and the notebooks have pages below them

CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")


def as_restructured_text(app, what, name, obj, options, lines):
    """Docstrings write code as Markdown does: `name`, also with letters right behind it."""
    text = CODE.sub(r"``\1``\\ ", "\n".join(lines))
    # The first line, which vanishes, keeps napoleon from reading "The names: …" of a property as its type.
    lines[:] = ["\\", *text.split("\n")] if what in ("property", "attribute") else text.split("\n")


def setup(app):
    """Translate docstrings before napoleon reads them."""
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)
