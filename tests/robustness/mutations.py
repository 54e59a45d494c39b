"""Inputs as other programs, editors, disks and strangers leave them.

Every kind of file, changed in every way.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

__all__ = ["mutate"]

WORDS = (
    *("nan", "inf", "-inf", "1e309", "-1e308", "1e-320", "0", "-0", "-1", "1", "2", "3", "118"),
    *("119", "1.5", "1d3", "0x10", "1_000", "٣", "9" * 30, "9" * 5000, "-" + "9" * 400, ""),
    *("true", "null", "None", "[]", "{}", '"', "'", "\\", "\0", "\x1b[2J", "\u202e", "é", "\ud800"),
    *("../../x", "/dev/zero", "!!python/object:os.system", "&a", "*a", "#", ";", ",", "\r", "\n"),
    *("[" * 3000, "{" * 200, "1e5", "1000000000", "2147483648", "-9223372036854775808", "%s%n"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 10**9, 10**17, -(2**62), 1.5, -0.0, 1e300, float("nan")),
    *(float("inf"), "", "x", "0", "\x1b[31m", "9" * 500, [], {}, [1], [[0]], {"a": 1}, [None]),
    *([0, 1, 2, 3, 4], [3] * 1000, "C", ["0"], [[[[[[]]]]]]),
)


def mutate(path: pathlib.Path, rng: random.Random) -> str:
    """Change one file (or what stands in its place); returns what was done."""
    kinds: list[Callable[[pathlib.Path, random.Random], str]] = [_bytes, _bytes, _place]
    if path.suffix in (".h5", ".npz"):
        kinds += [_hdf5] * 4 if path.suffix == ".h5" else [_npz] * 4
    elif path.suffix in (".pkl", ".ckpt", ".pt"):
        kinds += [_tensors] * 4 + [_archive] * 2
    elif path.suffix in (".chk",):  # HDF5, with groups
        kinds += [_chk] * 4
    elif path.suffix in (
        ".gpw",
        ".TSHS",
        ".HSX",
        ".scfout",
    ):  # numbers of other programs, as they are
        kinds += [_number] * 2
    else:
        kinds += [_text] * 3 + [_json] * (3 * (path.suffix == ".json"))
    return f"{path.name}: {rng.choice(kinds)(path, rng)}"


def _place(path: pathlib.Path, rng: random.Random) -> str:
    kind = rng.choice(["folder", "pipe", "loop", "device", "gone", "empty", "dangling", "closed"])
    if kind == "closed":
        path.chmod(0)
        return kind
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "empty":
        path.touch()
    elif kind != "gone":
        path.symlink_to({"loop": path.name, "device": "/dev/zero", "dangling": "nowhere"}[kind])
    return kind


def _bytes(path: pathlib.Path, rng: random.Random) -> str:
    data = bytearray(path.read_bytes())
    done = []
    for _ in range(rng.choice([1, 1, 2, 8])):
        a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        b = min(b, a + rng.choice([1, 2, 8, 64, 10**6]))
        kind = rng.choice(["flip", "cut", "drop", "double", "noise", "zero", "ones"])
        done.append(f"{kind} {a}:{b}")
        if kind == "flip" and a < len(data):
            data[a] ^= 1 << rng.randrange(8)
        elif kind == "cut":
            del data[a:]
        elif kind == "drop":
            del data[a:b]
        elif kind == "double":
            data[a:a] = data[a:b]
        elif kind != "flip":
            fill = {"noise": rng.randbytes, "zero": bytes, "ones": lambda n: b"\xff" * n}[kind]
            data[a:b] = fill(b - a)
    path.write_bytes(data)
    return ", ".join(done)


def _number(path: pathlib.Path, rng: random.Random) -> str:
    """One number of eight bytes: not a number, without end, or far off."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(max(len(data) // 8, 1)) * 8
    new = rng.choice([np.nan, np.inf, -1e300, 1e9, -3.0])
    data[place : place + 8] = np.float64(new).tobytes()
    path.write_bytes(data)
    return f"{new} at {place}"


