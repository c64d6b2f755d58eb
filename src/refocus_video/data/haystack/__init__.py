"""The haystack: generated videos in which which moment matters depends on the question, and the answer is known."""
