// What forward.hpp and backward.hpp share: where the rows of every step lie, of which directions
// and blocks of rows, who works on what, and the weights as operands of products.
#pragma once

#include "gemm.hpp"
#include "rows.hpp"
#include "threads.hpp"

namespace elman {
namespace {

// ---- where rows lie ----

// A range of batch rows.
struct RowBlock {
  long begin, end;
};

// Sizes and the place of every row. L counts steps up to the end of the longest sequence: nothing
// that is computed depends on how much padding comes after it.
template <class T>
struct Shape {
  long L, N, I, H, R, D, GH;
  long C;            // that of the states after h
  long EH;           // G*H without the late gates
  long padded;       // steps of the arrays, L or more
  const long* order; // [N] columns by descending length, of padded arrays, or null
  const long* first; // [L + 1] rows computed before step t
  bool keeps_packed; // whatever the arrays are
  const T* zeros;    // [max(H, R, C)]

  Shape(const Problem<T>& p, const CellKernel<T>& cell, Scratch::Frame& scratch)
      : L(p.seq_len), N(p.batch), I(p.input_size), H(p.hidden_size),
        R(p.projection ? p.projection : p.hidden_size), D(p.directions),
        GH(cell.gates * p.hidden_size), C((cell.states - 1) * p.hidden_size),
        EH((cell.gates - cell.late) * p.hidden_size), padded(p.seq_len), order(nullptr),
        keeps_packed(p.keeps_packed) {
    if (p.lengths) {
      L = smaller(L, 1); // a step that no sequence has is still one, whose gradients are zeros
      for (long n = 0; n < N; n++)
        L = larger(L, p.lengths[n]);
    }
    long *offsets = scratch.take<long>(L + 1), *longer = scratch.take<long>(L + 1);
    for (long t = 0; t <= L; t++) // how many sequences are longer than t
      longer[t] = t == L || p.lengths ? 0 : p.batch_sizes ? p.batch_sizes[t] : N;
    for (long n = 0; p.lengths && n < N; n++)
      longer[p.lengths[n] ? p.lengths[n] - 1 : L]++;
    for (long t = L - 1; p.lengths && t > 0; t--)
      longer[t - 1] += longer[t];
    offsets[0] = 0;
    for (long t = 0; t < L; t++)
      offsets[t + 1] = offsets[t] + longer[t];
    first = offsets;
    if (p.lengths) {
      longer[L] = 0;
      long* columns = scratch.take<long>(N);
      for (long n = 0; n < N; n++)
        columns[longer[p.lengths[n]]++] = n;
      order = columns;
    }
    const long most = larger(C, larger(H, R));
    T* zero = scratch.take<T>(most);
    for (long i = 0; i < most; i++)
      zero[i] = T(0);
    zeros = zero;
  }

  long rows() const { return first[L]; }                          // computed
  long all_rows() const { return order ? padded * N : first[L]; } // of the arrays
  // Sequence n, in the order of their lengths: its column, and its row at step t, in the arrays.
  long column(long n) const { return order ? order[n] : n; }
  long place(long t, long n) const { return order ? t * N + order[n] : first[t] + n; }
  long kept_rows() const { return keeps_packed ? rows() : all_rows(); }
  long kept_place(long t, long n) const { return keeps_packed ? first[t] + n : place(t, n); }
  long running(RowBlock block, long t) const { // rows of a block that take step t
    return larger(0, smaller(batch_at(t), block.end) - block.begin);
  }
  long batch_at(long t) const { return t < 0 || t >= L ? 0 : first[t + 1] - first[t]; }
};

// One direction of a problem: where its values lie and in which order its steps come.
template <class T>
struct Direction {
  const Problem<T>& p;
  const Shape<T>& at;
  const CellKernel<T>& cell;
  long d;

  // Step number s in the order of this direction, 0 <= s < L.
  bool reverse() const { return d >= p.heads; }
  long time(long s) const { return reverse() ? at.L - 1 - s : s; }
  long before(long t) const { return reverse() ? t + 1 : t - 1; }

