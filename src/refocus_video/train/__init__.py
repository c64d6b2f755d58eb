"""Training: the reward-variance filter, the policy by reinforcement learning, and the tiny reference model."""
