"""Corrections that people review on MLflow's own pages, and what they say there."""
