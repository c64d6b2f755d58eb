"""Evaluation: every selector on the same candidates, questions and answering model, with fixed denominators."""
