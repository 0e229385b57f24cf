"""Commands: `python -m launch.convert`, `launch.export`, `launch.sample`."""
