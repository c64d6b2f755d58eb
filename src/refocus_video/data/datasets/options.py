"""Options as data sets write them: with their letter in front, or listed in the text of the question. Pure."""

import re

_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s*")


def without_letters(options: tuple[str, ...]) -> tuple[str, ...]:
    """Options without the letters in front of them, if *all* have theirs: ``A. red`` and ``(A) red`` become ``red``."""
    found = [_LETTERED.match(option) for option in options]
    if not all(match and match[1] == chr(ord("A") + i) for i, match in enumerate(found)):
        return options
    bare = tuple(option[match.end() :].strip() for option, match in zip(options, found, strict=True) if match)
    return bare if all(bare) else options


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """A question and the lettered options that stand below it, one after the other from A on.

    The list begins at the last line that is lettered A, so that a question may name an A of its own. What follows an option on
    lines without a letter belongs to it. The options are empty where none are listed.
    """
    lines = text.strip().split("\n")
    letters = [match[1] if (match := _LETTERED.match(line)) else None for line in lines]
    if "A" not in letters:
        return text.strip(), ()
    start = len(letters) - 1 - letters[::-1].index("A")
    options: list[str] = []
    for line, letter in zip(lines[start:], letters[start:], strict=True):
        if letter == chr(ord("A") + len(options)):
            options.append(line)
        else:
            options[-1] += f"\n{line}"
    question = "\n".join(lines[:start]).strip()
    return question.removesuffix("Options:").strip(), without_letters(tuple(option.strip() for option in options))
