"""Torch is a peer, not a dependency: its tensors are tried where it is installed."""


def tensors(array):
    """[(tensor, half-precision tensor)] of `array`, or nothing."""
    try:
        import torch
    except ImportError:
        return []
    tensor = torch.tensor(array, requires_grad=True)
    return [(tensor, tensor.bfloat16())]
