"""What people put into a recurrent layer beside its cell: the keyword options that all layers have.

Here stands everything about them: names, types and defaults, the rule of each and its error, the
initial values that they ask for, the masks of a call, and which of them another form of the layer
would lose. What acts at every step, `elman.shapes.Recurrence`, is computed by the core and by
`elman.reference`; `elman.nn` does the rest between the layers of a stack.

Off by default, and any of them may be combined.
"""

import inspect
import math
import re
from collections.abc import Iterator
from numbers import Number
from typing import Any, NoReturn, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.nn import init
from torch.nn.functional import dropout

from elman import shapes
from elman.cells import Cell
from elman.language import say
from elman.shapes import KindError, Recurrence, ShapeError

__all__ = [
    "ARGUMENTS",
    "DEFAULTS",
    "PLACE",
    "HasOptions",
    "Options",
    "acting",
    "checked",
    "documented",
    "initialise",
    "is_plain",
    "recurrence",
    "refuse",
    "thinned",
]

PLACE = "        **options: The keyword arguments of `elman.options.Options`, all off by default.\n"
"""Where a docstring has, for those who read it at run time, these in its place."""

ARGUMENTS = """\
        recurrent_dropout: The probability of zeroing a feature of h in the recurrent product, in
            training: one mask for each sequence of a call (Gal and Ghahramani 2016).
        zoneout: The probability with which each feature of the state stays as it was before a step,
            in training; in evaluation the expectation of that. One number for all states, or
            (p_c, p_h) of a cell with h and c (Krueger et al. 2017).
        weight_dropout: The probability of zeroing an element of weight_hh, in training: one mask
            for each call (Merity et al. 2017).
        layer_norm: Whether W_ih x, W_hh h and c are normalised (Ba et al. 2016), with parameters
            gain_ih, gain_hh, gain_c and bias_c.
        cell_clip: The largest absolute value of c, None for no bound. For a cell with c.
        residual: Whether layers after the first add their input to their output.
        init: What the parameters start from: "torch", "keras", "orthogonal" (Saxe et al. 2014) or,
            for time dependencies of up to 100 steps, "chrono(100)" (Tallec and Ollivier 2018).
        forget_bias: What the bias of an LSTM's forget gate starts from, such as 1.0 (Jozefowicz et
            al. 2015); None leaves it to init.
        learn_initial_state: Whether the state before the first step is a parameter, h_0 and c_0,
            zeros at first.
        recompute: Whether training keeps little of a call for the backward pass, which computes
            the rest again: less memory, more time, the same results.
"""


class Options(TypedDict, total=False):
    """The keyword options of every layer, each off by default.

    Attributes:
        recurrent_dropout: p of the mask d in gh = W_hh (d * h) + b_hh, one for each sequence of a
            call, whose elements are 0 with probability p and else 1 / (1 - p). In training.
            Gal and Ghahramani 2016, https://arxiv.org/abs/1512.05287.
        zoneout: p of h' = h where a mask is true and else what the cell computes, drawn at every
            step in training; in evaluation h' = p h + (1 - p) h~. Of c likewise, and h~ is made of
            the c that the cell computes. One number for h and c, or (p_c, p_h) for a cell with h
            and c; of other cells only h stays.
            Krueger et al. 2017, https://arxiv.org/abs/1606.01305.
        weight_dropout: p of zeroing an element of weight_hh, the others over 1 - p, once for each
            call. In training. Merity et al. 2017, https://arxiv.org/abs/1708.02182.
        layer_norm: gx = norm(W_ih x) * gain_ih + b_ih, gh = norm(W_hh h) * gain_hh + b_hh, and h is
            made of norm(c) * gain_c + bias_c; see `elman.cells`. The gains and bias_c are
            parameters. Ba, Kiros and Hinton 2016, https://arxiv.org/abs/1607.06450.
        cell_clip: c' is kept from -cell_clip to cell_clip before h is made of it. For a cell with
            c. Sak, Senior and Beaufays 2014, https://arxiv.org/abs/1402.1128, do so.
        residual: The output of each layer after the first is what it computes plus its input,
            before dropout. Wu et al. 2016, https://arxiv.org/abs/1609.08144.
        init: "torch": all from U(-k, k), k = 1 / sqrt(hidden_size). "keras": weight_ih and
            weight_hr uniform by Glorot and Bengio 2010, weight_hh orthogonal, biases 0, but 1 for
            the forget gate of an LSTM. "orthogonal": the block of weight_hh of each gate is
            orthogonal, the rest as "torch"; Saxe, McClelland and Ganguli 2014,
            https://arxiv.org/abs/1312.6120. "chrono(T)", for LSTM and GRU: the bias of the forget
            gate, or of the GRU's update gate, is log(U(1, T - 1)), and of the LSTM's input gate
            the negative of that, the rest as "torch"; Tallec and Ollivier 2018,
            https://arxiv.org/abs/1804.11188.
        forget_bias: bias_ih of the forget gate of an LSTM starts from this number, and its bias_hh
            from 0. Jozefowicz, Zaremba and Sutskever 2015,
            https://proceedings.mlr.press/v37/jozefowicz15.html.
        learn_initial_state: A call without hx starts from the parameters h_0 and c_0, of shape
            (D * num_layers, features), and so do sequences that start anew without reset_to.
        recompute: Of a layer of RNN, LSTM or GRU on the CPU, only h and c between stretches of
            steps are kept, and the backward pass runs each stretch forward once more. Results and
            the gradients of input and initial state have the same bits; those of the parameters,
            which add up over stretches, may differ by rounding. With options that act at every
            step, with other cells, on other devices and in torch.compile, a layer is computed again
            as a whole. `states` and torch.func keep what they read.
    """

    recurrent_dropout: float
    zoneout: float | tuple[float, float]
    weight_dropout: float
    layer_norm: bool
    cell_clip: float | None
    residual: bool
    init: str
    forget_bias: float | None
    learn_initial_state: bool
    recompute: bool


