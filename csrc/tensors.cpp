#include "tensors.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "dispatch.hpp"
#include "gil.hpp"
#include "kernels.hpp"
#include "memory.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace elman {
namespace {

constexpr int kMostDirections = 2, kParts = 5; // parts: the parameters of a direction
constexpr int kMostWeights = kMostDirections * kParts, kMostStates = 2;

// The names of attributes, made once.
struct Names {
  nb::object requires_grad, current_level;
  Names()
      : requires_grad(nb::steal(PyUnicode_InternFromString("requires_grad"))),
        current_level(nb::steal(PyUnicode_InternFromString("_current_level"))) {}
};

const Names& names() {
  static const Names* const made = new Names; // outlives the interpreter's end
  return *made;
}

nb::object answer(nb::handle function) {
  nb::object found = nb::steal(PyObject_CallNoArgs(function.ptr()));
  if (!found.is_valid())
    throw nb::python_error();
  return found;
}

long as_long(nb::handle object) {
  const long n = object.is_valid() ? PyLong_AsLong(object.ptr()) : -1;
  if (n == -1 && PyErr_Occurred())
    throw nb::python_error();
  return n;
}

// Whether a number of the user's is one.
bool is_size(nb::handle object, long& n) {
  n = PyLong_Check(object.ptr()) ? PyLong_AsLong(object.ptr()) : -1;
  PyErr_Clear();
  return n >= 0;
}

// --- the checks of the usual call --------------------------------------------------------------

// What `usual` asks PyTorch: functions of no arguments, two types, a module, two dtypes.
struct Modes {
  explicit Modes(nb::tuple of)
      : transforms(of[0]), watchers(of[1]), tracing(of[2]), autocast(of[3]), grad(of[4]),
        tensor(of[5]), parameter(of[6]), forward_ad(of[7]), float32(of[8]), float64(of[9]) {}

  // Whether PyTorch computes as it reads: nothing is recorded, transformed or lowered.
  bool are_plain() const {
    return answer(transforms).is(Py_False) && as_long(answer(watchers)) == 0 &&
           answer(tracing).is(Py_False) && answer(autocast).is(Py_False) &&
           as_long(attribute(forward_ad, names().current_level)) < 0;
  }
  bool is_plain(nb::handle value) const {
    const nb::handle type(reinterpret_cast<PyObject*>(Py_TYPE(value.ptr())));
    return type.is(tensor) || type.is(parameter);
  }

