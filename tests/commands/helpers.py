"""Commands of the tests."""

from __future__ import annotations

from deeph_gformer.cli import build_parser

__all__ = ["run"]


def run(*words: object) -> int:
    """Run one command in this process; errors are raised, not printed."""
    args = build_parser().parse_args([str(word) for word in words])
    return int(args.run(args) or 0)