def _text(path: pathlib.Path, rng: random.Random) -> str:
    lines = path.read_text(errors="replace").split("\n")
    row = rng.randrange(len(lines))
    words = lines[row].split(" ")
    kind = rng.choice(["word", "word", "word", "line away", "line twice", "swap", "join", "add"])
    word = rng.choice(WORDS)
    if kind == "word":
        words[rng.randrange(len(words))] = word
        lines[row] = " ".join(words)
    elif kind == "line away":
        del lines[row]
    elif kind == "line twice":
        lines.insert(row, lines[row])
    elif kind == "swap":
        other = rng.randrange(len(lines))
        lines[row], lines[other] = lines[other], lines[row]
    elif kind == "join":
        lines[row : row + 2] = [" ".join(lines[row : row + 2])]
    else:
        lines.insert(row, word)
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return f"{kind} {row} {word[:20]!r}"


def _json(path: pathlib.Path, rng: random.Random) -> str:
    value: Any = json.loads(path.read_text())
    place, key = value, None
    while isinstance(place, (dict, list)) and place:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.5:
            break
        place = inner
    new = rng.choice(VALUES)
    if key is not None and rng.random() < 0.4:
        new = _near(place[key], rng)
    if key is None or rng.random() < 0.1:
        value = new
    elif rng.random() < 0.2 and isinstance(place, dict):
        del place[key]
    else:
        place[key] = new
    path.write_text(json.dumps(value))
    return f"{key!r} = {str(new)[:30]!r}"


def _near(value: Any, rng: random.Random) -> Any:
    """Another value of the same kind, as a slip of the hand leaves it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return rng.choice([value + 1, value - 1, value * 2, -value, type(value)(value * 1.01)])
    if isinstance(value, str):
        return rng.choice([value[:-1], value + "x", value.upper(), value[::-1]])
    if isinstance(value, list) and value:
        one = rng.randrange(len(value))
        return rng.choice([value[::-1], value[1:], [*value, value[one]], value[:one]])
    return value


def _chk(path: pathlib.Path, rng: random.Random) -> str:
    """One of the datasets of a file with groups, as :func:`_hdf5` changes them."""
    with h5py.File(path, "a") as handle:
        names: list[str] = []
        handle.visititems(lambda n, item: names.append(n) if hasattr(item, "shape") else None)
        name = rng.choice(sorted(names))
        value = handle[name][()]
        kind = rng.choice(["away", "value", "value", "near", "shape", "type", "text", "json"])
        if kind == "json" and isinstance(value, bytes):
            side = path.with_name("side.json")
            side.write_bytes(value)
            text = _json(side, rng)
            del handle[name]
            handle[name] = side.read_text()
            side.unlink()
            return f"{name} {text}"
        del handle[name]
        if kind == "away" or not isinstance(value, np.ndarray):
            if kind != "away":
                handle[name] = rng.choice(["text", 1.0, np.nan, -1, [1.0, 2.0]])
            return f"{kind} {name}"
        flat = value.reshape(-1).copy()
        place = rng.randrange(len(flat))
        if kind == "value":
            flat[place] = rng.choice([np.nan, np.inf, 1e300, 0.0, -1.0])
        elif kind == "near":
            flat[place] = flat[place] * 1.01 + 1e-3
        value = flat.reshape(value.shape)
        if kind == "shape":
            value = rng.choice([0, 1, 2])
            value = (flat, flat[:-1], flat.reshape(1, *np.shape(flat)))[value]
        elif kind == "type":
            value = _as(value, rng.choice(["f4", "i4", "c8", "?", "S3"]))
        handle[name] = value
        return f"{kind} {name}"


def _leaves(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every tensor in dictionaries and lists."""
    import torch

    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in pairs:
        if isinstance(item, torch.Tensor):
            found.append((value, key))
        elif isinstance(item, (dict, list)):
            found += _leaves(item)
    return found


