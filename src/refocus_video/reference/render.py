"""The text around frames: prompts, and the time that stands beside each frame. Pure."""

from collections.abc import Sequence

from refocus_video.reference.families import Family

_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def prompt(family: Family, text: str, times: Sequence[float], counts: Sequence[int], duration: float) -> str:
    """The chat of one row, with a placeholder for every visual token.

    Args:
        family: whose chat it is.
        text: the question.
        times: of each frame shown, in seconds, (K,).
        counts: visual tokens of each frame, (K,).
        duration: of the whole video, in seconds.
    """
    frames = ""
    if times:
        before = family.before_frames
        if before:
            before = before.format(count=in_words(len(times)), duration=hours_minutes_seconds(duration))
        shown = family.between.join(
            family.frame.format(placeholders=family.placeholder * count, number=i, time=time, clock=clock(time))
            for i, (time, count) in enumerate(zip(times, counts, strict=True), start=1)
        )
        frames = before + shown + family.after_frames
    return family.prompt.replace("{frames}", frames).replace("{text}", text)


def clock(seconds: float) -> str:
    """MM:SS, with fractions cut off."""
    return f"{int(seconds // 60):02d}:{int(seconds % 60):02d}"


def hours_minutes_seconds(seconds: float) -> str:
    """H:MM:SS, with fractions cut off."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def in_words(number: int) -> str:
    """A number from 0 to 999 999 in English words."""
    if number < 20:
        return _UNITS[number]
    if number < 100:
        return _TENS[number // 10 - 2] + (f"-{_UNITS[number % 10]}" if number % 10 else "")
    if number < 1000:
        return f"{_UNITS[number // 100]} hundred" + (f" and {in_words(number % 100)}" if number % 100 else "")
    rest = number % 1000
    return f"{in_words(number // 1000)} thousand" + (
        f"{' and' if rest < 100 else ','} {in_words(rest)}" if rest else ""
    )
