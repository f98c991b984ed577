"""The weights of Keras' SimpleRNN, LSTM, GRU and Bidirectional, read into our layers and back.

Keras multiplies from the left: kernel is (H_in, G * H), recurrent_kernel (H, G * H), with a block
of columns for each gate, where we have blocks of rows. Its gates are in the order i, f, g, o and
z, r, n. It has one bias, (G * H,), where we have two that are added; only the GRU with reset_after
needs both, and there it is (2, 3 * H). So to Keras our two are added, and from Keras the second is
zero.

Keras itself is never imported: a layer is known by its class name, get_config and get_weights.

What a Keras layer does besides and ours do not is refused where it changes results, and named in a
warning where it acts in training only. Left out are Keras' cells, whole models and files: of a
model, take the weights of each layer.

Symbols: H_in = input_size, H = hidden_size, D = 2 if bidirectional else 1, G gates.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from elman import options
from elman.language import say
from elman.nn.layers import GRU, LSTM, RNN, Layer
from elman.shapes import KindError, ShapeError

__all__ = ["from_keras", "to_keras"]

_KINDS: dict[int, type[RNN | LSTM | GRU]] = {1: RNN, 3: GRU, 4: LSTM}  # by G

# the gates in our order -> in Keras' order
_ORDERS = {"h": "h", "ifgo": "ifgo", "rzn": "zrn"}

_ACTIVATIONS = {"SimpleRNN": ("tanh", "relu"), "LSTM": ("tanh",), "GRU": ("tanh",)}

_DTYPES = ("float16", "float32", "float64")


def from_keras(
    source: Any,
    *,
    num_layers: int | None = None,
    bidirectional: bool | None = None,
    activation: str | None = None,
    reset_after: bool | None = None,
) -> RNN | LSTM | GRU:
    """Make a layer of ours that computes what a Keras layer does.

    It has batch_first=True, as Keras has. Its output has every step, as with return_sequences; the
    last step is h_n. A bidirectional Keras layer without return_sequences returns both directions'
    h_n side by side. Where Keras takes a mask, give `lengths`.

    The cell is known by the shape of recurrent_kernel, and reset_after by that of the bias.

    Args:
        source: A Keras layer that has been built: SimpleRNN, LSTM, GRU, or one of these in
            Bidirectional with merge_mode "concat". Or its weights, as get_weights() returns them:
            kernel (H_in, G * H), recurrent_kernel (H, G * H) and, with use_bias, bias (G * H,), or
            (2, 3 * H) of a GRU with reset_after. For several layers, or two directions, all of
            these in turn: layer by layer, forward before backward.
        num_layers: With weights, how many layers they are of; 1 if None.
        bidirectional: With weights, whether each layer has two directions; False if None.
        activation: With weights of a SimpleRNN, "tanh" or "relu"; "tanh" if None.
        reset_after: With weights of a GRU without bias, which of the two it is.

    Returns:
        An RNN, LSTM or GRU, with the dtype of the weights, on the CPU. Of two biases where Keras
        has one, the second is zero.

    Raises:
        ShapeError: an array is missing, left over, or has the wrong shape or dtype; or the layer
            has an activation or another setting that ours have not. It is a ValueError.
        KindError: source is neither, or an option is given that the layer itself tells. It is a
            TypeError.

    Example:
        >>> import elman, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> kernel, recurrent, bias = rng.random((3, 16)), rng.random((4, 16)), np.zeros(16)
        >>> elman.from_keras([kernel, recurrent, bias])
        LSTM(3, 4, batch_first=True)
        >>> first, second = [kernel, recurrent], [rng.random((4, 16)), recurrent]
        >>> elman.from_keras([*first, *second], num_layers=2)
        LSTM(3, 4, num_layers=2, bias=False, batch_first=True)
    """
    options = {
        "num_layers": num_layers,
        "bidirectional": bidirectional,
        "activation": activation,
        "reset_after": reset_after,
    }
    told: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if hasattr(source, "get_config") and hasattr(source, "get_weights"):
        if told:
            _fail(
                "with a layer, {names} must not be given: the layer tells it; to read its weights "
                "otherwise, pass layer.get_weights()",
                KindError,
                names=", ".join(told),
            )
        told = _settings(source)
        weights = source.get_weights()
        if not weights:
            _fail("{kind} has no weights yet: call it once, or build it", kind=_name(source))
    elif isinstance(source, (list, tuple)):
        weights = source
    else:
        _fail(
            "source must be a Keras layer or the list of its weights, got {got}: pass "
            "layer.get_weights()",
            KindError,
            got=_name(source),
        )
    return _build([_tensor(weight) for weight in weights], **told)


def to_keras(layer: RNN | LSTM | GRU) -> list[np.ndarray[Any, Any]]:
    """Return the weights of a layer as Keras has them, for `keras_layer.set_weights`.

    The Keras layer is SimpleRNN(hidden_size, activation=layer.nonlinearity), LSTM(hidden_size), or
    GRU(hidden_size, reset_after=layer.reset_after), with use_bias=layer.bias, in Bidirectional if
    the layer is, and it has been built. The weights of several layers come one after the other, as
    the set_weights of a keras.Sequential of as many layers takes them; all but the last of these
    need return_sequences=True.

    Args:
        layer: An RNN, LSTM or GRU of ours, without a projection.

    Returns:
        For each layer and direction kernel (H_in, G * H), recurrent_kernel (H, G * H) and, if the
        layer has biases, bias: their sum (G * H,), or for a GRU with reset_after both (2, 3 * H).
        They share no memory with the layer; bfloat16 is widened to float32, as NumPy has it not.

    Raises:
        KindError: layer is not one of ours. It is a TypeError.
        ShapeError: layer has a projection, or an option such as layer_norm that Keras has not. It
            is a ValueError.

    Example:
        >>> import elman
        >>> [weight.shape for weight in elman.to_keras(elman.GRU(3, 4))]
        [(3, 12), (4, 12), (2, 12)]
    """
    if not isinstance(layer, Layer) or not layer._cell.is_known:
        raise KindError(
            say(
                "to_keras: layer must be an RNN, LSTM or GRU of elman, got {got}: elman.convert "
                "makes those of torch.nn ours",
                got=_name(layer),
            )
        )
    options.refuse("to_keras", layer)
    if layer.proj_size:
        raise ShapeError(
            say(
                "to_keras: proj_size must be 0, got {got}: Keras has no projection",
                got=layer.proj_size,
            )
        )
    gates = layer._cell.gates
    arrays = []
    weights = layer._weights()
    for i in range(0, len(weights), 5):
        run = [w.detach().cpu() for w in weights[i : i + 4] if w is not None]
        w_ih, w_hh, *biases = (_reorder(w, gates, _ORDERS[gates]) for w in run)
        arrays += [w_ih.T, w_hh.T]
        if biases:
            both = torch.stack(biases)
            arrays.append(both if _needs_both(layer) else both.sum(0))
    return [_array(array) for array in arrays]


# --- a Keras layer ----------------------------------------------------------------------------


# The options of `from_keras` that a Keras layer tells.
def _settings(layer: Any) -> dict[str, Any]:
    bidirectional = _name(layer) == "Bidirectional"
    if bidirectional and layer.merge_mode != "concat":
        _fail(
            "Bidirectional: merge_mode must be 'concat', got {got}: pass layer.get_weights() with "
            "bidirectional=True, and merge the two halves of the output",
            got=repr(layer.merge_mode),
        )
    runs = [layer.forward_layer, layer.backward_layer] if bidirectional else [layer]
    configs = [_config(run, bool(reverse)) for reverse, run in enumerate(runs)]
    tell = [
        (_name(run), {key: config[key] for key in ("activation", "reset_after") if key in config})
        for run, config in zip(runs, configs, strict=True)
    ]
    biases = [bool(config.get("use_bias", True)) for config in configs]
    if biases[0] != biases[-1]:
        _fail(
            "Bidirectional: use_bias must be the same in both directions, got {got} forward and "
            "{other} backward: make a layer of each, or give the other a bias of zeros",
            got=biases[0],
            other=biases[-1],
        )
    if tell[0] != tell[-1]:
        _fail(
            "Bidirectional: both directions must be of one kind, got {got} and {other}: make a "
            "layer of each",
            got=tell[0],
            other=tell[-1],
        )
    lost = dict.fromkeys(
        key
        for config in configs
        for key, value in config.items()
        if key.endswith(("dropout", "_regularizer", "_constraint")) and value
    )
    if lost:
        warnings.warn(
            say(
                "from_keras: {names} of the {kind} will not act: what it computes is the same but "
                "in training; to train on, apply them yourself",
                names=", ".join(lost),
                kind=_name(layer),
            ),
            stacklevel=3,  # here, from_keras, and then its caller
        )
    return {"bidirectional": bidirectional} | tell[0][1]


# What a Keras layer that runs in this direction says of itself, if ours compute the same.
def _config(layer: Any, reverse: bool) -> dict[str, Any]:
    name = _name(layer)
    if name not in _ACTIVATIONS:
        _fail(
            "source must be a SimpleRNN, LSTM, GRU or Bidirectional of Keras, got {got}: if it "
            "computes the same as one of these, pass layer.get_weights()",
            KindError,
            got=name,
        )
    config: dict[str, Any] = layer.get_config()
    for setting, values, remedy in (
        ("activation", _ACTIVATIONS[name], say("ours have no other")),
        ("recurrent_activation", ("sigmoid",), say("ours have no other")),
        ("go_backwards", (reverse,), say("flip the input in time, and pass layer.get_weights()")),
        (
            "stateful",
            (False,),
            say("pass layer.get_weights(), and with each call the last state as hx"),
        ),
        ("time_major", (False,), say("pass layer.get_weights(), and transpose the input")),
    ):
        value = config.get(setting, values[0])
        if value not in values:
            rule = say(" or ").join(map(repr, values))
            _fail(
                "{name}: {setting} must be {rule}, got {got}: {remedy}",
                name=name,
                setting=setting,
                rule=rule,
                got=repr(value),
                remedy=remedy,
            )
    return config


# --- arrays -----------------------------------------------------------------------------------


def _build(
    weights: Sequence[Tensor],
    num_layers: int = 1,
    bidirectional: bool = False,
    activation: str = "tanh",
    reset_after: bool | None = None,
) -> RNN | LSTM | GRU:
    if not isinstance(num_layers, int) or num_layers < 1:
        _fail("num_layers must be an int of at least 1, got {got}", KindError, got=repr(num_layers))
    directions = 2 if bidirectional else 1
    runs = num_layers * directions
    got = ", ".join(str(tuple(weight.shape)) for weight in weights) or say("nothing")
    if len(weights) not in (2 * runs, 3 * runs):
        _fail(
            "weights must be kernel, recurrent_kernel and, with use_bias, bias for num_layers * D "
            "= {num_layers} * {directions} runs, {plain} or {biased} arrays, got {got}: {shapes}: "
            "say num_layers and bidirectional",
            num_layers=num_layers,
            directions=directions,
            plain=2 * runs,
            biased=3 * runs,
            got=len(weights),
            shapes=got,
        )
    dtypes = sorted({str(weight.dtype) for weight in weights})
    if len(dtypes) > 1:
        _fail("weights must have one dtype, got {got}: use astype", got=say(" and ").join(dtypes))
    bias = len(weights) == 3 * runs
    kernel, recurrent = weights[:2]
    hidden_size, columns = recurrent.shape if recurrent.dim() == 2 else (0, 0)
    if kernel.dim() != 2 or not hidden_size or columns / hidden_size not in _KINDS:
        _fail(
            "weights must begin with kernel (H_in, G * H) and recurrent_kernel (H, G * H), G = 1 "
            "for SimpleRNN, 3 for GRU and 4 for LSTM, got {got}: pass layer.get_weights()",
            got=got,
        )
    kind = _KINDS[columns // hidden_size]
    options: dict[str, Any] = {}
    if kind is RNN:
        options["nonlinearity"] = activation
    elif activation != "tanh":
        _fail(
            "{kind}: activation must be 'tanh', got {got}: only SimpleRNN has another",
            kind=kind.__name__,
            got=repr(activation),
        )
    if kind is GRU:
        if reset_after is None and not bias:
            _fail(
                "reset_after must be given for the weights of a GRU without bias: Keras' default "
                "is True"
            )
        options["reset_after"] = weights[2].dim() == 2 if reset_after is None else reset_after
    elif reset_after is not None:
        _fail(
            "{kind}: reset_after must not be given: it is a choice of the GRU", kind=kind.__name__
        )

    # Without memory, so that no random numbers are drawn for parameters that are overwritten.
    layer: Any = kind(
        kernel.shape[0],
        hidden_size,
        num_layers,
        bias=bias,
        batch_first=True,
        bidirectional=bidirectional,
        device="meta",
        dtype=kernel.dtype,
        **options,
    )
    both = _needs_both(layer)
    parameters = list(zip(*[iter(layer._layout)] * 5, strict=True))
    expected: list[tuple[int, ...]] = []
    for (_, w_ih), (_, w_hh), *_ in parameters:
        expected += [w_ih[::-1], w_hh[::-1]] + [(2, columns) if both else (columns,)] * bias
    if [tuple(weight.shape) for weight in weights] != expected:
        rule = ", ".join(map(str, expected))
        _fail(
            "weights of this {layer} must be {rule}, got {got}: pass layer.get_weights()",
            layer=layer,
            rule=rule,
            got=got,
        )

    layer.to_empty(device="cpu")
    gates = layer._cell.gates
    rest = iter(weights)
    with torch.no_grad():
        for names in parameters:
            ours = [next(rest).T, next(rest).T]
            if bias:
                b = next(rest)
                ours += (b[0], b[1]) if both else (b, torch.zeros_like(b))
            for (name, _), weight in zip(names, ours, strict=False):
                getattr(layer, name).copy_(_reorder(weight, _ORDERS[gates], gates))
    return layer  # type: ignore[no-any-return]


def _needs_both(layer: Layer) -> bool:
    # The reset gate acts on W_hn h + b_hn, so b_hn cannot move to the other side.
    return layer._cell.name == "gru"


# (G * H, .) or (G * H,): its blocks of rows in another order of the gates, copied
def _reorder(weight: Tensor, have: str, want: str) -> Tensor:
    blocks = weight.chunk(len(have))
    return torch.cat([blocks[have.index(gate)] for gate in want])


def _tensor(weight: Any) -> Tensor:
    if isinstance(weight, Tensor) and weight.is_floating_point():
        return weight.detach().cpu()
    array = np.array(weight)  # a copy, for torch warns of arrays that are read-only
    if array.dtype.name not in _DTYPES:
        _fail(
            "weights must be arrays of {names}, got {got} {shape}: use astype",
            KindError,
            names=say(" or ").join(_DTYPES),
            got=array.dtype,
            shape=array.shape,
        )
    return torch.from_numpy(array)


def _array(weight: Tensor) -> np.ndarray[Any, Any]:
    weight = weight.float() if weight.dtype is torch.bfloat16 else weight
    return np.ascontiguousarray(weight.numpy())


# --- messages ---------------------------------------------------------------------------------


def _name(value: object) -> str:
    return type(value).__name__


def _fail(sentence: str, error: type[ShapeError] = ShapeError, /, **values: Any) -> NoReturn:
    raise error(say("from_keras: {text}", text=say(sentence, **values)))
