#include "sessions.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "chain.hpp"
#include "dispatch.hpp"
#include "gil.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace elman {
namespace {

// The memory of a NumPy array, held for as long as this lives; nothing of anything else. It is
// asked anew at every call, so that whatever the array has become since, no address is wrong.
class Memory {
public:
  explicit Memory(nb::handle array, bool writable = false) {
    if (!PyObject_CheckBuffer(array.ptr()))
      return;
    const int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    is_held_ = PyObject_GetBuffer(array.ptr(), &view_, flags) == 0;
    if (!is_held_)
      PyErr_Clear();
  }
  ~Memory() {
    if (is_held_)
      PyBuffer_Release(&view_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Whether this is a dense array of T of this shape.
  template <class T>
  bool is(std::initializer_list<long> shape) const {
    if (!is_held_ || view_.itemsize != sizeof(T) || !is_format<T>(view_.format) ||
        view_.ndim != static_cast<int>(shape.size()) ||
        reinterpret_cast<std::uintptr_t>(view_.buf) % alignof(T))
      return false;
    const Py_ssize_t* size = view_.shape;
    for (long n : shape)
      if (*size++ != n)
        return false;
    return true;
  }
  int axes() const { return is_held_ ? view_.ndim : 0; }
  long size(int axis) const { return view_.shape[axis]; }
  template <class T>
  T* data() const {
    return static_cast<T*>(view_.buf);
  }
  bool overlaps(const Memory& other) const {
    const char *begin = data<char>(), *others = other.data<char>();
    return begin < others + other.view_.len && others < begin + view_.len;
  }

private:
  template <class T>
  static bool is_format(const char* format) {
    const std::string_view name = format ? format : "B";
    if constexpr (std::is_integral_v<T>) // C's long or long long, of the size that was asked for
      return name == "l" || name == "q";
    else
      return name == (std::is_same_v<T, float> ? "f" : "d");
  }

  Py_buffer view_;
  bool is_held_ = false;
};

// Fewer multiply-adds than this are over before another thread would have got the GIL.
constexpr double kWorthReleasing = 1e6;

template <class F>
bool with_or_without_gil(double multiply_adds, F&& f) {
  if (multiply_adds < kWorthReleasing)
    return f();
  bool result = false;
  without_gil([&] { result = f(); });
  return result;
}

// What a chain reads, of whatever it reads: (outer..., inputs) numbers or (outer...) symbols.
template <class T>
bool is_input(const Chain<T>& chain, const Memory& x, std::initializer_list<long> outer) {
  if (chain.symbols())
    return x.is<int64_t>(outer);
  const long* n = outer.begin();
  return outer.size() == 1 ? x.is<T>({n[0], chain.inputs()})
                           : x.is<T>({n[0], n[1], chain.inputs()});
}

// The weights of a chain, one after another. All that is given is copied.
template <class T>
class Builder {
public:
  // An array of so many values, or None.
  const T* array(nb::handle given, std::initializer_list<long> shape) {
    return values<T>(given, shape);
  }
  // The scales of a matrix in int8, or None.
  const float* scales(nb::handle given, long rows) {
    if (!given.is_none() && !std::is_same_v<T, float>)
      throw std::invalid_argument("int8 is beside float32 alone");
    return values<float>(given, {rows});
  }

private:
  template <class V>
  const V* values(nb::handle given, std::initializer_list<long> shape) {
    if (given.is_none())
      return nullptr;
    const Memory& memory = *held_.emplace_back(std::make_unique<Memory>(given));
    if (!memory.is<V>(shape))
      throw std::invalid_argument("a weight must be a dense array of its module's shape and dtype");
    return memory.data<const V>();
  }

  std::vector<std::unique_ptr<Memory>> held_;
};

int cell_index(const std::string& name) {
  for (int i = 0; i < kernels().num_cells; i++)
    if (name == kernels().cells[i].name)
      return i;
  throw std::invalid_argument("there is no cell " + name);
}

Function function_of(const std::string& name) {
  static constexpr std::array<const char*, 8> names = {
      "identity", "relu", "tanh", "sigmoid", "silu", "softplus", "softmax", "log_softmax"};
  for (std::size_t i = 0; i < names.size(); i++)
    if (name == names[i])
      return static_cast<Function>(i);
  throw std::invalid_argument("there is no function " + name);
}

template <class T>
void add_layer(Chain<T>& chain, const std::string& cell, long inputs, long hidden_size,
               long projection, const nb::list& directions) {
  const int index = cell_index(cell);
  const CellInfo& info = kernels().cells[index];
  if (!takes(info))
    throw std::invalid_argument("a chain has no layer of the cell " + cell);
  const long rows = static_cast<long>(std::string_view(info.gates).size()) * hidden_size;
  const long out = projection ? projection : hidden_size;
  Builder<T> read;
  std::vector<Weights<T>> weights;
  for (nb::handle direction : directions) {
    const auto given = nb::cast<nb::tuple>(direction);
    weights.push_back({read.array(given[0], {rows, inputs}), read.array(given[1], {rows, out}),
                       read.array(given[2], {rows}), read.array(given[3], {rows}),
                       read.array(given[4], {out, hidden_size})});
    Weights<T>& w = weights.back();
    w.scales_ih = read.scales(given[5], rows), w.scales_hh = read.scales(given[6], rows);
    w.scales_hr = read.scales(given[7], out);
    const bool is_whole = !w.scales_ih == !w.scales_hh &&
                          !w.scales_hr == !(w.scales_ih && w.w_hr) && w.w_ih && w.w_hh;
    if (!is_whole || !w.b_ih != !w.b_hh || !w.w_hr != !projection)
      throw std::invalid_argument("a layer must have the weights of its kind");
  }
  if (weights.empty() || weights.size() > 2)
    throw std::invalid_argument("a layer must have one or two directions");
  chain.add_layer(index, inputs, hidden_size, projection, weights);
}

// Runs whole sequences, from states that are replaced by those after the last step, or from zeros.
// Returns false, with nothing done, unless all that is given fits.
template <class T>
bool run_chain(const Chain<T>& chain, nb::handle x_array, nb::handle lengths_array, nb::handle out,
               int threads, const std::optional<nb::list>& given) {
  const Memory x(x_array), lengths(lengths_array), y(out, true);
  if (y.axes() != 3)
    return false;
  const long seq_len = y.size(0), batch = y.size(1);
  if (!is_input(chain, x, {seq_len, batch}) || !y.is<T>({seq_len, batch, chain.width()}) ||
      x.overlaps(y))
    return false;
  if (seq_len == 0 || batch == 0)
    return true;
  std::vector<int64_t> steps; // a copy, which nobody changes after the look at it
  if (!lengths_array.is_none()) {
    if (!lengths.is<int64_t>({batch}))
      return false;
    const auto* given = lengths.data<const int64_t>();
    steps.assign(given, given + batch);
    for (int64_t length : steps)
      if (length < 0 || length > seq_len)
        return false;
  }
  std::vector<std::unique_ptr<Memory>> held;
  std::vector<std::vector<T>> values;
  std::vector<T*> states;
  if (given && given->size() != chain.states().size())
    return false;
  for (const auto& [directions, width] : chain.states()) {
    if (!given) {
      values.emplace_back(static_cast<std::size_t>(directions * batch * width));
      states.push_back(values.back().data());
      continue;
    }
    const Memory& state =
        *held.emplace_back(std::make_unique<Memory>((*given)[states.size()], true));
    if (!state.is<T>({directions, batch, width}) || state.overlaps(y) || state.overlaps(x))
      return false;
    states.push_back(state.data<T>());
  }
  return with_or_without_gil(chain.multiply_adds() * static_cast<double>(seq_len * batch), [&] {
    return chain.run(seq_len, batch, x.data<const void>(),
                     lengths_array.is_none() ? nullptr : steps.data(), states.data(), y.data<T>(),
                     threads);
  });
}

// A state of a chain that goes on from call to call, in arrays of the caller's. Each call returns
// false, with nothing done, unless all that it is given fits.
template <class T>
class Session {
public:
  Session(const Chain<T>& chain, long batch, const nb::list& states)
      : chain_(chain), batch_(batch) {
    if (states.size() != chain.states().size())
      throw std::invalid_argument("a session must have every state of its chain");
    for (std::size_t i = 0; i < states.size(); i++) {
      const auto [directions, width] = chain.states()[i];
      const Memory& memory = *held_.emplace_back(std::make_unique<Memory>(states[i], true));
      if (directions != 1 || !memory.is<T>({1, batch, width}))
        throw std::invalid_argument("a state must be a dense array (1, N, width)");
      states_.push_back(memory.data<T>());
    }
  }

  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  bool step(nb::handle x_array, nb::handle out) {
    const Memory x(x_array), y(out, true);
    return is_input(chain_, x, {batch_}) && y.is<T>({batch_, chain_.width()}) && !x.overlaps(y) &&
           advance(nullptr, batch_, x.data<const void>(), y);
  }

  bool run(nb::handle x_array, nb::handle out, int threads) {
    const Memory x(x_array), y(out, true);
    if (y.axes() != 3)
      return false;
    const long seq_len = y.size(0);
    return is_input(chain_, x, {seq_len, batch_}) && y.is<T>({seq_len, batch_, chain_.width()}) &&
           !x.overlaps(y) &&
           with_or_without_gil(chain_.multiply_adds() * static_cast<double>(seq_len * batch_),
                               [&] { return advance_by(seq_len, x, y, threads); });
  }

  // A step of the rows that `places` has for the names in `inputs`, a row of its own for each. The
  // rows of `out` have their order.
  bool step_named(const nb::dict& places, const nb::dict& inputs, nb::handle out) {
    const Memory y(out, true);
    const std::size_t count = inputs.size();
    if (!y.is<T>({static_cast<long>(count), chain_.width()}))
      return false;
    rows_.resize(count);
    if (chain_.symbols())
      symbols_.resize(count);
    else
      numbers_.resize(count * static_cast<std::size_t>(chain_.inputs()));
    PyObject *next_name, *next_value;
    Py_ssize_t at = 0;
    std::size_t i = 0;
    for (; PyDict_Next(inputs.ptr(), &at, &next_name, &next_value); i++) {
      // A value that is asked for its memory may run anything, and change the dict.
      const nb::object name = nb::borrow(next_name), value = nb::borrow(next_value);
      if (i == count || !find(places, name, rows_[i]) || !gather(value, i))
        return false;
    }
    if (i < count)
      return false;
    const void* const x = chain_.symbols() ? static_cast<const void*>(symbols_.data())
                                           : static_cast<const void*>(numbers_.data());
    return advance(rows_.data(), static_cast<long>(count), x, y);
  }

private:
  static bool as_integer(PyObject* object, int64_t& value) {
    if (!PyLong_CheckExact(object))
      return false;
    int overflow = 0;
    value = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0;
  }

  // The row of a name, if it has one and that is there.
  bool find(const nb::dict& places, nb::handle name, int64_t& row) const {
    PyObject* const place = PyDict_GetItemWithError(places.ptr(), name.ptr());
    if (!place && PyErr_Occurred())
      nb::raise_python_error();
    return place && as_integer(place, row) && row >= 0 && row < batch_;
  }

  // Copies what is the input of a stream to place i of those that are gathered.
  bool gather(nb::handle value, std::size_t i) {
    if (chain_.symbols() && as_integer(value.ptr(), symbols_[i]))
      return true;
    const Memory x(value);
    if (chain_.symbols()) {
      if (!x.is<int64_t>({}))
        return false;
      symbols_[i] = *x.data<const int64_t>();
    } else {
      const long width = chain_.inputs();
      if (!x.is<T>({width}))
        return false;
      std::copy_n(x.data<const T>(), width, numbers_.data() + i * static_cast<std::size_t>(width));
    }
    return true;
  }

  bool advance(const int64_t* rows, long count, const void* x, const Memory& y) {
    return with_or_without_gil(chain_.multiply_adds() * static_cast<double>(count), [&] {
      return chain_.step(rows, count, x, states_.data(), y.data<T>());
    });
  }

  // Several steps of all rows; if there is too little memory, the states are as before.
  bool advance_by(long seq_len, const Memory& x, const Memory& y, int threads) {
    Scratch::Frame scratch;
    const long layers = static_cast<long>(states_.size());
    T** const copies = scratch.take<T*>(layers);
    auto each_state = [&](auto&& f) {
      for (std::size_t s = 0; s < states_.size(); s++)
        f(s, batch_ * chain_.states()[s].width);
    };
    each_state([&](std::size_t s, long values) {
      copies[s] = scratch.take<T>(values);
      std::copy_n(states_[s], values, copies[s]);
    });
    if (!chain_.run(seq_len, batch_, x.data<const void>(), nullptr, copies, y.data<T>(), threads))
      return false;
    each_state([&](std::size_t s, long values) { std::copy_n(copies[s], values, states_[s]); });
    return true;
  }

  const Chain<T>& chain_;
  const long batch_;
  std::vector<std::unique_ptr<Memory>> held_;
  std::vector<T*> states_;
  // What step_named gathers, kept so that it allocates nothing when it is called again.
  std::vector<int64_t> rows_, symbols_;
  std::vector<T> numbers_;
};

template <class T>
void bind(nb::module_& m, const char* chain, const char* session) {
  nb::class_<Chain<T>>(m, chain, "Modules and their weights; none is added once it has run.")
      .def(nb::init<bool>(), "may_dot"_a = true)
      .def(
          "add_embedding",
          [](Chain<T>& self, nb::handle table, long symbols, long width) {
            Builder<T> read;
            const T* values = read.array(table, {symbols, width});
            if (!values)
              throw std::invalid_argument("an embedding must have a table");
            self.add_embedding(values, symbols, width);
          },
          "table"_a, "symbols"_a, "width"_a)
      .def(
          "add_linear",
          [](Chain<T>& self, nb::handle weight, nb::handle bias, long inputs, long width,
             nb::handle scales) {
            Builder<T> read;
            const T* values = read.array(weight, {width, inputs});
            if (!values)
              throw std::invalid_argument("a linear module must have a weight");
            self.add_linear(values, read.array(bias, {width}), inputs, width,
                            read.scales(scales, width));
          },
          "weight"_a, "bias"_a.none(), "inputs"_a, "width"_a, "scales"_a.none())
      .def(
          "add_layer_norm",
          [](Chain<T>& self, nb::handle scale, nb::handle shift, double eps, long width) {
            Builder<T> read;
            self.add_layer_norm(read.array(scale, {width}), read.array(shift, {width}), eps, width);
          },
          "scale"_a.none(), "shift"_a.none(), "eps"_a, "width"_a)
      .def(
          "add_function",
          [](Chain<T>& self, const std::string& name, long width) {
            self.add_function(function_of(name), width);
          },
          "name"_a, "width"_a)
      .def("add_layer", &add_layer<T>, "cell"_a, "inputs"_a, "hidden_size"_a, "projection"_a,
           "directions"_a)
      .def("run", &run_chain<T>, "x"_a, "lengths"_a.none(), "out"_a, "threads"_a,
           "states"_a = nb::none());
  nb::class_<Session<T>>(m, session, "A state of a chain, for one thread at a time.")
      .def(nb::init<const Chain<T>&, long, const nb::list&>(), "chain"_a, "batch"_a, "states"_a,
           nb::keep_alive<1, 2>())
      .def("step", &Session<T>::step, nb::arg().none(), nb::arg().none())
      .def("run", &Session<T>::run, nb::arg().none(), nb::arg().none(), nb::arg())
      .def("step_named", &Session<T>::step_named);
}

} // namespace

void bind_sessions(nb::module_& m) {
  bind<float>(m, "Chain32", "Session32");
  bind<double>(m, "Chain64", "Session64");
}

} // namespace elman