  nb::handle transforms, watchers, tracing, autocast, grad, tensor, parameter, forward_ad, float32,
      float64;
};

bool requires_grad(nb::handle tensor) {
  const nb::object found = attribute(tensor, names().requires_grad);
  if (!found.is_valid())
    throw nb::python_error();
  return found.is(Py_True);
}

bool has_sizes(nb::handle tensor, const std::array<long, 3>& expected, int axes) {
  std::array<long, 3> sizes;
  return sizes_of(tensor, sizes.data(), 3) == axes &&
         std::equal(sizes.begin(), sizes.begin() + axes, expected.begin());
}

// Whether a module may compute as it stands, and then whether gradients will be asked for, its
// states and its weights, of which there are five for each direction; else None. The rules are
// those of elman.shapes, for input with a batch axis. `directions` is 0 for the module of a cell.
nb::object usual(nb::tuple modes, nb::dict parameters, nb::list layout, nb::handle input,
                 nb::handle hx, nb::handle features, nb::tuple widths, int directions,
                 nb::handle batch_major) {
  const Modes ask(modes);
  const int axes = directions ? 3 : 2, num_weights = directions ? directions * kParts : 4;
  const bool batch_first = batch_major.is(Py_True);
  long sizes[3];
  long input_size = 0;
  if (!(batch_first || batch_major.is(Py_False)) || !is_size(features, input_size) ||
      !ask.is_plain(input) || length(layout) != num_weights || directions > kMostDirections ||
      !ask.are_plain() || sizes_of(input, sizes, 3) != axes || sizes[axes - 1] != input_size ||
      sizes[batch_first ? 1 : 0] == 0)
    return nb::none();
  const nb::handle dtype = is_kind(input, ask.float32)   ? ask.float32
                           : is_kind(input, ask.float64) ? ask.float64
                                                         : nb::handle();
  if (!dtype.is_valid())
    return nb::none();
  const bool with_grad = answer(ask.grad).is(Py_True);
  bool wants = with_grad && requires_grad(input);

  nb::list weights;
  for (Py_ssize_t i = 0; i < num_weights; i++) {
    const nb::handle entry = item(layout, i), name = item(entry, 0), shape = item(entry, 1);
    nb::handle weight = Py_None;
    if (!name.is_none()) {
      weight = PyDict_GetItemWithError(parameters.ptr(), name.ptr());
      if (!weight.is_valid())
        return nb::none();
      std::array<long, 3> expected{};
      const Py_ssize_t rank = length(shape);
      for (Py_ssize_t axis = 0; axis < std::min<Py_ssize_t>(rank, 3); axis++)
        expected[static_cast<std::size_t>(axis)] = as_long(item(shape, axis));
      if (!ask.is_plain(weight) || !has_sizes(weight, expected, static_cast<int>(rank)) ||
          !is_kind(weight, dtype))
        return nb::none();
      wants = wants || (with_grad && requires_grad(weight));
    }
    weights.append(weight);
  }
  if (!directions)
    weights.append(nb::none()); // a cell has no projection

  const Py_ssize_t count = length(widths);
  if (count < 1 || count > kMostStates)
    return nb::none();
  nb::list states;
  if (!hx.is_none() && count > 1 && length(hx) != count)
    return nb::none();
  for (Py_ssize_t i = 0; i < count; i++) {
    const nb::handle state = hx.is_none() || count == 1 ? hx : item(hx, i);
    if (!state.is_none()) {
      const long batch = sizes[axes == 3 && !batch_first ? 1 : 0];
      long width = 0;
      if (!is_size(item(widths, i), width))
        return nb::none();
      const std::array<long, 3> expected =
          axes == 3 ? std::array{long{directions}, batch, width} : std::array{batch, width, 0L};
      if (!ask.is_plain(state) || !has_sizes(state, expected, axes) || !is_kind(state, dtype))
        return nb::none();
      wants = wants || (with_grad && requires_grad(state));
    } else if (!hx.is_none()) {
      return nb::none();
    }
    states.append(state);
  }
  return nb::make_tuple(wants, states, weights);
}

// --- the core on tensors -----------------------------------------------------------------------

// What the core asks tensors, and makes its results by.
struct Maker : Ask {
  explicit Maker(nb::tuple of)
      : Ask(of), new_empty(of[6]), empty_like(of[7]), float32(of[8]), float64(of[9]) {}

  nb::object made(nb::handle like, std::initializer_list<long> sizes) const {
    std::array<nb::object, 4> held;
    std::array<PyObject*, 5> arguments{like.ptr()};
    std::size_t n = 0;
    for (long size : sizes) {
      held[n] = nb::steal(PyLong_FromLong(size));
      arguments[n + 1] = held[n].ptr();
      n++;
    }
    return checked(PyObject_Vectorcall(new_empty.ptr(), arguments.data(), n + 1, nullptr));
  }
  nb::object made_like(nb::handle tensor) const {
    PyObject* const arguments[] = {tensor.ptr()};
    return checked(PyObject_Vectorcall(empty_like.ptr(), arguments, 1, nullptr));
  }

