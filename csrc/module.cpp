// The Python module elman._native: names, addresses, the GIL; nothing else. What elman.runtime uses
// of it is in sessions.cpp.
//
// Tensors arrive as addresses (0 for none), checked by src/elman/shapes.py. A call releases the GIL
// and may run on any Python thread.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <iterator>
#include <thread>
#include <vector>

#include "dense.hpp"
#include "dispatch.hpp"
#include "gil.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "sessions.hpp"
#include "tensors.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace elman {
namespace {

using Address = std::uintptr_t;
using Addresses = std::vector<Address>;

template <class T>
T* at(Address a) {
  return reinterpret_cast<T*>(a);
}

struct Sizes {
  long seq_len, batch, input_size, hidden_size, projection, heads;
};

// The addresses of a direction's weights: five, and where there are more, all that there can be.
constexpr std::size_t kFive = 5, kAll = kFive + kVectors + 4;

// What a call may ask for beside the cell: where sequences start anew, and from what; what acts in
// the recurrence.
struct Beside {
  Address resets = 0, h_to = 0, c_to = 0, drop = 0, zone_h = 0, zone_c = 0, kept = 0;
  double stay_h = 0, stay_c = 0, clip = 0;

  Beside(const Addresses& given, const std::vector<double>& numbers) {
    Address* const addresses[] = {&resets, &h_to, &c_to, &drop, &zone_h, &zone_c, &kept};
    for (std::size_t i = 0; i < given.size() && i < std::size(addresses); i++)
      *addresses[i] = given[i];
    double* const values[] = {&stay_h, &stay_c, &clip};
    for (std::size_t i = 0; i < numbers.size() && i < std::size(values); i++)
      *values[i] = numbers[i];
  }
};

// The weights of a direction that are beyond the five, or their gradients.
template <class T, class Some>
void fill(Some& of, const Address* more) {
  for (T*& vector : of.vectors)
    vector = at<T>(*more++);
  of.gain_ih = at<T>(more[0]), of.gain_hh = at<T>(more[1]);
  of.gain_c = at<T>(more[2]), of.bias_c = at<T>(more[3]);
}

template <class T>
struct Directions {
  std::vector<Weights<T>> weights;
  std::vector<WeightGradients<T>> gradients;

