// The right operand of a matrix product, and how its columns fall into panels.
#pragma once

#include "kernels.hpp"
#include "vec.hpp"

namespace elman {
namespace {

ELMAN_INLINE long ceil_div(long a, long b) {
  return (a + b - 1) / b;
}
ELMAN_INLINE long smaller(long a, long b) {
  return a < b ? a : b;
}
ELMAN_INLINE long larger(long a, long b) {
  return a > b ? a : b;
}

// Partial sums per output. A fused multiply-add takes about 4 cycles and two can start in each, so
// a single row needs about 8 independent sums: few columns need several chains to have them.
template <class T>
ELMAN_INLINE int chains(long cols) {
  const long vectors = ceil_div(cols, kLanes<T>);
  return vectors >= 6 ? 1 : vectors >= 3 || kLanes<T> < 4 ? 2 : 4;
}
// Vectors of columns side by side in a panel, and rows that one tile computes together.
constexpr int panel_vectors(int chains) {
  return chains == 1 ? 4 : kAccumulators / (3 * chains);
}
constexpr int tile_rows(int chains) {
  return kAccumulators / (panel_vectors(chains) * chains);
}

// A right operand, depth x cols. Packed it is read in order: panels of a few vectors of columns,
// [panel][depth][vector][lane]. That costs a pass over it, which a product of a few rows is not
// worth; those read it as it lies. Packed in bfloat16 it is widened when it is read; packed in int8
// it meets rows that are rounded to int8 too, see `quantise`.
enum class Layout { kPacked, kRows, kColumns }; // the latter two: [depth][cols], [cols][depth]

template <class T>
struct Operand {
  const T* data;
  long depth, cols;
  Layout layout;
  LowPrecision low = {}; // if there, packed, and in place of data
  float least = 0;       // beside int8, the magnitude that every row of the left side has at least
};

template <class T>
ELMAN_INLINE long packed_size(long cols, long depth) {
  return ceil_div(cols, kLanes<T>) * kLanes<T> * depth;
}
template <class T>
ELMAN_INLINE long panel_cols(long cols) {
  return panel_vectors(chains<T>(cols)) * kLanes<T>;
}
template <class T>
ELMAN_INLINE long num_panels(long cols) {
  return ceil_div(cols, panel_cols<T>(cols));
}
// Columns up to the end of the last panel.
ELMAN_INLINE long padded_cols(long cols) {
  return num_panels<float>(cols) * panel_cols<float>(cols);
}

} // namespace
} // namespace elman
