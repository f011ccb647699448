"""How Sphinx makes a site of these pages: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import geventpg  # noqa: E402  # found by the line above when it is not installed
from geventpg.pool.stats import STATISTICS  # noqa: E402

project = "geventpg"
author = "geventpg contributors"
copyright = "geventpg contributors"  # noqa: A001  # Sphinx's name
version = release = geventpg.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "repository"]
exclude_patterns = ["_ext"]

# The anchors of headings are GitHub's, so that a link works on both.
myst_heading_anchors = 4
myst_footnote_sort = False

# In docstrings `name` is a link where there is something to link to.
default_role = "py:obj"
# psycopg's and SQLAlchemy's docstrings refer to pages of their own.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "furo"
html_title = f"geventpg {version}"
html_copy_source = False
html_show_sphinx = False
copybutton_exclude = ".linenos, .gp, .go"  # of a console block the commands only
# No theme option may fetch anything from elsewhere: the site is read without a network, too.
html_theme_options = {"navigation_with_keys": True}


def list_statistics(_app, _what, name, _obj, _options, lines):
    """List the statistics of a class, whose meanings are in a table, below its docstring."""
    within = {"PoolStats": "", "StatementStats": "statements."}.get(name.rpartition(".")[2])
    if within is not None:
        for one in STATISTICS:
            owner, _, field = one.name.rpartition(".")
            if owner == within.rstrip("."):
                lines.append(f"- ``{field}``: {one.text}")
        lines.append("")


def setup(app):
    app.connect("autodoc-process-docstring", list_statistics)
