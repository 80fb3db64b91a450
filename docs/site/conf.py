"""Sphinx configuration of the site. Everything that a page needs lies beside it; nothing comes from a network."""

from docutils.nodes import SkipNode
from latex2mathml.converter import convert

project = html_title = "Attention on Trial"
author = "the Attention on Trial authors"
language = "en"
extensions = ["myst_nb"]
exclude_patterns = ["view"]

nb_execution_mode = "off"  # the copies were executed by the pipeline
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # no notebook has widgets, and their scripts would come from a network
myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_static_path = ["static"]  # build.py adds the folder of the view's pictures
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is set
html_css_files = ["site.css"]
html_favicon = "static/favicon.svg"
html_math_renderer = "mathml"
html_show_sphinx = False
html_permalinks_icon = "#"
html_theme_options = {
    "use_fullscreen_button": False,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # one search field is enough, that of the sidebar
}


def _visit_inline_math(self, node):
    """A formula as MathML, which browsers draw by themselves."""
    formula = convert(node.astext(), display="inline")
    self.body.append(f'<span class="inline-formula">{formula}</span>')
    raise SkipNode


def _visit_block_math(self, node):
    """A formula in a line of its own, which scrolls where it is wider than the screen."""
    formula = convert(node.astext(), display="block")
    self.body.append(f'<div class="formula" tabindex="0">{formula}</div>')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer(
        "mathml",
        inline_renderers=(_visit_inline_math, None),
        block_renderers=(_visit_block_math, None),
    )
