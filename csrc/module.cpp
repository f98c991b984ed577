// The Python module elman._native: names, addresses, the GIL; nothing else. What elman.runtime uses
// of it is in sessions.cpp.
//
// Tensors arrive as addresses (0 for none), checked by src/elman/shapes.py. A call releases the GIL
// and may run on any Python thread.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
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
  long seq_len, batch, input_size, hidden_size, projection;
};
struct Resets {
  Address mask, h_to, c_to;
};

template <class T>
Problem<T> problem(const Sizes& s, Address batch_sizes, Address lengths, Address x, Address h_0,
                   Address c_0, const Resets& resets, const Addresses& weights, Address y,
                   Address keep, Address c, Address h_n, Address c_n,
                   std::vector<Weights<T>>& directions) {
  for (std::size_t i = 0; i + 4 < weights.size(); i += 5) {
    directions.push_back({at<T>(weights[i]), at<T>(weights[i + 1]), at<T>(weights[i + 2]),
                          at<T>(weights[i + 3]), at<T>(weights[i + 4])});
  }
  return {s.seq_len,
          s.batch,
          s.input_size,
          s.hidden_size,
          s.projection,
          static_cast<long>(directions.size()),
          at<const int64_t>(batch_sizes),
          at<const int64_t>(lengths),
          at<T>(x),
          at<T>(h_0),
          at<T>(c_0),
          at<const uint8_t>(resets.mask),
          at<T>(resets.h_to),
          at<T>(resets.c_to),
          directions.data(),
          at<T>(y),
          at<T>(keep),
          at<T>(c),
          at<T>(h_n),
          at<T>(c_n)};
}

void forward(int cell, bool is_double, long seq_len, long batch, long input_size, long hidden_size,
             long projection, Address batch_sizes, Address lengths, Address x, Address h_0,
             Address c_0, const Addresses& weights, Address resets, Address h_to, Address c_to,
             Address y, Address keep, Address c, Address h_n, Address c_n, int threads) {
  const Sizes sizes{seq_len, batch, input_size, hidden_size, projection};
  auto run = [&]<class T>(void (*kernel)(int, const Problem<T>&, int)) {
    std::vector<Weights<T>> directions;
    kernel(cell,
           problem<T>(sizes, batch_sizes, lengths, x, h_0, c_0, {resets, h_to, c_to}, weights, y,
                      keep, c, h_n, c_n, directions),
           threads);
  };
  without_gil([&] { is_double ? run(kernels().forward_double) : run(kernels().forward_float); });
}

void backward(int cell, bool is_double, long seq_len, long batch, long input_size, long hidden_size,
              long projection, Address batch_sizes, Address lengths, Address x, Address h_0,
              Address c_0, const Addresses& weights, Address resets, Address h_to, Address c_to,
              Address y, Address keep, Address dy, Address dh_n, Address dc_n, Address dkeep,
              Address dx, Address dh_0, Address dc_0, const Addresses& dweights, Address dh_to,
              Address dc_to, long groups, int threads) {
  const Sizes sizes{seq_len, batch, input_size, hidden_size, projection};
  auto run = [&]<class T>(void (*kernel)(int, const Problem<T>&, const Gradients<T>&, int)) {
    std::vector<Weights<T>> directions;
    std::vector<WeightGradients<T>> gradients;
    for (std::size_t i = 0; i + 4 < dweights.size(); i += 5) {
      gradients.push_back({at<T>(dweights[i]), at<T>(dweights[i + 1]), at<T>(dweights[i + 2]),
                           at<T>(dweights[i + 3]), at<T>(dweights[i + 4])});
    }
    kernel(cell,
           problem<T>(sizes, batch_sizes, lengths, x, h_0, c_0, {resets, h_to, c_to}, weights, y,
                      keep, 0, 0, 0, directions),
           {groups, at<T>(dy), at<T>(dh_n), at<T>(dc_n), at<T>(dkeep), at<T>(dx), at<T>(dh_0),
            at<T>(dc_0), at<T>(dh_to), at<T>(dc_to), gradients.data()},
           threads);
  };
  without_gil([&] { is_double ? run(kernels().backward_double) : run(kernels().backward_float); });
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
    table[cell.name] = nb::make_tuple(i, cell.gates, cell.states, cell.kept);
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
  bind_tensors(m);
  m.def("addresses", &addresses, "ask"_a, "tensors"_a, "dtype"_a, "item_size"_a, "counts"_a.none(),
        "The addresses of tensors, None of what is not plain memory.");
  m.def("make_dense", &dense, "from_"_a, "to"_a, "element"_a, "sizes"_a, "strides"_a, "threads"_a,
        "Copy an array of elements of so many bytes to where it is to lie row-major.");
  m.def("activations", &activations, "is_double"_a, "x"_a, "tanh"_a, "sigmoid"_a, "n"_a,
        "tanh and sigmoid of n values, as the cells compute them.");
  m.def("cells", &cells, "{name: (index, gates, states, kept vectors)} of the compiled cells.");
  m.def("isa", [] { return std::string(kernels().isa); }, "The instruction set in use.");
  m.def("isas", &available_isas, "The instruction sets this machine can use, the best first.");
  m.def("set_isa", &use_isa, "name"_a, "Use the kernels of this instruction set from now on.");
  m.def(
      "compiler", [] { return std::string(ELMAN_COMPILER); }, "The compiler that built the core.");
  m.def("fma_peak", &fma_peak, "threads"_a, "seconds"_a,
        "GFLOP/s of float32 multiply-adds that this many threads reach together.");
  m.def("read_bandwidth", &read_bandwidth, "bytes"_a, "seconds"_a,
        "GB/s at which one thread reads a buffer of this size again and again.");
}

} // namespace elman
