"""H.264 pictures that other pictures may refer to, though no wanted one does: which they are, and what the decoder gets instead.

The headers of a picture's slices name all pictures that it may refer to (ITU-T H.264, 8.2.4 and 8.2.5). A picture that no
wanted one reaches along these names is replaced by a stand-in: the same header, so that the decoder numbers, orders, keeps and
drops its pictures as before, and then "every block is as in the picture before". What is shown of the wanted pictures is the
same bit by bit; only the stand-ins look wrong, and nobody looks at them.

This is for whole frames (no fields) of one size in length-prefixed packets (MP4, Matroska). Whatever else is met is not
replaced, up to the next point from which nothing refers back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from refocus_video.video.h264 import I_SLICE, P_SLICE, SLICE, Coding, Slice, UnusualError, read_slices, units_of


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture that others may refer to."""

    packet: int
    number: int
    """As the stream counts reference pictures, from 0 again after the highest that fits."""
    order: int
    """When it is shown, compared with others."""


@dataclass(frozen=True, slots=True)
class Store:
    """The pictures that a decoder keeps for reference at some point of a stream."""

    pictures: tuple[Reference, ...] = ()
    number: int = 0
    """Of the last reference picture."""
    order: int = 0


def full_order(head: Slice, store: Store, coding: Coding) -> int:
    """Rank of a picture in presentation order, from its lowest bits (8.2.1.1)."""
    span, low = 1 << coding.order_bits, head.order[0]
    before = store.order % span
    high = store.order - before
    if low < before and before - low >= span // 2:
        high += span
    elif low > before and low - before > span // 2:
        high -= span
    return high + low


def reference_lists(part: Slice, shown: int, store: Store, coding: Coding) -> list[list[Reference]]:
    """The pictures that a slice may refer to, in its own order (8.2.4.2.1, 8.2.4.2.3, 8.2.4.3)."""
    span = 1 << coding.number_bits
    age = {reference: (part.number - reference.number) % span for reference in store.pictures}
    if part.kind == P_SLICE:
        lists = [sorted(store.pictures, key=lambda reference: age[reference])]
    else:
        past = sorted((r for r in store.pictures if r.order < shown), key=lambda r: -r.order)
        future = sorted((r for r in store.pictures if r.order >= shown), key=lambda r: r.order)
        lists = [past + future, future + past]
        if len(lists[1]) > 1 and lists[0] == lists[1]:
            lists[1][:2] = lists[1][1::-1]
    by_age = {steps: reference for reference, steps in age.items()}
    if len(by_age) < len(age) or 0 in by_age:
        raise UnusualError
    for k, (count, changes) in enumerate(zip(part.counts, part.changes, strict=True)):
        found, back = lists[k][:count], 0
        for place, (sign, steps) in enumerate(changes):
            back = (back + (-steps if sign else steps)) % span
            if back not in by_age or place >= count:
                raise UnusualError
            moved = by_age[back]
            found = [*found[:place], moved, *(r for r in found[place:] if r != moved)][:count]
        lists[k] = found
    return lists


def _follow(slices: list[Slice], packet: int, store: Store, coding: Coding) -> tuple[set[int], Store]:
    """Packets that a picture may refer to, and what is kept after it (8.2.5)."""
    head = slices[0]
    if head.fresh:
        store = Store()
    span, order = 1 << coding.number_bits, full_order(head, store, coding)
    if not head.fresh and head.number != (store.number + 1) % span:  # a picture is missing
        raise UnusualError
    shown = order + min(0, head.order[1])
    used = {
        r.packet
        for part in slices
        if part.kind != I_SLICE
        for one in reference_lists(part, shown, store, coding)
        for r in one
    }
    if not head.importance:
        return used, store
    kept = list(store.pictures)
    for back in head.forgotten or ():
        gone = [r for r in kept if (head.number - r.number) % span == back]
        if not gone:
            raise UnusualError
        kept.remove(gone[0])
    if head.forgotten is None and len(kept) >= coding.kept:
        kept.remove(max(kept, key=lambda r: (head.number - r.number) % span))
    if len(kept) >= coding.kept:
        raise UnusualError
    return used, Store((*kept, Reference(packet, head.number, shown)), head.number, order)


def _unsigned(number: int) -> str:
    digits = f"{number + 1:b}"
    return "0" * (len(digits) - 1) + digits


def _nal(head: int, digits: str) -> bytes:
    """A NAL unit with its length, from its first byte and its bits."""
    digits += "1"
    digits += "0" * (-len(digits) % 8)
    content, zeros = bytearray([head]), 0
    for byte in int(digits, 2).to_bytes(len(digits) // 8):
        if zeros >= 2 and byte <= 3:
            content.append(3)
            zeros = 0
        content.append(byte)
        zeros = 0 if byte else zeros + 1
    return len(content).to_bytes(4) + bytes(content)


def _stand_in(head: Slice, coding: Coding) -> bytes:
    """A picture with the same place among the others, all of it as in the picture numbered before it."""
    name = next(k for k in range(256) if k not in coding.pictures)
    bottom = next(iter(coding.pictures.values())).bottom_order
    # Variable-length codes, one slice group, one reference picture, no weights, a deblocking filter that can be off.
    parameters = [_unsigned(name), _unsigned(coding.sequence), "0", f"{bottom:d}", "1", "1", "1", "000", "111", "100"]
    digits = f"{head.number:0{coding.number_bits}b}{head.order_digits}"
    # A P slice from block 0 on, neither another count of references nor another order of them; QP and filter; the blocks.
    content = [_unsigned(0), _unsigned(P_SLICE), _unsigned(name), digits, "00", head.marking, "1", _unsigned(1)]
    content.append(_unsigned(coding.blocks))
    return _nal(0x68, "".join(parameters)) + _nal(head.importance << 5 | SLICE, "".join(content))


def stand_ins(
    packets: Sequence[tuple[int, memoryview]],
    wanted: set[int],
    store: Store | None,
    coding: Coding,
    more: bool,
) -> tuple[dict[int, bytes], Store | None]:
    """What to decode instead of pictures that no wanted picture needs.

    Args:
        packets: number and content of packets that follow each other.
        wanted: numbers of the packets with wanted pictures.
        store: what the decoder keeps before them; None where that is not known.
        coding: how the stream is coded.
        more: other packets follow, which may refer to what is kept after these.

    Returns:
        Contents by packet number, and what the decoder keeps after the packets; None where that is not known.

    Raises:
        ForeignParametersError: a packet changes how the stream is coded.
    """
    pictures: list[tuple[int, set[int], Slice | None]] = []
    for packet, data in packets:
        used: set[int] = set() if store is None else {reference.packet for reference in store.pictures}
        try:
            units = units_of(data, coding)
            if packet not in wanted and not any(unit[0] & 0x60 for unit in units):
                continue  # nothing refers to it: it is not decoded at all
            slices = read_slices(units, coding)
            if store is None and not slices[0].fresh:
                raise UnusualError
            used, store = _follow(slices, packet, store or Store(), coding)
        except UnusualError:
            pictures.append((packet, used, None))
            store = None
        else:
            pictures.append((packet, used, slices[0]))
    needed = set(wanted)
    if more and store is not None:
        needed.update(reference.packet for reference in store.pictures)
    found: dict[int, bytes] = {}
    for packet, used, head in reversed(pictures):
        if packet in needed or head is None or head.fresh:
            needed |= used
        else:
            found[packet] = _stand_in(head, coding)
    return found, store
