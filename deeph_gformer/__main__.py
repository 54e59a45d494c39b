"""``python -m deeph_gformer``: the same as the command ``deeph-gformer``."""

import sys

from .cli import main

sys.exit(main())
