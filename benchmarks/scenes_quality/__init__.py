"""How good weights are that were trained on the scenes: see docs/quality.md."""
