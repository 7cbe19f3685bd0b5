"""Metrics, statistics, gates, verdict and report: whether a candidate may be trusted."""
