"""Flows tell the story; the command line starts them."""
