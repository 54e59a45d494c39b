"""Training of both stages with Lightning."""

from importlib.util import find_spec

from ..errors import MissingDependencyError

for _library in ("lightning", "tensorboard"):
    if find_spec(_library) is None:
        raise MissingDependencyError(_library, "train", "training")