def _tensors(path: pathlib.Path, rng: random.Random) -> str:
    """Change one tensor of a checkpoint in its type, shape, name or values."""
    import torch

    table = torch.load(path, weights_only=True)
    table = list(table) if isinstance(table, tuple) else table
    state = table.get("state_dict", table) if isinstance(table, dict) else table
    where, name = rng.choice([(c, k) for c, k in _leaves(state) if c[k].numel()])
    value = where[name]
    kind = rng.choice(
        ["bool", "int64", "int8", "float16", "bfloat16", "complex64", "float8_e4m3fn", "sparse"]
        + ["csr", "meta", "quantised", "away", "rename", "flat", "nan", "huge", "record", "single"]
    )
    if kind == "away" or (kind == "rename" and not isinstance(where, dict)):
        del where[name]
    elif kind == "rename":
        where[name + rng.choice(["x", ".0", " ", "\x1b[2J"])] = where.pop(name)
    elif kind == "flat":
        where[name] = value.reshape(-1)
    elif kind == "nan":
        where[name] = value * rng.choice([float("nan"), float("inf")])
    elif kind == "huge":
        where[name] = torch.zeros(1, dtype=value.dtype).expand(10**5, 10**5)
    elif kind in ("record", "single") and isinstance(table, dict):
        key = rng.choice(sorted(set(table) - {"state_dict"}) if kind == "record" else [*table])
        table[key] = rng.choice(["x", [1], {}, None, "9" * 5000, -1, 10**9])
        if kind == "single":
            del table[key]
        name = key
    elif kind == "sparse":
        where[name] = value.to_sparse()
    elif kind == "csr":
        where[name] = value.reshape(1, -1).to_sparse_csr()
    elif kind == "meta":
        where[name] = value.to("meta")
    elif kind == "quantised":
        where[name] = torch.quantize_per_tensor(value.real.float(), 0.1, 0, torch.qint8)
    elif kind not in ("record", "single"):
        where[name] = value.to(getattr(torch, kind))
    torch.save(table, path)
    return f"{name} {kind}"


def _archive(path: pathlib.Path, rng: random.Random) -> str:
    """Change the zip structure of a checkpoint."""
    with zipfile.ZipFile(path) as old:
        parts = {n: old.read(n) for n in old.namelist()}
    name = rng.choice(sorted(parts))
    kind = rng.choice(["away", "swap", "cut", "grow", "deflate", "bomb", "pickle", "twice"])
    method = zipfile.ZIP_STORED
    if kind == "away":
        del parts[name]
    elif kind == "swap":
        other = rng.choice(sorted(parts))
        parts[name], parts[other] = parts[other], parts[name]
    elif kind == "cut":
        parts[name] = parts[name][: rng.randrange(len(parts[name]) + 1)]
    elif kind == "grow":
        parts[name] += bytes(64)
    elif kind == "deflate":
        method = zipfile.ZIP_DEFLATED
    elif kind == "bomb":
        method, parts[name] = zipfile.ZIP_DEFLATED, bytes(2**27)
    elif kind == "pickle":
        full = next(n for n in parts if n.endswith("data.pkl"))
        words = [b"cos\nsystem\n(S'true'\ntR.", b"\x80\x02}q\x00.", b"I" + b"9" * 9999 + b"\n."]
        parts[full] = rng.choice(words)
    with zipfile.ZipFile(path, "w", method) as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, data in parts.items():
            new.writestr(n, data)
        if kind == "twice":
            new.writestr(name, parts[name][::-1])
    return f"{kind} {name}"


