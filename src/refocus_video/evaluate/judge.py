"""A model that says whether a written answer to an open-ended question is right."""

from collections.abc import Sequence

import torch

from refocus_video.reference.base import AnsweringModel, ScoreRequest
from refocus_video.types import Question

PROMPT = """An answer to a question about a video is to be checked.
Question: {question}
Right answers: {accepted}
Given answer: {answer}
Does the given answer mean the same as one of the right answers? Answer with yes or no."""


class ModelJudge:
    """Asks a model, without any frames; counts the replies that say neither yes nor no, which are taken for no."""

    def __init__(self, model: AnsweringModel) -> None:
        """Nothing is asked."""
        self.model = model
        self.asked = 0
        self.unclear = 0

    def __call__(self, question: str, accepted: Sequence[str], answer: str) -> bool:
        """Whether the answer is right."""
        text = PROMPT.format(question=question, accepted="; ".join(accepted), answer=answer)
        nothing = torch.empty(0, 1)
        request = ScoreRequest(
            nothing, nothing[:, 0], Question(text), torch.empty(1, 0, dtype=torch.long), texts=(), duration_s=0.0
        )
        ((reply,),) = self.model.generate([request], 4)
        words = reply.lower().replace(",", " ").replace(".", " ").split()[:1]
        self.asked += 1
        self.unclear += words not in (["yes"], ["no"])
        return words == ["yes"]
