"""Functions of torch on dual numbers, each with its derivative (:class:`.number.Dual`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .number import RULES, Dual, Rule

__all__: list[str] = []


def _deepened(dual: Dual, dims: int) -> Tensor:
    """``data`` with as many dimensions behind the first as ``dims``."""
    data = dual.data
    return data.reshape(len(data), *[1] * (dims - dual.dim()), *data.shape[1:])


def _dims(x: Any) -> int:
    return x.dim() if isinstance(x, (Tensor, Dual)) else 0


def _add(a: Any, b: Any, *, alpha: float = 1) -> Dual:
    if alpha != 1:
        b = b * alpha
    a, b = (a, b) if isinstance(a, Dual) else (b, a)
    most = max(_dims(a), _dims(b))
    data = _deepened(a, most)
    if isinstance(b, Dual):
        return Dual(data + _deepened(b, most))
    shape = torch.broadcast_shapes(a.shape, b.shape if isinstance(b, Tensor) else ())
    result = data.expand(len(data), *shape).clone(memory_format=torch.contiguous_format)
    result[0] += b
    return Dual(result)


def _product(a: Any, b: Any, times: Rule) -> Dual:
    """A product rule; ``times`` broadcasts over dimensions in front."""
    if not isinstance(b, Dual):
        return Dual(times(a.data, b))
    if not isinstance(a, Dual):
        return Dual(times(a, b.data))
    result = times(a.data, b.value)
    if times is torch.mul:
        result[1:].addcmul_(a.value, b.data[1:])
    else:
        result[1:] += times(a.value, b.data[1:])
    return Dual(result)


def _multiply(a: Any, b: Any) -> Dual:
    most = max(_dims(a), _dims(b))
    a, b = (Dual(_deepened(x, most)) if isinstance(x, Dual) else x for x in (a, b))
    return _product(a, b, torch.mul)


def _divide(a: Any, b: Any) -> Dual:
    return _multiply(a, b.reciprocal() if isinstance(b, Dual) else 1 / b)


def _matmul(a: Any, b: Any) -> Any:
    """Of matrices; the derivatives of the second factor stand side by side."""
    if _dims(a) < 2 or _dims(b) < 2:
        return NotImplemented
    if isinstance(b, Dual) and not isinstance(a, Dual) and a.dim() == b.dim() == 3:
        t, e, k, c = b.data.shape
        wide = torch.bmm(a, b.data.permute(1, 2, 0, 3).reshape(e, k, t * c))
        return Dual(wide.view(e, -1, t, c).permute(2, 0, 1, 3))
    most = max(_dims(a), _dims(b))
    a, b = (Dual(_deepened(x, most)) if isinstance(x, Dual) else x for x in (a, b))
    return _product(a, b, torch.matmul)


def _chain(x: Dual, value: Tensor, slope: Tensor) -> Dual:
    """Values of an element-wise function, and its slope."""
    result = x.data * slope
    result[0] = value
    return Dual(result)


def _shifted(dim: Any) -> Any:
    if isinstance(dim, (tuple, list)):
        return tuple(_shifted(d) for d in dim)
    return dim + 1 if dim >= 0 else dim


def _each(result: Any) -> Any:
    return [Dual(x) for x in result] if isinstance(result, (tuple, list)) else Dual(result)


def _along(name: str) -> Rule:
    """A linear function whose first option is a dimension."""

    def rule(x: Dual, dim: Any, *rest: Any, **options: Any) -> Any:
        return _each(getattr(x.data, name)(_shifted(dim), *rest, **options))

    return rule


def _split(x: Dual, sizes: Any, dim: int = 0) -> Any:
    return _each(x.data.split(sizes, _shifted(dim)))


def _chunk(x: Dual, count: int, dim: int = 0) -> Any:
    return _each(x.data.chunk(count, _shifted(dim)))


def _unbind(x: Dual, dim: int = 0) -> Any:
    return _each(x.data.unbind(_shifted(dim)))


def _transpose(x: Dual, a: int, b: int) -> Dual:
    return Dual(x.data.transpose(_shifted(a), _shifted(b)))


def _sizes(shape: Sequence[Any]) -> Sequence[int]:
    return shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape


def _reshape(x: Dual, *shape: Any) -> Dual:
    return Dual(x.data.reshape(len(x.data), *_sizes(shape)))


def _expand(x: Dual, *shape: Any) -> Dual:
    sizes = _sizes(shape)
    return Dual(_deepened(x, len(sizes)).expand(len(x.data), *sizes))


def _flatten(x: Dual, start: int = 0, end: int = -1) -> Dual:
    return Dual(x.data.flatten(_shifted(start), _shifted(end)))


def _whole(parts: Iterable[Any]) -> list[Tensor]:
    """Data of parts; those without derivatives get zeros."""
    parts = list(parts)
    count = next(len(part.data) for part in parts if isinstance(part, Dual))
    out = []
    for part in parts:
        if not isinstance(part, Dual):
            data = part.new_zeros(count, *part.shape)
            data[0] = part
        out.append(part.data if isinstance(part, Dual) else data)
    return out


def _cat(parts: Sequence[Any], dim: int = 0) -> Dual:
    return Dual(torch.cat(_whole(parts), dim=_shifted(dim)))


def _stack(parts: Sequence[Any], dim: int = 0) -> Dual:
    return Dual(torch.stack(_whole(parts), dim=_shifted(dim)))


def _index_add(x: Any, dim: int, index: Tensor, source: Any) -> Dual:
    total, added = _whole([x, source])
    return Dual(total.index_add(_shifted(dim), index, added))


def _index_add_in_place(x: Any, dim: int, index: Tensor, source: Any) -> Dual:
    """What is returned; a constant ``x`` cannot hold derivatives and stays what it was."""
    result = _index_add(x, dim, index, source)
    if not isinstance(x, Dual):
        return result
    x.data = result.data
    return x


def _where(condition: Tensor, a: Any, b: Any) -> Dual:
    count = next(len(x.data) for x in (a, b) if isinstance(x, Dual))
    most = max(condition.dim(), _dims(a), _dims(b))
    a, b = (Dual(_deepened(x, most)) if isinstance(x, Dual) else x for x in (a, b))
    like = a if isinstance(a, Dual) else b
    shape = torch.broadcast_shapes(condition.shape, like.shape)
    data = [x.data if isinstance(x, Dual) else torch.zeros((), dtype=like.dtype) for x in (a, b)]
    result = torch.where(condition, data[0].to(like.device), data[1].to(like.device))
    result = result.expand(count, *shape).contiguous()
    first, second = (x.value if isinstance(x, Dual) else x for x in (a, b))
    result[0] = torch.where(condition, first, second)
    return Dual(result)


def _clamp(x: Dual, min: Any = None, max: Any = None) -> Dual:  # noqa: A002 - torch's own names
    value = x.value.clamp(min, max)
    return _chain(x, value, (value == x.value).to(value))


def _linear(x: Any, weight: Tensor, bias: Tensor | None = None) -> Dual:
    result = Dual(x.data @ weight.T)
    if bias is not None:
        result.data[0] += bias
    return result


def _addmm(bias: Any, a: Any, b: Any) -> Dual:
    return _add(bias, a @ b)


def _layer_norm(
    x: Dual, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    if not isinstance(shape, int) and len(shape) != 1:
        return NotImplemented
    value, slope = x.value, x.data[1:]
    scale = (value.var(-1, correction=0, keepdim=True) + eps).rsqrt()
    unit = (value - value.mean(-1, keepdim=True)) * scale
    result = torch.empty_like(x.data)
    result[0] = unit
    centred = slope - slope.mean(-1, keepdim=True)
    result[1:] = (centred - unit * (unit * slope).mean(-1, keepdim=True)) * scale
    if weight is not None:
        result = result * weight
    if bias is not None:
        result[0] += bias
    return Dual(result)


def _power(x: Any, power: Any) -> Any:
    if not isinstance(power, (int, float)):
        return NotImplemented
    return _chain(x, x.value**power, power * x.value ** (power - 1))


def _silu(x: Dual, inplace: bool = False) -> Dual:
    s = torch.sigmoid(x.value)
    value = x.value * s
    return _chain(x, value, s + value * (1 - s))


def _sigmoid(x: Dual) -> Dual:
    s = torch.sigmoid(x.value)
    return _chain(x, s, s * (1 - s))


def _tanh(x: Dual) -> Dual:
    s = torch.tanh(x.value)
    return _chain(x, s, 1 - s * s)


def _exp(x: Dual) -> Dual:
    s = torch.exp(x.value)
    return _chain(x, s, s)


def _sqrt(x: Dual) -> Dual:
    s = torch.sqrt(x.value)
    return _chain(x, s, 0.5 / s)


RULES.update(
    {
        "add": _add,
        "sub": lambda a, b: _add(a, -b),
        "mul": _multiply,
        "div": _divide,
        "true_divide": _divide,
        "neg": lambda x: -x,
        "pow": _power,
        "square": lambda x: _chain(x, x.value**2, 2 * x.value),
        "matmul": _matmul,
        "bmm": _matmul,
        "mm": _matmul,
        "addmm": _addmm,
        "linear": _linear,
        "cat": _cat,
        "stack": _stack,
        "split": _split,
        "chunk": _chunk,
        "unbind": _unbind,
        "transpose": _transpose,
        "reshape": _reshape,
        "view": _reshape,
        "expand": _expand,
        "flatten": _flatten,
        "contiguous": lambda x: Dual(x.data.contiguous()),
        "index_add": _index_add,
        "index_add_": _index_add_in_place,
        "where": _where,
        "clamp": _clamp,
        "layer_norm": _layer_norm,
        "silu": _silu,
        "sigmoid": _sigmoid,
        "tanh": _tanh,
        "exp": _exp,
        "sqrt": _sqrt,
        "rsub": lambda a, b: b - a,
        "rsqrt": lambda x: _chain(x, x.value.rsqrt(), -0.5 * x.value.rsqrt() ** 3),
        "reciprocal": lambda x: _chain(x, x.value.reciprocal(), -(x.value.reciprocal() ** 2)),
        "log": lambda x: _chain(x, x.value.log(), x.value.reciprocal()),
        **{
            name: _along(name)
            for name in ("sum", "mean", "squeeze", "unsqueeze", "unflatten", "index_select")
        },
    }
)
# what has no derivative: of the values
for _name in ("argsort", "ones_like", "zeros_like"):
    RULES[_name] = lambda x, *rest, _name=_name, **options: getattr(torch, _name)(
        x.value, *rest, **options
    )