def _hdf5(path: pathlib.Path, rng: random.Random) -> str:
    with h5py.File(path, "a") as handle:
        name = rng.choice(sorted(handle))
        value = np.asarray(handle[name][()])
        kind = rng.choice(
            ["type", "type", "shape", "value", "away", "rename", "copy", "link", "huge", "text"]
        )
        what = ""
        if kind == "value" and value.size:
            flat = value.reshape(-1)
            new = rng.choice([0, -1, 1, 2, 7, 10**6, 2**40, -(2**63), 2**63 - 1])
            if value.dtype.kind != "i":
                new = rng.choice([np.nan, np.inf, 1e300, 1e8, 9e6, -0.0, 1e-310])
            flat[rng.randrange(len(flat))] = new
            handle[name][...] = value
            return f"{name} holds {new}"
        if kind == "rename":
            new = rng.choice(
                ["x", "[0, 0, 0, 1]", "[0,0,0,1,1]", "[9, 9, 9, 1, 1]", "[ 1,0,0,1,1]"]
            )
            new = rng.choice([new, name + " ", name.replace("1", "2"), "[2000, 0, 0, 1, 1]"])
            if new not in handle:
                handle.move(name, new)
            return f"{name} -> {new}"
        if kind == "copy":
            other = rng.choice(sorted(handle))
            value = np.asarray(handle[other][()])
        del handle[name]
        if kind == "type":
            what = rng.choice(["f2", "f4", ">f8", "g", "i1", "u8", "c8", "c16", "?", "S3", ">i8"])
            with np.errstate(all="ignore"):
                value = np.real(value) if what not in ("c8", "c16") else value
                handle[name] = np.nan_to_num(value).astype(what)
        elif kind == "shape":
            shapes = [value.T, value.reshape(-1), value[:0], value[None], np.zeros((1, 1))]
            handle[name] = shapes[rng.randrange(5)] if value.ndim else value
        elif kind == "link":
            links = [h5py.SoftLink(name), h5py.SoftLink("/nowhere"), h5py.SoftLink("/")]
            links += [h5py.ExternalLink("other.h5", "/"), h5py.ExternalLink("/dev/zero", "x")]
            handle[name] = rng.choice(links)
        elif kind == "huge":
            shape = rng.choice([(10**9,), (10**9, 5), (10**5, 10**5), (2**40,)])
            handle.create_dataset(name, shape, value.dtype, chunks=True)
        elif kind == "text":
            handle[name] = rng.choice(["text", b"a", [b"a", b"b"]])
        elif kind == "copy":
            handle[name] = value
        return f"{kind} {what} {name}"


def _npz(path: pathlib.Path, rng: random.Random) -> str:
    with np.load(path) as table:
        arrays: dict[str, Any] = {n: table[n] for n in table.files}
    name = rng.choice(sorted(arrays))
    value = arrays[name]
    kind = rng.choice(["away", "type", "value", "shape", "other"])
    if kind == "away":
        del arrays[name]
    elif kind == "type":
        new = rng.choice(["f4", "i2", "u8", "c16", "U3", "?"])
        arrays[name] = value.astype("U9").astype("U3") if new == "U3" else _as(value, new)
    elif kind == "value" and value.size and value.dtype.kind in "if":
        flat = value.reshape(-1).copy()
        new = rng.choice([-1, 0, 1, 5, 10**6, 2**40])
        flat[rng.randrange(len(flat))] = new if value.dtype.itemsize > 4 else min(new, 2**31 - 1)
        arrays[name] = flat.reshape(value.shape)
    elif kind == "shape":
        arrays[name] = rng.choice([value.reshape(-1), value[..., None], value.reshape(-1)[:1]])
    else:
        arrays[name] = arrays[rng.choice(sorted(arrays))]
    np.savez(path, **arrays)
    return f"{kind} {name}"


def _as(value: np.ndarray, kind: str) -> np.ndarray:
    with np.errstate(all="ignore"):
        try:
            return value.astype(kind)
        except (TypeError, ValueError):
            return np.zeros(value.shape, kind)
