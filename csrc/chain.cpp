#include "chain.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>

#include "dispatch.hpp"
#include "threads.hpp"

namespace elman {
namespace {

template <class T>
const ChainKernels<T>& of_chains(const Kernels& kernels) {
  if constexpr (std::is_same_v<T, float>)
    return kernels.chain_float;
  else
    return kernels.chain_double;
}

template <class T>
auto forward_of(const Kernels& kernels) {
  if constexpr (std::is_same_v<T, float>)
    return kernels.forward_float;
  else
    return kernels.forward_double;
}

template <class T>
Values<T> copy_of(const T* from, long n) { // null of null
  if (!from)
    return {};
  Values<T> values(n);
  std::copy_n(from, n, values.data());
  return values;
}

// Fewer packed values than this stay in the second-level cache, from where float32 comes as quickly
// as bfloat16 is widened.
constexpr long kWorthHalving = (1 << 19) + 1;

// Packs in int8 by `pack`, which takes the place and returns the size.
template <class T, class F>
Packed<T> in_bytes(bool dots, F&& pack) {
  Values<int8_t> bytes(pack(nullptr));
  pack(bytes.data());
  return {{}, {}, std::move(bytes), dots};
}

// Takes n packed values, and keeps half the bits where that is exact and pays.
template <class T>
Packed<T> in_halves_if_exact(Values<T> values, long n) {
  if constexpr (std::is_same_v<T, float>) {
    if (n < kWorthHalving)
      return {std::move(values)};
    auto bits = [&](long i) {
      uint32_t word;
      std::memcpy(&word, values.data() + i, sizeof(word));
      return word;
    };
    Values<uint16_t> halves(n);
    for (long i = 0; i < n; i++) {
      if (bits(i) & 0xffff)
        return {std::move(values)};
      halves.data()[i] = static_cast<uint16_t>(bits(i) >> 16);
    }
    return {{}, std::move(halves)};
  } else {
    return {std::move(values)};
  }
}

template <class T>
Problem<T> layer_problem(long seq_len, long batch, long inputs, long hidden_size, long projection,
                         const std::vector<Weights<T>>& weights) {
  Problem<T> p{};
  p.seq_len = seq_len, p.batch = batch, p.input_size = inputs, p.hidden_size = hidden_size;
  p.projection = projection, p.directions = static_cast<long>(weights.size());
  p.weights = weights.data();
  return p;
}

} // namespace

bool takes(const CellInfo& cell) {
  return cell.product && !cell.vectors && std::string_view(cell.states).size() <= 2;
}

template <class T>
Chain<T>::Chain(bool may_dot)
    : kernels_(kernels()), dots_(may_dot && kernels_.chain_bytes.has_dots()) {}

template <class T>
void Chain<T>::add(long inputs, long width, double multiply_adds, Kind kind) {
  if (modules_.empty() && symbols_ == 0)
    inputs_ = inputs;
  width_ = width, widest_ = std::max(widest_, width);
  multiply_adds_ += multiply_adds;
  modules_.push_back({width, std::move(kind)});
}

template <class T>
void Chain<T>::add_embedding(const T* table, long symbols, long width) {
  table_ = copy_of(table, symbols * width);
  symbols_ = symbols, table_width_ = width_ = widest_ = width;
}

template <class T>
Packed<T> Chain<T>::packed_linear(const T* w, const float* scales, long inputs, long width) const {
  if constexpr (std::is_same_v<T, float>) {
    if (scales)
      return in_bytes<T>(dots_, [&](int8_t* to) {
        return kernels_.chain_bytes.pack_linear(w, scales, inputs, width, dots_, to);
      });
  }
  const auto pack = of_chains<T>(kernels_).pack_linear;
  const long size = pack(nullptr, inputs, width, nullptr);
  Values<T> values(size);
  pack(w, inputs, width, values.data());
  return in_halves_if_exact(std::move(values), size);
}

template <class T>
Packed<T> Chain<T>::packed_layer(int cell, const Problem<T>& p) const {
  if constexpr (std::is_same_v<T, float>) {
    if (p.weights[0].scales_ih)
      return in_bytes<T>(dots_,
                         [&](int8_t* to) { return kernels_.chain_bytes.pack(cell, p, dots_, to); });
  }
  const auto pack = of_chains<T>(kernels_).pack;
  const long size = pack(cell, p, nullptr);
  Values<T> values(size);
  pack(cell, p, values.data());
  return in_halves_if_exact(std::move(values), size);
}

template <class T>
void Chain<T>::add_linear(const T* w, const T* bias, long inputs, long width, const float* scales) {
  add(inputs, width, static_cast<double>(inputs * width),
      Linear{inputs, packed_linear(w, scales, inputs, width), copy_of(bias, width)});
}

template <class T>
void Chain<T>::add_layer_norm(const T* scale, const T* shift, double eps, long width) {
  add(width, width, static_cast<double>(width),
      LayerNorm{eps, copy_of(scale, width), copy_of(shift, width)});
}

template <class T>
void Chain<T>::add_function(Function function, long width) {
  add(width, width, static_cast<double>(width), function);
}

template <class T>
void Chain<T>::add_layer(int cell, long inputs, long hidden_size, long projection,
                         const std::vector<Weights<T>>& directions) {
  const CellInfo& info = kernels_.cells[cell];
  const long rows = static_cast<long>(std::string_view(info.gates).size()) * hidden_size;
  const long out = projection ? projection : hidden_size;
  Layer layer{cell, inputs, hidden_size, projection, std::string_view(info.states).size() > 1,
              {},   {},     {}};
  for (const Weights<T>& w : directions) {
    const std::vector<Weights<T>> one{w};
    const Packed<T>& packed = layer.packed.emplace_back(
        packed_layer(cell, layer_problem(1, 1, inputs, hidden_size, projection, one)));
    const T* const b_ih = layer.biases.emplace_back(copy_of(w.b_ih, rows)).data();
    const T* const b_hh = layer.biases.emplace_back(copy_of(w.b_hh, rows)).data();
    // What a matrix was is not read any more, but whether it is there.
    const T* const w_hr = projection ? w.w_hr : nullptr;
    layer.weights.push_back({w.w_ih, w.w_hh, b_ih, b_hh, w_hr, packed.values.data(), packed.low()});
  }
  const long count = static_cast<long>(directions.size());
  states_.push_back({count, out});
  if (layer.has_c)
    states_.push_back({count, hidden_size});
  add(inputs, count * out,
      static_cast<double>(count * (rows * (inputs + out) + projection * hidden_size)),
      std::move(layer));
}

template <class T>
void Chain<T>::run_module(const Module& module, long seq_len, long batch, const T* x,
                          const int64_t* lengths, T* const* states, T* y, int threads) const {
  const ChainKernels<T>& kernels = of_chains<T>(kernels_);
  const long rows = seq_len * batch, width = module.width;
  if (const auto* layer = std::get_if<Layer>(&module.kind)) {
    Problem<T> p = layer_problem(seq_len, batch, layer->inputs, layer->hidden_size,
                                 layer->projection, layer->weights);
    p.lengths = lengths, p.x = x, p.y = y;
    p.h_n = states[0], p.h_0 = p.h_n; // a row's state is read before it is written
    p.c_n = layer->has_c ? states[1] : nullptr, p.c_0 = p.c_n;
    forward_of<T>(kernels_)(layer->cell, p, threads);
  } else if (const auto* linear = std::get_if<Linear>(&module.kind)) {
    parallel_for(threads, threads, [&](int part) {
      const long from = rows * part / threads, to = rows * (part + 1) / threads;
      kernels.linear(to - from, x + from * linear->inputs, linear->packed.values.data(),
                     linear->packed.low(), linear->bias.data(), linear->inputs, width,
                     y + from * width);
    });
  } else if (const auto* norm = std::get_if<LayerNorm>(&module.kind)) {
    kernels.layer_norm(rows, x, norm->scale.data(), norm->shift.data(), norm->eps, width, y);
  } else {
    kernels.apply(std::get<Function>(module.kind), rows, x, width, y);
  }
}

template <class T>
bool Chain<T>::run(long seq_len, long batch, const void* x, const int64_t* lengths,
                   T* const* states, T* y, int threads) const {
  const long rows = seq_len * batch;
  if (rows == 0)
    return true;
  Scratch::Frame scratch;
  T* const between[2] = {scratch.take<T>(rows * widest_), scratch.take<T>(rows * widest_)};
  const T* in = static_cast<const T*>(x);
  int turn = 0;
  if (symbols_) {
    T* const out = modules_.empty() ? y : between[turn++ % 2];
    for (long i = 0; i < rows; i++) {
      const int64_t symbol = static_cast<const int64_t*>(x)[i];
      if (symbol < 0 || symbol >= symbols_)
        return false;
      std::copy_n(table_.data() + symbol * table_width_, table_width_, out + i * table_width_);
    }
    in = out;
  }
  for (const Module& module : modules_) {
    T* const out = &module == &modules_.back() ? y : between[turn++ % 2];
    run_module(module, seq_len, batch, in, lengths, states, out, threads);
    if (const auto* layer = std::get_if<Layer>(&module.kind))
      states += layer->has_c ? 2 : 1;
    in = out;
  }
  return true;
}

template <class T>
bool Chain<T>::knows(const int64_t* symbols, long count) const {
  return std::all_of(symbols, symbols + count,
                     [&](int64_t symbol) { return symbol >= 0 && symbol < symbols_; });
}

// Rows of a step that are computed together: what belongs to more would not stay in the
// second-level cache. A multiple of the rows of a tile.
constexpr long kRowsTogether = 96;

// Whether rows follow one another where they lie.
bool are_neighbours(const int64_t* rows, long count) {
  for (long i = 1; i < count; i++)
    if (rows[i] != rows[0] + i)
      return false;
  return true;
}

template <class T>
bool Chain<T>::step(const int64_t* rows, long count, const void* x, T* const* states, T* y) const {
  if (symbols_ && !knows(static_cast<const int64_t*>(x), count))
    return false;
  Scratch::Frame scratch;
  const long layers = static_cast<long>(states_.size()), most = std::min(count, kRowsTogether);
  T **const at = scratch.take<T*>(layers), **const copies = scratch.take<T*>(layers);
  for (long s = 0; s < layers; s++)
    copies[s] = scratch.take<T>(most * states_[static_cast<std::size_t>(s)].width);
  for (long from = 0; from < count; from += most) {
    const long n = std::min(most, count - from);
    // The first rows go on from copies: no others need more memory, so that if there is too little,
    // all states are as they were.
    const bool in_place = from > 0 && (!rows || are_neighbours(rows + from, n));
    auto row = [&](long i) { return rows ? rows[from + i] : from + i; };
    // Calls f(a row of a state, its place among those together, its width).
    auto each_row = [&](auto&& f) {
      for (std::size_t s = 0; !in_place && s < states_.size(); s++)
        for (long i = 0, width = states_[s].width; i < n; i++)
          f(states[s] + row(i) * width, copies[s] + i * width, width);
    };
    for (std::size_t s = 0; s < states_.size(); s++)
      at[s] = in_place ? states[s] + row(0) * states_[s].width : copies[s];
    each_row([](const T* from_row, T* place, long width) { std::copy_n(from_row, width, place); });
    const void* const in = symbols_
                               ? static_cast<const void*>(static_cast<const int64_t*>(x) + from)
                               : static_cast<const T*>(x) + from * inputs_;
    if (!run(1, n, in, nullptr, at, y + from * width_, 1))
      return false; // another thread changed x
    each_row([](T* to_row, const T* place, long width) { std::copy_n(place, width, to_row); });
  }
  return true;
}

template class Chain<float>;
template class Chain<double>;

} // namespace elman
