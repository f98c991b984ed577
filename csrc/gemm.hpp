// Matrix products, the only place where floating-point sums are formed over more than a few terms.
//
// rows x depth times depth x cols, where the left operand is a list of row addresses, so that
// packed sequences, split batches and initial states need no copy and no case of their own.
//
// Every output is summed in one order that depends on depth and cols alone: chains(cols) partial
// sums over k = 0, 1, ... (chain k mod chains), added up in turn, then the initial value. It does
// not depend on how many rows there are, which rows stand together, how the right operand is laid
// out, or which thread computes them.
#pragma once

#include "bf16.hpp"
#include "operand.hpp"
#include "threads.hpp"

namespace elman {
namespace {

// A panel of an operand of values W: where it starts, and how far apart its rows and its neighbours
// are.
template <class W>
struct Panel {
  const W* data;
  long stride, next;
};

// Bytes that the cache next to the first level holds: what is larger comes from farther away.
inline constexpr long kNearCache = 1 << 20;

// One register tile: c[m][col ...] = initial[m][col ...] + a[m] . panel, for kRows rows and
// kVectors vectors, in kPanels adjacent panels. `last` lanes of the last vector exist in c and, if
// kMasked, in the panel. On the way it asks for `depth` / 2 vectors from `ahead` on, for later.
template <class T, int kRows, int kVectors, int kChains, int kPanels = 1, bool kMasked = false,
          class W = T>
__attribute__((noinline)) void tile(const T* const* a, long depth, const Panel<W>& panel,
                                    const T* const* initial, T* const* c, long col, int last,
                                    const W* ahead) {
  constexpr int V = kLanes<T>, N = kVectors * kPanels;
  const T* row[kRows];
  unroll<kRows>([&](auto m) __attribute__((always_inline)) { row[m] = a[m]; });
  const W* weights[kPanels];
  unroll<kPanels>([&](auto p)
                      __attribute__((always_inline)) { weights[p] = panel.data + p * panel.next; });
  const long stride = panel.stride;

  Vec<T> sum[kChains][kRows][N] = {};
  auto step = [&](auto chain, long k) __attribute__((always_inline)) {
    Vec<T> w[N];
    unroll<N>([&](auto n) __attribute__((always_inline)) {
      const W* from = weights[n / kVectors] + k * stride + n % kVectors * V;
      if constexpr (sizeof(W) < sizeof(T))
        w[n] = load_widened(from);
      else if constexpr (kMasked && n.value == N - 1)
        w[n] = load_first(from, last);
      else
        w[n] = load(from);
      if constexpr (kRows > 1 && kChains * kRows * N + N < kRegisters)
        keep_in_register<T>(w[n]);
    });
    unroll<kRows>([&](auto m) __attribute__((always_inline)) {
      const Vec<T> x = broadcast(row[m][k]);
      unroll<N>([&](auto n) __attribute__((always_inline)) { sum[chain][m][n] += x * w[n]; });
    });
  };
  constexpr int kUnroll = kChains < 2 ? 2 : kChains;
  long k = 0;
  for (; k + kUnroll <= depth; k += kUnroll) {
    fetch(ahead + k / 2 * V);
    unroll<kUnroll>([&](auto u) __attribute__((always_inline)) {
      step(std::integral_constant<int, u.value % kChains>{}, k + u);
    });
  }
  unroll<kUnroll - 1>([&](auto u) __attribute__((always_inline)) {
    if (k < depth)
      step(std::integral_constant<int, u.value % kChains>{}, k++);
  });

  unroll<kRows>([&](auto m) __attribute__((always_inline)) {
    unroll<N>([&](auto n) __attribute__((always_inline)) {
      Vec<T> v = sum[0][m][n];
      unroll<kChains - 1>([&](auto u) __attribute__((always_inline)) { v += sum[u + 1][m][n]; });
      const long at = col + n * V;
      if (n.value == N - 1 && last < V) {
        if (initial)
          v += load_first(initial[m] + at, last);
        store_first(c[m] + at, v, last);
      } else {
        if (initial)
          v += load(initial[m] + at);
        store(c[m] + at, v);
      }
    });
  });
}

template <class T, int kVectors, int kChains, bool kMasked>
ELMAN_INLINE void tile_of_rows(int rows, const T* const* a, long depth, const Panel<T>& panel,
                               const T* const* initial, T* const* c, long col, int last,
                               const T* ahead) {
  unroll<tile_rows(kChains)>([&](auto m) __attribute__((always_inline)) {
    if (rows == m.value + 1)
      tile<T, m.value + 1, kVectors, kChains, 1, kMasked>(a, depth, panel, initial, c, col, last,
                                                          ahead);
  });
}

// All rows times one panel of `width` vectors, which is `padded` with zeros to whole ones or ends
// with the columns. Tile number t asks for what lies t * stride after `ahead`.
template <class T, int kChains>
ELMAN_INLINE void multiply_panel(long rows, const T* const* a, long depth, const Panel<T>& panel,
                                 int width, int last, bool padded, const T* const* initial,
                                 T* const* c, long col, const T* ahead, long stride) {
  // Rows are dealt out evenly: 16 rows in tiles of up to 6 are 6 + 5 + 5, never 6 + 6 + 3 + 1.
  const long tiles = ceil_div(rows, tile_rows(kChains));
  for (long r = 0, t = 0; t < tiles; t++) {
    const int n = static_cast<int>((rows - r + tiles - t - 1) / (tiles - t));
    unroll<panel_vectors(kChains)>([&](auto w) __attribute__((always_inline)) {
      if (width != w.value + 1)
        return;
      const T* const* first = initial ? initial + r : nullptr;
      if (padded || last == kLanes<T>)
        tile_of_rows<T, w.value + 1, kChains, false>(n, a + r, depth, panel, first, c + r, col,
                                                     last, ahead + t * stride);
      else
        tile_of_rows<T, w.value + 1, kChains, true>(n, a + r, depth, panel, first, c + r, col, last,
                                                    ahead + t * stride);
    });
    r += n;
  }
}

// b in halves: those of one row are widened on their way into a tile, for more rows a panel is
// widened first.
template <int kChains>
void multiply_halves(long rows, const float* const* a, const Operand<float>& b,
                     const float* const* initial, float* const* c, bool backwards, long from,
                     long to) {
  constexpr int V = kLanes<float>, P = panel_vectors(kChains);
  const long panels = to - from, vectors = ceil_div(b.cols, V);
  Scratch::Frame scratch;
  float* const wide = scratch.take<float>(rows > 1 ? P * V * b.depth : 0);
  for (long i = 0; i < panels; i++) {
    const long p = backwards ? to - 1 - i : from + i;
    const int width = static_cast<int>(smaller(P, vectors - p * P));
    const int last = static_cast<int>(smaller(V, b.cols - (p * P + width - 1) * V));
    const uint16_t* const data = b.low.halves + p * P * V * b.depth;
    if (rows > 1) {
      for (long at = 0; at < width * V * b.depth; at += V)
        store(wide + at, load_widened(data + at));
      multiply_panel<float, kChains>(rows, a, b.depth, {wide, width * V, 0}, width, last, true,
                                     initial, c, p * P * V, wide, 0);
      continue;
    }
    if constexpr (kChains == 1) {
      const long other = backwards ? p - 1 : p + 1;
      if (i + 1 < panels && (larger(p, other) + 1) * P * V <= b.cols) {
        const long first = smaller(p, other);
        const Panel<uint16_t> two{b.low.halves + first * P * V * b.depth, P * V, P * V * b.depth};
        tile<float, 1, P, 1, 2, false>(a, b.depth, two, initial, c, first * P * V, V, two.data);
        i++;
        continue;
      }
    }
    const Panel<uint16_t> panel{data, width * V, 0};
    unroll<P>([&](auto w) __attribute__((always_inline)) {
      if (width == w.value + 1)
        tile<float, 1, w.value + 1, kChains, 1, false>(a, b.depth, panel, initial, c, p * P * V,
                                                       last, data);
    });
  }
}

template <class T, int kChains>
void multiply_in_chains(long rows, const T* const* a, const Operand<T>& b, const T* const* initial,
                        T* const* c, bool backwards, long from, long to) {
  constexpr int V = kLanes<T>, P = panel_vectors(kChains);
  const bool packed = b.layout == Layout::kPacked;
  const long panels = to - from, vectors = ceil_div(b.cols, V);
  const bool large = packed && b.cols * b.depth * static_cast<long>(sizeof(T)) > kNearCache;
  for (long i = 0; i < panels; i++) {
    const long p = backwards ? to - 1 - i : from + i;
    const int width = static_cast<int>(smaller(P, vectors - p * P));
    const int last = static_cast<int>(smaller(V, b.cols - (p * P + width - 1) * V));
    auto panel = [&](long first) -> Panel<T> {
      if (packed)
        return {b.data + first * P * V * b.depth, width * V, P * V * b.depth};
      return {b.data + first * P * V, b.cols, P * V};
    };
    if constexpr (kChains == 1) {
      // One row alone has too few sums for the pipeline: take two full panels at a time.
      const long other = backwards ? p - 1 : p + 1;
      if (rows == 1 && i + 1 < panels && (larger(p, other) + 1) * P * V <= b.cols) {
        const long first = smaller(p, other);
        tile<T, 1, P, 1, 2>(a, b.depth, panel(first), initial, c, first * P * V, V,
                            panel(first).data);
        i++;
        continue;
      }
    }
    // While the tiles of one panel are computed, the next one comes nearer.
    const long next = !large || i + 1 == panels ? p : backwards ? p - 1 : p + 1;
    multiply_panel<T, kChains>(rows, a, b.depth, panel(p), width, last, packed, initial, c,
                               p * P * V, panel(next).data, b.depth / 2 * V);
  }
}

// block[j] = the first `rows` of src[0], src[1], ... at position at + j, then zeros, for j < cols;
// rows and cols are at most kLanes.
template <class T>
ELMAN_INLINE void load_transposed(const T* const* src, long at, int rows, int cols,
                                  Vec<T> (&block)[kLanes<T>]) {
  constexpr int V = kLanes<T>;
  if (rows == V && cols == V) {
    unroll<V>([&](auto i) __attribute__((always_inline)) { block[i] = load(src[i] + at); });
  } else {
    unroll<V>([&](auto i) __attribute__((always_inline)) {
      block[i] = i < rows ? load_first(src[i] + at, cols) : Vec<T>{};
    });
  }
  transpose<T>(block);
}

// dst[j] = block[j] of the same, for j < cols, the rows of dst being dst_stride apart.
template <class T>
ELMAN_INLINE void transpose_block(const T* const* src, long at, int rows, int cols, T* dst,
                                  long dst_stride) {
  Vec<T> block[kLanes<T>];
  load_transposed<T>(src, at, rows, cols, block);
  unroll<kLanes<T>>([&](auto j) __attribute__((always_inline)) {
    if (j < cols)
      store(dst + j * dst_stride, block[j]);
  });
}

// The same product with b given by columns, [cols][depth]: blocks of it are transposed in
// registers.
template <class T, int kRows, int kChains>
__attribute__((noinline)) void tile_of_columns(const T* const* a, long depth, const T* b, int cols,
                                               const T* const* initial, T* const* c, long col) {
  constexpr int V = kLanes<T>;
  const T* columns[V] = {};
  for (int i = 0; i < cols; i++)
    columns[i] = b + i * depth;
  Vec<T> sum[kChains][kRows] = {}, block[V];
  auto multiply_block = [&](long k, auto from, auto to) __attribute__((always_inline)) {
    unroll<kRows>([&](auto m) __attribute__((always_inline)) {
      unroll<to.value - from.value>([&](auto i) __attribute__((always_inline)) {
        constexpr int j = from.value + i.value;
        sum[j % kChains][m] += a[m][k + j] * block[j];
      });
    });
  };
  constexpr std::integral_constant<int, 0> zero{};
  for (long k = 0; k < depth; k += V) { // one loop, since a transposition is a lot of code
    const int n = static_cast<int>(smaller(V, depth - k));
    load_transposed<T>(columns, k, cols, n, block);
    if (n == V) {
      multiply_block(k, zero, std::integral_constant<int, V>{});
    } else {
      unroll<V - 1>([&](auto j) __attribute__((always_inline)) {
        if (j < n)
          multiply_block(k, j, std::integral_constant<int, j.value + 1>{});
      });
    }
  }
  for (int m = 0; m < kRows; m++) {
    Vec<T> v = sum[0][m];
    unroll<kChains - 1>([&](auto u) __attribute__((always_inline)) { v += sum[u + 1][m]; });
    if (initial)
      v += load_first(initial[m] + col, cols);
    store_first(c[m] + col, v, cols);
  }
}

template <class T, int kChains>
void multiply_columns(long rows, const T* const* a, const Operand<T>& b, const T* const* initial,
                      T* const* c) {
  constexpr int V = kLanes<T>, kTileRows = 4;
  for (long col = 0; col < b.cols; col += V) {
    const int cols = static_cast<int>(smaller(V, b.cols - col));
    for (long r = 0; r < rows; r += kTileRows) {
      unroll<kTileRows>([&](auto m) __attribute__((always_inline)) {
        if (smaller(kTileRows, rows - r) == m.value + 1)
          tile_of_columns<T, m.value + 1, kChains>(a + r, b.depth, b.data + col * b.depth, cols,
                                                   initial ? initial + r : nullptr, c + r, col);
      });
    }
  }
}

// ---- int8 ----
//
// The right operand is q[k][j] * scales[j], the left one is rounded to integers from -127 to 127 of
// a scale of its row:
//
//   range = max(least, max |a[k]|),  scale = range / 127,  p[k] = nearest(a[k] * (127 / range))
//   c[j] = initial[j] + float(sum of p[k] q[k][j]) * (scale * scales[j])
//
// each operation rounded for itself to float32. The sum is exact, so the same on every machine. A
// row of less than kNothing counts as zeros, one with a NaN or an infinity gives NaN. `least` is 1
// where a stands for an h that is at most 1: then the scale is 1/127 at every step.
//
// Packed: for every column a correction (int32) and a scale (float), then panels
// [panel][depth / kTerms][vector][lane][kTerms], all of them of whole vectors.

constexpr float kNothing = 0x1p-100f;
constexpr int32_t kInfinityBits = 0x7f800000;
constexpr long kDotBias = 128; // that the terms of kDots have too much

// Rounds a row; what lies past `depth`, up to a whole vector, is zeros. Returns its scale.
template <bool kDots>
float quantise(const float* row, long depth, float least, void* to) {
  auto* const terms = static_cast<Term<kDots>*>(to);
  Ints most{};
  for_each_vector<float>({0, depth}, [&](long i, auto get, auto) __attribute__((always_inline)) {
    const Ints magnitude = (Ints)get(row + i) & INT32_MAX; // ordered as the floats are, NaN above
    most = magnitude > most ? magnitude : most;
  });
  const int32_t bits = largest_lane(most);
  float range;
  __builtin_memcpy(&range, &bits, sizeof(range));
  range = bits < kInfinityBits && range < least ? least : range;
  const bool is_nothing = range < kNothing;
  const float scale = is_nothing ? 0.f : range / 127.f;
  const Vec<float> inverse = broadcast(is_nothing ? 0.f : 127.f / range);
  for_each_vector<float>({0, depth}, [&](long i, auto get, auto) __attribute__((always_inline)) {
    store_terms<kDots>(terms + i, nearest(get(row + i) * inverse));
  });
  return bits < kInfinityBits ? scale : __builtin_nanf("");
}

// sums[m][vector] = initial + a[m] . panels, for kRows rows and kPanels panels of kVectors that are
// `next` bytes apart, taking terms `times` times.
template <int kRows, int kVectors, int kPanels, bool kDots>
void tile_of_bytes(const void* const* a, long times, const int8_t* panel, long next,
                   const int32_t* initial, int32_t* sums) {
  constexpr int V = kLanes<float>, N = kVectors * kPanels, kBytes = V * kTerms<kDots>;
  const Term<kDots>* row[kRows];
  Ints sum[kRows][N];
  unroll<kRows>([&](auto m) __attribute__((always_inline)) {
    row[m] = static_cast<const Term<kDots>*>(a[m]);
    unroll<N>([&](auto n)
                  __attribute__((always_inline)) { sum[m][n] = load_ints(initial + n * V); });
  });
  for (long t = 0; t < times; t++, panel += kVectors * kBytes) {
    decltype(load_weights<kDots>(panel)) w[N];
    unroll<N>([&](auto n) __attribute__((always_inline)) {
      w[n] = load_weights<kDots>(panel + n / kVectors * next + n % kVectors * kBytes);
    });
    unroll<kRows>([&](auto m) __attribute__((always_inline)) {
      const auto terms = broadcast_terms<kDots>(row[m] + t * kTerms<kDots>);
      unroll<N>([&](auto n) __attribute__((always_inline)) {
        add_products<kDots>(sum[m][n], terms, w[n]);
      });
    });
  }
  unroll<kRows>([&](auto m) __attribute__((always_inline)) {
    unroll<N>([&](auto n) __attribute__((always_inline)) {
      store_ints(sums + (m * N + n) * V, sum[m][n]);
    });
  });
}

// c = initial + sums * (scale * scales), of one row.
inline void scale_sums(const int32_t* sums, float scale, const float* scales, const float* initial,
                       float* c, long cols) {
  for_each_vector<float>({0, cols}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    Vec<float> v = to_floats(load_ints(sums + i)) * (scale * load(scales + i));
    keep_in_register<float>(v); // or the sum would be fused with the product
    put(c + i, initial ? v + get(initial + i) : v);
  });
}

// What multiplies by panels of a width, in one of the two ways in which bytes lie.
struct ByteTiles {
  static constexpr int kRows = tile_rows(1);
  using Tile = void (*)(const void* const* a, long times, const int8_t* panel, long next,
                        const int32_t* initial, int32_t* sums);
  int terms, term_size;
  float (*quantise)(const float* row, long depth, float least, void* to);
  Tile of_two_panels, of_rows[kRows]; // of one row; of 1, 2, ... rows
};
template <int kVectors, bool kDots>
inline constexpr ByteTiles byte_tiles =
    []<int... i>(std::integer_sequence<int, i...>) -> ByteTiles {
  return {kTerms<kDots>,
          sizeof(Term<kDots>),
          quantise<kDots>,
          tile_of_bytes<1, kVectors, 2, kDots>,
          {tile_of_bytes<i + 1, kVectors, 1, kDots>...}};
}(std::make_integer_sequence<int, ByteTiles::kRows>{});

template <bool kDots>
const ByteTiles& byte_tiles_for(int chains) {
  return chains == 1   ? byte_tiles<panel_vectors(1), kDots>
         : chains == 2 ? byte_tiles<panel_vectors(2), kDots>
                       : byte_tiles<panel_vectors(4), kDots>;
}

inline long packed_bytes(long cols, long depth) {
  return padded_cols(cols) * (2 * static_cast<long>(sizeof(float)) + ceil_div(depth, 4) * 4);
}

// Rows that are rounded together: they stay near while all panels pass.
constexpr long kRowsOfBytes = 96;

// `multiply` by an operand in int8.
__attribute__((noinline)) inline void multiply_bytes(long rows, const float* const* a,
                                                     const Operand<float>& b,
                                                     const float* const* initial, float* const* c,
                                                     bool backwards, long from, long to) {
  constexpr long V = kLanes<float>, kRows = ByteTiles::kRows;
  const ByteTiles& tiles = kMayDot && b.low.dots ? byte_tiles_for<kMayDot>(chains<float>(b.cols))
                                                 : byte_tiles_for<false>(chains<float>(b.cols));
  const long width = panel_cols<float>(b.cols), columns = padded_cols(b.cols);
  const long times = ceil_div(b.depth, tiles.terms), next = width * tiles.terms * times;
  const long row_bytes = (ceil_div(b.depth, V) + 1) * V * tiles.term_size;
  const auto* corrections = reinterpret_cast<const int32_t*>(b.low.bytes);
  const auto* scales = reinterpret_cast<const float*>(corrections + columns);
  const auto* panels = reinterpret_cast<const int8_t*>(scales + columns);

  Scratch::Frame scratch;
  const long most = smaller(rows, kRowsOfBytes);
  int8_t* const terms = scratch.take<int8_t>(most * row_bytes);
  const void** const term_rows = scratch.take<const void*>(most);
  float* const row_scales = scratch.take<float>(most);
  alignas(kVectorBytes) int32_t sums[kRows * panel_vectors(1) * V];
  for (long r0 = 0; r0 < rows; r0 += most) {
    const long count = smaller(most, rows - r0);
    for (long m = 0; m < count; m++) {
      term_rows[m] = terms + m * row_bytes;
      row_scales[m] = tiles.quantise(a[r0 + m], b.depth, b.least, terms + m * row_bytes);
    }
    for (long i = 0, panels_here = 1; i < to - from; i += panels_here) {
      // As for floats, one row has more sums for the pipeline in two panels.
      panels_here = count == 1 && i + 1 < to - from ? 2 : 1;
      const long p = backwards ? to - i - panels_here : from + i, col = p * width;
      const long cols = panels_here * width, groups = ceil_div(count, kRows);
      for (long m = 0, g = 0; g < groups; g++) {
        const long n = (count - m + groups - g - 1) / (groups - g);
        const ByteTiles::Tile tile = panels_here == 2 ? tiles.of_two_panels : tiles.of_rows[n - 1];
        tile(term_rows + m, times, panels + p * next, next, corrections + col, sums);
        for (long end = m + n, s = 0; m < end; m++, s += cols) {
          const float* const first = initial ? initial[r0 + m] + col : nullptr;
          scale_sums(sums + s, row_scales[m], scales + col, first, c[r0 + m] + col,
                     smaller(cols, b.cols - col));
        }
      }
    }
  }
}

// Packs w, [cols][depth], whose values are multiples of the scales of its rows.
__attribute__((noinline)) inline void pack_bytes(const float* w, const float* scales, long cols,
                                                 long depth, bool dots, int8_t* packed) {
  const long terms = dots ? kTerms<true> : kTerms<false>, times = ceil_div(depth, terms);
  const long columns = padded_cols(cols), width = panel_cols<float>(cols);
  auto* const corrections = reinterpret_cast<int32_t*>(packed);
  auto* const out_scales = reinterpret_cast<float*>(corrections + columns);
  auto* const panels = reinterpret_cast<int8_t*>(out_scales + columns);
  for (long j = 0; j < columns; j++) {
    const float scale = j < cols ? scales[j] : 0.f;
    int8_t* const column = panels + (j / width * width * times + j % width) * terms;
    int32_t sum = 0;
    for (long k = 0; k < times * terms; k++) {
      const float exact = k < depth && scale > 0 ? w[j * depth + k] / scale : 0.f;
      const auto q = static_cast<int8_t>(exact + (exact < 0 ? -0.5f : 0.5f));
      column[k / terms * width * terms + k % terms] = q;
      sum += q;
    }
    corrections[j] = dots ? static_cast<int32_t>(-kDotBias * sum) : 0;
    out_scales[j] = scale;
  }
}

// c[m] = initial[m] + a[m] . b for every row m; initial may be null (zeros) or c itself.
// `backwards` walks the columns from the last: a caller that comes back with the same b alternates,
// and finds in the cache what it used last. Of an operand that is not by columns, panels [from, to)
// can be taken alone.
template <class T>
void multiply(long rows, const T* const* a, const Operand<T>& b, const T* const* initial,
              T* const* c, bool backwards, long from, long to) {
  if (rows == 0)
    return;
  if constexpr (sizeof(T) == sizeof(float)) {
    if (b.low.bytes)
      return multiply_bytes(rows, a, b, initial, c, backwards, from, to);
    if constexpr (kMayRound) {
      if (b.low.pairs)
        return multiply_bf16<T>(rows, a, b, initial, c, backwards, from, to);
    }
  }
  auto in_chains = [&](auto n) __attribute__((always_inline)) {
    if constexpr (sizeof(T) == sizeof(float)) {
      if (b.low.halves)
        return multiply_halves<n.value>(rows, a, b, initial, c, backwards, from, to);
    }
    if (b.layout == Layout::kColumns)
      multiply_columns<T, n.value>(rows, a, b, initial, c);
    else
      multiply_in_chains<T, n.value>(rows, a, b, initial, c, backwards, from, to);
  };
  switch (chains<T>(b.cols)) {
  case 1:
    return in_chains(std::integral_constant<int, 1>{});
  case 2:
    return in_chains(std::integral_constant<int, 2>{});
  default:
    if constexpr (kLanes<T> >= 4)
      return in_chains(std::integral_constant<int, 4>{});
  }
}
template <class T>
void multiply(long rows, const T* const* a, const Operand<T>& b, const T* const* initial,
              T* const* c, bool backwards = false) {
  multiply<T>(rows, a, b, initial, c, backwards, 0, num_panels<T>(b.cols));
}

// Packs panels [from, to) of the transpose of w, [cols][depth] as torch stores weights: a . w^T.
template <class T>
void pack_transposed(const T* w, long cols, long depth, long from, long to, T* dst) {
  constexpr int V = kLanes<T>;
  const long P = panel_cols<T>(cols) / V;
  for (long v = from * P; v < smaller(to * P, ceil_div(cols, V)); v++) {
    const long panel = v / P, width = smaller(P, ceil_div(cols, V) - panel * P);
    T* out = dst + (panel * P * depth + v % P) * V;
    const int n = static_cast<int>(smaller(V, cols - v * V));
    const T* src[V] = {};
    for (int i = 0; i < n; i++)
      src[i] = w + (v * V + i) * depth;
    for (long k = 0; k < depth; k += V) {
      transpose_block<T>(src, k, n, static_cast<int>(smaller(V, depth - k)), out + k * width * V,
                         width * V);
    }
  }
}

// Packs panels [from, to) of the matrix whose rows are row[0 .. depth), each of `cols` values.
template <class T>
void pack_rows(const T* const* row, long cols, long depth, long from, long to, T* dst) {
  constexpr int V = kLanes<T>;
  const long P = panel_cols<T>(cols) / V, vectors = ceil_div(cols, V);
  for (long panel = from; panel < to; panel++) {
    const long width = smaller(P, vectors - panel * P);
    T* out = dst + panel * P * depth * V;
    for (long k = 0; k < depth; k++) {
      for (long v = 0; v < width; v++) {
        const long at = (panel * P + v) * V, left = cols - at;
        store(out + (k * width + v) * V,
              left >= V ? load(row[k] + at) : load_first(row[k] + at, static_cast<int>(left)));
      }
    }
  }
}

} // namespace
} // namespace elman
