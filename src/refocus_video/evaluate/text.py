"""How close a generated answer to an open-ended question is to the accepted ones. Pure.

Every measure lies in [0, 1] and is the best over the accepted answers. Texts are compared as SQuAD does: lower case, without
punctuation and the articles a, an, the (Rajpurkar et al., arXiv 1606.05250).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from refocus_video.errors import ConfigError

Similarity = Callable[[str, str], float]
"""Of two words, in [0, 1]; 1 for the same word."""


def words(text: str) -> list[str]:
    """What is compared of a text."""
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """1 if the answer has the words of an accepted one in their order, else 0."""
    return float(any(words(answer) == words(text) for text in accepted))


def token_f1(answer: str, accepted: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over the words, repeats counted."""
    return max(_f1(words(answer), words(text)) for text in accepted)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    common = (Counter(found) & Counter(wanted)).total()
    return 2 * common / (len(found) + len(wanted))


def wups(answer: str, accepted: Sequence[str], similarity: Similarity, threshold: float = 0.9) -> float:
    """Wu–Palmer set similarity (Malinowski and Fritz, arXiv 1410.0210): the smaller of two products of best matches.

    A similarity below ``threshold`` counts a tenth.
    """

    def matched(one: list[str], other: list[str]) -> float:
        return math.prod(max(weigh(similarity(a, b)) for b in other) for a in one)

    def weigh(value: float) -> float:
        return value if value >= threshold else value / 10

    found = words(answer)
    sets = [(found, words(text)) for text in accepted]
    return max(min(matched(a, b), matched(b, a)) if a and b else float(a == b) for a, b in sets)


def wordnet_similarity() -> Similarity:
    """Wu–Palmer similarity of words in WordNet, through nltk and its ``wordnet`` corpus.

    Raises:
        ConfigError: if one of them is not installed.
    """
    try:
        from nltk.corpus import wordnet

        wordnet.synsets("word")
    except ImportError:
        raise ConfigError("WUPS needs nltk: pip install nltk") from None
    except LookupError:
        raise ConfigError("WUPS needs the WordNet corpus: python -m nltk.downloader wordnet") from None

    def similarity(one: str, other: str) -> float:
        if one == other:
            return 1.0
        pairs = [(a, b) for a in wordnet.synsets(one) for b in wordnet.synsets(other)]
        return max((a.wup_similarity(b) or 0.0 for a, b in pairs), default=0.0)

    return similarity
