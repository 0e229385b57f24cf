"""Weights that ship with the project, by name."""

from __future__ import annotations

from sd_jax import embedded
from sd_jax.embedded import embedded_folders, is_embedded


def test_names_are_no_paths():
    assert is_embedded("scenes")
    assert is_embedded("scenes-prior")
    assert not is_embedded("./scenes")
    assert not is_embedded("outputs/scenes")


def test_folders_without_what_is_wanted_are_left_out(tmp_path, monkeypatch):
    for name in ("prior/unet", "prior/vae", "fgdm/adapter_depth"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(embedded, "_FOLDER", tmp_path)
    assert embedded_folders("scenes") == (tmp_path / "prior", tmp_path / "fgdm")
    assert embedded_folders("scenes", ["vae"]) == (tmp_path / "prior",)
    assert embedded_folders("scenes-prior") == (tmp_path / "prior",)
    assert embedded_folders("scenes", ["adapter_depth"]) == (tmp_path / "fgdm",)
