"""Examples as JSONL: one object a line, checked field by field on the way in.

A line holds ``id``, ``video``, ``question``, ``options`` (list of at least two), ``answer`` (position, letter or the option's
text), and optionally ``evidence`` (list of ``[start_s, end_s]``), ``question_type`` and ``metadata``. An open-ended question has
no ``options``, and ``answer`` (a text) or ``answers`` (the texts that count as right, the best one first). A relative ``video``
is looked up beside the JSONL file. A text has at most :data:`MAX_TEXT` characters, a line at most :data:`MAX_LINE` bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from refocus_video.data.checked_json import PARQUET, check, parse
from refocus_video.errors import DataError, did_you_mean, shortened
from refocus_video.files import write_jsonl
from refocus_video.types import Example, Question, Span

T = TypeVar("T")
FIELDS = ("id", "video", "question", "options", "answer", "answers", "evidence", "question_type", "metadata")

MAX_TEXT = 20_000
"""Characters of an id, a video's name, a question, an option or an answer: memory and time of every model grow with them."""
MAX_LINE = 10_000_000
"""Bytes of a line: a question with its metadata."""
CONVERT = "`refocus data convert jsonl`"
"""What makes a question file of one that is nearly one."""


def read_examples(path: Path) -> list[Example]:
    """Read a JSONL file of examples.

    Raises:
        DataError: naming file, line and field of the first thing that is wrong.
    """
    return [example for _, example in located_examples(path)]


def located_examples(path: Path) -> Iterator[tuple[int, Example]]:
    """The examples of a JSONL file one by one, each with the byte at which its line begins.

    Raises:
        DataError: as :func:`read_examples`, when it gets there.
    """
    if not path.is_file():
        raise DataError(f"no question file at {path}; give the path of a JSONL file")
    seen: dict[str, int] = {}
    offset = 0
    with path.open("rb") as stream:
        lines = iter(lambda: stream.readline(MAX_LINE + 1), b"")
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number}"
            if number == 1 and line.startswith(PARQUET):
                raise DataError(
                    f"{path}: a Parquet file; questions are JSONL, which `refocus data convert` makes of it"
                )
            if len(line) > MAX_LINE:
                raise DataError(f"{where}: more than {MAX_LINE:,} bytes; a question and its metadata are at most that")
            if text := _decoded(line, path).strip():
                example = parse_example(_load(text, where), where, path.parent)
                if example.id in seen:
                    raise DataError(f"{where}, field 'id': {example.id!r} was already used in line {seen[example.id]}")
                seen[example.id] = number
                yield offset, example
            offset += len(line)
    if not seen:
        if (path.parent / "filter.json").is_file():
            raise DataError(
                f"{path}: the filter kept none of its questions; run it again with a lower --threshold or --keep"
            )
        raise DataError(f"{path}: holds no examples; expected one JSON object a line")


def example_at(stream: BinaryIO, offset: int, path: Path) -> Example:
    """The example whose line begins at a byte of an open question file."""
    stream.seek(offset)
    where = f"{path}, at byte {offset}"
    return parse_example(_load(_decoded(stream.readline(), path), where), where, path.parent)


def _decoded(line: bytes, path: Path) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a UTF-8 text file; questions are JSONL, one object a line") from None


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write examples as JSONL, with videos relative to the file where they lie below its folder, absolute elsewhere."""
    write_jsonl(path, (dump_example(example, path.parent) for example in examples))


def fingerprint(examples: Iterable[Example]) -> str:
    """A short name for these very questions, options and answers, wherever their files lie."""
    digest = hashlib.sha256()
    for example in examples:
        question = example.question
        parts = [example.id, question.text, question.options, example.answer]
        digest.update(json.dumps([*parts, example.accepted] if example.accepted else parts).encode())
    return digest.hexdigest()[:16]


def with_options(examples: Iterable[Example], purpose: str) -> Iterator[Example]:
    """The same examples, for a ``purpose`` that compares options, e.g. "the reward-variance filter".

    Raises:
        DataError: at the first open-ended question.
    """
    for example in examples:
        if example.accepted:
            raise DataError(f"question {example.id!r} has no options, and {purpose} compares options; leave it out")
        yield example


def _load(line: str, where: str) -> dict[str, Any]:
    row = parse(line, where)
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(row).__name__}")
    unknown = [key for key in row if key not in FIELDS]
    if unknown:
        raise DataError(
            f"{where}, field {shortened(unknown[0])}: unknown{did_you_mean(unknown[0], FIELDS)}; known fields are "
            f"{', '.join(FIELDS)}; {CONVERT} keeps others as metadata"
        )
    return row


def parse_example(row: dict[str, Any], where: str, folder: Path) -> Example:
    """The example that an object of a JSONL file stands for; ``where`` names file and line, ``folder`` is the file's.

    Raises:
        DataError: naming the first field that is wrong.
    """
    check(row, where)
    open_ended = row.get("answers") is not None or "options" not in row
    options = () if open_ended else _texts(row, "options", where, least=2)
    accepted = _accepted(row, where) if open_ended else ()
    answer = 0 if open_ended else _answer(row, options, where)
    return Example(
        id=_text(row, "id", where),
        video=str(folder / _text(row, "video", where)),
        question=Question(_text(row, "question", where), options),
        answer=answer,
        evidence=_spans(row, where),
        question_type=_optional(row, "question_type", str, "a text", where),
        metadata=_optional(row, "metadata", dict, "an object", where),
        accepted=accepted,
    )


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        advice = f"; {CONVERT} writes numbers out as ids" if key == "id" and type(value) is int else ""
        raise DataError(f"{where}, field {key!r}: expected a non-empty text, found {shortened(value)}{advice}")
    return _short(value, key, where)


def _short(text: str, key: str, where: str) -> str:
    if len(text) > MAX_TEXT:
        raise DataError(
            f"{where}, field {key!r}: {len(text):,} characters; at most {MAX_TEXT:,} are taken: shorten the text"
        )
    return text


def _texts(row: dict[str, Any], key: str, where: str, least: int) -> tuple[str, ...]:
    values = row.get(key)
    if not isinstance(values, list) or len(values) < least or not all(isinstance(v, str) and v.strip() for v in values):
        raise DataError(
            f"{where}, field {key!r}: expected a list of at least {least} text{'s' * (least > 1)}, "
            f"found {shortened(values)}"
        )
    if len(set(values)) < len(values):
        raise DataError(f"{where}, field {key!r}: {key} must differ from each other, found {shortened(values)}")
    return tuple(_short(value, key, where) for value in values)


def _optional(row: dict[str, Any], key: str, kind: type[T], expected: str, where: str) -> T:
    value = row.get(key)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise DataError(f"{where}, field {key!r}: expected {expected}, found {shortened(value)}")
    return value


def _answer(row: dict[str, Any], options: tuple[str, ...], where: str) -> int:
    value = row.get("answer")
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    if isinstance(value, str) and value in options:
        return options.index(value)
    if isinstance(value, str) and len(value) == 1 and 0 <= ord(value) - ord("A") < len(options):
        return ord(value) - ord("A")
    raise DataError(
        f"{where}, field 'answer': expected a position 0..{len(options) - 1}, a letter or one of the options, "
        f"found {shortened(value)}"
    )


def _accepted(row: dict[str, Any], where: str) -> tuple[str, ...]:
    """The right answers of an open-ended question, the best one first."""
    if "answers" in row:
        both = [key for key in ("options", "answer") if row.get(key) is not None]
        if both:
            raise DataError(f"{where}, field 'answers': stands for an open-ended question, found {both[0]!r} as well")
        return _texts(row, "answers", where, least=1)
    answer = row.get("answer")
    if isinstance(answer, str) and len(answer) == 1 and answer.isascii() and answer.isupper():
        raise DataError(f"{where}, field 'options': missing, but the answer is the letter {answer!r}")
    if "answer" in row and not isinstance(answer, str):
        raise DataError(
            f"{where}, field 'options': missing; without options the answer must be a text, found {shortened(answer)}"
        )
    return (_text(row, "answer", where),)


def _spans(row: dict[str, Any], where: str) -> tuple[Span, ...]:
    spans = _optional(row, "evidence", list, "a list of [start_s, end_s]", where)
    for span in spans:
        numbers = isinstance(span, list) and len(span) == 2 and all(type(x) in (int, float) for x in span)
        if not numbers or not span[0] <= span[1]:
            raise DataError(f"{where}, field 'evidence': expected [start_s, end_s] in seconds, found {shortened(span)}")
    return tuple(Span(float(start), float(end)) for start, end in spans)


def dump_example(example: Example, folder: Path) -> dict[str, Any]:
    """The object that stands for an example in a JSONL file of a folder."""
    video = Path(example.video)
    # A path from the working directory would be looked up beside the file when it is read.
    written = video.relative_to(folder) if video.is_relative_to(folder) else video.absolute()
    row: dict[str, Any] = {
        "id": example.id,
        "video": str(written),
        "question": example.question.text,
    }
    if example.accepted:
        # The reader takes the first as the best.
        best = example.accepted[example.answer]
        row["answers"] = [best, *(text for text in example.accepted if text != best)]
    else:
        row |= {"options": list(example.question.options), "answer": example.answer}
    if example.evidence:
        row["evidence"] = [[span.start_s, span.end_s] for span in example.evidence]
    if example.question_type:
        row["question_type"] = example.question_type
    if example.metadata:
        row["metadata"] = example.metadata
    return row
