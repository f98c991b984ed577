"""The questions that learners ask, each with the call that answers it and the decisive fact.

A row has the question, the call, and what its answer must contain in every language: checks with
their truth, and code, names and numbers that are the same in all; and for each language words that
say it. To add a row: append an `Answer` to `ANSWERS`; what `ask` returns is read by str().
"""

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import elman
from elman.language import LANGUAGES


@dataclass(frozen=True)
class Answer:
    """A question and what answers it.

    Attributes:
        number: Of the question.
        question: Its words.
        ask: Makes the answer in a language.
        checks: Checks of an explanation, and whether they hold.
        facts: Code, names and numbers in the answer, in every language.
        en: Words of the English answer.
        zh: Words of the Chinese answer.
    """

    number: int
    question: str
    ask: Callable[[str], Any]
    checks: Mapping[str, bool] = field(default_factory=dict)
    facts: tuple[str, ...] = ()
    en: str = ""
    zh: str = ""


def explaining(make: Callable[[], nn.Module], *given: Any) -> Callable[[str], Any]:
    """Explain a module, with the same weights in every language."""

    def ask(lang: str) -> Any:
        torch.manual_seed(0)
        return elman.explain(make(), *given, lang=lang)

    return ask


X = torch.randn(16, 5, 3, generator=torch.Generator().manual_seed(0))
usual = explaining(lambda: elman.RNN(3, 32, batch_first=True), X)
deep = explaining(lambda: elman.RNN(3, 4, 2))
lstm = explaining(lambda: elman.LSTM(10, 20, 2, batch_first=True))
two_ways = explaining(lambda: elman.LSTM(10, 20, 2, bidirectional=True))
ragged = explaining(lambda: elman.GRU(3, 4), None, None, [5, 3, 0])
gru = explaining(lambda: elman.GRU(3, 4))
cell = explaining(lambda: elman.RNNCell(3, 4))


class Classifier(nn.Module):
    """As the notes have it: an embedding, a layer, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 10)
        self.rnn = elman.RNN(10, 8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(tokens))[0])


def dead() -> nn.Module:
    layer = elman.RNN(3, 4, nonlinearity="relu")
    nn.init.constant_(layer.bias_ih_l0, -100.0)
    return layer


class OfTheNotes(nn.Module):
    """An LSTM of the notes: one Linear for x and h, and a candidate of sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(4, 4)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = f = o = g = torch.sigmoid(self.gate(x) + self.gate(h))
        c = f * c + i * g
        return o * torch.tanh(c), c


def speaking(ask: Callable[[], Any]) -> Callable[[str], str]:
    """Ask what speaks the chosen language."""

    def spoken(lang: str) -> str:
        torch.manual_seed(0)
        elman.set_language(lang)
        try:
            return str(ask())
        finally:
            elman.set_language("en")

    return spoken