  const Weights<T>& weights() const { return p.weights[d]; }
  const T* x(long t, long n) const { return p.x + at.place(t, n) * at.I; }
  T* y(long t, long n) const { return p.y + (at.place(t, n) * at.D + d) * at.R; }
  T* keep(long t, long n) const {
    return p.keep + (d * at.kept_rows() + at.kept_place(t, n)) * cell.kept * at.H;
  }
  T* c(long t, long n) const { return p.c + (d * at.all_rows() + at.place(t, n)) * at.C; }
  // Whether row n starts anew before step t.
  bool resets(long t, long n) const { return p.resets && p.resets[at.place(t, n)]; }
  // The state that row n had before step t: that of its previous step or, at its first, the
  // initial, or what it starts anew from.
  const T* h_before(long t, long n) const {
    if (resets(t, n))
      return p.h_to ? p.h_to + d * at.R : at.zeros;
    if (n < at.batch_at(before(t)))
      return y(before(t), n);
    return p.h_0 ? state(p.h_0, n, at.R) : at.zeros;
  }
  const T* c_before(long t, long n) const { // from the kept values, of which c is the last
    if (resets(t, n))
      return p.c_to ? p.c_to + d * at.C : nullptr;
    if (n < at.batch_at(before(t)))
      return keep(before(t), n) + cell.kept * at.H - at.C;
    return p.c_0 ? state(p.c_0, n, at.C) : nullptr;
  }
  // Sequence n's part of a state [D, N, width], which may be null.
  template <class U>
  U* state(U* states, long n, long width) const {
    return states ? states + (d * at.N + at.column(n)) * width : nullptr;
  }
};

template <class T>
void copy(T* dst, const T* src, long n) { // src null: zeros
  if (src == dst)
    return; // a single step of a cell asks for h_n where it asks for y
  if (src) {
    __builtin_memcpy(dst, src, static_cast<size_t>(n) * sizeof(T));
  } else {
    __builtin_memset(dst, 0, static_cast<size_t>(n) * sizeof(T));
  }
}

// Says that n values at p are about to be written, if they are wanted.
template <class T>
void expect(T* p, long n) {
  if (p)
    expect_writes(p, static_cast<std::size_t>(n) * sizeof(T));
}

// Zeros what lies past the ends of the sequences in a padded array of rows of `width` values.
template <class T>
void clear_padding(const Shape<T>& at, T* array, long width) {
  for (long t = 0; at.order && t < at.padded; t++)
    for (long n = at.batch_at(t); n < at.N; n++)
      copy<T>(array + at.place(t, n) * width, nullptr, width);
}

// ---- who works on what ----

// Below this many multiply-adds, waking a helper costs more than it saves.
constexpr double kWorthAThread = 1e6;

int worthwhile(int threads, double multiply_adds) {
  const double most = multiply_adds / kWorthAThread;
  return most < 1 ? 1 : most < threads ? static_cast<int>(most) + 1 : threads;
}

// The blocks of a batch hold about equally many of the steps from `early` up to `late`.
template <class T>
RowBlock row_block(const Shape<T>& at, long blocks, long i, long early, long late) {
  auto boundary = [&](long b) {
    if (b == 0)
      return 0L;
    if (b == blocks || late == early)
      return at.N;
    if (at.batch_at(late - 1) == at.N)
      return at.N * b / blocks;
    // Row n has as many steps as there are step batches larger than n.
    long wanted = (at.first[late] - at.first[early]) * b / blocks, n = 0;
    for (long t = late; n < at.N; n++) {
      while (t > early && at.batch_at(t - 1) <= n)
        t--;
      if (2 * wanted < t - early)
        break;
      wanted -= t - early;
    }
    return n;
  };
  return {boundary(i), boundary(i + 1)};
}

// Fewer rows than this per thread would leave its tiles half empty.
constexpr long kRowsPerBlock = 4;

template <class T>
long num_blocks(const Shape<T>& at, int threads) {
  return larger(1, smaller(threads, at.N / kRowsPerBlock));
}

// Whether something acts on rows beside the cell, see stages.hpp.
template <class T>
bool has_stages(const Direction<T>& dir) {
  const Weights<T>& w = dir.weights();
  const Recurrence<T>& r = dir.p.recurrence;
  return w.gain_ih || w.gain_hh || w.gain_c || r.drop || r.zone_h || r.zone_c || r.stay_h != T(0) ||
         r.stay_c != T(0) || r.clip != T(0);
}

// The share of a thread, in whole panels of products whose outputs are the units.
template <class T>
Units units_of(const Shape<T>& at, int part, int parts) {
  const long width = panel_cols<T>(at.GH), panels = ceil_div(at.H, width);
  return {smaller(at.H, panels * part / parts * width),
          smaller(at.H, panels * (part + 1) / parts * width)};
}

// What a gang adds to a step, in multiply-adds that take as long: a meeting for each member, since
// a counter that all of them change goes from core to core, and every value of h that the others
// have written comes from their caches.
constexpr double kMeeting = 6e3, kExchange = 24;

// How many threads are to share out the units of each step: as many as make it shortest, or 1 if
// it takes longer than among `at_once` threads that share out rows and directions. What would take
// a second meeting in a step, and rows that end apart, are not shared out.
template <class T>
int gang_size(const Direction<T>& dir, int threads, long at_once) {
  const Shape<T>& at = dir.at;
  if (threads == 1 || at.L == 1 || dir.p.batch_sizes || dir.p.lengths || dir.p.projection ||
      dir.p.resets || dir.cell.late || !dir.cell.product || has_stages(dir))
    return 1;
  const double step = static_cast<double>(at.N * at.GH * at.R);
  const long panels = ceil_div(at.H, panel_cols<T>(at.GH));
  double least = step / static_cast<double>(at_once);
  int best = 1;
  for (int size = 2; size <= smaller(threads, panels); size++) {
    const double share = static_cast<double>(ceil_div(panels, size)) / static_cast<double>(panels);
    const double time =
        step * share + kMeeting * size + kExchange * static_cast<double>(at.N * at.R);
    if (time < least)
      least = time, best = size;
  }
  return best;
}

// The outputs of a product that belong to some units, of every gate there is.
template <class T>
void multiply_units(long rows, const T* const* a, const Operand<T>& b, const T* const* initial,
                    T* const* c, bool backwards, Units units, long H) {
  if (units.to - units.from == H)
    return multiply<T>(rows, a, b, initial, c, backwards);
  const long width = panel_cols<T>(b.cols);
  for (long gate = 0; gate < b.cols && units.from < units.to; gate += H) {
    multiply<T>(rows, a, b, initial, c, backwards, (gate + units.from) / width,
                ceil_div(gate + units.to, width));
  }
}

// A weight matrix as the right operand of products, packed for them if that pays.
template <class T>
struct Weight {
  const T* w;            // null: not there, or not needed
  long rows, cols;       // of w, as torch stores it
  bool transposed;       // the operand is w^T (outputs are w's rows) or w (outputs are its columns)
  T* packed;             // null: read w as it lies
  LowPrecision low = {}; // in place of packed
  float least = 0;       // see Operand
  uint16_t* pairs = nullptr; // where it is packed, in place of `packed`; also in low

