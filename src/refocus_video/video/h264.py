"""What the headers of an H.264 stream say about which pictures a picture may refer to (ITU-T H.264, 7.3)."""

from dataclasses import dataclass, replace

_PREFIX = 4
"""Bytes that tell the length of a NAL unit."""
_HEADER_BYTES = 256
"""Where a slice header ends at the latest."""
_PLAIN, _HIGH = frozenset({66, 77, 88}), frozenset({44, 100, 110, 122, 244})
P_SLICE, B_SLICE, I_SLICE = 0, 1, 2
SLICE, _IDR, _SPS, _PPS = 1, 5, 7, 8
_SILENT = frozenset({6, 9, 12})
"""Messages, delimiters and filling: nothing that changes how pictures are decoded."""


class UnusualError(Exception):
    """A stream that this module does not follow."""


class ForeignParametersError(Exception):
    """A packet brings parameters other than those in the file's header: nothing after it can be read with these."""


class _Bits:
    """Reads the fields of a NAL unit."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(data)
        self.left = 8 * len(data)

    def take(self, count: int) -> int:
        self.left -= count
        if self.left < 0:
            raise UnusualError
        return self._value >> self.left & ((1 << count) - 1)

    def unsigned(self) -> int:
        zeros = self.left - (self._value & ((1 << self.left) - 1)).bit_length()
        self.take(zeros)
        return self.take(zeros + 1) - 1

    def signed(self) -> int:
        code = self.unsigned()
        return (code + 1) // 2 if code % 2 else -code // 2

    def since(self, left: int) -> str:
        """The bits read since ``left`` of them were left, as digits."""
        count = left - self.left
        return f"{self._value >> self.left & ((1 << count) - 1):0{count}b}" if count else ""


@dataclass(frozen=True, slots=True)
class _Picture:
    """A picture parameter set, as far as slice headers depend on it."""

    bottom_order: bool
    counts: tuple[int, int]
    weighted: tuple[bool, bool]
    """Whether the slices (P, B) bring weights."""


@dataclass(frozen=True, slots=True)
class Coding:
    """How a stream is coded, from the header of its file."""

    number_bits: int
    order_bits: int
    kept: int
    """Reference pictures that are kept at most."""
    blocks: int
    coloured: bool
    sequence: int
    pictures: dict[int, _Picture]
    known: frozenset[bytes]
    """The parameter sets themselves."""


def read_coding(header: bytes | None) -> Coding | None:
    """How the pictures of a file are coded; None where this module does not apply.

    Args:
        header: what MP4 and Matroska files store for the decoder (ISO/IEC 14496-15, 5.3.3.1.2).
    """
    if not header or len(header) < 7 or header[0] != 1 or header[4] & 3 != 3:
        return None
    try:
        sequences, at = _sets(header, 6, header[5] & 31)
        pictures, _ = _sets(header, at + 1, header[at])
        if len(sequences) != 1 or not pictures:
            return None
        coding = _read_sequence(sequences[0])
        found = dict(_read_picture(unit, coding.sequence) for unit in pictures)
    except (UnusualError, IndexError):
        return None
    if len(found) == 256 or len({picture.bottom_order for picture in found.values()}) > 1:
        return None
    return replace(coding, pictures=found, known=frozenset(sequences + pictures))


def _sets(data: bytes, at: int, count: int) -> tuple[list[bytes], int]:
    found = []
    for _ in range(count):
        size = int.from_bytes(data[at : at + 2])
        found.append(data[at + 2 : at + 2 + size])
        at += 2 + size
    return found, at


def _read_sequence(unit: bytes) -> Coding:
    bits = _Bits(unit[1:])
    profile = bits.take(8)
    bits.take(16)
    sequence, colours = bits.unsigned(), 1
    if profile in _HIGH:
        colours = bits.unsigned()
        bits.unsigned(), bits.unsigned(), bits.take(1)
        if bits.take(1):
            for k in range(8):
                if bits.take(1):
                    _skip_scaling(bits, 16 if k < 6 else 64)
    elif profile not in _PLAIN:
        raise UnusualError
    number_bits, order_kind = bits.unsigned() + 4, bits.unsigned()
    if order_kind != 0 or colours > 2:
        raise UnusualError
    order_bits, kept = bits.unsigned() + 4, bits.unsigned()
    bits.take(1)
    blocks = (bits.unsigned() + 1) * (bits.unsigned() + 1)
    if not bits.take(1):  # fields may occur
        raise UnusualError
    return Coding(number_bits, order_bits, max(kept, 1), blocks, colours > 0, sequence, {}, frozenset())


def _skip_scaling(bits: _Bits, count: int) -> None:
    scale = 8
    for _ in range(count):
        scale = (scale + bits.signed()) % 256
        if scale == 0:
            return


def _read_picture(unit: bytes, sequence: int) -> tuple[int, _Picture]:
    bits = _Bits(unit[1:])
    name = bits.unsigned()
    if bits.unsigned() != sequence:
        raise UnusualError
    _, bottom_order = bits.take(1), bool(bits.take(1))
    if bits.unsigned():  # blocks in another order than the usual one
        raise UnusualError
    counts = bits.unsigned() + 1, bits.unsigned() + 1
    weighted = bool(bits.take(1)), bits.take(2) == 1
    bits.signed(), bits.signed(), bits.signed(), bits.take(2)
    if bits.take(1):  # pictures may be stored twice
        raise UnusualError
    return name, _Picture(bottom_order, counts, weighted)


@dataclass(frozen=True, slots=True)
class Slice:
    """The header of a slice, as far as it tells what the picture refers to and what becomes of it."""

    fresh: bool
    """Nothing from here on refers to what was before (IDR)."""
    importance: int
    kind: int
    number: int
    order: tuple[int, int]
    order_digits: str
    counts: tuple[int, ...]
    changes: tuple[tuple[tuple[int, int], ...], ...]
    marking: str
    forgotten: tuple[int, ...] | None
    """How far back the reference pictures are numbered that are dropped; None: the oldest one goes when the store is full."""


def units_of(data: memoryview, coding: Coding) -> list[memoryview]:
    """The slices in a packet.

    Raises:
        UnusualError: there is something else in it, or it is cut.
        ForeignParametersError: it changes how the stream is coded.
    """
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + _PREFIX])
        unit = data[at + _PREFIX : at + _PREFIX + size]
        if size == 0 or len(unit) < size:
            raise UnusualError
        kind = unit[0] & 31
        if kind in (_SPS, _PPS):
            if bytes(unit) not in coding.known:
                raise ForeignParametersError
        elif kind in (SLICE, _IDR):
            found.append(unit)
        elif kind not in _SILENT:
            raise UnusualError
        at += _PREFIX + size
    return found


def read_slices(units: list[memoryview], coding: Coding) -> list[Slice]:
    """The slices of one picture: they differ in what they refer to, and in nothing else that is read here."""
    found = [_read_slice(unit, coding, first=k == 0) for k, unit in enumerate(units)]
    if not found:
        raise UnusualError
    head = found[0]
    same = (head.fresh, head.importance, head.number, head.order, head.marking)
    if any((s.fresh, s.importance, s.number, s.order, s.marking) != same for s in found):
        raise UnusualError
    return found


def _read_slice(unit: memoryview, coding: Coding, first: bool) -> Slice:
    fresh, importance = unit[0] & 31 == _IDR, unit[0] >> 5 & 3
    bits = _Bits(bytes(unit[1:_HEADER_BYTES]))
    if (bits.unsigned() == 0) != first:
        raise UnusualError
    kind = bits.unsigned() % 5
    picture = coding.pictures.get(bits.unsigned())
    if kind > I_SLICE or picture is None:
        raise UnusualError
    number = bits.take(coding.number_bits)
    if fresh:
        bits.unsigned()
    left = bits.left
    order = bits.take(coding.order_bits), bits.signed() if picture.bottom_order else 0
    order_digits = bits.since(left)
    lists = (1, 2, 0)[kind]
    if kind == B_SLICE:
        bits.take(1)
    counts = picture.counts[:lists]
    if lists and bits.take(1):
        counts = tuple(bits.unsigned() + 1 for _ in range(lists))
    if any(count > 32 for count in counts):
        raise UnusualError
    changes = tuple(_read_changes(bits) for _ in range(lists))
    if lists and picture.weighted[kind]:
        _skip_weights(bits, counts, coding.coloured)
    left = bits.left
    forgotten = _read_marking(bits, fresh) if importance else None
    return Slice(fresh, importance, kind, number, order, order_digits, counts, changes, bits.since(left), forgotten)


def _read_changes(bits: _Bits) -> tuple[tuple[int, int], ...]:
    found = []
    if bits.take(1):
        while (step := bits.unsigned()) != 3:
            if step > 1:  # a picture kept for long
                raise UnusualError
            found.append((step, bits.unsigned() + 1))
    return tuple(found)


def _skip_weights(bits: _Bits, counts: tuple[int, ...], coloured: bool) -> None:
    for _ in range(1 + coloured):
        bits.unsigned()
    for count in counts:
        for _ in range(count):
            for weights in (2, 4)[: 1 + coloured]:
                if bits.take(1):
                    for _ in range(weights):
                        bits.signed()


def _read_marking(bits: _Bits, fresh: bool) -> tuple[int, ...] | None:
    if fresh:
        bits.take(1)
        if bits.take(1):  # kept for long
            raise UnusualError
        return None
    if not bits.take(1):
        return None
    found = []
    while (operation := bits.unsigned()) != 0:
        if operation != 1:
            raise UnusualError
        found.append(bits.unsigned() + 1)
    return tuple(found)