  Directions(const Addresses& w, const Addresses& dw, std::size_t parts) {
    for (std::size_t i = 0; i + parts <= w.size(); i += parts) {
      weights.push_back(
          {at<T>(w[i]), at<T>(w[i + 1]), at<T>(w[i + 2]), at<T>(w[i + 3]), at<T>(w[i + 4])});
      if (parts == kAll)
        fill<const T>(weights.back(), &w[i + kFive]);
    }
    for (std::size_t i = 0; i + parts <= dw.size(); i += parts) {
      gradients.push_back(
          {at<T>(dw[i]), at<T>(dw[i + 1]), at<T>(dw[i + 2]), at<T>(dw[i + 3]), at<T>(dw[i + 4])});
      if (parts == kAll)
        fill<T>(gradients.back(), &dw[i + kFive]);
    }
  }
};

template <class T>
Problem<T> problem(const Sizes& s, Address batch_sizes, Address lengths, Address x, Address h_0,
                   Address c_0, const Directions<T>& directions, const Beside& beside, Address y,
                   Address keep, bool keeps_packed, Address c, Address h_n, Address c_n) {
  return {s.seq_len,
          s.batch,
          s.input_size,
          s.hidden_size,
          s.projection,
          static_cast<long>(directions.weights.size()),
          s.heads,
          at<const int64_t>(batch_sizes),
          at<const int64_t>(lengths),
          at<T>(x),
          at<T>(h_0),
          at<T>(c_0),
          at<const uint8_t>(beside.resets),
          at<T>(beside.h_to),
          at<T>(beside.c_to),
          directions.weights.data(),
          at<T>(y),
          at<T>(keep),
          keeps_packed,
          at<T>(c),
          at<T>(h_n),
          at<T>(c_n),
          {at<T>(beside.drop), at<const uint8_t>(beside.zone_h), at<const uint8_t>(beside.zone_c),
           static_cast<T>(beside.stay_h), static_cast<T>(beside.stay_c),
           static_cast<T>(beside.clip), at<T>(beside.kept)}};
}

void forward(int cell, bool is_double, long seq_len, long batch, long input_size, long hidden_size,
             long projection, long heads, Address batch_sizes, Address lengths, Address x,
             Address h_0, Address c_0, const Addresses& weights, std::size_t parts,
             const Addresses& beside, const std::vector<double>& numbers, Address y, Address keep,
             bool keeps_packed, Address c, Address h_n, Address c_n, bool in_bf16, int threads) {
  const Sizes sizes{seq_len, batch, input_size, hidden_size, projection, heads};
  auto run = [&]<class T>(void (*kernel)(int, const Problem<T>&, int)) {
    const Directions<T> directions(weights, {}, parts);
    Problem<T> p = problem<T>(sizes, batch_sizes, lengths, x, h_0, c_0, directions,
                              {beside, numbers}, y, keep, keeps_packed, c, h_n, c_n);
    p.bf16 = bf16_of<T>(in_bf16);
    kernel(cell, p, threads);
  };
  without_gil([&] { is_double ? run(kernels().forward_double) : run(kernels().forward_float); });
}

void backward(int cell, bool is_double, long seq_len, long batch, long input_size, long hidden_size,
              long projection, long heads, Address batch_sizes, Address lengths, Address x,
              Address h_0, Address c_0, const Addresses& weights, std::size_t parts,
              const Addresses& beside, const std::vector<double>& numbers, Address y, Address keep,
              bool keeps_packed, Address dy, Address dh_n, Address dc_n, Address dkeep, Address dx,
              Address dh_0, Address dc_0, const Addresses& dweights, Address dh_to, Address dc_to,
              long groups, bool in_bf16, int threads) {
  const Sizes sizes{seq_len, batch, input_size, hidden_size, projection, heads};
  auto run = [&]<class T>(void (*kernel)(int, const Problem<T>&, const Gradients<T>&, int)) {
    const Directions<T> directions(weights, dweights, parts);
    Problem<T> p = problem<T>(sizes, batch_sizes, lengths, x, h_0, c_0, directions,
                              {beside, numbers}, y, keep, keeps_packed, 0, 0, 0);
    p.bf16 = bf16_of<T>(in_bf16);
    kernel(cell, p,
           {groups, at<T>(dy), at<T>(dh_n), at<T>(dc_n), at<T>(dkeep), at<T>(dx), at<T>(dh_0),
            at<T>(dc_0), at<T>(dh_to), at<T>(dc_to), directions.gradients.data()},
           threads);
  };
  without_gil([&] { is_double ? run(kernels().backward_double) : run(kernels().backward_float); });
}

// How many values are kept of a row for what acts in the recurrence; of the gains counts which
// there are, and of the numbers too.
long stage_width(int cell, long hidden_size, long projection, const Addresses& gains,
                 const Addresses& beside, const std::vector<double>& numbers) {
  const Directions<float> directions({0, 0, 0, 0, 0, 0, 0, gains[0], gains[1], gains[2], 0}, {},
                                     kAll);
  const Sizes sizes{1, 1, 1, hidden_size, projection, 1};
  return kernels().stage_width(cell, problem<float>(sizes, 0, 0, 0, 0, 0, directions,
                                                    {beside, numbers}, 0, 0, false, 0, 0, 0));
}

constexpr const char* kWays[] = {"none", "pairs", "tiles"};

void use_bf16_way(const std::string& best) {
  for (int i = 0; i < 3; i++)
    if (best == kWays[i])
      return use_bf16(static_cast<Bf16>(i));
  throw nb::value_error("use_bf16: it must be none, pairs or tiles");
}

void activations(bool is_double, Address x, Address tanh, Address sigmoid, long n) {
  if (is_double) {
    kernels().activations_double(at<double>(x), at<double>(tanh), at<double>(sigmoid), n);
  } else {
    kernels().activations_float(at<float>(x), at<float>(tanh), at<float>(sigmoid), n);
  }
}

nb::dict cells() {
  nb::dict table;
  for (int i = 0; i < kernels().num_cells; i++) {
    const CellInfo& cell = kernels().cells[i];
    table[cell.name] =
        nb::make_tuple(i, cell.gates, cell.states, cell.kept, cell.vectors, cell.product);
  }
  return table;
}

void dense(Address from, Address to, std::size_t element, const std::vector<std::ptrdiff_t>& sizes,
           const std::vector<std::ptrdiff_t>& strides, int threads) {
  without_gil(
      [&] { make_dense(at<const void>(from), at<void>(to), element, sizes, strides, threads); });
}

double fma_peak(int threads, double seconds) {
  std::vector<double> rates(static_cast<std::size_t>(threads));
  without_gil([&] {
    struct Joined {
      std::vector<std::thread> threads;
      ~Joined() {
        for (std::thread& thread : threads)
          thread.join();
      }
    } others;
    others.threads.reserve(rates.size());
    for (std::size_t i = 1; i < rates.size(); i++)
      others.threads.emplace_back([&rates, i, seconds] { rates[i] = kernels().fma_peak(seconds); });
    rates[0] = kernels().fma_peak(seconds);
  });
  double sum = 0;
  for (double rate : rates)
    sum += rate;
  return sum;
}

double read_bandwidth(long bytes, double seconds) {
  double rate = 0;
  without_gil([&] { rate = kernels().read_bandwidth(bytes, seconds); });
  return rate;
}

} // namespace