  nb::handle new_empty, empty_like, float32, float64;

private:
  static nb::object checked(PyObject* made) {
    if (!made)
      throw nb::python_error();
    return nb::steal(made);
  }
};

// A call of the core, from its tensors: for a dense batch, which starts anew nowhere.
class Call {
public:
  // Whether the sizes are known and agree; `ask` must outlive this.
  bool has_sizes(const Maker& maker, int cell, nb::handle input, nb::handle states,
                 nb::handle weights) {
    ask = &maker;
    info = &kernels().cells[cell];
    index = cell;
    num_gates = static_cast<long>(std::string_view(info->gates).size());
    num_states = static_cast<int>(std::string_view(info->states).size());
    long sizes[3], of_w_hh[3], of_w_hr[3];
    const int axes = sizes_of(input, sizes, 3);
    const Py_ssize_t count = length(weights), given = length(states);
    if ((axes != 2 && axes != 3) || count < kParts || count % kParts || count > kMostWeights ||
        (given != 0 && given != num_states) || num_states > kMostStates || info->vectors ||
        !info->product)
      return false;
    is_step = axes == 2;
    directions = static_cast<long>(count) / kParts;
    seq_len = is_step ? 1 : sizes[0];
    batch = sizes[axes - 2];
    input_size = sizes[axes - 1];
    const nb::handle w_hh = item(weights, 1), w_hr = item(weights, 4);
    if (w_hh.is_none() || sizes_of(w_hh, of_w_hh, 3) != 2)
      return false;
    hidden_size = of_w_hh[0] / num_gates;
    projection = 0;
    if (!w_hr.is_none()) {
      if (sizes_of(w_hr, of_w_hr, 3) != 2)
        return false;
      projection = of_w_hr[0];
    }
    output_size = projection ? projection : hidden_size;
    is_double = !is_kind(input, ask->float32);
    return !is_double || is_kind(input, ask->float64);
  }

  // The addresses of what is read, if it is there. With `anew`, dtypes and devices are looked at
  // too, for they may have changed since they were.
  bool has_memory(nb::handle input, nb::handle states, nb::handle weights, bool anew) {
    const long rows = seq_len * batch, ends = directions * batch,
               gate_rows = num_gates * hidden_size;
    const std::array<long, kParts> of_weights{gate_rows * input_size, gate_rows * output_size,
                                              gate_rows, gate_rows, projection * hidden_size};
    if (!is_there(input, rows * input_size, anew, x))
      return false;
    std::uintptr_t *const of_states = states_at.data(), *const of_all = weights_at.data();
    for (Py_ssize_t i = 0; i < length(states); i++)
      if (!is_there(item(states, i), ends * (i ? hidden_size : output_size), anew, of_states[i]))
        return false;
    for (Py_ssize_t i = 0; i < directions * kParts; i++)
      if (!is_there(item(weights, i), of_weights.data()[i % kParts], anew, of_all[i]))
        return false;
    return true;
  }

  // The address of one tensor of so many values, 0 for None, if it is there.
  bool is_there(nb::handle tensor, long count, bool anew, std::uintptr_t& address) const {
    address = 0;
    if (tensor.is_none())
      return true;
    const std::size_t item_size = is_double ? sizeof(double) : sizeof(float);
    std::size_t bytes = 0;
    return is_memory(*ask, tensor, item_size, bytes, address) &&
           bytes == static_cast<std::size_t>(count) * item_size &&
           (!anew || is_kind(tensor, is_double ? ask->float64 : ask->float32));
  }

  template <class T>
  Problem<T> problem(std::array<Weights<T>, kMostDirections>& of_directions) const {
    for (std::size_t d = 0; d < static_cast<std::size_t>(directions); d++) {
      const std::uintptr_t* const w = &weights_at[d * kParts];
      of_directions[d] = {at<T>(w[0]), at<T>(w[1]), at<T>(w[2]), at<T>(w[3]), at<T>(w[4])};
    }
    Problem<T> made{};
    made.seq_len = seq_len;
    made.batch = batch;
    made.input_size = input_size;
    made.hidden_size = hidden_size;
    made.projection = projection;
    made.directions = directions;
    made.x = at<T>(x);
    made.h_0 = at<T>(states_at[0]);
    made.c_0 = at<T>(states_at[1]);
    made.weights = of_directions.data();
    return made;
  }

