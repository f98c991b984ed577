"""The equations of a cell as lines of terms, each term with its size in this call."""

from elman.explanation.call import Call
from elman.language import say

__all__ = ["activation", "equations", "gate_names", "of_biases", "parameters", "parts"]

Line = tuple[list[tuple[str, str]], str]


def gate_names(call: Call, language: str | None) -> dict[str, str]:
    """Return what each gate is called, in the order in which its rows are stored."""
    words = {
        "i": say("input gate", language=language),
        "f": say("forget gate", language=language),
        "g": say("candidate", language=language),
        "o": say("output gate", language=language),
        "r": say("reset gate", language=language),
        "z": say("update gate", language=language),
        "n": say("candidate", language=language),
        "h": say("new state", language=language),
    }
    return {gate: words.get(gate, "") if call.is_known else "" for gate in call.cell.gates}


def activation(call: Call, gate: str) -> str:
    """Return the function of a gate, if it is known."""
    if not call.is_known:
        return ""
    if gate in "gn":
        return "tanh"
    if gate == "h":
        return "relu" if call.cell.name == "rnn_relu" else "tanh"
    return "σ"


def parts(call: Call) -> int:
    """Return the number of activations in one step; the last tanh of an LSTM is no gate."""
    return len(call.cell.gates) + (call.cell.name == "lstm")


def of_biases(call: Call, language: str | None) -> str:
    """Return what the two biases of a known cell do."""
    if call.cell.name == "gru":
        return say(
            "b_hn is inside the product with the reset gate, so it is not the same as b_in. "
            "For r and z only the sum of the two biases acts. Both are added at every step.",
            language=language,
        )
    return say(
        "Two biases: only the sum of b_ih and b_hh acts, and both are added at every "
        "step. There are two because cuDNN has two.",
        language=language,
    )


def equations(call: Call, language: str | None) -> list[Line]:
    """Return the lines of one step of the lowest layer."""
    gates, names = call.cell.gates, gate_names(call, language)
    width, h = str(call.hidden_size), str(call.width)
    x_terms = [(f"{call.hidden_size}×{call.input_size}", str(call.input_size))]
    wx, x = x_terms[0]
    wh = f"{call.hidden_size}×{call.width}"

    def affine(gate: str, state: str = "h_(t-1)") -> list[tuple[str, str]]:
        terms = [(f"W_i{gate}", wx), ("x_t", x)]
        if call.bias:
            terms += [("+", ""), (f"b_i{gate}", width)]
        terms += [("+", ""), *recurrent(gate, state)]
        return terms

    def recurrent(gate: str, state: str) -> list[tuple[str, str]]:
        terms = [(f"W_h{gate}", wh), (state, h)]
        return [*terms, ("+", ""), (f"b_h{gate}", width)] if call.bias else terms

    def gate_line(gate: str, terms: list[tuple[str, str]]) -> Line:
        function = activation(call, gate)
        return [(f"{gate}_t", width), ("=", ""), (f"{function}(", ""), *terms, (")", "")], names[
            gate
        ]

    if call.cell.name in ("rnn_tanh", "rnn_relu"):
        return [gate_line("h", affine("h"))]
    if call.cell.name == "lstm":
        lines = [gate_line(gate, affine(gate)) for gate in gates]
        terms = [("f_t", width), ("*", ""), ("c_(t-1)", width), ("+", ""), ("i_t", width)]
        lines.append(
            (
                [("c_t", width), ("=", ""), *terms, ("*", ""), ("g_t", width)],
                say("cell state, kept beside h", language=language),
            )
        )
        end = [("o_t", width), ("*", ""), ("tanh(", ""), ("c_t", width), (")", "")]
        if call.proj_size:
            end = [("W_hr", f"{call.width}×{call.hidden_size}"), ("(", ""), *end, (")", "")]
        lines.append(
            ([("h_t", h), ("=", ""), *end], say("hidden state, the output", language=language))
        )
        return lines
    lines = [gate_line(gate, affine(gate)) for gate in "rz"]
    terms = [("W_in", wx), ("x_t", x)] + ([("+", ""), ("b_in", width)] if call.bias else [])
    if call.cell.name == "gru":
        terms += [("+", ""), ("r_t", width), ("*", ""), ("(", ""), *recurrent("n", "h_(t-1)")]
        terms.append((")", ""))
    else:
        terms += [("+", ""), ("W_hn", wh), ("(r_t", width), ("*", ""), ("h_(t-1))", h)]
        terms += [("+", ""), ("b_hn", width)] if call.bias else []
    lines.append(gate_line("n", terms))
    last = [("(1 - z_t)", width), ("*", ""), ("n_t", width), ("+", ""), ("z_t", width)]
    lines.append(
        (
            [("h_t", width), ("=", ""), *last, ("*", ""), ("h_(t-1)", width)],
            say("hidden state, the output", language=language),
        )
    )
    return lines


def parameters(call: Call) -> dict[str, tuple[tuple[str, ...], tuple[int, ...]]]:
    """Return the names of the axes and the size of each parameter, by its name."""
    gates = len(call.cell.gates)
    rows = f"{gates}*hidden_size" if gates > 1 else "hidden_size"
    found: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {}
    for layer in range(call.num_layers):
        for direction in range(call.directions):
            for kind, name in call.names(layer, direction).items():
                weight = call.weights(layer, direction)[call.kinds().index(kind)]
                assert weight is not None
                below = "H_in" if layer == 0 else "D*H_out"
                axes = {
                    "weight_ih": (rows, below),
                    "weight_hh": (rows, "hidden_size" if call.is_cell else "H_out"),
                    "weight_hr": ("H_out", "hidden_size"),
                }.get(kind, (rows,))
                if kind in call.cell.vectors:
                    count = call.cell.vectors[kind]
                    axes = (f"{count}*hidden_size" if count > 1 else "hidden_size",)
                if kind == "weight_hh" and call.heads > 1:
                    axes = (rows, "hidden_size/heads")
                found[name] = (axes, tuple(weight.shape))
    return found