NB_MODULE(_native, m) {
  m.doc() = "The native core of elman. Called by elman.core with checked addresses.";
  bind_sessions(m);
  m.def("forward", &forward);
  m.def("backward", &backward);
  m.def("stage_width", &stage_width,
        "How many values `forward` keeps of a row for what acts in it.");
  bind_tensors(m);
  m.def("addresses", &addresses, "ask"_a, "tensors"_a, "dtype"_a, "item_size"_a, "counts"_a.none(),
        "The addresses of tensors, None of what is not plain memory.");
  m.def("make_dense", &dense, "from_"_a, "to"_a, "element"_a, "sizes"_a, "strides"_a, "threads"_a,
        "Copy an array of elements of so many bytes to where it is to lie row-major.");
  m.def("activations", &activations, "is_double"_a, "x"_a, "tanh"_a, "sigmoid"_a, "n"_a,
        "tanh and sigmoid of n values, as the cells compute them.");
  m.def("cells", &cells,
        "{name: (index, gates, states, kept vectors, vectors, whether there is a product)}"
        " of the compiled cells.");
  m.def("isa", [] { return std::string(kernels().isa); }, "The instruction set in use.");
  m.def("isas", &available_isas, "The instruction sets this machine can use, the best first.");
  m.def("set_isa", &use_isa, "name"_a, "Use the kernels of this instruction set from now on.");
  m.def(
      "bf16", [] { return std::string(kWays[static_cast<int>(bf16())]); },
      "How products in bfloat16 are formed: none, pairs or tiles.");
  m.def("use_bf16", &use_bf16_way, "best"_a,
        "Form them so from now on, or in the best way before that which this machine has.");
  m.def(
      "compiler", [] { return std::string(ELMAN_COMPILER); }, "The compiler that built the core.");
  m.def("fma_peak", &fma_peak, "threads"_a, "seconds"_a,
        "GFLOP/s of float32 multiply-adds that this many threads reach together.");
  m.def("read_bandwidth", &read_bandwidth, "bytes"_a, "seconds"_a,
        "GB/s at which one thread reads a buffer of this size again and again.");
}

} // namespace elman