  template <class T>
  static T* at(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
  }
  template <class T>
  T* at(nb::handle tensor) const { // one that was just made
    PyObject* const arguments[] = {tensor.ptr()};
    const nb::object found =
        nb::steal(PyObject_Vectorcall(ask->data_ptr.ptr(), arguments, 1, nullptr));
    const std::size_t address = found.is_valid() ? PyLong_AsSize_t(found.ptr()) : 0;
    if (PyErr_Occurred())
      throw nb::python_error();
    return at<T>(address);
  }

  const Maker* ask = nullptr;
  const CellInfo* info = nullptr;
  int index = 0, num_states = 0;
  long num_gates = 0, directions = 0;
  bool is_step = false, is_double = false;
  long seq_len = 0, batch = 0, input_size = 0, hidden_size = 0, projection = 0, output_size = 0;
  std::uintptr_t x = 0;
  std::array<std::uintptr_t, kMostStates> states_at{};
  std::array<std::uintptr_t, kMostWeights> weights_at{};
};

// The results of elman.core.forward, or None.
nb::object forward_of(nb::tuple ask, int cell, nb::handle input, nb::handle states,
                      nb::handle weights, bool keep, bool in_bf16, int threads) {
  const Maker maker(ask);
  Call call;
  if (!call.has_sizes(maker, cell, input, states, weights) ||
      !call.has_memory(input, states, weights, false))
    return nb::none();
  const long batch = call.batch, directions = call.directions, outputs = call.output_size;
  auto rows = [&](long width, bool is_kept) {
    if (is_kept)
      return call.is_step ? maker.made(input, {directions, batch, width})
                          : maker.made(input, {directions, call.seq_len, batch, width});
    return call.is_step ? maker.made(input, {batch, width})
                        : maker.made(input, {call.seq_len, batch, width});
  };
  nb::list results;
  results.append(rows(directions * outputs, false));
  if (!call.is_step)
    results.append(maker.made(input, {directions, batch, outputs}));
  if (call.num_states > 1)
    results.append(call.is_step ? maker.made(input, {batch, call.hidden_size})
                                : maker.made(input, {directions, batch, call.hidden_size}));
  const nb::object c_n = results[results.size() - 1]; // read as such by cells that have one
  nb::object kept;
  if (keep) {
    kept = rows(call.info->kept * call.hidden_size, true);
    results.append(kept);
  }
  auto run = [&]<class T>(void (*kernel)(int, const Problem<T>&, int)) {
    std::array<Weights<T>, kMostDirections> of_directions;
    Problem<T> problem = call.problem<T>(of_directions);
    problem.y = call.at<T>(results[0]);
    problem.h_n = call.at<T>(results[call.is_step ? 0 : 1]);
    problem.c_n = call.at<T>(c_n);
    problem.keep = keep ? call.at<T>(kept) : nullptr;
    problem.bf16 = bf16_of<T>(in_bf16);
    without_gil([&] { kernel(cell, problem, threads); });
  };
  call.is_double ? run(kernels().forward_double) : run(kernels().forward_float);
  return results;
}

// The results of elman.core.backward, or None. Of each tensor all is looked at once more.
nb::object backward_of(nb::tuple ask, int cell, nb::handle input, nb::handle states,
                       nb::handle weights, nb::handle output, nb::handle kept, nb::handle upstream,
                       nb::handle wanted, bool in_bf16, int threads) {
  const Maker maker(ask);
  Call call;
  if (!call.has_sizes(maker, cell, input, states, weights) ||
      !call.has_memory(input, states, weights, true))
    return nb::none();
  const Py_ssize_t num_states = length(states), num_weights = length(weights);
  const long rows = call.seq_len * call.batch * call.directions,
             ends = call.directions * call.batch;
  std::uintptr_t y = 0, keep = 0;
  std::array<std::uintptr_t, 1 + kMostStates> above{}; // of output, h_n and c_n
  if (num_states != call.num_states || length(wanted) != 1 + num_states + num_weights ||
      length(upstream) != num_states + !call.is_step ||
      !call.is_there(output, rows * call.output_size, true, y) ||
      !call.is_there(kept, rows * call.info->kept * call.hidden_size, true, keep))
    return nb::none();
  for (int i = 0; i < length(upstream); i++) {
    const int at = i && call.is_step ? i + 1 : i; // the output of a step is its h_n
    const long count = at == 0   ? rows * call.output_size
                       : at == 1 ? ends * call.output_size
                                 : ends * call.hidden_size;
    if (!call.is_there(item(upstream, i), count, true, above[static_cast<std::size_t>(at)]))
      return nb::none();
  }

  nb::list gradients;
  std::array<std::uintptr_t, 1 + kMostStates + kMostWeights> of{};
  for (Py_ssize_t i = 0; i < length(wanted); i++) {
    const nb::handle tensor = i == 0            ? input
                              : i <= num_states ? item(states, i - 1)
                                                : item(weights, i - 1 - num_states);
    if (tensor.is_none() || !item(wanted, i).is(Py_True)) {
      gradients.append(nb::none());
      continue;
    }
    const nb::object gradient = maker.made_like(tensor);
    of[static_cast<std::size_t>(i)] = reinterpret_cast<std::uintptr_t>(call.at<void>(gradient));
    gradients.append(gradient);
  }
  auto run = [&]<class T>(void (*kernel)(int, const Problem<T>&, const Gradients<T>&, int)) {
    std::array<Weights<T>, kMostDirections> of_directions;
    std::array<WeightGradients<T>, kMostDirections> dweights;
    Problem<T> problem = call.problem<T>(of_directions);
    problem.y = call.at<T>(y);
    problem.keep = call.at<T>(keep);
    problem.bf16 = bf16_of<T>(in_bf16);
    for (std::size_t d = 0; d < static_cast<std::size_t>(call.directions); d++) {
      const std::uintptr_t* const w = &of[1 + static_cast<std::size_t>(num_states) + d * kParts];
      dweights[d] = {call.at<T>(w[0]), call.at<T>(w[1]), call.at<T>(w[2]), call.at<T>(w[3]),
                     call.at<T>(w[4])};
    }
    Gradients<T> asked{};
    asked.groups = 1;
    asked.dy = call.at<T>(above[0]);
    asked.dh_n = call.at<T>(above[1]);
    asked.dc_n = call.at<T>(above[2]);
    asked.dx = call.at<T>(of[0]);
    asked.dh_0 = call.at<T>(of[1]);
    asked.dc_0 = num_states > 1 ? call.at<T>(of[2]) : nullptr;
    asked.dweights = dweights.data();
    without_gil([&] { kernel(cell, problem, asked, threads); });
  };
  call.is_double ? run(kernels().backward_double) : run(kernels().backward_float);
  return nb::tuple(gradients);
}

} // namespace

void bind_tensors(nb::module_& m) {
  m.def(
      "usual", &usual, "modes"_a, "parameters"_a, "layout"_a, "input"_a.none(), "hx"_a.none(),
      "features"_a.none(), "widths"_a, "directions"_a, "batch_first"_a.none(),
      "(whether gradients are asked for, states, weights) of a call that is as most are, or None.");
  m.def("forward_of", &forward_of, "ask"_a, "cell"_a, "input"_a, "states"_a, "weights"_a, "keep"_a,
        "in_bf16"_a, "threads"_a, "What elman.core.forward returns for a dense batch, or None.");
  m.def("backward_of", &backward_of, "ask"_a, "cell"_a, "input"_a, "states"_a, "weights"_a,
        "output"_a, "kept"_a, "upstream"_a, "wanted"_a, "in_bf16"_a, "threads"_a,
        "What elman.core.backward returns for a dense batch, or None.");
}

} // namespace elman
