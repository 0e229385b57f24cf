"""A tiny depth network of the real classes."""

from __future__ import annotations

from pathlib import Path


def write_dpt(folder: Path) -> Path:
    """Writes a DPT of 28,000 random weights, as save_pretrained does; returns the folder."""
    import torch
    import transformers

    config = transformers.DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    model = transformers.DPTForDepthEstimation(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3, generator=generator)
        # The network ends in a ReLU, which must let the maps of tests through.
        model.head.head[4].bias.fill_(50)
    model.save_pretrained(folder)
    transformers.DPTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder
