"""Configurations of the commands: numbers and strings only."""
