"""``python -m deeph_gformer``: the same as the command ``deeph-gformer``."""

import os
import signal
import sys


def _early(number: int, frame: object) -> None:
    """Told to stop while the command line is imported; torchrun ends its processes like that."""
    if os.environ.get("RANK", "0") == "0":
        print("deeph-gformer: stopped by SIGTERM before it began", file=sys.stderr, flush=True)
    os._exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _early)

    from .cli import command

    sys.exit(command())