  long out() const { return transposed ? rows : cols; }
  long depth() const { return transposed ? cols : rows; }
  Operand<T> operand() const {
    if (packed || low)
      return {packed, depth(), out(), Layout::kPacked, low, least};
    return {w, depth(), out(), transposed ? Layout::kColumns : Layout::kRows};
  }

  bool to_pack() const { return packed || pairs; }
  // Packs panels [from, to).
  void pack(long from, long to) const {
    Scratch::Frame scratch;
    const T** row = scratch.take<const T*>(transposed ? 0 : rows);
    for (long k = 0; !transposed && k < rows; k++)
      row[k] = w + k * cols;
    if constexpr (kMayRound && std::is_same_v<T, float>) {
      if (pairs)
        return transposed ? pack_pairs_transposed(w, rows, cols, from, to, pairs)
                          : pack_pairs_of_rows(row, cols, rows, from, to, pairs);
    }
    if (transposed) {
      pack_transposed(w, rows, cols, from, to, packed);
    } else {
      pack_rows(row, cols, rows, from, to, packed);
    }
  }
};

// The weights of a direction as operands: of the input, of h, of the h that late gates see, and of
// the projection.
template <class T>
struct Operands {
  Weight<T> ih, hh, late, hr;
};
constexpr long kMatrices = 4;

// Up to this many rows, a product that happens once reads its weights as they lie; and up to so
// many where they already lie as its right side does.
constexpr long kRowsNotWorthPacking = 3, kRowsNotWorthCopying = 64;

// Calls room(weight, n) for each matrix, which finds a place for its n packed values.
template <class T, class F>
Operands<T> place_operands(const Weights<T>& w, const Shape<T>& at, bool transposed,
                           bool with_input, F&& room) {
  auto make = [&](const T* weight, long rows, long cols) {
    Weight<T> m{weight, rows, cols, transposed, nullptr};
    if (weight)
      room(m, packed_size<T>(m.out(), m.depth()));
    return m;
  };
  const long late = at.GH - at.EH;
  const Weight<T> ih = make(with_input ? w.w_ih : nullptr, at.GH, at.I);
  const Weight<T> hh = make(w.w_hh, at.EH, at.R);
  const Weight<T> of_late = make(late ? w.w_hh + at.EH * at.R : nullptr, late, at.R);
  return {ih, hh, of_late, make(w.w_hr, at.R, at.H)};
}

template <class T>
Operands<T> make_operands(const Weights<T>& w, const Shape<T>& at, bool transposed, bool with_input,
                          Bf16 way, Scratch::Frame& scratch) {
  const bool once = at.L == 1 && at.N <= (transposed ? kRowsNotWorthPacking : kRowsNotWorthCopying);
  return place_operands(w, at, transposed, with_input, [&](Weight<T>& m, long n) {
    if (way == Bf16::kNone) {
      m.packed = once ? nullptr : scratch.take<T>(n);
    } else {
      m.low.pairs = m.pairs = scratch.take<uint16_t>(packed_pairs(m.out(), m.depth()));
      m.low.way = way;
    }
  });
}

// The same of weights that are packed: what is there stands one after another.
template <class T>
Operands<T> find_operands(const Weights<T>& w, const Shape<T>& at, const CellKernel<T>& cell) {
  long begin = 0, begin_bytes = 0;
  Operands<T> operands = place_operands(w, at, true, true, [&](Weight<T>& m, long n) {
    m.packed = w.packed ? w.packed + begin : nullptr;
    m.low = {w.low.halves ? w.low.halves + begin : nullptr,
             w.low.bytes ? w.low.bytes + begin_bytes : nullptr, w.low.dots};
    begin += n, begin_bytes += packed_bytes(m.out(), m.depth());
  });
  const float least = cell.bounded ? 1.f : 0.f;
  operands.hh.least = operands.late.least = w.w_hr ? 0.f : least;
  operands.hr.least = least;
  return operands;
}

template <class T>
void pack_all(const Operands<T>* directions, long count, int threads) {
  constexpr long kPieces = 8; // per matrix, enough to share out evenly
  auto matrix = [&](long i) -> const Weight<T>& {
    const Operands<T>& d = directions[i / kMatrices];
    const Weight<T>* const all[kMatrices] = {&d.ih, &d.hh, &d.late, &d.hr};
    return *all[i % kMatrices];
  };
  double values = 0;
  for (long i = 0; i < kMatrices * count; i++)
    if (matrix(i).to_pack())
      values += static_cast<double>(matrix(i).rows * matrix(i).cols);
  if (values == 0)
    return;
  const int tasks = static_cast<int>(kMatrices * count * kPieces);
  parallel_for(worthwhile(threads, 8 * values), tasks, [&](int task) {
    const Weight<T>& m = matrix(task / kPieces);
    if (!m.to_pack())
      return;
    const long i = task % kPieces, panels = num_panels<T>(m.out());
    m.pack(panels * i / kPieces, panels * (i + 1) / kPieces);
  });
}

} // namespace
} // namespace elman
