"""Gradients of each sample of a batch, as differential privacy and influence functions need.

torch.func can do it for any module, and it is torch.func that does it here: our layers take the
samples as one batch and keep only the gradients of the weights apart (see `elman.library`), so that
it costs about twice as much as the gradient of the whole batch.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call

__all__ = ["per_sample_grads"]

Tensors: TypeAlias = Any
"""A tensor, None, or a tuple of these."""
Axes: TypeAlias = Any
"""An int, or a tuple with one for each of a tuple of tensors, None for what all samples share."""


def per_sample_grads(
    module: torch.nn.Module,
    inputs: Tensors,
    loss: Callable[..., Tensor],
    *,
    targets: Tensors = None,
    in_dims: Axes = 0,
    target_dims: Axes = 0,
    chunk_size: int | None = None,
) -> dict[str, Tensor]:
    """Return the gradients of the loss of every sample, for every parameter of a module.

    The module runs for each sample as for a batch of one, and all at once. Its mode counts: in
    training, each sample draws its own dropout.

    Args:
        module: Any module that torch.func can transform, with our layers in it or not.
        inputs: The arguments of the module, or one.
        loss: Called with what the module returns for a sample and, if given, its targets; returns
            a scalar.
        targets: Further arguments of the loss, or one.
        in_dims: The axis of the samples in each of inputs, as of torch.func.vmap: 0 with
            batch_first, 1 for (L, N, H_in) and for states.
        target_dims: The same in targets.
        chunk_size: Samples to take at a time, to use less memory. None takes all.

    Returns:
        (N, ...) of each parameter that requires a gradient, under its name.

    Raises:
        ValueError: in_dims or target_dims does not fit, or there are no samples for our layers.

    Example:
        >>> import elman, torch
        >>> gru = elman.GRU(3, 4, batch_first=True)
        >>> x, y = torch.randn(16, 5, 3), torch.randn(16, 4)
        >>> def loss(output, target):
        ...     return (output[0][:, -1] - target).square().mean()
        >>> gradients = elman.per_sample_grads(gru, x, loss, targets=y)
        >>> gradients["weight_hh_l0"].shape
        torch.Size([16, 12, 4])
    """
    named = dict(module.named_parameters())
    parameters = {name: p.detach() for name, p in named.items() if p.requires_grad}
    fixed: dict[str, Tensor] = dict(module.named_buffers())
    fixed |= {name: p for name, p in named.items() if not p.requires_grad}

    def loss_of_one(parameters: dict[str, Tensor], inputs: Tensors, targets: Tensors) -> Tensor:
        result = functional_call(
            module, (parameters, fixed), _arguments(_batch_of_one(inputs, in_dims))
        )
        return loss(result, *_arguments(_batch_of_one(targets, target_dims)))

    gradients: dict[str, Tensor] = torch.func.vmap(
        torch.func.grad(loss_of_one),
        in_dims=(None, in_dims, None if targets is None else target_dims),
        randomness="different",
        chunk_size=chunk_size,
    )(parameters, inputs, targets)
    return gradients


def _arguments(tensors: Tensors) -> tuple[Any, ...]:
    if isinstance(tensors, tuple):
        return tensors
    return () if tensors is None else (tensors,)


# Samples without their axis -> with an axis of one, where it was.
def _batch_of_one(tensors: Tensors, axes: Axes) -> Tensors:
    if isinstance(tensors, tuple):
        each = axes if isinstance(axes, tuple) else (axes,) * len(tensors)
        return tuple(_batch_of_one(t, axis) for t, axis in zip(tensors, each, strict=True))
    return tensors if tensors is None or axes is None else tensors.unsqueeze(axes)
