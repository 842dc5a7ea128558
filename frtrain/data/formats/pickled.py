"""Plain values out of a pickle without unpickling: lists, tuples, bytes, numbers and arrays of bytes or truth values.

A pickle is a small program. This interpreter knows the instructions that build plain values and refuses all others by
name. What a pickle asks to import is never looked up: of a few names of numpy and Python it is known what they would
make, and that is made here by hand.
"""

from __future__ import annotations

import codecs
import math
import mmap
import pickle
import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from frtrain.errors import DataError

MOST_NESTED = 100
FREE_INSTRUCTIONS = 1_000_000
BYTES_PER_INSTRUCTION = 16
"""Above `FREE_INSTRUCTIONS` a file must hold so many bytes for each: honest packs hold hundreds, a bomb one."""


@dataclass
class Array:
    """A numpy array of bytes or truth values.

    Attributes:
        kind: `uint8` or `bool`.
        shape: its shape.
        data: its elements in C order (or Fortran order, which for one dimension is the same).
    """

    kind: str = ""
    shape: tuple[int, ...] = ()
    data: bytes = b""


@dataclass(frozen=True)
class _Import:
    """A name that the file asks for, never looked up."""

    name: str


@dataclass(frozen=True)
class _Kind:
    """A numpy dtype."""

    name: str


_KINDS = {"u1": "uint8", "|u1": "uint8", "uint8": "uint8", "B": "uint8"} | dict.fromkeys(
    ("b1", "|b1", "bool", "?"), "bool"
)

