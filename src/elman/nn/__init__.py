"""The layers and cells: drop-in for RNN, LSTM, GRU, RNNCell, LSTMCell and GRUCell of torch.nn.

Same arguments in the same order, same parameter names, shapes and initial values, same state
dicts, inputs and outputs. What a module does here is read its parameters by name, bring the user's
arguments into the one form that `elman.ops` computes (time-major, batched, a tuple of states),
stack layers with dropout between them, and bring the results back.

Parameters are read by name at each call and nothing is derived from them and kept: a parameter that
was written to, moved, tied, pruned, or replaced by a computed tensor takes effect at the next call.

Programs ask what a module is. So cells are instances of torch.nn's cells, and layers are of its
RNNBase; of its RNN, LSTM and GRU they are not, for torch.compile refuses whatever is. What these
bases do in their constructors, and RNNBase to keep a list of the parameters, is left out.

Tensors that are not on the CPU go to PyTorch's own recurrent kernels, except those of a GRU with
reset_after=False, which PyTorch does not have. On the CPU, float32 and float64 are computed by the
native core, other dtypes as `elman.ops` says. Under torch.autocast("cpu") a module takes its
weights as they are; the core rounds to bfloat16 what it multiplies, where the machine has
instructions for that, and the results are lowered: all of RNN, RNNCell and LSTM, and of the others
what has a lowered state or input to begin with. That is what torch.nn gives, but that its LSTM
leaves the results of packed input as they are.

Symbols: L time steps, N sequences in the batch, D = 2 if bidirectional else 1, H_in = input_size,
H_out = proj_size or else hidden_size. The equations are in `elman.cells`.
"""

from elman.extras import needed

with needed("elman.nn", "torch"):
    from elman.nn.layers import GRU, LSTM, RNN
from elman.nn.steps import GRUCell, LSTMCell, RNNCell

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]