class HasOptions:
    """The options of a layer as attributes; as they are here in layers that were made without."""

    recurrent_dropout: float = 0.0
    zoneout: float | tuple[float, float] = 0.0
    weight_dropout: float = 0.0
    layer_norm: bool = False
    cell_clip: float | None = None
    residual: bool = False
    init: str = "torch"
    forget_bias: float | None = None
    learn_initial_state: bool = False
    recompute: bool = False


DEFAULTS = {name: getattr(HasOptions, name) for name in Options.__annotations__}
"""The options by their names, as they are where nothing is asked for."""

_Class = TypeVar("_Class", bound=type)


def documented(cls: _Class) -> _Class:
    """Give the options of a constructor to those who ask Python for its signature and docstring."""
    signature = inspect.signature(cls.__init__)  # type: ignore[misc]
    *parameters, last = signature.parameters.values()
    if last.kind is inspect.Parameter.VAR_KEYWORD:
        for name, kind in Options.__annotations__.items():
            keyword, default = inspect.Parameter.KEYWORD_ONLY, DEFAULTS[name]
            parameters.append(inspect.Parameter(name, keyword, default=default, annotation=kind))
        cls.__init__.__signature__ = signature.replace(parameters=parameters)  # type: ignore[misc]
    cls.__doc__ = (cls.__doc__ or "").replace(PLACE, ARGUMENTS)
    return cls


# --- rules ------------------------------------------------------------------------------------


def checked(who: Any, cell: Cell, bias: bool, options: Options) -> dict[str, Any]:
    """Check the options that a layer of this cell is made with, and return those that are set.

    Raises:
        KindError: an option has the wrong type.
        ShapeError: an option is out of range, or means nothing for this cell.
        TypeError: there is no such option.
    """
    for name in options:
        if name not in DEFAULTS:
            raise TypeError(
                f"{type(who).__name__}.__init__() got an unexpected keyword argument {name!r}"
            )
    given = {**DEFAULTS, **options}
    for name in ("layer_norm", "residual", "learn_initial_state", "recompute"):
        shapes.flag(who, name, given[name])
    for name in ("recurrent_dropout", "weight_dropout"):
        given[name] = _probability(who, name, given[name])
        if given[name] and not cell.recurrent:
            _fail(
                who,
                "{name} must be 0, got {got}: {cell} has no recurrent product",
                name=name,
                got=given[name],
                cell=cell.name,
            )
    given["zoneout"] = _zoneout(who, cell, given["zoneout"])
    if given["cell_clip"] is not None:
        given["cell_clip"] = _clip(who, cell, given["cell_clip"])
    _check_init(who, cell, bias, given["init"])
    if given["forget_bias"] is not None:
        given["forget_bias"] = _number(who, "forget_bias", given["forget_bias"])
        if not _is_lstm(cell):
            _fail(
                who,
                "forget_bias must be None, got {got}: only LSTM has this gate",
                got=given["forget_bias"],
            )
        _check_bias(who, "forget_bias", given["forget_bias"], bias)
    return {name: value for name, value in given.items() if value != DEFAULTS[name]}


