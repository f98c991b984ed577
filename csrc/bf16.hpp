// Matrix products whose operands are rounded to bfloat16, with sums in float32.
//
// Terms stand in pairs, in rows of whole blocks of 32, zeros past the last. The right operand lies
// in panels [panel][pair][vector][lane][2] of whole vectors.
//
// An output's sum starts at 0 and has one order, whatever the number of rows. By pairs: the terms
// 1, 0, 3, 2, 5, 4, ... are added one after another. By tiles: of each block, those with an even
// number are added up one after another, those with an odd one likewise, then these two, and that
// is added to the sum of the blocks before. The initial value is added last.
#pragma once

#include "operand.hpp"
#include "threads.hpp"

namespace elman {
namespace {

constexpr long kBlock = 32; // terms that a vector or the row of a tile has

ELMAN_INLINE long in_blocks(long depth) {
  return ceil_div(depth, kBlock) * kBlock;
}
// How far apart rows of the left operand lie: not a power of two.
ELMAN_INLINE long term_stride(long depth) {
  return in_blocks(depth) + kBlock;
}
inline long packed_pairs(long cols, long depth) {
  return padded_cols(cols) * in_blocks(depth);
}
ELMAN_INLINE float* as_floats(uint16_t* terms) { // for vectors of them
  return reinterpret_cast<float*>(terms);
}
ELMAN_INLINE const float* as_floats(const uint16_t* terms) {
  return reinterpret_cast<const float*>(terms);
}

// The first n of values that may be fewer than a vector; row null: zeros.
template <class T>
ELMAN_INLINE Vec<T> load_up_to(const T* row, long n) {
  constexpr long V = kLanes<T>;
  return !row || n <= 0 ? Vec<T>{} : n < V ? load_first(row, static_cast<int>(n)) : load(row);
}

// Rounds the terms [k, k + kBlock) of a row, with zeros past its end.
template <class T>
ELMAN_INLINE Vec<T> round_block(const T* row, long k, long depth) {
  constexpr long V = kLanes<T>;
  if (depth - k >= kBlock)
    return round_both(load(row + k), load(row + k + V));
  return round_both(load_up_to(row + k, depth - k), load_up_to(row + k + V, depth - k - V));
}

// sums[m] = a[m] . panel, for kRows rows and kVectors vectors.
template <int kRows, int kVectors>
void tile_of_pairs(const uint16_t* a, long stride, long pairs, const uint16_t* panel, float* sums) {
  constexpr int V = kLanes<float>;
  Vec<float> sum[kRows][kVectors] = {};
  for (long k = 0; k < pairs; k++) {
    Vec<float> w[kVectors];
    unroll<kVectors>([&](auto n) __attribute__((always_inline)) {
      w[n] = load(as_floats(panel) + (k * kVectors + n) * V);
    });
    unroll<kRows>([&](auto m) __attribute__((always_inline)) {
      const Vec<float> terms = broadcast(as_floats(a + m * stride)[k]);
      unroll<kVectors>([&](auto n)
                           __attribute__((always_inline)) { add_pairs(sum[m][n], terms, w[n]); });
    });
  }
  unroll<kRows>([&](auto m) __attribute__((always_inline)) {
    unroll<kVectors>([&](auto n) __attribute__((always_inline)) {
      store(sums + (m * kVectors + n) * V, sum[m][n]);
    });
  });
}

template <int kVectors>
void tile_of_pairs(long rows, const uint16_t* a, long stride, long pairs, const uint16_t* panel,
                   float* sums) {
  unroll<tile_rows(1)>([&](auto m) __attribute__((always_inline)) {
    if (rows == m.value + 1)
      tile_of_pairs<m.value + 1, kVectors>(a, stride, pairs, panel, sums);
  });
}

constexpr long kTileRows = 16; // of one tile

// `multiply` by an operand in pairs, of rows that are rounded: a[m] starts m * stride after a.
// There is room for whole tiles of them.
template <class T>
void multiply_rounded(long rows, const uint16_t* a, long stride, const Operand<T>& b,
                      const T* const* initial, T* const* c, bool backwards, long from, long to) {
  constexpr long V = kLanes<T>, kWide = panel_vectors(1), kNarrow = panel_vectors(4);
  const bool by_tiles = b.low.way == Bf16::kTiles;
  const Tiles<T> registers(by_tiles);
  const long width = panel_cols<T>(b.cols), terms = in_blocks(b.depth);
  const long most = by_tiles ? 2 * kTileRows : tile_rows(1), row_bytes = stride * 2;
  alignas(kVectorBytes) T sums[2 * kTileRows * kWide * V];
  for (long i = 0; i < to - from; i++) {
    const long p = backwards ? to - 1 - i : from + i, col = p * width;
    const long cols = smaller(width, b.cols - col);
    const uint16_t* const panel = b.low.pairs + p * width * terms;
    for (long r = 0, n; r < rows; r += n) {
      n = smaller(most, rows - r);
      const uint16_t* const left = a + r * stride;
      if (by_tiles && width == kWide * V && n <= kTileRows) {
        Tiles<T>::multiply_wide(left, row_bytes, terms / kBlock, panel, width * 4, sums, width * 4);
      } else if (by_tiles) {
        for (long at = 0; at < cols; at += 2 * V)
          Tiles<T>::multiply_square(left, row_bytes, terms / kBlock, panel + 2 * at, width * 4,
                                    sums + at, width * 4);
      } else if (width == kWide * V) {
        tile_of_pairs<kWide>(n, left, stride, terms / 2, panel, sums);
      } else {
        tile_of_pairs<kNarrow>(n, left, stride, terms / 2, panel, sums);
      }
      for (long m = 0; m < n; m++) {
        const T* const first = initial ? initial[r + m] + col : nullptr;
        T* const out = c[r + m] + col;
        for_each_vector<T>({0, cols},
                           [&](long u, auto get, auto put) __attribute__((always_inline)) {
                             const Vec<T> sum = load(sums + m * width + u);
                             put(out + u, first ? sum + get(first + u) : sum);
                           });
      }
    }
  }
}

// Rows that are rounded together: they stay near while all panels pass.
constexpr long kRowsOfPairs = 128;

// `multiply` by an operand in pairs.
template <class T>
__attribute__((noinline)) void multiply_bf16(long rows, const T* const* a, const Operand<T>& b,
                                             const T* const* initial, T* const* c, bool backwards,
                                             long from, long to) {
  const long stride = term_stride(b.depth), most = smaller(rows, kRowsOfPairs);
  Scratch::Frame scratch;
  uint16_t* const terms = scratch.take<uint16_t>((most + 2 * kTileRows) * stride);
  for (long r = 0; r < rows; r += most) {
    const long count = smaller(most, rows - r);
    for (long m = 0; m < count; m++)
      for (long k = 0; k < b.depth; k += kBlock)
        store(as_floats(terms + m * stride + k), round_block(a[r + m], k, b.depth));
    multiply_rounded<T>(count, terms, stride, b, initial ? initial + r : nullptr, c + r, backwards,
                        from, to);
  }
}

// Packs panels [from, to) of the transpose of w, [cols][depth], in pairs.
template <class T>
void pack_pairs_transposed(const T* w, long cols, long depth, long from, long to, uint16_t* dst) {
  constexpr int V = kLanes<T>;
  const long width = panel_cols<T>(cols), terms = in_blocks(depth);
  for (long col = from * width; col < to * width; col += V) {
    uint16_t* const out = dst + col / width * width * terms + col % width * 2;
    for (long k = 0; k < terms; k += kBlock) {
      Vec<T> block[V];
      unroll<V>([&](auto i) __attribute__((always_inline)) {
        block[i] = col + i < cols ? round_block(w + (col + i) * depth, k, depth) : Vec<T>{};
      });
      transpose<T>(block);
      unroll<V>([&](auto i) __attribute__((always_inline)) {
        store(as_floats(out + (k / 2 + i) * 2 * width), block[i]);
      });
    }
  }
}

// Packs panels [from, to) of the matrix whose rows are row[0 .. depth), each of `cols` values, in
// pairs.
template <class T>
void pack_pairs_of_rows(const T* const* row, long cols, long depth, long from, long to,
                        uint16_t* dst) {
  constexpr int V = kLanes<T>;
  const long width = panel_cols<T>(cols), terms = in_blocks(depth);
  for (long panel = from; panel < to; panel++) {
    uint16_t* out = dst + panel * width * terms;
    for (long k = 0; k < terms; k += 2) {
      const T* const first = k < depth ? row[k] : nullptr;
      const T* const second = k + 1 < depth ? row[k + 1] : nullptr;
      for (long col = panel * width; col < (panel + 1) * width; col += V, out += 2 * V) {
        const long left = cols - col;
        store(as_floats(out), round_pairs(load_up_to(first ? first + col : nullptr, left),
                                          load_up_to(second ? second + col : nullptr, left)));
      }
    }
  }
}

// The values [from, to) of rows as rows of their own, of one term for each of `depth` rows,
// rounded.
template <class T>
void round_transposed(const T* const* row, long depth, long from, long to, uint16_t* dst,
                      long stride) {
  constexpr int V = kLanes<T>;
  for (long k = 0; k < depth; k += kBlock) {
    for (long u = from; u < to; u += V) {
      Vec<T> block[V];
      unroll<V>([&](auto i) __attribute__((always_inline)) {
        const long at = k + 2 * i;
        block[i] = round_pairs(load_up_to(at < depth ? row[at] + u : nullptr, to - u),
                               load_up_to(at + 1 < depth ? row[at + 1] + u : nullptr, to - u));
      });
      transpose<T>(block);
      unroll<V>([&](auto i) __attribute__((always_inline)) {
        if (u + i < to)
          store(as_floats(dst + (u - from + i) * stride + k), block[i]);
      });
    }
  }
}

} // namespace
} // namespace elman
