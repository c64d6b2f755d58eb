"""Choose the few frames of a video from which a large multimodal model answers a question best."""

__version__ = "0.1.0"
