"""Weights of the package sru, whose cell is the "sru" of `elman.Recurrent`.

Its layers are made of parameters named weight, weight_c, bias and scale_x. Nothing of the package
is imported.
"""

from typing import Any

import torch

from elman.language import say
from elman.recurrent import Recurrent
from elman.shapes import KindError, ShapeError

__all__ = ["from_sru"]


def from_sru(source: Any) -> Recurrent:
    """Make a layer with the weights of an `sru.SRU`.

    What the input passes by is a projection in our cell, and the input itself in a layer of sru
    whose input and output have as many features: it becomes a projection by the identity.

    Args:
        source: An sru.SRU, of any number of layers, in one direction or two. What it has dropout
            for, between layers, is set anew: ours is 0.

    Returns:
        An `elman.Recurrent` of the cell "sru", with the dtype of the weights, on the CPU. Its
        output is that of source; its final c is the state of source.

    Raises:
        KindError: source is no sru.SRU.
        ShapeError: it has what our cell has not: a projection, layer normalisation, tanh, a module
            of its own in the place of the product, or no highway.

    Example:
        >>> import elman
        >>> layer = elman.from_sru(sru.SRU(64, 128, num_layers=2))  # doctest: +SKIP
    """
    layers = list(getattr(source, "rnn_lst", ()))
    if not layers or not all(hasattr(layer, "weight_c") for layer in layers):
        raise KindError(
            say("from_sru: source must be an sru.SRU, got {got}", got=type(source).__name__)
        )
    for layer in layers:
        _check(layer)
    first = layers[0]
    result = Recurrent(
        "sru",
        first.input_size,
        first.hidden_size,
        num_layers=len(layers),
        bidirectional=first.bidirectional,
        dtype=first.weight.dtype,
    )
    directions = 2 if first.bidirectional else 1
    with torch.no_grad():
        for k, layer in enumerate(layers):
            for d in range(directions):
                for name, value in _parameters(layer, d, directions).items():
                    suffix = "_reverse" if d else ""
                    getattr(result, f"{name}_l{k}{suffix}").copy_(value)
    return result


def _check(layer: Any) -> None:
    refused = {
        "n_proj": layer.projection_size != 0,
        "layer_norm": layer.layer_norm is not None,
        "use_tanh": layer.activation_type != 0,
        "custom_m": layer.custom_m is not None,
        "has_skip_term=False": not layer.has_skip_term,
    }
    for name, is_there in refused.items():
        if is_there:
            raise ShapeError(
                say(
                    "from_sru: the layer must be without {name}: our cell has no such thing",
                    name=name,
                )
            )


# The parameters of one direction of one layer, under the names that ours have.
def _parameters(layer: Any, d: int, directions: int) -> dict[str, torch.Tensor]:
    size = layer.hidden_size
    blocks = layer.weight.view(layer.weight.shape[0], directions, size, -1)[:, d]
    gates = list(blocks.permute(2, 1, 0))  # x, f, r and, if there is one, what passes by
    if len(gates) == 3:
        scale = layer.scale_x if layer.rescale else 1
        gates.append(scale * torch.eye(directions * size)[d * size : (d + 1) * size])
    v_f, v_r = layer.weight_c.view(2, directions, size)[:, d]
    f, r = layer.bias.view(2, directions, size)[:, d]
    none = torch.zeros_like(f)
    return {
        "weight_ih": torch.cat(gates),
        "bias_ih": torch.cat([none, f, r, none]),
        "v_f": v_f,
        "v_r": v_r,
    }
