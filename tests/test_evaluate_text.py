"""Measures of generated answers: worked by hand."""

import sys

import pytest

from refocus_video.errors import ConfigError
from refocus_video.evaluate.text import exact_match, token_f1, wordnet_similarity, words, wups


def test_case_punctuation_and_articles_do_not_count() -> None:
    assert words("The red, RED ball; an apple!") == ["red", "red", "ball", "apple"]
    assert exact_match("A red ball.", ["blue", "the Red ball"]) == 1
    assert exact_match("ball red", ["red ball"]) == 0
    assert words("theatre and banana") == ["theatre", "and", "banana"]


def test_f1_counts_repeated_words() -> None:
    assert token_f1("red red ball", ["red ball"]) == pytest.approx(2 * (2 / 3) * 1 / (2 / 3 + 1))
    assert token_f1("red ball", ["green box", "red cube"]) == pytest.approx(0.5)
    assert token_f1("", ["red"]) == 0
    assert token_f1("the", ["a"]) == 1  # nothing is left of either


def _similarity(one: str, other: str) -> float:
    if one == other:
        return 1.0
    return {("car", "taxi"): 0.95, ("cat", "dog"): 0.8}.get((min(one, other), max(one, other)), 0.0)


def test_wups_is_the_smaller_product_and_a_weak_likeness_counts_a_tenth() -> None:
    assert wups("red taxi", ["red car"], _similarity) == pytest.approx(0.95)
    assert wups("cat", ["dog"], _similarity) == pytest.approx(0.08)
    assert wups("cat", ["dog"], _similarity, threshold=0.0) == pytest.approx(0.8)
    # Every word of the answer has a match, but not every word that was wanted.
    assert wups("red", ["red dog"], _similarity, threshold=0.0) == 0
    assert wups("red", ["red dog", "red"], _similarity) == 1
    assert wups("", ["red"], _similarity) == 0


def test_wups_says_what_it_needs() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nltk.corpus", None)
        with pytest.raises(ConfigError, match="pip install nltk"):
            wordnet_similarity()
