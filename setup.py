"""Metadata is in setup.cfg, but for the description: the README without its pictures and links to
other pages, which lie in the repository and are broken links elsewhere."""

import pathlib
import re

from setuptools import setup

TEXT = pathlib.Path(__file__).with_name("README.md").read_text("utf-8")
TEXT = re.sub(r"^!\[.*\]\(.*\)\n\n", "", TEXT, flags=re.MULTILINE)
setup(
    long_description=re.sub(r"\[([^\]]*)\]\((?!https:)[^)]*\)", r"\1", TEXT),
    long_description_content_type="text/markdown",
)