def _number(who: object, name: str, value: Any) -> float:
    if not isinstance(value, Number) or isinstance(value, (bool, complex)):
        _fail(who, "{name} must be a number, got {got}", KindError, name=name, got=repr(value))
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        _fail(who, "{name} must be finite, got {got}", name=name, got=number)
    return number


def _probability(who: object, name: str, value: Any) -> float:
    number = _number(who, name, value)
    if not 0 <= number <= 1:
        _fail(who, "{name} must be a probability in [0, 1], got {got}", name=name, got=number)
    return number


def _zoneout(who: object, cell: Cell, value: Any) -> float | tuple[float, float]:
    if not isinstance(value, (tuple, list)):
        return _probability(who, "zoneout", value)
    if cell.states != "hc":
        _fail(
            who,
            "zoneout must be one probability, got {got}: only a cell with the states h and c takes "
            "two",
            got=value,
        )
    if len(value) != 2:
        _fail(who, "zoneout must be one probability or (p_c, p_h), got {got}", KindError, got=value)
    of_c, of_h = (_probability(who, "zoneout", part) for part in value)
    return (of_c, of_h) if of_c or of_h else 0.0


def _clip(who: object, cell: Cell, value: Any) -> float:
    if cell.hidden is None:
        _fail(
            who,
            "cell_clip must be None, got {got}: it bounds the c of an LSTM, or of a cell that was "
            "made with hidden=, and {cell} is neither",
            got=value,
            cell=cell.name,
        )
    bound = _number(who, "cell_clip", value)
    if bound <= 0:
        _fail(who, "cell_clip must be above 0, or None for no bound, got {got}", got=bound)
    return bound


def _check_init(who: object, cell: Cell, bias: bool, value: Any) -> None:
    if not isinstance(value, str):
        _fail(who, "init must be a string, got {got}", KindError, got=repr(value))
    horizon = _horizon(value)
    if value not in ("torch", "keras", "orthogonal") and horizon is None:
        _fail(
            who,
            "init must be 'torch', 'keras', 'orthogonal' or 'chrono(T)' with a number T of time "
            "steps, at least 3, got {got}",
            got=repr(value),
        )
    if horizon is not None:
        if not cell.is_known or cell.name not in ("lstm", "gru", "gru_reset_before"):
            _fail(
                who,
                "init must be 'torch', 'keras' or 'orthogonal', got {got}: only LSTM and GRU have "
                "the gates that chrono sets",
                got=repr(value),
            )
        _check_bias(who, "init", repr(value), bias)


def _check_bias(who: object, name: str, value: object, bias: bool) -> None:
    if not bias:
        _fail(who, "{name} must be left out with bias=False, got {got}", name=name, got=value)


# T of "chrono(T)"
def _horizon(value: str) -> int | None:
    found = re.fullmatch(r"chrono\((\d{1,9})\)", value)
    return int(found[1]) if found and int(found[1]) >= 3 else None


def _is_lstm(cell: Cell) -> bool:
    return cell.is_known and cell.name == "lstm"


# Of a module, or of a function by its name.
def _fail(
    who: object, sentence: str, error: type[ShapeError] = ShapeError, /, **values: Any
) -> NoReturn:
    name, text = who if isinstance(who, str) else type(who).__name__, say(sentence, **values)
    raise error(say("{who}: {text}", who=name, text=text))


# --- initial values ---------------------------------------------------------------------------


def initialise(layer: Any) -> None:
    """Set the parameters of a layer, which are as torch.nn draws them, to what its options say."""
    for name, parameter in layer.named_parameters(recurse=False):
        vector = _kind(name)
        if vector in layer._cell.initial:
            init.constant_(parameter, layer._cell.initial[vector])
        elif name in dict(layer._initial_layout):
            init.zeros_(parameter)
    for start in range(0, len(layer._layout), layer._parts):
        run = layer._layout[start : start + layer._parts]
        _initialise(layer, {_kind(name): getattr(layer, name) for name, _ in run if name})


# "weight_ih" of "weight_ih_l0_reverse"
def _kind(name: str) -> str:
    return name.rpartition("_l")[0]


