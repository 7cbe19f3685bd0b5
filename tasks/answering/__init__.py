"""Answers to reports that came without one, from whatever the user configures; one answerer a file."""
