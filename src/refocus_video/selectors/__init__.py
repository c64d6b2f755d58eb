"""Selectors: anything that maps a video's candidate frames, a question and a budget to picks. They never see an answer."""