# The parameters of one layer and direction, by their kinds.
def _initialise(layer: Any, weights: dict[str, Tensor]) -> None:
    cell, forget = layer._cell, layer.forget_bias
    biases = [weights[kind] for kind in ("bias_ih", "bias_hh") if kind in weights]
    if layer.init == "keras":
        for kind in ("weight_ih", "weight_hr"):
            if kind in weights:
                init.xavier_uniform_(weights[kind])
        for bias in biases:
            init.zeros_(bias)
        forget = 1.0 if forget is None else forget
    if layer.init in ("keras", "orthogonal") and "weight_hh" in weights:
        for block in _blocks(layer, weights["weight_hh"].detach()):
            wide = torch.promote_types(block.dtype, torch.float32)  # lower ones have no QR
            block.copy_(init.orthogonal_(torch.empty_like(block, dtype=wide)))
    horizon = _horizon(layer.init)
    if horizon is not None:
        times = torch.empty(layer.hidden_size).uniform_(1, horizon - 1).log()
        if "f" in cell.gates:
            _set(cell, biases, "f", times)
            _set(cell, biases, "i", -times)
        else:
            _set(cell, biases, "z", times)
    if forget is not None and _is_lstm(cell) and biases:
        _set(cell, biases, "f", torch.full((layer.hidden_size,), forget))


# The matrices that are to be orthogonal: Keras's has all gates, others one, and none several heads.
def _blocks(layer: Any, weight: Tensor) -> Iterator[Tensor]:
    heads = getattr(layer, "heads", 1)
    if layer.init == "keras" and heads == 1:
        yield weight
    else:
        yield from weight.view(-1, layer.hidden_size // heads, weight.shape[1])


def _set(cell: Cell, biases: list[Tensor], gate: str, values: Tensor) -> None:
    at = cell.gates.index(gate) * len(values)
    for bias, value in zip(biases, (values, torch.zeros(())), strict=True):
        bias.detach()[at : at + len(values)].copy_(value)


# --- calls ------------------------------------------------------------------------------------


def recurrence(layer: Any, input: Tensor, batch: int) -> Recurrence | None:
    """Draw what acts in the recurrence of one layer of a stack; None for nothing.

    Args:
        layer: The module, whose mode counts.
        input: (L, N, H_in), or (rows, H_in) of a packed batch.
        batch: N.
    """
    p, zoneout, clip = layer.recurrent_dropout, layer.zoneout, layer.cell_clip
    drops = p if layer.training else 0
    if not (drops or zoneout or clip):
        return None
    directions, width = layer._num_directions, layer._state_widths[0]

    # The same numbers for every dtype.
    def drawn(*shape: Any) -> Tensor:
        return torch.rand(directions, *shape, device=input.device, dtype=torch.float32)

    factors = None
    if drops:
        keeps = (drawn(batch, width) >= p).to(input.dtype)
        factors = keeps * (1 / (1 - p) if p < 1 else 0.0)
    of_c, of_h = zoneout if isinstance(zoneout, tuple) else (zoneout, zoneout)
    zones: list[Tensor | float | None] = [of_h or None, None]
    if layer._cell.states == "hc":
        zones[1] = of_c or None
    if layer.training:
        widths = (width, layer.hidden_size)
        zones = [
            None if zone is None else drawn(*input.shape[:-1], size) < zone
            for zone, size in zip(zones, widths, strict=True)
        ]
    if factors is None and clip is None and zones[0] is None and zones[1] is None:
        return None
    return Recurrence(factors, zones[0], zones[1], clip)


def thinned(layer: Any, weights: list[Any]) -> list[Any]:
    """Return the weights of a call, those of the recurrent product with some elements dropped."""
    if not (layer.weight_dropout and layer.training):
        return weights
    return [
        dropout(weight, layer.weight_dropout) if i % layer._parts == 1 else weight
        for i, weight in enumerate(weights)
    ]


def acting(layer: Any, training: bool) -> dict[str, Any]:
    """Return the options of a layer that change what it computes, in training or in evaluation."""
    names = ["zoneout", "layer_norm", "cell_clip", "learn_initial_state"]
    if getattr(layer, "num_layers", 1) > 1:
        names.append("residual")
    if training:
        names += ["recurrent_dropout", "weight_dropout"]
    each = ((name, getattr(layer, name, DEFAULTS[name])) for name in names)
    return {name: value for name, value in each if value != DEFAULTS[name]}


def is_plain(layer: HasOptions) -> bool:
    """Return whether no option changes what a single layer computes, or how: False if in doubt."""
    return not (
        layer.zoneout
        or layer.layer_norm
        or layer.cell_clip is not None
        or layer.learn_initial_state
        or layer.recurrent_dropout
        or layer.weight_dropout
        or layer.recompute
    )


def refuse(who: str, layer: Any) -> None:
    """Refuse a layer with an option that acts in evaluation, for one who would lose it.

    Raises:
        ShapeError: it has such an option.
    """
    for name, value in acting(layer, training=False).items():
        _fail(
            who,
            "{option} must be {default} here, got {got}: {layer} would compute something else "
            "without it",
            option=name,
            default=DEFAULTS[name],
            got=value,
            layer=type(layer).__name__,
        )
