"""Rewording by rule: the English it needs, how a prompt is read, and the rules."""
