"""Which option a written answer names: no guessing."""

import pytest

from refocus_video.reference.letters import INSTRUCTION, letter, lettered, parse_letter
from refocus_video.types import Question


@pytest.mark.parametrize(
    "text",
    ["B", " b\n", "B.", "(B)", "**B**", "[b]", "B)", "`B`", "B. the red card", "(B) the red card", "B: because A is wrong",
     "**B.** the red card", "The answer is B", "the answer is (B).", "Answer: B", "**Answer:** B", "Option B is right.",
     "I think the correct choice is B, not the others.", "<think>A or C? The answer is C.</think>\nB",
     "The final answer is **B**", 'The answer is "B".', "B. the red card\n\nAnswer: B", "B\nThe card is red.", "<answer>B</answer>",
     "\\boxed{B}", "So it is $\\boxed{\\text{B}}$.", "Answer: b", "b. the red card", "Based on the video, B.",
     "Answer: B. Option A is wrong",
     "Ｂ", "（Ｂ）", "答案是B", "答案：B", "正确答案为 B。", "A or C?</think>B", "The answer is A.\n</think>\n\nThe answer is: B",
     "The correct answer is option B.", "<answer>B. the red card</answer> since A is wrong", "Option A is wrong. The answer is B",
     "<answer>\nB\n</answer>", "the answer is b.", "My choice: (b)", "The answer should be B"],
)  # fmt: skip
def test_a_clear_answer_is_understood(text: str) -> None:
    assert parse_letter(text, 4) == 1


@pytest.mark.parametrize(
    "text",
    ["", "   ", "?", "A or B", "A red card lies there", "I see a card", "the second one", "AB", "E", "(F)", "Answer: Z", "7",
     "B. the red card. Wait, the answer is C", "Option A or option B", "The answer is A, or the answer is B", "Because",
     "Bring it", "<think>B", "the answer is unclear", "An apple", "Both A and B", "the answer is a card", "The answer is A or B",
     "Answer: A, B", "Answer: A/B", "A\nB", "<answer>A</answer><answer>B</answer>", "The answer is B</think>", "I see A, B",
     "<answer></answer>",
     "the answer is a\u00a0card", "Option A and option B", "a red card", "it shows a, b."],
)  # fmt: skip
def test_anything_else_is_no_answer(text: str) -> None:
    assert parse_letter(text, 4) is None


def test_only_letters_of_the_options_count() -> None:
    assert [parse_letter("C", options) for options in (2, 3, 26)] == [None, 2, 2]
    assert parse_letter("Z", 26) == 25
    assert [parse_letter(f"{letter(i)}.", 26) for i in range(26)] == list(range(26))


def test_a_question_is_listed_as_its_letters_are_read() -> None:
    question = Question("Which?", ("ring", "cross", "tee"))
    lines = lettered(question).splitlines()
    assert lines == ["Which?", "A. ring", "B. cross", "C. tee", INSTRUCTION]
    assert [parse_letter(line, 3) for line in lines[1:4]] == [0, 1, 2]