_CORES = ("numpy.core", "numpy._core")
_KNOWN = (
    {f"{core}.multiarray.{name}": name for core in _CORES for name in ("_reconstruct", "scalar")}
    | {f"{core}.numeric._frombuffer": "_frombuffer" for core in _CORES}
    | {"numpy.ndarray": "ndarray", "numpy.dtype": "dtype", "_codecs.encode": "encode"}
    | {f"{module}.{name}": name for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")}
)

_LENGTHS = {1: "<B", 4: "<I", 8: "<Q"}
_BYTES = {
    pickle.BINBYTES: 4,
    pickle.SHORT_BINBYTES: 1,
    pickle.BINBYTES8: 8,
    pickle.BYTEARRAY8: 8,
    pickle.BINSTRING: 4,
    pickle.SHORT_BINSTRING: 1,
}
_TEXTS = {pickle.BINUNICODE: 4, pickle.SHORT_BINUNICODE: 1, pickle.BINUNICODE8: 8}
_INTEGERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H"}
_TUPLES = {pickle.EMPTY_TUPLE: 0, pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
_CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
_PUTS = {pickle.BINPUT: "<B", pickle.LONG_BINPUT: "<I"}
_GETS = {pickle.BINGET: "<B", pickle.LONG_BINGET: "<I"}


def read_pickled(content: mmap.mmap | bytes, where: str) -> object:
    """The value that a pickle describes.

    Args:
        content: the pickle.
        where: what it is called in errors.

    Returns:
        None, bool, int, bytes, str, `Array`, or lists and tuples of them. A name that the file mentions without a use for it
        stays an opaque object.

    Raises:
        DataError: it is cut short, is no pickle, or asks for anything else.
    """
    reader = _Reader(content, where)
    try:
        return reader.run()
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, UnicodeError, struct.error) as error:
        raise reader.damaged(f"{type(error).__name__} in the instruction before byte {reader.at:,}") from None


class _Reader:
    def __init__(self, content: mmap.mmap | bytes, where: str):
        self.content = content
        self.where = where
        self.at = 0
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0
        self.steps: dict[bytes, Callable[[], None]] = {
            pickle.PROTO: lambda: self.skip(1),
            pickle.FRAME: lambda: self.skip(8),
            pickle.MARK: self.mark,
            pickle.POP: self.pop,
            pickle.POP_MARK: lambda: self.drop(self.to_mark()),
            pickle.DUP: lambda: self.stack.append(self.stack[-1]),
            pickle.INT: self.integer_of_text,
            pickle.LONG: self.integer_of_text,
            pickle.LONG1: self.long_integer,
            pickle.STRING: self.quoted,
            pickle.UNICODE: lambda: self.stack.append(self.line().decode("raw-unicode-escape")),
            pickle.EMPTY_LIST: lambda: self.stack.append([]),
            pickle.LIST: lambda: self.collect(list),
            pickle.TUPLE: lambda: self.collect(tuple),
            pickle.APPEND: lambda: self.extend([self.stack.pop()]),
            pickle.APPENDS: lambda: self.extend(self.to_mark()),
            pickle.GLOBAL: lambda: self.wanted(self.line().decode(), self.line().decode()),
            pickle.INST: lambda: self.wanted(self.line().decode(), self.line().decode()),
            pickle.STACK_GLOBAL: self.wanted_by_stack,
            pickle.REDUCE: self.reduce,
            pickle.BUILD: self.build,
            pickle.MEMOIZE: lambda: self.keep(len(self.memo)),
            pickle.PUT: lambda: self.keep(int(self.line()[:20])),
            pickle.GET: lambda: self.stack.append(self.memo[int(self.line()[:20])]),
        }

    def damaged(self, what: str) -> DataError:
        return DataError(f"{self.where}: is damaged or no pickle ({what})")

    def refused(self, what: str) -> DataError:
        return DataError(f"{self.where}: refused: the file asks to {what}; only images and truth values are read")

    def run(self) -> object:
        """Follow the instructions to the end."""
        most = FREE_INSTRUCTIONS + len(self.content) // BYTES_PER_INSTRUCTION
        for _ in range(most):
            code = self.take(1)
            if code == pickle.STOP:
                return self.stack.pop()
            self.step(code)
        raise self.refused(f"follow more than {most:,} instructions")

    def step(self, code: bytes) -> None:
        if code in _BYTES:
            self.stack.append(self.take(self.number(_LENGTHS[_BYTES[code]])))
        elif code in _CONSTANTS:
            self.stack.append(_CONSTANTS[code])
        elif code in _PUTS:
            self.keep(self.number(_PUTS[code]))
        elif code in _GETS:
            self.stack.append(self.memo[self.number(_GETS[code])])
        elif code in _INTEGERS:
            self.stack.append(self.number(_INTEGERS[code]))
        elif code in _TUPLES:
            self.gather(_TUPLES[code])
        elif code in _TEXTS:
            self.stack.append(self.take(self.number(_LENGTHS[_TEXTS[code]])).decode())
        elif code in self.steps:
            self.steps[code]()
        else:
            known = next((op for op in pickletools.opcodes if op.code == code.decode("latin-1")), None)
            if known is None:
                raise self.damaged(f"unknown instruction {code!r} at byte {self.at - 1:,}")
            raise self.refused(f"run the pickle instruction {known.name}")

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self.at + count
        if count < 0 or end > len(self.content):
            raise self.damaged(f"cut short: {count:,} bytes are announced at byte {self.at:,} of {len(self.content):,}")
        taken = self.content[self.at : end]
        self.at = end
        return taken

    def skip(self, count: int) -> None:
        self.take(count)

    def number(self, form: str) -> int:
        (value,) = struct.unpack(form, self.take(struct.calcsize(form)))
        return int(value)

    def line(self) -> bytes:
        end = self.content.find(b"\n", self.at)
        if end < 0:
            raise self.damaged(f"cut short in a line at byte {self.at:,}")
        text = self.take(end - self.at)
        self.at += 1
        return text

    def mark(self) -> None:
        if len(self.marked) >= MOST_NESTED:
            raise self.refused(f"nest more than {MOST_NESTED} lists")
        self.marked.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def drop(self, items: list[Any]) -> None:
        items.clear()

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def collect(self, kind: type[list[Any]] | type[tuple[Any, ...]]) -> None:
        items = self.to_mark()
        self.stack.append(kind(items))

    def gather(self, count: int) -> None:
        if count > len(self.stack):
            raise IndexError
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)

    def extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError
        self.stack[-1].extend(items)

    def keep(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def integer_of_text(self) -> None:
        text = self.line()[:24]
        truth = {b"00": False, b"01": True}.get(text)
        self.stack.append(int(text.rstrip(b"L")) if truth is None else truth)

    def long_integer(self) -> None:
        self.stack.append(int.from_bytes(self.take(self.number("<B")), "little", signed=True))

    def quoted(self) -> None:
        text = self.line()
        if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in b"\"'":
            raise ValueError
        self.stack.append(codecs.escape_decode(text[1:-1])[0])  # type: ignore[attr-defined]  # undocumented, as in pickle

    def wanted(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in _KNOWN:
            raise self.refused(f"import {full[:100]!r}" if not full.isprintable() else f"import {full[:100]}")
        self.stack.append(_Import(_KNOWN[full]))

    def wanted_by_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError
        self.wanted(module, name)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Import) or not isinstance(arguments, tuple):
            raise self.refused("call what is no function")
        self.stack.append(self.made(function.name, arguments))

    def made(self, function: str, arguments: tuple[Any, ...]) -> object:
        if function == "_reconstruct" and arguments[0] == _Import("ndarray"):
            return Array()
        if function == "dtype":
            return self.kind(arguments[0])
        if function == "scalar" and isinstance(arguments[0], _Kind):
            (value,) = _as_bytes(arguments[1])
            return bool(value) if arguments[0].name == "bool" else value
        if function == "_frombuffer":
            data, kind, shape = arguments[:3]
            return self.filled(Array(), shape, kind, data)
        if function == "encode" and len(arguments) == 2 and isinstance(arguments[0], str):
            return self.latin(arguments[0], arguments[1])
        if function in ("bytes", "bytearray") and all(isinstance(argument, bytes) for argument in arguments):
            return arguments[0] if arguments else b""
        raise self.refused(f"call {function}{tuple(type(argument).__name__ for argument in arguments)}")

    def latin(self, text: str, encoding: object) -> bytes:
        if not isinstance(encoding, str) or encoding not in ("latin1", "latin-1", "iso-8859-1"):
            raise self.refused("encode text otherwise than as Latin-1")
        self.encoded += len(text)
        if self.encoded > len(self.content):
            raise self.refused("make more bytes than it has")
        return text.encode("latin-1")

    def kind(self, name: object) -> _Kind:
        text = name.decode("latin-1") if isinstance(name, bytes) else name
        if not isinstance(text, str):
            raise TypeError
        if text not in _KINDS:
            raise self.refused(f"make an array of {'objects' if text.lstrip('|').startswith('O') else repr(text[:40])}")
        return _Kind(_KINDS[text])

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Kind):
            return  # byte order and alignment mean nothing for single bytes
        if not isinstance(target, Array) or not isinstance(state, tuple) or len(state) not in (4, 5):
            raise self.refused("set what is no array")
        shape, kind, _, data = state[-4:]
        self.filled(target, shape, kind, data)

    def filled(self, array: Array, shape: object, kind: object, data: object) -> Array:
        if not (isinstance(kind, _Kind) and isinstance(shape, tuple) and all(type(side) is int for side in shape)):
            raise TypeError
        array.kind, array.shape, array.data = kind.name, shape, _as_bytes(data)
        if any(side < 0 for side in shape) or len(shape) > MOST_NESTED or math.prod(shape) != len(array.data):
            raise self.damaged(f"an array of shape {str(shape)[:60]} has {len(array.data):,} bytes")
        return array


def _as_bytes(data: object) -> bytes:
    if not isinstance(data, bytes):
        raise TypeError
    return data
