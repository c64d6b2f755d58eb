"""Probes of a policy: what happens to the answers when frames are blurred, replaced or left out (METHOD §7)."""
