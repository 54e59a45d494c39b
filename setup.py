"""Metadata is in setup.cfg, but for the description: the README without its pictures, which lie in
the repository and are broken links elsewhere."""

import pathlib
import re

from setuptools import setup

README = pathlib.Path(__file__).with_name("README.md")
setup(
    long_description=re.sub(
        r"^!\[.*\]\(.*\)\n\n", "", README.read_text("utf-8"), flags=re.MULTILINE
    ),
    long_description_content_type="text/markdown",
)
