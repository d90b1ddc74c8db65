"""Reads pickles of plain data that strangers made, without the `pickle` module.

A pickle is a small program. This reader knows the instructions that build numbers, text, lists, tuples and
dictionaries; a name in the pickle means what the caller's table says it means, and nothing else. It cannot import, call
or change anything outside that table. The interpreter's own `pickle.Unpickler` would, even with names restricted,
reserve memory for any memo index a pickle makes up, and hash whatever nests however deeply.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from geomformer.io.pickle_values import Buildable, Name, Refused, checked_key, describe, fill, of_kind, shown

# A call may copy or look through what it is given: without bounds a small pickle fills the memory or takes days.
_MAX_CALLS = 1000
_MAX_PASSES = 4


class Reader:
    """Reads one pickle.

    Args:
        data: bytes that hold it.
        names: meaning of every name that may occur, as "module.name".
        persistent: makes an object of a persistent id.
        start: where in `data` the pickle begins.

    Attributes:
        at: position behind what has been read.
    """

    def __init__(
        self,
        data: bytes,
        names: Mapping[str, Name],
        persistent: Callable[[Any], Any] | None = None,
        start: int = 0,
    ) -> None:
        self.data, self.names, self.persistent, self.at = data, names, persistent or _nothing_outside, start
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.calls = 0
        self.handled = 0

    def read(self) -> Any:
        """Returns the object.

        Raises:
            Refused: the pickle asks for a name, a call or an instruction that is not allowed.
            ValueError, LookupError, TypeError, struct.error: it is damaged.
        """
        while True:
            (code,) = self.take(1)
            if code == _STOP:
                return self.stack.pop()
            action = _ACTIONS.get(code)
            if action is None:
                raise Refused(f"uses the pickle instruction {bytes([code])!r}, which plain data do not need")
            action(self)

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise ValueError("it ends early")
        found = self.data[self.at : end]
        self.at = end
        return found

    def number(self, form: struct.Struct) -> Any:
        (value,) = form.unpack(self.take(form.size))
        return value

    def line(self, encoding: str = "utf-8") -> str:
        end = self.data.index(b"\n", self.at)
        return self.take(end + 1 - self.at)[:-1].decode(encoding)

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def find(self, module: str, name: str) -> Name:
        text = f"{module}.{name}"
        found = self.names.get(text)
        if found is None:
            raise Refused(f"asks for {shown(text)}, which is not allowed")
        return found

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"it refers to its part {index}, which it does not have")
        self.stack.append(self.memo[index])

    def spend(self, arguments: tuple[Any, ...]) -> None:
        self.calls += 1
        self.handled += sum(len(item) for item in arguments if isinstance(item, str | bytes | tuple))
        if self.calls > _MAX_CALLS:
            raise Refused(f"makes more than {_MAX_CALLS} calls")
        if self.handled > _MAX_PASSES * len(self.data) + _MAX_CALLS:
            raise Refused(f"makes calls with more than {_MAX_PASSES} times its own {len(self.data)} bytes")

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or function.call is None or type(arguments) is not tuple:
            raise Refused(f"calls {describe(function)}, which is not allowed")
        self.spend(arguments)
        self.stack.append(function.call(*arguments))

    def make(self) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, Name) or kind.new is None or type(arguments) is not tuple or arguments:
            raise Refused(f"makes an object of {describe(kind)}, which is not allowed")
        self.stack.append(kind.new())

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, Buildable):
            raise Refused(f"changes {describe(target)}, which is not allowed")
        self.spend(state if isinstance(state, tuple) else ())
        target.build(state)

    def global_line(self) -> None:
        module = self.line()
        self.stack.append(self.find(module, self.line()))

    def global_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("asks for a name that is no text")
        self.stack.append(self.find(module, name))

    def instance(self) -> None:
        module = self.line()
        raise Refused(f"makes an object of {shown(f'{module}.{self.line()}')}, which is not allowed")

    def extension(self, form: struct.Struct) -> None:
        raise Refused(f"asks for the extension {self.number(form)} of the copyreg module, which is not allowed")

    def append(self) -> None:
        item = self.stack.pop()
        of_kind(self.stack[-1], list).append(item)

    def extend(self) -> None:
        items = self.since_mark()
        of_kind(self.stack[-1], list).extend(items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        of_kind(self.stack[-1], dict)[checked_key(key)] = value

    def set_items(self) -> None:
        items = self.since_mark()
        fill(of_kind(self.stack[-1], dict), items)

    def tuple_of(self, count: int) -> None:
        items = tuple(self.stack[len(self.stack) - count :])
        if len(items) != count:
            raise ValueError("it takes more than it made")
        del self.stack[len(self.stack) - count :]
        self.stack.append(items)


def _nothing_outside(identity: Any) -> Any:
    name = shown(identity) if isinstance(identity, str) else describe(identity)
    raise Refused(f"refers to {name} outside itself, which is not allowed")


def _long(reader: Reader) -> int:
    return int.from_bytes(reader.take(reader.number(_U1)), "little", signed=True)


def _text_integer(reader: Reader) -> int | bool:
    text = reader.line()
    return text == "01" if text in ("00", "01") else _bounded(text)


def _bounded(text: str) -> int:
    if len(text) > 40:
        raise ValueError("a number is too long")
    return int(text)


def _index(text: str) -> int:
    if len(text) > 10:
        raise ValueError("a number of a part is too long")
    return int(text)


def _pushes(value: Callable[[Reader], Any]) -> Callable[[Reader], None]:
    return lambda reader: reader.stack.append(value(reader))


def _text(form: struct.Struct) -> Callable[[Reader], None]:
    return _pushes(lambda reader: reader.take(reader.number(form)).decode("utf-8", "surrogatepass"))


def _bytes(form: struct.Struct) -> Callable[[Reader], None]:
    return _pushes(lambda reader: reader.take(reader.number(form)))


_U1, _U2, _U4, _U8 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q"))
_I4, _F8 = struct.Struct("<i"), struct.Struct(">d")
_STOP = ord(".")

_ACTIONS: dict[int, Callable[[Reader], Any]] = {
    0x80: lambda reader: reader.take(1),  # protocol
    0x95: lambda reader: reader.take(8),  # frame
    ord("("): lambda reader: reader.marks.append(len(reader.stack)),
    ord("0"): lambda reader: reader.stack.pop(),
    ord("1"): Reader.since_mark,
    ord("2"): _pushes(lambda reader: reader.stack[-1]),
    ord("N"): _pushes(lambda reader: None),
    0x88: _pushes(lambda reader: True),
    0x89: _pushes(lambda reader: False),
    ord("I"): _pushes(_text_integer),
    ord("L"): _pushes(lambda reader: _bounded(reader.line().removesuffix("L"))),
    ord("F"): _pushes(lambda reader: float(reader.line())),
    ord("J"): _pushes(lambda reader: reader.number(_I4)),
    ord("K"): _pushes(lambda reader: reader.number(_U1)),
    ord("M"): _pushes(lambda reader: reader.number(_U2)),
    0x8A: _pushes(_long),
    ord("G"): _pushes(lambda reader: reader.number(_F8)),
    ord("V"): _pushes(lambda reader: reader.line("raw-unicode-escape")),
    0x8C: _text(_U1),
    ord("X"): _text(_U4),
    0x8D: _text(_U8),
    ord("C"): _bytes(_U1),
    ord("B"): _bytes(_U4),
    0x8E: _bytes(_U8),
    0x96: _bytes(_U8),
    ord("]"): _pushes(lambda reader: []),
    ord("l"): _pushes(Reader.since_mark),
    ord("a"): Reader.append,
    ord("e"): Reader.extend,
    ord(")"): _pushes(lambda reader: ()),
    ord("t"): _pushes(lambda reader: tuple(reader.since_mark())),
    0x85: lambda reader: reader.tuple_of(1),
    0x86: lambda reader: reader.tuple_of(2),
    0x87: lambda reader: reader.tuple_of(3),
    ord("}"): _pushes(lambda reader: {}),
    ord("d"): _pushes(lambda reader: fill({}, reader.since_mark())),
    ord("s"): Reader.set_item,
    ord("u"): Reader.set_items,
    ord("c"): Reader.global_line,
    0x93: Reader.global_stack,
    ord("i"): Reader.instance,
    ord("R"): Reader.call,
    0x81: Reader.make,
    ord("b"): Reader.build,
    ord("Q"): _pushes(lambda reader: reader.persistent(reader.stack.pop())),
    ord("P"): lambda reader: _nothing_outside(reader.line()),
    0x82: lambda reader: reader.extension(_U1),
    0x83: lambda reader: reader.extension(_U2),
    0x84: lambda reader: reader.extension(_U4),
    ord("g"): lambda reader: reader.recall(_index(reader.line())),
    ord("h"): lambda reader: reader.recall(reader.number(_U1)),
    ord("j"): lambda reader: reader.recall(reader.number(_U4)),
    ord("p"): lambda reader: reader.remember(_index(reader.line())),
    ord("q"): lambda reader: reader.remember(reader.number(_U1)),
    ord("r"): lambda reader: reader.remember(reader.number(_U4)),
    0x94: lambda reader: reader.remember(len(reader.memo)),
}
