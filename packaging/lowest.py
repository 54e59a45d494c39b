"""Print the lowest version that setup.cfg allows of each requirement, as constraints for pip."""

import configparser
import pathlib
import re

SETUP = pathlib.Path(__file__).resolve().parents[1] / "setup.cfg"


def lowest() -> list[str]:
    """Lines such as ``numpy==1.24``."""
    config = configparser.ConfigParser()
    config.read(SETUP)
    lines = config["options"]["install_requires"].splitlines()
    for extra in config["options.extras_require"].values():
        lines += extra.splitlines()
    found = {}
    for line in lines:
        match = re.match(r"\s*([\w.-]+)\s*>=\s*([\w.]+)", line)
        if match:
            found[match[1].lower()] = match[2]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


if __name__ == "__main__":
    print("\n".join(lowest()))