def hello(lang: str) -> str:
    """Run a page whose code asserts the word of each way, and return what it says."""
    docs = Path(__file__).parent.parent / "docs"
    spec = importlib.util.spec_from_file_location("pictures_of_docs", docs / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    page = pictures.FOLDERS[lang] / "hello.md"
    losses = pictures.run(page)["losses"]
    learnt = ", ".join(name for name, values in losses.items() if values[-1] < values[0] / 2)
    return f"{page.read_text(encoding='utf-8')}\n{learnt}"


def single_with_dropout() -> nn.Module:
    with pytest.warns(UserWarning, match="dropout"):
        return elman.GRU(3, 4, dropout=0.5)


ANSWERS = [
    Answer(
        1,
        "Can an RNN's output length differ from its input length?",
        usual,
        {"as_many_steps_out_as_in": True},
        ("output L = 5 == input L = 5", "elman.last", "decoder = elman.GRU"),
        "As many steps come out as go in",
        "输入多少个时间步，就输出多少个时间步",
    ),
    Answer(
        2,
        "What is hidden_state, its shape, and how is it different from output?",
        usual,
        {"output_last_is_h_n": True},
        (
            "(N=16, L=5, D*H_out=32)",
            "(D*num_layers=1, N=16, H_out=32)",
            "output[:, -1] == h_n[-1]: True",
        ),
        "output has that layer at all steps, h_n has all layers at one step",
        "output 是最后一层的所有时间步，h_n 是所有层的最后一步",
    ),
    Answer(
        3,
        "Why does output's shape depend on the sequence length and hidden's not?",
        usual,
        {"parameters_do_not_depend_on_the_length": True},
        ("L = 6: output L = 6, h_n.shape == (1, 16, 32)",),
        "output grows with it; h_n does not, for it is one step",
        "output 随长度增长；h_n 只取一步，大小不变",
    ),
    Answer(
        4,
        "You did not pass a hidden state; is it kept between calls, batches, epochs?",
        usual,
        {"second_call_starts_from_zeros": True, "zeros_are_the_default_state": True},
        ("rnn(x) == rnn(x): True", "elman.Carry(rnn)"),
        "Nothing is kept from one call to the next",
        "两次调用之间不会保留任何状态",
    ),
    Answer(
        5,
        "Which direction is dim 0, 1, 2 of [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]?",
        speaking(lambda: elman.axes(torch.arange(1, 9).view(2, 2, 2), "N L F")),
        {},
        ("[3, 4] N=0, L=1: F = 2", "N=0, L=0: 1 2 | N=0, L=1: 3 4"),
        "In memory, batch first",
        "内存中的顺序，批量在前",
    ),
    Answer(
        6,
        "x is (batch, seq, in), but h0 is (layers, batch, hidden), even with batch_first",
        usual,
        {"batch_first_leaves_the_states_alone": True},
        ("h_0 (D*num_layers=1, N=16, H_out=32)", "(N=16, L=5, H_in=3)"),
        "leaves h_0 and h_n alone",
        "不影响 h_0 和 h_n",
    ),
    Answer(
        7,
        "What does out.view(-1, hidden_size) do?",
        usual,
        {"view_lists_the_steps": True},
        ("output.reshape(-1, 32)[79] == output[15, 4]: True", "logits.reshape(-1, classes)"),
        "80 rows",
        "排成 80 行",
    ),
    Answer(
        8,
        "RNNCell or RNN: when, and why the loop?",
        cell,
        {"cell_by_hand_equals_layer": True, "a_cell_takes_a_sequence": False},
        ("for x_t in steps:",),
        "Where all steps are known, the layer is one call and faster",
        "如果所有时间步都已知，用层只需一次调用，而且更快",
    ),
    Answer(
        9,
        "Why is batch_first False by default? What lies where in memory?",
        gru,
        {"the_second_axis_is_next_in_memory": True},
        ("x.flatten()[3:6] == x[t=0, n=1]: True",),
        "which is why this order is the default",
        "所以默认采用这种顺序",
    ),
    Answer(
        10,
        "Only four parameters whatever the length? What is y_t?",
        usual,
        {"parameters_do_not_depend_on_the_length": True},
        ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "1,184", "y_t"),
        "numbers, whatever the length",
        "与序列长度无关",
    ),
    Answer(
        11,
        "input_size, hidden_size, num_layers: is the number of cells seq_len?",
        lstm,
        {},
        ("L = 5", "num_layers = 2", "hidden_size", "▲", "t=4"),
        "Width: L = 5 time steps, from the data. Height: num_layers = 2",
        "宽度：L = 5 个时间步，由数据决定。高度：num_layers = 2",
    ),
    Answer(
        12,
        "(h, c) of an LSTM: why does len(state) print another number than I expect?",
        lstm,
        {"len_of_h_n_is_the_batch": False},
        ("(h_n, c_n)", "D * num_layers = 2"),
        "2 tensors, so len() of it is 2",
        "共 2 个张量，所以对它调用 len() 得到 2",
    ),
    Answer(
        13,
        "Variable lengths: why is the last state not out[:, -1]?",
        ragged,
        {"output_last_is_h_n": False, "last_is_h_n": True, "lengths_do_not_matter": False},
        ("elman.last(output, lengths) == h_n[-1]: True",),
        "output has zeros past the end of a sequence",
        "序列结束之后 output 为零",
    ),
    Answer(
        14,
        "hello to ohlol in six ways, with the loss of each",
        hello,
        {},
        (
            "RNNCell, RNN, Embedding, RNN, LSTM by hand, Embedding, LSTM, Embedding, GRU",
            "15 ohlol 0.03",
            'assert word == "ohlol"',
        ),
        "Each way has the same task, the same loop of training and 15 epochs",
        "六种方法",
    ),
    Answer(
        15,
        "Is my hand-written LSTM right?",
        speaking(lambda: elman.check_cell(OfTheNotes(), "lstm")),
        {},
        ("sigmoid", "tanh", "i, f, g, o"),
        "x and h share one weight",
        "x 和 h 共用了同一个权重",
    ),
    Answer(
        16,
        "Where is softmax? One-hot or Embedding?",
        explaining(Classifier, torch.tensor([[0, 1, 2, 2, 3]])),
        {"embed.embedding_is_one_hot_times_weight": True},
        ("cross_entropy", "one_hot(x) @ embed.weight == embed(x): True"),
        "It has the softmax inside",
        "它内部已包含 softmax",
    ),
    Answer(
        17,
        "The formula, with numbers",
        explaining(lambda: elman.RNN(3, 2)),
        {"cell_by_hand_equals_layer": True},
        ("h_t = tanh( W_ih x_t + b_ih + W_hh h_(t-1) + b_hh )", "2×3", "t=1, n=0"),
        "One step by hand",
        "手算一步",
    ),
    Answer(
        18,
        "Forecasting a sine wave: what is compared with what?",
        explaining(lambda: elman.RNN(1, 16, batch_first=True)),
        {},
        ("mse_loss(head(output[:, :-1]), x[:, 1:])",),
        "The next value, and further",
        "预测下一个值以及更远",
    ),
    Answer(
        19,
        "seq2seq is an architecture: how does an encoder give its state to a decoder?",
        two_ways,
        {},
        ("torch.cat((h_n[0::2], h_n[1::2]), -1)", "elman.GRU(7, 40, num_layers=2"),
        "an encoder, whose state starts a decoder",
        "用编码器的状态作为解码器的初始状态",
    ),
    Answer(20, "Is there an explanation in Chinese?", lstm, {}, (), "The picture", "示意图"),
    Answer(
        21,
        "Why two biases, and do they differ?",
        gru,
        {"biases_act_by_their_sum": False},
        ("b_hn", "b_in"),
        "Both are added at every step",
        "两个偏置在每一步都会加上",
    ),
    Answer(
        21,
        "Why two biases in an LSTM?",
        lstm,
        {"biases_act_by_their_sum": True},
        ("b_ih", "b_hh"),
        "There are two because cuDNN has two",
        "是因为 cuDNN 有两个",
    ),
    Answer(
        22,
        "An LSTM has five activations, why 4 * hidden rows?",
        lstm,
        {},
        ("4 * hidden_size = 80", "60 ... 79"),
        "the last tanh, of c, has no weights",
        "最后作用于 c 的 tanh 没有权重",
    ),
    Answer(
        23,
        "I reversed the input: why is the backward state not the forward one?",
        explaining(lambda: elman.GRU(3, 4, bidirectional=True), None, None, [5, 3, 2]),
        {
            "backward_is_forward_of_the_reversed_input": False,
            "backward_is_its_own_weights_on_the_reversed_input": True,
        },
        ("_reverse",),
        "each sequence is reversed within its own length",
        "每个序列在自己的长度之内反转",
    ),
    Answer(
        24,
        "dropout except on the last layer: layer or time step?",
        explaining(lambda: elman.GRU(3, 4, 2, dropout=0.5)),
        {"dropout_acts_between_layers": True},
        ("dropout=1: gru.train()(x)[0].any() == True: True",),
        "zeroes what goes from a layer to the one above, at every step",
        "在每个时间步把从一层传到上一层的值置零",
    ),
    Answer(
        24,
        "What does dropout do with one layer?",
        explaining(single_with_dropout),
        {"dropout_does_nothing_with_one_layer": True},
        ("num_layers=1",),
        "dropout acts between layers, so with num_layers=1 it does nothing",
        "num_layers=1 时不起作用",
    ),
    Answer(
        25,
        "The same model trains in Keras and not here",
        lstm,
        {},
        ("elman.from_keras", "U(-k, k)"),
        "Keras begins otherwise",
        "Keras 的初始化不同",
    ),
    Answer(
        26,
        "What is return_sequences=False here?",
        two_ways,
        {"output_last_is_h_n": False, "last_is_h_n": True},
        ("return_sequences=False", "summary = elman.last(output, bidirectional=True)"),
        "One vector for each sequence",
        "每个序列一个向量",
    ),
    Answer(
        27,
        "Trying to backward through the graph a second time: where to detach?",
        lstm,
        {"state_passed_on_carries_its_graph": True},
        ("hx = (hx[0].detach(), hx[1].detach())", "Trying to backward through the graph"),
        "so once per chunk, and not at every step",
        "也就是每段一次，而不是每一步一次",
    ),
    Answer(
        28,
        "The output is the same for every element of the batch; the loss stays",
        explaining(dead),
        {
            "rows_of_the_batch_differ": False,
            "few_units_are_dead": False,
            "all_parameters_learn": True,
        },
        ("zero_grad",),
        "look for units that are dead or saturated",
        "请检查隐藏单元是否失活或饱和",
    ),
    Answer(
        29,
        "Is LSTM(..., num_layers=2) two LSTMs? How do I get the lower layer's states?",
        lstm,
        {"layers_are_stacked_modules": True, "output_last_is_the_first_layer": False},
        (
            *("upper(lower(x)[0]) == lstm(x): True", "below, _ = lower(x)"),
            *("states = lstm.states(x)", "gates = elman.gates(lstm, x)"),
        ),
        "2 layers are 2 LSTM modules, stacked",
        "2 层就是 2 个 LSTM 模块堆叠起来",
    ),
    Answer(
        30,
        "Is num_layers, or the number of cells, the sequence length?",
        usual,
        {"parameters_do_not_depend_on_the_length": True},
        (),
        "num_layers is the height of the picture, L its width",
        "num_layers 是示意图的高度，L 是宽度",
    ),
    Answer(
        31,
        "Windows over a series: which rows have no target?",
        gru,
        {},
        ("mse_loss(head(output[:-1]), x[1:])", "the last step has no target yet"),
        "The next value",
        "预测下一个值",
    ),
    Answer(
        32,
        "How do I predict beyond my data?",
        gru,
        {},
        ("beyond the data: each prediction is the next input", "out, hx = gru(value, hx)"),
        "The next value, and further",
        "预测下一个值以及更远",
    ),
    Answer(
        33,
        "From one step to five: recursive, direct, or sequence to sequence?",
        gru,
        {},
        ("5 * 3", "decoder ="),
        "Five values at once (direct). The loop above is recursive",
        "一次预测五个值（直接法）。上面的循环是递归法",
    ),
    Answer(
        34,
        "Why does a network that is one step behind look so good?",
        gru,
        {},
        (),
        "looks good in a plot even if it only repeats the last value",
        "即使模型只是重复上一个值，单步预测的曲线看起来也很好",
    ),
    Answer(
        35,
        "Why is an LSTM so bad at a straight line?",
        lstm,
        {"units_are_bounded": True},
        ("lstm(1000 * x): -1 <= h <= 1: True",),
        "so a rising line soon saturates it",
        "不断上升的直线很快会使它饱和",
    ),
    Answer(
        36,
        "z and 1 - z are swapped between papers and libraries",
        gru,
        {"update_gate_of_one_keeps_h": True},
        ("h_t = (1 - z_t) * n_t + z_t * h_(t-1)", "ONNX"),
        "Here z keeps the old state",
        "这里 z 保留旧状态",
    ),
    Answer(
        37,
        "Streaming: one sample or a window? Why is my output choppy?",
        gru,
        {"state_passed_on_continues": True, "state_not_passed_on_continues": False},
        ("for x_t in x: out, hx = gru(x_t, hx)  ==  gru(x): True",),
        "what came before is lost, and a stream sounds choppy",
        "之前的信息丢失，流式输出会断断续续",
    ),
    Answer(
        38,
        "What should h_0 and c_0 be; may they be learnt?",
        lstm,
        {"zeros_are_the_default_state": True},
        ("h_0 = torch.nn.Parameter(torch.zeros(2, 1, 20))",),
        "it may be learnt",
        "它可以作为参数学习",
    ),
    Answer(
        39,
        "Why can a decoder not be bidirectional?",
        two_ways,
        {"state_passed_on_continues": False},
        ("torch.cat((h_n[0::2], h_n[1::2]), -1)",),
        "The decoder writes one step after the other, so it has one direction",
        "解码器一步接一步地生成，所以只能是单向的",
    ),
    Answer(
        40,
        "Does the state reset at an episode's end by itself?",
        gru,
        {},
        ("carry.reset()  # an episode ends: nothing resets by itself",),
        "State from call to call (streams, truncated backpropagation, episodes)",
        "在多次调用之间传递状态（流式数据、截断反向传播、强化学习的回合）",
    ),
    Answer(
        41,
        'h_n "for each element in the sequence"?',
        ragged,
        {"a_row_alone_gives_the_same": True},
        ("h_n[:, n] == gru(x_n)[1], n = 0, ..., 2: True",),
        "h_n has each sequence of the batch at its own last step",
        "h_n 包含批次中每个序列在自己最后一步的状态",
    ),
    Answer(
        42,
        "bfloat16 autocast crashes or is slower on my processor",
        lstm,
        {"bfloat16_autocast_gives_the_same": True},
        ("torch.autocast('cpu', torch.bfloat16): lstm(x): True",),
        "elman rounds what it multiplies",
        "elman 只把相乘的数舍入为 bfloat16",
    ),
    Answer(
        43,
        "Where is layer k, direction d in h_n?",
        two_ways,
        {"h_n_is_layers_by_directions": True, "h_n_2_and_1_is_the_summary": False},
        ("h_n.view(2, 2, 3, 20)[k, d] == h_n[2 * k + d]: True",),
        "layer by layer",
        "h_n 按层排列",
    ),
]


def flat(text: str) -> str:
    """A text without its line breaks, of which Chinese leaves no space."""
    text = re.sub(r"\s*\n\s*", "\n", text)
    text = re.sub(
        r"(?<=[\u2e80-\u9fff，。：；、）“”（])\n|\n(?=[\u2e80-\u9fff，。：；、（“”）])", "", text
    )
    return re.sub(r"[ \n]+", " ", text)


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda a: f"{a.number}: {a.question}")
def test_a_question_is_answered(answer: Answer, lang: str) -> None:
    told = answer.ask(lang)
    text = flat(str(told))
    holds = {key: truth for key, _, truth in getattr(told, "checks", ())}
    assert {key: holds[key] for key in answer.checks} == answer.checks
    facts = [flat(fact) for fact in answer.facts]
    spaceless = text.replace(" ", "")
    assert [fact for fact in facts if fact.replace(" ", "") not in spaceless] == [], text
    words = getattr(answer, lang)
    assert words.replace(" ", "") in spaceless, text


def test_every_question_has_an_answer() -> None:
    answered = {answer.number for answer in ANSWERS}
    assert answered == set(range(1, 44))
