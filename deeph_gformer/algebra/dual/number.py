"""Numbers with derivatives along several directions at once, for forward-mode differentiation.

A :class:`Dual` is handed to code that was written for tensors. Values and derivatives lie behind
each other in one tensor, so a linear map is one call for all of them. :func:`torch.func.jvp` under
:func:`torch.func.vmap` gives the same numbers in twice the time: it multiplies the derivatives of
constants, too, which are zero. It does what has no rule in :mod:`.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["RULES", "Dual", "Rule", "derivatives_along", "differentiate"]

Rule = Callable[..., Any]

RULES: dict[str, Rule] = {}
"""Functions of torch by name, for dual numbers; NotImplemented where a rule does not fit."""


class Dual:
    """A tensor and its derivatives.

    Attributes:
        data: (1 + T, ...), the values, then the derivatives along T directions.
    """

    def __init__(self, data: Tensor) -> None:
        self.data = data

    @property
    def value(self) -> Tensor:
        """The numbers themselves."""
        return self.data[0]

    @property
    def shape(self) -> torch.Size:
        """Of the values; so are dtype, device and length."""
        return self.data.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """See :attr:`shape`."""
        return self.data.dtype

    @property
    def device(self) -> torch.device:
        """See :attr:`shape`."""
        return self.data.device

    def __len__(self) -> int:
        return int(self.data.shape[1])

    def dim(self) -> int:
        """Number of dimensions of the values."""
        return self.data.dim() - 1

    def detach(self) -> Tensor:
        """The values, as constants."""
        return self.value

    def new_zeros(self, *shape: Any) -> Dual:
        """Zeros with zero derivatives."""
        sizes = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
        return Dual(self.data.new_zeros(len(self.data), *sizes))

    def to(self, *where: Any) -> Dual:
        """See :meth:`torch.Tensor.to`."""
        return Dual(self.data.to(*where))

    def row_wise(self, function: Rule) -> Dual:
        """A function of every row, differentiated by :mod:`torch.func` where rows move.

        Args:
            function: of the values of some rows.
        """
        rows = (self.data[1:] != 0).flatten(2).any(dim=2).any(dim=0)
        value = function(self.value)
        data = value.new_zeros(len(self.data), *value.shape)
        data[0] = value
        moving = differentiate(function, [Dual(self.data[:, rows])])
        data[1:, rows] = moving.data[1:]
        return Dual(data)

    def double(self) -> Dual:
        """In float64."""
        return Dual(self.data.double())

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = getattr(torch.Tensor, name)
        if not callable(function):
            raise AttributeError(f"a dual number has no '{name}'")
        return lambda *args, **options: _call(function, (self, *args), options)

    @classmethod
    def __torch_function__(
        cls, function: Rule, types: object, args: Sequence[Any] = (), options: Any = None
    ) -> Any:
        """What torch calls where an argument is a :class:`Dual`."""
        return _call(function, args, options or {})

    def __getitem__(self, index: Any) -> Dual:
        places = index if isinstance(index, tuple) else (index,)
        lists = [n for n, place in enumerate(places) if isinstance(place, (Tensor, list))]
        if lists and lists[-1] - lists[0] + 1 != len(lists):  # torch puts their dimension in front
            return differentiate(lambda x: x[index], [self])
        return Dual(self.data[(slice(None), *places)])

    def __neg__(self) -> Dual:
        return Dual(-self.data)

    def __add__(self, other: Any) -> Any:
        return _call(torch.add, (self, other), {})

    def __radd__(self, other: Any) -> Any:
        return _call(torch.add, (self, other), {})

    def __sub__(self, other: Any) -> Any:
        return _call(torch.sub, (self, other), {})

    def __rsub__(self, other: Any) -> Any:
        return _call(torch.sub, (other, self), {})

    def __mul__(self, other: Any) -> Any:
        return _call(torch.mul, (self, other), {})

    def __rmul__(self, other: Any) -> Any:
        return _call(torch.mul, (self, other), {})

    def __truediv__(self, other: Any) -> Any:
        return _call(torch.div, (self, other), {})

    def __rtruediv__(self, other: Any) -> Any:
        return _call(torch.div, (other, self), {})

    def __pow__(self, other: Any) -> Any:
        return _call(torch.pow, (self, other), {})

    def __matmul__(self, other: Any) -> Any:
        return _call(torch.matmul, (self, other), {})

    def __rmatmul__(self, other: Any) -> Any:
        return _call(torch.matmul, (other, self), {})

    def __gt__(self, other: Any) -> Tensor:
        return self.value > other


def derivatives_along(function: Rule, start: Tensor, directions: Tensor) -> Tensor:
    """Derivatives of a function.

    Args:
        function: of one tensor, to one tensor.
        start: where, (...).
        directions: T of them, (T, ...).

    Returns:
        (T, ...), of the result's shape.
    """
    result = function(Dual(torch.cat([start[None], directions])))
    if isinstance(result, Dual):
        return result.data[1:]
    constant: Tensor = result
    return constant.new_zeros(len(directions), *constant.shape)


_SAME = {
    "__add__": "add",
    "__radd__": "add",
    "__mul__": "mul",
    "__rmul__": "mul",
    "__sub__": "sub",
    "__rsub__": "rsub",
    "__matmul__": "matmul",
    "__rmatmul__": "matmul",
    "__truediv__": "div",
}


def _call(function: Rule, args: Sequence[Any], options: dict[str, Any]) -> Any:
    """A function of torch on dual numbers."""
    name = function.__name__
    rule = RULES.get(_SAME.get(name, name))
    if rule is not None:
        result = rule(*args, **options)
        if result is not NotImplemented:
            return result
    places = [n for n, arg in enumerate(args) if isinstance(arg, Dual)]

    def plain(*values: Tensor) -> Any:
        full = list(args)
        for n, value in zip(places, values, strict=True):
            full[n] = value
        return function(*full, **options)

    return differentiate(plain, [args[n] for n in places])


def differentiate(function: Rule, at: Sequence[Dual]) -> Dual:
    """What has no rule, by :mod:`torch.func`."""
    start = tuple(x.value for x in at)

    def along(*directions: Tensor) -> Any:
        return torch.func.jvp(function, start, directions)[1]

    slopes = torch.func.vmap(along)(*(x.data[1:] for x in at))
    return Dual(torch.cat([function(*start)[None], slopes]))
