"""The programs that people learn recurrent networks with, run as they write them."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import CrossEntropyLoss, Embedding, Linear, Module, MSELoss
from torch.nn.functional import one_hot
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman

# --- shapes -------------------------------------------------------------------------------------


def test_a_small_batch_first_network_has_two_outputs_per_step() -> None:
    output, _ = elman.RNN(3, 2, batch_first=True)(torch.randn(1, 3, 3))
    assert output.shape == (1, 3, 2)


def test_the_last_output_of_a_batch_first_network_is_its_state() -> None:
    out, h = elman.RNN(8, 32, batch_first=True)(torch.randn(16, 5, 8))
    assert out.shape == (16, 5, 32)
    assert h.shape == (1, 16, 32)
    torch.testing.assert_close(out[:, -1, :], h.squeeze(0), rtol=0, atol=0)


def test_one_hot_text_goes_in_time_first() -> None:
    rnn = elman.RNN(1027, 256)
    state = torch.zeros(1, 2, 256)
    x = one_hot(torch.randint(1027, (35, 2)), 1027).float()
    y, new_state = rnn(x, state)
    assert y.shape == (35, 2, 256)
    assert new_state.shape == (1, 2, 256)


def test_the_directions_of_the_output_come_apart_by_view() -> None:
    output, h_n = elman.GRU(3, 4, bidirectional=True)(torch.randn(5, 2, 3))
    directions = output.view(5, 2, 2, 4)
    torch.testing.assert_close(directions[-1, :, 0], h_n[0], rtol=0, atol=0)
    torch.testing.assert_close(directions[0, :, 1], h_n[1], rtol=0, atol=0)


# --- the state ----------------------------------------------------------------------------------


def test_a_cell_stepped_by_hand_is_the_layer() -> None:
    rnn, cell = elman.RNN(3, 4), elman.RNNCell(3, 4)
    for name, parameter in cell.named_parameters():
        parameter.data = getattr(rnn, f"{name}_l0").data
    x, h = torch.randn(6, 2, 3), torch.zeros(2, 4)
    steps = []
    for x_t in x:
        h = cell(x_t, h)
        steps.append(h)
    output, h_n = rnn(x)
    torch.testing.assert_close(torch.stack(steps), output)
    torch.testing.assert_close(h, h_n[0])


def test_no_state_is_a_state_of_zeros() -> None:
    rnn, x = elman.RNN(3, 4, 2), torch.randn(6, 2, 3)
    torch.testing.assert_close(rnn(x)[0], rnn(x, torch.zeros(2, 2, 4))[0], rtol=0, atol=0)


def test_a_state_that_is_passed_on_continues_the_sequence() -> None:
    lstm, x = elman.LSTM(3, 4, 2), torch.randn(6, 2, 3)
    whole, end = lstm(x)
    first, state = lstm(x[:4])
    second, state = lstm(x[4:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(state, end)


def test_a_layer_does_not_remember_its_last_call() -> None:
    lstm, x = elman.LSTM(3, 4), torch.randn(6, 2, 3)
    torch.testing.assert_close(lstm(x)[0], lstm(x)[0], rtol=0, atol=0)


def test_batch_first_is_batch_then_time_and_leaves_the_state_alone() -> None:
    by_batch, by_time = elman.RNN(3, 4, batch_first=True), elman.RNN(3, 4)
    by_time.load_state_dict(by_batch.state_dict())
    x, h_0 = torch.randn(2, 6, 3), torch.randn(1, 2, 4)
    output, h_n = by_batch(x, h_0)
    expected, expected_h_n = by_time(x.transpose(0, 1), h_0)
    torch.testing.assert_close(output, expected.transpose(0, 1))
    torch.testing.assert_close(h_n, expected_h_n)


# --- "hello" -> "ohlol" -------------------------------------------------------------------------

LETTERS = "ehlo"
HELLO = torch.tensor([LETTERS.index(letter) for letter in "hello"])
OHLOL = torch.tensor([LETTERS.index(letter) for letter in "ohlol"])


class SteppedCell(Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = elman.RNNCell(input_size=4, hidden_size=4)

    def forward(self) -> Tensor:
        hidden = torch.zeros(1, 4)
        steps = []
        for x in one_hot(HELLO, 4).float().view(-1, 1, 4):
            hidden = self.cell(x, hidden)
            steps.append(hidden)
        return torch.cat(steps)


class WholeSequence(Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = elman.RNN(input_size=4, hidden_size=4, num_layers=1)

    def forward(self) -> Tensor:
        x = one_hot(HELLO, 4).float().view(5, 1, 4)
        output, _ = self.rnn(x, torch.zeros(1, 1, 4))
        return output.view(-1, 4)


class Embedded(Module):
    def __init__(self, layer: Callable[..., Module], embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = Embedding(4, embedding)
        self.rnn = layer(embedding, hidden, num_layers=2, batch_first=True)
        self.head = Linear(hidden, 4)

    def forward(self) -> Tensor:
        output, _ = self.rnn(self.embedding(HELLO.view(1, 5)))
        return self.head(output).view(-1, 4)


class HandWrittenLSTM(Module):
    """Each gate has its own two maps, and the candidate is a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.of_x = torch.nn.ModuleList(Linear(4, 8) for _ in "ifgo")
        self.of_h = torch.nn.ModuleList(Linear(8, 8) for _ in "ifgo")
        self.head = Linear(8, 4)

    def states(self) -> Iterator[tuple[Tensor, Tensor]]:
        h, c = torch.zeros(1, 8), torch.zeros(1, 8)
        for x in one_hot(HELLO, 4).float().view(-1, 1, 4):
            i, f, g, o = (a(x) + b(h) for a, b in zip(self.of_x, self.of_h, strict=True))
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            yield h, c

    def forward(self) -> Tensor:
        return self.head(torch.cat([h for h, _ in self.states()]))


