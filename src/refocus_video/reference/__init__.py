"""The frozen large multimodal models that score subsets of frames; they see no policy."""
