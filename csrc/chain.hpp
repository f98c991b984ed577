// A chain of modules with its weights, packed once, and what runs it: whole sequences, or the next
// steps of a state that the caller keeps. A chain never changes once it is made; any number of
// threads may run it.
//
// Sizes fit each other: src/elman/runtime/modules.py has seen to that, and module.cpp to the
// arrays.
#pragma once

#include <cstdint>
#include <memory>
#include <new>
#include <variant>
#include <vector>

#include "kernels.hpp"

namespace elman {

// Room for n values, aligned to a cache line; without n, none.
template <class T>
class Values {
public:
  Values() = default;
  explicit Values(long n)
      : data_(static_cast<T*>(operator new(static_cast<std::size_t>(n) * sizeof(T), kCacheLine))) {}
  T* data() const { return data_.get(); }

private:
  static constexpr std::align_val_t kCacheLine{64};
  struct Free {
    void operator()(T* p) const { operator delete(p, kCacheLine); }
  };
  std::unique_ptr<T, Free> data_;
};

// A packed matrix: in int8 if that is how it was stored, in bfloat16 where it is large and that
// holds all of its values.
template <class T>
struct Packed {
  Values<T> values = {};
  Values<uint16_t> halves = {}; // in place of values
  Values<int8_t> bytes = {};    // likewise
  bool dots = false;

  LowPrecision low() const { return {halves.data(), bytes.data(), dots}; }
};

// Whether a chain has layers of a cell: a chain knows the five weights of a direction, and two
// states.
bool takes(const CellInfo& cell);

template <class T>
class Chain {
public:
  // Uses the instruction set that is in use now and, if they may, its instructions for int8.
  explicit Chain(bool may_dot = true);
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;

  // What is added takes what was added before. Everything is copied; biases and scales may be null.
  // A matrix with a scale for each of its rows, which are float's alone, holds multiples of those,
  // and is kept in int8; so are all of a layer or none.
  void add_embedding(const T* table, long symbols, long width);
  void add_linear(const T* w, const T* bias, long inputs, long width,
                  const float* scales = nullptr);
  void add_layer_norm(const T* scale, const T* shift, double eps, long width);
  void add_function(Function, long width);
  // One layer of a recurrent module, with the weights of each direction.
  void add_layer(int cell, long inputs, long hidden_size, long projection,
                 const std::vector<Weights<T>>& directions);

  // The width of each state of a step: for every layer h and, if its cell has one, c; each is
  // [directions, N, width].
  struct State {
    long directions, width;
  };
  const std::vector<State>& states() const { return states_; }
  long inputs() const { return inputs_; } // 0: it takes symbols
  long symbols() const { return symbols_; }
  long width() const { return width_; }
  double multiply_adds() const { return multiply_adds_; } // of one row and step

  // x: [L, N, inputs], or [L, N] symbols; y: [L, N, width], which overlaps nothing. States are
  // replaced by those after the last step. Returns false, with nothing done, if one of the symbols
  // is none; throws std::bad_alloc, and some of the states are then replaced.
  bool run(long seq_len, long batch, const void* x, const int64_t* lengths, T* const* states, T* y,
           int threads) const;
  // One step, of `count` rows that are all rows of the states or, if not null, of `rows`, each at
  // most once. Their x and y lie together. No layer of the chain has two directions. Throws
  // std::bad_alloc, with all states as before.
  bool step(const int64_t* rows, long count, const void* x, T* const* states, T* y) const;

private:
  struct Layer {
    int cell;
    long inputs, hidden_size, projection;
    bool has_c;
    std::vector<Packed<T>> packed; // of each direction
    std::vector<Values<T>> biases;
    std::vector<Weights<T>> weights; // which point there
  };
  struct Linear {
    long inputs;
    Packed<T> packed;
    Values<T> bias;
  };
  struct LayerNorm {
    double eps;
    Values<T> scale, shift;
  };
  using Kind = std::variant<Layer, Linear, LayerNorm, Function>;
  struct Module {
    long width;
    Kind kind;
  };
  void add(long inputs, long width, double multiply_adds, Kind kind);
  Packed<T> packed_linear(const T* w, const float* scales, long inputs, long width) const;
  Packed<T> packed_layer(int cell, const Problem<T>&) const; // of its only direction
  bool knows(const int64_t* symbols, long count) const;
  // Runs a module; `states` are its own.
  void run_module(const Module&, long seq_len, long batch, const T* x, const int64_t* lengths,
                  T* const* states, T* y, int threads) const;

  const Kernels& kernels_;
  const bool dots_;
  Values<T> table_;
  long symbols_ = 0, table_width_ = 0, inputs_ = 0, width_ = 0, widest_ = 0;
  double multiply_adds_ = 0;
  std::vector<Module> modules_;
  std::vector<State> states_;
};

extern template class Chain<float>;
extern template class Chain<double>;

} // namespace elman