def train(model: Module, epochs: int, lr: float) -> tuple[list[str], list[float]]:
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    predicted, losses = [], []
    for _ in range(epochs):
        optimizer.zero_grad()
        logits = model()
        loss = CrossEntropyLoss()(logits, OHLOL)
        loss.backward()
        optimizer.step()
        predicted.append("".join(LETTERS[i] for i in logits.argmax(1)))
        losses.append(loss.item())
    return predicted, losses


@pytest.mark.parametrize(
    ("model", "epochs", "lr"),
    [
        (SteppedCell, 15, 0.1),
        (WholeSequence, 15, 0.1),
        (lambda: Embedded(elman.RNN, 10, 8), 15, 0.05),
        (HandWrittenLSTM, 15, 0.1),
        (lambda: Embedded(elman.LSTM, 10, 8), 15, 0.1),
        (lambda: Embedded(elman.GRU, 10, 8), 15, 0.05),
    ],
    ids=["RNNCell", "RNN", "Embedding and RNN", "LSTM by hand", "Embedding and LSTM", "GRU"],
)
def test_hello_becomes_ohlol(model: Callable[[], Module], epochs: int, lr: float) -> None:
    torch.manual_seed(2)
    predicted, losses = train(model(), epochs, lr)
    assert predicted[-1] == "ohlol", predicted
    assert losses[-1] < losses[0] / 2


def test_the_loss_can_be_printed_and_plotted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    predicted, losses = train(SteppedCell(), 3, 0.1)
    for epoch, (text, loss) in enumerate(zip(predicted, losses, strict=True), 1):
        print(f"Predicted string: {text}, epoch [{epoch}/3] loss = {loss:.4f}")
    pyplot.plot(range(1, 4), losses)
    pyplot.savefig(tmp_path / "loss.png")
    pyplot.close()
    assert capsys.readouterr().out.count("Predicted string: ") == 3
    assert (tmp_path / "loss.png").stat().st_size > 0


def test_an_lstm_written_by_hand_is_the_layer_with_the_same_weights() -> None:
    by_hand, lstm = HandWrittenLSTM(), elman.LSTM(4, 8)
    with torch.no_grad():
        for target, of in (("ih", by_hand.of_x), ("hh", by_hand.of_h)):
            getattr(lstm, f"weight_{target}_l0").copy_(torch.cat([gate.weight for gate in of]))
            getattr(lstm, f"bias_{target}_l0").copy_(torch.cat([gate.bias for gate in of]))
    output, (h_n, c_n) = lstm(one_hot(HELLO, 4).float().view(5, 1, 4))
    states = list(by_hand.states())
    torch.testing.assert_close(output, torch.stack([h for h, _ in states]))
    torch.testing.assert_close((h_n[0], c_n[0]), states[-1])


def test_an_embedding_inside_the_loop_is_trained() -> None:
    model = Embedded(elman.GRU, 10, 8)
    before = model.embedding.weight.detach().clone()
    train(model, 1, 0.1)
    assert not torch.equal(model.embedding.weight, before)


# --- a sine wave --------------------------------------------------------------------------------


def test_a_sine_wave_is_forecast_with_a_carried_state() -> None:
    torch.manual_seed(0)
    rnn, head = elman.RNN(1, 16, batch_first=True), Linear(16, 1)
    optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters()], lr=0.01)
    hidden, losses = None, []
    for step in range(150):
        time = torch.linspace(step * math.pi, (step + 1) * math.pi, 21)
        wave = torch.sin(time).view(1, -1, 1)
        output, hidden = rnn(wave[:, :-1], hidden)
        hidden = hidden.detach()  # the next step continues the wave, but not its graph
        loss = MSELoss()(head(output), wave[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses[-10:]) < 0.01 < losses[0]


def test_a_state_that_is_not_detached_keeps_its_graph() -> None:
    rnn, x = elman.RNN(1, 4), torch.randn(5, 1, 1)
    _, hidden = rnn(x)
    output, hidden = rnn(x, hidden)
    output.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        rnn(x, hidden)[0].sum().backward()


# --- shapes of problems -------------------------------------------------------------------------


def test_many_to_one_learns_from_the_last_output() -> None:
    torch.manual_seed(0)
    lstm, head = elman.LSTM(1, 16, batch_first=True), Linear(16, 2)
    optimizer = torch.optim.Adam([*lstm.parameters(), *head.parameters()], lr=0.03)
    x = torch.randn(64, 6, 1)
    label = (x.sum((1, 2)) > 0).long()
    for _ in range(60):
        output, _ = lstm(x)
        logits = head(output[:, -1])
        optimizer.zero_grad()
        CrossEntropyLoss()(logits, label).backward()
        optimizer.step()
    assert (logits.argmax(1) == label).float().mean() > 0.95


class EncoderDecoder(Module):
    """Reads a sequence of one length and writes one of another."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding(5, 8)
        self.encoder = elman.GRU(8, 24)
        self.decoder = elman.GRUCell(8, 24)
        self.head = Linear(24, 5)

    def forward(self, source: Tensor, length: int, start: int = 4) -> Tensor:
        _, h_n = self.encoder(self.embedding(source))
        state, token = h_n[0], torch.full((source.shape[1],), start)
        steps = []
        for _ in range(length):
            state = self.decoder(self.embedding(token), state)
            logits = self.head(state)
            token = logits.argmax(1)
            steps.append(logits)
        return torch.stack(steps)


def test_an_encoder_and_a_decoder_translate_between_lengths() -> None:
    torch.manual_seed(0)
    model = EncoderDecoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    source = torch.cartesian_prod(*[torch.arange(3)] * 3).T  # three letters
    target = source.flip(0)[:2]  # the last two, backwards
    for _ in range(80):
        logits = model(source, 2)
        optimizer.zero_grad()
        CrossEntropyLoss()(logits.flatten(0, 1), target.flatten()).backward()
        optimizer.step()
    assert torch.equal(model(source, 2).argmax(2), target)


@pytest.mark.parametrize("layer", [elman.RNN, elman.LSTM, elman.GRU])
def test_in_a_ragged_batch_the_last_state_is_each_sequences_own(
    layer: Callable[..., Module],
) -> None:
    rnn = layer(3, 4, batch_first=True)
    lengths = torch.tensor([2, 5, 3])
    x = torch.randn(3, 5, 3)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    packed_output, state = rnn(packed)
    output, got = pad_packed_sequence(packed_output, batch_first=True)
    assert torch.equal(got, lengths)
    h_n = state[0] if layer is elman.LSTM else state
    torch.testing.assert_close(h_n[0], output[torch.arange(3), lengths - 1], rtol=0, atol=0)
    for i, length in enumerate(lengths):
        torch.testing.assert_close(output[i, :length], rnn(x[i, :length])[0])
        assert not output[i, length:].any()
