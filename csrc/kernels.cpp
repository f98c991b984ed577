// The recurrence over time, for any cell. Compiled once per instruction set.
//
// This loop knows projections, directions, packed rows and threads, and no cell: what a cell does
// to one row at one step is a function of cells.hpp, what multiplies is gemm.hpp. Products are
// formed for as many rows at once as there are: gx for a chunk of steps, gh for the rows of a step,
// the weight gradients for a chunk of steps.
//
// No std:: function with a body is used here: the linker may keep one instruction set's copy for
// all.
#include "kernels.hpp"

#include "calibrate.hpp"
#include "cells.hpp"
#include "gemm.hpp"
#include "modules.hpp"
#include "threads.hpp"

#ifndef ELMAN_ISA
#error "compile with -DELMAN_ISA=<name>"
#endif

namespace elman {
namespace {

// ---- one row at one step: a cell applied to H units ----

// The values of a row; gates of gx, gh and their gradients lie one after another, H apart. With a
// projection h has another size than the units: such a cell must not need it, and gets zeros.
template <class T>
struct ForwardRow {
  const T *gx, *gh, *h_previous, *c_previous;
  T *h, *c, *keep; // c may be c_previous; keep may be null
};
template <class T>
struct BackwardRow {
  const T *keep, *h_previous, *c_previous, *h, *dy; // c_previous null: zeros; dy null: zeros
  const T* dkeep;                                   // null: zeros
  const T *dh, *dc;                                 // gradient of the new state
  T *dh_previous, *dc_previous; // out: of the previous one, but for gh's part; may be dh and dc
  T *dgx, *dgh;                 // out
  T* hidden;                    // out, if not null: h before the projection
};

// A length for an array that may have nothing to hold.
template <int n>
inline constexpr int kAtLeastOne = n > 0 ? n : 1;

template <class T, class Cell>
void forward_row(const ForwardRow<T>& row, long H, Units units) {
  for_each_vector<T>(units, [&](long u, auto get, auto put) __attribute__((always_inline)) {
    Vec<T> gx[Cell::num_gates], gh[Cell::num_gates], state[Cell::num_states];
    Vec<T> keep[kAtLeastOne<Cell::kept>];
    unroll<Cell::num_gates>([&](auto g) __attribute__((always_inline)) {
      gx[g] = get(row.gx + g * H + u);
      gh[g] = get(row.gh + g * H + u);
    });
    state[0] = get(row.h_previous + u);
    if constexpr (Cell::num_states > 1)
      state[1] = get(row.c_previous + u);
    Cell::template forward<T>(gx, gh, state, keep);
    put(row.h + u, state[0]);
    if constexpr (Cell::num_states > 1)
      put(row.c + u, state[1]);
    if (row.keep) {
      unroll<Cell::kept>(
          [&](auto i) __attribute__((always_inline)) { put(row.keep + i * H + u, keep[i]); });
    }
  });
}

template <class T, class Cell, bool kGatesAreRead>
void backward_row(const BackwardRow<T>& row, long H, Units units) {
  for_each_vector<T>(units, [&](long u, auto get, auto put) __attribute__((always_inline)) {
    Vec<T> keep[kAtLeastOne<Cell::kept>], previous[Cell::num_states], dstate[Cell::num_states];
    Vec<T> dgx[Cell::num_gates], dgh[Cell::num_gates];
    unroll<Cell::kept>([&](auto i)
                           __attribute__((always_inline)) { keep[i] = get(row.keep + i * H + u); });
    previous[0] = get(row.h_previous + u);
    dstate[0] = get(row.dh + u);
    if (row.dy)
      dstate[0] += get(row.dy + u);
    if constexpr (Cell::num_states > 1) {
      previous[1] = row.c_previous ? get(row.c_previous + u) : Vec<T>{};
      dstate[1] = get(row.dc + u);
    }
    if constexpr (requires { Cell::template hidden<T>(keep); }) {
      if (row.hidden)
        put(row.hidden + u, Cell::template hidden<T>(keep));
    }
    auto plus = [&](int i, Vec<T> d) __attribute__((always_inline)) {
      if constexpr (kGatesAreRead)
        d += get(row.dkeep + i * H + u);
      return d;
    };
    Cell::template backward<T>(keep, previous, get(row.h + u), dstate, dgx, dgh, plus);
    put(row.dh_previous + u, dstate[0]);
    if constexpr (Cell::num_states > 1)
      put(row.dc_previous + u, dstate[1]);
    unroll<Cell::num_gates>([&](auto g) __attribute__((always_inline)) {
      put(row.dgx + g * H + u, dgx[g]);
      if constexpr (!Cell::adds)
        put(row.dgh + g * H + u, dgh[g]);
    });
  });
}

// The two halves of a cell whose late gates see a reset h, on one row. `gx`, `gh`, `dgx`: of the
// other gates; `out` and `reset`: the h that the late gates see.
template <class T, class Cell>
void reset_row(const T* gx, T* gh, const T* h, T* out, long H) {
  constexpr int kEarly = Cell::num_gates - Cell::late;
  for_each_vector<T>({0, H}, [&](long u, auto get, auto put) __attribute__((always_inline)) {
    Vec<T> x[kEarly], y[kEarly];
    unroll<kEarly>([&](auto g) __attribute__((always_inline)) {
      x[g] = get(gx + g * H + u), y[g] = get(gh + g * H + u);
    });
    put(out + u, Cell::template reset<T>(x, y, get(h + u)));
    unroll<kEarly>([&](auto g) __attribute__((always_inline)) { put(gh + g * H + u, y[g]); });
  });
}

template <class T, class Cell>
void reset_backward_row(const T* keep, const T* h_previous, const T* dreset, T* dh, T* dgx,
                        T* reset, long H) {
  constexpr int kEarly = Cell::num_gates - Cell::late;
  for_each_vector<T>({0, H}, [&](long u, auto get, auto put) __attribute__((always_inline)) {
    Vec<T> kept[Cell::kept], gates[kEarly], dstate = get(dh + u);
    unroll<Cell::kept>([&](auto i)
                           __attribute__((always_inline)) { kept[i] = get(keep + i * H + u); });
    unroll<kEarly>([&](auto g) __attribute__((always_inline)) { gates[g] = get(dgx + g * H + u); });
    put(reset + u, Cell::template reset_backward<T>(kept, get(h_previous + u), get(dreset + u),
                                                    dstate, gates));
    put(dh + u, dstate);
    unroll<kEarly>([&](auto g) __attribute__((always_inline)) { put(dgx + g * H + u, gates[g]); });
  });
}

// A cell as the loop sees it.
template <class T>
struct CellKernel {
  int gates, states, kept, late;
  bool adds, passes, bounded;
  void (*forward)(const ForwardRow<T>&, long hidden_size, Units);
  void (*backward)(const BackwardRow<T>&, long hidden_size, Units);
  void (*backward_of_gates)(const BackwardRow<T>&, long hidden_size, Units); // with dkeep
  // null unless late
  void (*reset)(const T* gx, T* gh, const T* h, T* out, long hidden_size);
  void (*reset_backward)(const T* keep, const T* h_previous, const T* dreset, T* dh, T* dgx,
                         T* reset, long hidden_size);
};

template <class T, class Cell>
constexpr CellKernel<T> make_kernel() {
  CellKernel<T> kernel{Cell::num_gates,
                       Cell::num_states,
                       Cell::kept,
                       Cell::late,
                       Cell::adds,
                       Cell::passes,
                       Cell::bounded,
                       &forward_row<T, Cell>,
                       &backward_row<T, Cell, false>,
                       &backward_row<T, Cell, true>,
                       nullptr,
                       nullptr};
  if constexpr (Cell::late > 0) {
    kernel.reset = &reset_row<T, Cell>;
    kernel.reset_backward = &reset_backward_row<T, Cell>;
  }
  return kernel;
}

template <class List>
struct Tables;
template <class... C>
struct Tables<std::tuple<C...>> {
  static constexpr CellInfo infos[] = {{C::name, C::gates, C::states, C::kept}...};
  template <class T>
  static constexpr CellKernel<T> kernels[] = {make_kernel<T, C>()...};
};

// ---- the sequence ----

// A range of batch rows.
struct RowBlock {
  long begin, end;
};

// Sizes and the place of every row. L counts steps up to the end of the longest sequence: nothing
// that is computed depends on how much padding comes after it.
template <class T>
struct Shape {
  long L, N, I, H, R, D, GH;
  long EH;           // G*H without the late gates
  long padded;       // steps of the arrays, L or more
  const long* order; // [N] columns by descending length, of padded arrays, or null
  const long* first; // [L + 1] rows computed before step t
  const T* zeros;    // [max(H, R)]

  Shape(const Problem<T>& p, const CellKernel<T>& cell, Scratch::Frame& scratch)
      : L(p.seq_len), N(p.batch), I(p.input_size), H(p.hidden_size),
        R(p.projection ? p.projection : p.hidden_size), D(p.directions),
        GH(cell.gates * p.hidden_size), EH((cell.gates - cell.late) * p.hidden_size),
        padded(p.seq_len), order(nullptr) {
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
    T* zero = scratch.take<T>(larger(H, R));
    for (long i = 0; i < larger(H, R); i++)
      zero[i] = T(0);
    zeros = zero;
  }

  long rows() const { return first[L]; }                          // computed
  long all_rows() const { return order ? padded * N : first[L]; } // of the arrays
  // Sequence n, in the order of their lengths: its column, and its row at step t, in the arrays.
  long column(long n) const { return order ? order[n] : n; }
  long place(long t, long n) const { return order ? t * N + order[n] : first[t] + n; }
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
  long time(long s) const { return d ? at.L - 1 - s : s; }
  long before(long t) const { return d ? t + 1 : t - 1; }

  const Weights<T>& weights() const { return p.weights[d]; }
  const T* x(long t, long n) const { return p.x + at.place(t, n) * at.I; }
  T* y(long t, long n) const { return p.y + (at.place(t, n) * at.D + d) * at.R; }
  T* keep(long t, long n) const {
    return p.keep + (d * at.all_rows() + at.place(t, n)) * cell.kept * at.H;
  }
  T* c(long t, long n) const { return p.c + (d * at.all_rows() + at.place(t, n)) * at.H; }
  // Whether row n starts anew before step t.
  bool resets(long t, long n) const { return p.resets && p.resets[at.place(t, n)]; }
  // The state that row n had before step t: that of its previous step or, at its first, the
  // initial, or what it starts anew from.
  const T* h_before(long t, long n) const {
    if (resets(t, n))
      return p.h_to ? p.h_to : at.zeros;
    if (n < at.batch_at(before(t)))
      return y(before(t), n);
    return p.h_0 ? state(p.h_0, n, at.R) : at.zeros;
  }
  const T* c_before(long t, long n) const { // from the kept values, of which c is the last
    if (resets(t, n))
      return p.c_to;
    if (n < at.batch_at(before(t)))
      return keep(before(t), n) + (cell.kept - 1) * at.H;
    return p.c_0 ? state(p.c_0, n, at.H) : nullptr;
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

// ---- who works on what ----

// Below this many multiply-adds, waking a helper costs more than it saves.
constexpr double kWorthAThread = 1e6;

int worthwhile(int threads, double multiply_adds) {
  const double most = multiply_adds / kWorthAThread;
  return most < 1 ? 1 : most < threads ? static_cast<int>(most) + 1 : threads;
}

// The blocks of a batch hold about equally many steps.
template <class T>
RowBlock row_block(const Shape<T>& at, long blocks, long i) {
  auto boundary = [&](long b) {
    if (b == 0)
      return 0L;
    if (b == blocks)
      return at.N;
    if (at.batch_at(at.L - 1) == at.N)
      return at.N * b / blocks;
    // Packed: row n has as many steps as there are step batches larger than n.
    const long wanted = at.rows() * b / blocks;
    long n = 0, seen = 0;
    for (long t = at.L; n < at.N && seen < wanted; n++) {
      while (at.batch_at(t - 1) <= n)
        t--;
      seen += t;
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

// A weight matrix as the right operand of products, packed for them if that pays.
template <class T>
struct Weight {
  const T* w;            // null: not there, or not needed
  long rows, cols;       // of w, as torch stores it
  bool transposed;       // the operand is w^T (outputs are w's rows) or w (outputs are its columns)
  T* packed;             // null: read w as it lies
  LowPrecision low = {}; // in place of packed
  float least = 0;       // see Operand

  long out() const { return transposed ? rows : cols; }
  long depth() const { return transposed ? cols : rows; }
  Operand<T> operand() const {
    if (packed || low)
      return {packed, depth(), out(), Layout::kPacked, low, least};
    return {w, depth(), out(), transposed ? Layout::kColumns : Layout::kRows};
  }

  // Packs panels [from, to).
  void pack(long from, long to) const {
    if (transposed) {
      pack_transposed(w, rows, cols, from, to, packed);
    } else {
      Scratch::Frame scratch;
      const T** row = scratch.take<const T*>(rows);
      for (long k = 0; k < rows; k++)
        row[k] = w + k * cols;
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

// Up to this many rows, a product that happens once reads its weights as they lie.
constexpr long kRowsNotWorthPacking = 3;

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
                          Scratch::Frame& scratch) {
  const bool once = at.L == 1 && at.N <= kRowsNotWorthPacking;
  return place_operands(w, at, transposed, with_input, [&](Weight<T>& m, long n) {
    m.packed = once ? nullptr : scratch.take<T>(n);
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
    if (matrix(i).packed)
      values += static_cast<double>(matrix(i).rows * matrix(i).cols);
  if (values == 0)
    return;
  const int tasks = static_cast<int>(kMatrices * count * kPieces);
  parallel_for(worthwhile(threads, 8 * values), tasks, [&](int task) {
    const Weight<T>& m = matrix(task / kPieces);
    if (!m.packed)
      return;
    const long i = task % kPieces, panels = num_panels<T>(m.out());
    m.pack(panels * i / kPieces, panels * (i + 1) / kPieces);
  });
}

// ---- forward ----

// Values of gx that are computed ahead; they and the rows of x should stay in the second-level
// cache, unless they are few beside the weights, which are read once for all of them.
constexpr long kChunkValues = 1 << 16, kWeightsPerValue = 4;

// Whether threads that share out the units of each step gain more than they lose by meeting after
// it: if no row is left to share out, and a step is long. What would take a second meeting in a
// step, and rows that end apart, are not shared out.
constexpr double kWorthMeeting = 3e4; // multiply-adds of a step

template <class T>
bool pays_together(const Direction<T>& dir, int threads) {
  const Shape<T>& at = dir.at;
  return threads > 1 && at.L > 1 && !dir.p.batch_sizes && !dir.p.lengths && !dir.p.projection &&
         !dir.p.resets && !dir.cell.late &&
         static_cast<double>(at.N * at.GH * at.R) > kWorthMeeting;
}

// The share of a thread, in whole panels of products whose outputs are the units.
template <class T>
Units units_of(const Shape<T>& at, int part, int parts) {
  const long width = panel_cols<T>(at.GH), panels = ceil_div(at.H, width);
  return {smaller(at.H, panels * part / parts * width),
          smaller(at.H, panels * (part + 1) / parts * width)};
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

// Some units of a direction's rows [block.begin, block.end), from step `first` to the last, with
// c[s % 2] the cell state before step s. `threads` share what they can of the input's product; the
// steps are this thread's, or its part of them the gang's. Returns the step from which this thread
// is to go on alone; at.L: there is nothing left for it to do.
template <class T>
long forward_steps(const Direction<T>& dir, RowBlock block, const Operands<T>& operands,
                   int threads, Units units, Gang* gang, long first, T* const (&c)[2]) {
  const FlushDenormals mode;
  const Shape<T>& at = dir.at;
  const long rows = block.end - block.begin;
  const Operand<T> w_ih = operands.ih.operand(), w_hh = operands.hh.operand();
  const Operand<T> w_late = operands.late.operand(), w_hr = operands.hr.operand();
  const Weights<T>& w = dir.weights();
  const long values = larger(kChunkValues, at.GH * at.I / kWeightsPerValue);
  const long chunk = smaller(at.L, larger(1, values / larger(1, rows * at.GH)));

  Scratch::Frame scratch;
  T* gx = scratch.take<T>(chunk * rows * at.GH);
  T* gh = scratch.take<T>(rows * at.GH);
  T* hidden = dir.p.projection ? scratch.take<T>(rows * at.H) : nullptr;
  const T** in = scratch.take<const T*>(chunk * rows);
  const T** bias_ih = scratch.take<const T*>(chunk * rows);
  const T** bias_hh = scratch.take<const T*>(rows);
  T** out = scratch.take<T*>(chunk * rows);
  for (long i = 0; i < chunk * rows; i++)
    bias_ih[i] = w.b_ih;
  for (long i = 0; i < rows; i++)
    bias_hh[i] = w.b_hh;
  const long late_rows = dir.cell.late ? rows : 0;
  T* reset = scratch.take<T>(late_rows * at.H);
  const T** late_in = scratch.take<const T*>(late_rows);
  const T** late_bias = scratch.take<const T*>(late_rows);
  T** late_out = scratch.take<T*>(late_rows);
  for (long i = 0; i < late_rows; i++) {
    late_in[i] = reset + i * at.H, late_out[i] = gh + i * at.GH + at.EH;
    late_bias[i] = w.b_hh + at.EH;
  }

  for (long s0 = first; s0 < at.L; s0 += chunk) {
    const long s1 = smaller(at.L, s0 + chunk);
    long m = 0;
    for (long s = s0; s < s1; s++) {
      const long t = dir.time(s);
      for (long n = 0; n < at.running(block, t); n++, m++)
        in[m] = dir.x(t, block.begin + n), out[m] = gx + m * at.GH;
    }
    parallel_for(threads, threads, [&](int part) {
      const FlushDenormals helper_mode;
      const long from = m * part / threads, to = m * (part + 1) / threads;
      multiply_units<T>(to - from, in + from, w_ih, w.b_ih ? bias_ih : nullptr, out + from, false,
                        units, at.H);
    });

    m = 0;
    for (long s = s0; s < s1; s++) {
      const long t = dir.time(s), count = at.running(block, t);
      for (long n = 0; n < count; n++)
        in[n] = dir.h_before(t, block.begin + n), out[n] = gh + n * at.GH;
      multiply_units<T>(count, in, w_hh, w.b_hh ? bias_hh : nullptr, out, s & 1, units, at.H);
      if (dir.cell.late) {
        for (long n = 0; n < count; n++)
          dir.cell.reset(gx + (m + n) * at.GH, out[n], in[n], reset + n * at.H, at.H);
        multiply<T>(count, late_in, w_late, w.b_hh ? late_bias : nullptr, late_out, s & 1);
      }
      for (long n = 0; n < count; n++, m++) {
        const long row = block.begin + n;
        const T* c_previous = c[s & 1] + n * at.H;
        if (dir.resets(t, row))
          c_previous = dir.p.c_to ? dir.p.c_to : at.zeros;
        dir.cell.forward({gx + m * at.GH, gh + n * at.GH, hidden ? at.zeros : in[n], c_previous,
                          hidden ? hidden + n * at.H : dir.y(t, row), c[(s + 1) & 1] + n * at.H,
                          dir.p.keep ? dir.keep(t, row) : nullptr},
                         at.H, units);
        if (dir.p.c)
          copy(dir.c(t, row) + units.from,
               static_cast<const T*>(c[(s + 1) & 1] + n * at.H + units.from),
               units.to - units.from);
      }
      if (hidden) {
        for (long n = 0; n < count; n++)
          in[n] = hidden + n * at.H, out[n] = dir.y(t, block.begin + n);
        multiply<T>(count, in, w_hr, nullptr, out);
      }
      if (gang) {
        switch (gang->finish(s)) {
        case Gang::Next::kStep:
          break;
        case Gang::Next::kAlone:
          return s;
        case Gang::Next::kAloneAfterStep:
          return s + 1;
        case Gang::Next::kLeave:
          return at.L;
        }
      }
    }
  }
  return at.L;
}

// A direction's rows [block.begin, block.end) over the whole sequence, by up to `threads` threads.
template <class T>
void forward_block(const Direction<T>& dir, RowBlock block, const Operands<T>& operands,
                   int threads) {
  const Shape<T>& at = dir.at;
  const long rows = block.end - block.begin;
  const Units all{0, at.H};
  Scratch::Frame scratch;
  T* c = scratch.take<T>(rows * at.H);
  for (long n = 0; dir.cell.states > 1 && n < rows; n++)
    copy(c + n * at.H, dir.state(dir.p.c_0, block.begin + n, at.H), at.H);

  if (pays_together(dir, threads)) {
    // Who goes on alone has a c of its own: one that was lost may still write to the gang's.
    T* const shared[2] = {c, scratch.take<T>(rows * at.H)};
    T* const own = scratch.take<T>(rows * at.H);
    c = shared[at.L & 1];
    Gang gang(threads);
    parallel_for(threads, threads, [&](int) {
      const int part = gang.join();
      if (part < 0)
        return;
      const Units units = units_of(at, part, gang.parts());
      const long s = forward_steps(dir, block, operands, 1, units, &gang, 0, shared);
      if (s < at.L) {
        copy(own, static_cast<const T*>(shared[s & 1]), rows * at.H);
        forward_steps(dir, block, operands, 1, all, nullptr, s, {own, own});
        c = own;
      }
    });
  } else {
    forward_steps(dir, block, operands, threads, all, nullptr, 0, {c, c});
  }

  // Every row's state after its own last step, or the initial one of a row that has no step.
  for (long s = 0; s < at.L; s++) {
    const long t = dir.time(s), next = s + 1 < at.L ? at.running(block, dir.time(s + 1)) : 0;
    for (long n = next; n < at.running(block, t); n++)
      copy(dir.state(dir.p.h_n, block.begin + n, at.R), dir.y(t, block.begin + n), at.R);
  }
  for (long n = at.running(block, 0); n < rows; n++)
    copy(dir.state(dir.p.h_n, block.begin + n, at.R), dir.state(dir.p.h_0, block.begin + n, at.R),
         at.R);
  for (long n = 0; dir.cell.states > 1 && n < rows; n++)
    copy(dir.state(dir.p.c_n, block.begin + n, at.H), c + n * at.H, at.H);
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

template <class T>
void forward(int index, const Problem<T>& p, int threads) {
  const CellKernel<T>& cell = Tables<Cells>::kernels<T>[index];
  Scratch::Frame scratch;
  const Shape<T> at(p, cell, scratch);
  const double work =
      static_cast<double>(at.rows()) * static_cast<double>(at.D * at.GH * (at.I + at.R));

  expect<T>(p.y, at.all_rows() * at.D * at.R);
  expect<T>(p.keep, at.all_rows() * at.D * at.H * cell.kept);
  clear_padding(at, p.y, at.D * at.R);
  for (long d = 0; p.keep && d < at.D; d++) // it is seen by those who compare results
    clear_padding(at, p.keep + d * at.all_rows() * cell.kept * at.H, cell.kept * at.H);
  for (long d = 0; p.c && d < at.D; d++)
    clear_padding(at, p.c + d * at.all_rows() * at.H, at.H);
  Operands<T> operands[2];
  const bool is_packed = p.weights[0].packed || p.weights[0].low;
  for (long d = 0; d < at.D; d++)
    operands[d] = is_packed ? find_operands(p.weights[d], at, cell)
                            : make_operands(p.weights[d], at, true, true, scratch);
  if (!is_packed)
    pack_all(operands, at.D, threads);

  threads = worthwhile(threads, work);
  const long blocks = num_blocks(at, threads);
  const int tasks = static_cast<int>(at.D * blocks);
  parallel_for(threads, tasks, [&](int task) {
    const long d = task / blocks;
    forward_block<T>({p, at, cell, d}, row_block(at, blocks, task % blocks), operands[d],
                     tasks == 1 ? threads : 1);
  });
}

// Packs the weights of the first direction as `forward` reads them, unless packed is null; returns
// how many values they are.
template <class T>
long pack(int index, const Problem<T>& p, T* packed) {
  Scratch::Frame scratch;
  const Shape<T> at(p, Tables<Cells>::kernels<T>[index], scratch);
  long size = 0;
  const Operands<T> operands =
      place_operands(p.weights[0], at, true, true, [&](Weight<T>& m, long n) {
        m.packed = packed ? packed + size : nullptr;
        size += n;
      });
  pack_all(&operands, 1, 1);
  return size;
}

// The same in int8.
inline long pack_layer_bytes(int index, const Problem<float>& p, bool dots, int8_t* packed) {
  Scratch::Frame scratch;
  const Shape<float> at(p, Tables<Cells>::kernels<float>[index], scratch);
  const Weights<float>& w = p.weights[0];
  const float* const scales[kMatrices] = {w.scales_ih, w.scales_hh, w.scales_hh + at.EH,
                                          w.scales_hr};
  long size = 0, matrix = 0;
  auto pack = [&](const Weight<float>& m, const float* of) {
    if (!m.w)
      return;
    if (packed)
      pack_bytes(m.w, of, m.rows, m.cols, dots, packed + size);
    size += packed_bytes(m.rows, m.cols);
  };
  const Operands<float> all = place_operands(w, at, true, true, [](Weight<float>&, long) {});
  for (const Weight<float>* m : {&all.ih, &all.hh, &all.late, &all.hr})
    pack(*m, scales[matrix++]);
  return size;
}

// ---- backward ----

// Gradients of the gates that are computed before they are used for dx and the weights: few enough
// to stay in the last-level cache, enough for long sums in every group. The size depends on the
// problem alone, so that the weights' sums do too.
constexpr long kGradientChunkValues = 1 << 19;

// Rows of a chunk that are packed at a time for the gradient of a weight, a multiple of any kLanes:
// more if every time the gradient has to come from far away.
template <class T>
long packed_rows(long rows, long cols) {
  return rows * cols * static_cast<long>(sizeof(T)) < kNearCache ? 128 : 512;
}

// The buffers of one direction's backward pass.
template <class T>
struct BackwardBuffers {
  T *dh, *dc;          // [N, R], [N, H] the gradient of the state between two steps
  T *dgx, *dgh;        // [chunk rows, G*H]; the same buffer if the cell adds
  T* dh_total;         // [chunk rows, R] with a projection: gradient of its output, ...
  T *hidden, *dhidden; // [chunk rows, H], [N, H] ... its input, and the gradient of that
  T *reset, *dreset;   // the same two with late gates: of the h that they see
  T *dh_to, *dc_to;    // [N, R], [N, H] with resets: of what each row started anew from
};

// The gradients of the states between two steps, for the rows of the batch: step s reads dh and
// dc[s % 2], and writes what of the previous state's does not pass through the product to
// dh_rest[s % 2] and dc[(s + 1) % 2].
template <class T>
struct StateGradients {
  T* dh;                 // [N, R]
  T *dh_rest[2], *dc[2]; // [N, R], [N, H]
};

// Adds n values at `from` to those at `to`, and leaves zeros.
template <class T>
void take(T* from, T* to, long n) {
  for (long i = 0; i < n; i++)
    to[i] += from[i], from[i] = T(0);
}

// Steps [s0, s1) of a direction, last first, for a block of rows and some units: gradients of the
// gates, and of the states. Those from `done` on are done, but for the product of step `done`.
// Returns like forward_steps the `done` from which this thread is to go on alone; -1: nothing is
// left for it to do.
template <class T>
long backward_steps(const Direction<T>& dir, const Gradients<T>& g, const BackwardBuffers<T>& b,
                    const StateGradients<T>& state, const Operands<T>& operands, long s0, long s1,
                    long first_row, RowBlock block, Units units, Gang* gang, long done) {
  const FlushDenormals mode;
  const Shape<T>& at = dir.at;
  const Operand<T> w_hh = operands.hh.operand(), w_hr = operands.hr.operand();
  const Operand<T> w_late = operands.late.operand();
  const long rows = block.end - block.begin;
  const bool projected = dir.p.projection != 0;

  Scratch::Frame scratch;
  const T **in = scratch.take<const T*>(rows), **rest = scratch.take<const T*>(rows);
  T** out = scratch.take<T*>(rows);
  for (long s = done;; s--) {
    if (s < s1) {
      const long t = dir.time(s), count = at.running(block, t);
      for (long n = 0; n < count; n++) {
        const long row = block.begin + n;
        in[n] = b.dgh + (at.first[t] - first_row + row) * at.GH;
        rest[n] = state.dh_rest[s & 1] + row * at.R, out[n] = state.dh + row * at.R;
      }
      multiply_units<T>(count, in, w_hh, dir.cell.passes ? rest : nullptr, out, s & 1, units, at.R);
      for (long n = 0; dir.p.resets && n < count; n++) {
        const long row = block.begin + n;
        if (dir.resets(t, row)) { // the gradient goes where the state came from
          take(state.dh + row * at.R, b.dh_to + row * at.R, at.R);
          if (dir.cell.states > 1)
            take(state.dc[(s - 1) & 1] + row * at.H, b.dc_to + row * at.H, at.H);
        }
      }
    }
    if (s == s0)
      return -1;
    const long next = s - 1, t = dir.time(next), count = at.running(block, t);
    T *const rest_out = state.dh_rest[next & 1], *const dc = state.dc[next & 1];
    auto chunk_row = [&](long n) { return at.first[t] - first_row + block.begin + n; };
    auto dy = [&](long n) -> const T* {
      return g.dy ? g.dy + (at.place(t, block.begin + n) * at.D + dir.d) * at.R : nullptr;
    };
    if (projected) {
      for (long n = 0; n < count; n++) {
        const long row = block.begin + n;
        T* total = b.dh_total + chunk_row(n) * at.R;
        const T *dh = state.dh + row * at.R, *dy_row = dy(n);
        for (long i = 0; i < at.R; i++)
          total[i] = dh[i] + (dy_row ? dy_row[i] : T(0));
        in[n] = total, out[n] = b.dhidden + row * at.H;
      }
      multiply<T>(count, in, w_hr, nullptr, out);
    }
    for (long n = 0; n < count; n++) {
      const long row = block.begin + n, r = chunk_row(n);
      T* const dhidden = b.dhidden + row * at.H; // with a projection h does not pass on
      const auto backward = g.dkeep ? dir.cell.backward_of_gates : dir.cell.backward;
      backward({dir.cell.kept ? dir.keep(t, row) : nullptr,
                projected ? at.zeros : dir.h_before(t, row),
                dir.cell.states > 1 ? dir.c_before(t, row) : nullptr,
                projected ? at.zeros : dir.y(t, row), projected ? nullptr : dy(n),
                g.dkeep ? g.dkeep + (dir.keep(t, row) - dir.p.keep) : nullptr,
                projected ? dhidden : state.dh + row * at.R, dc + row * at.H,
                projected ? dhidden : rest_out + row * at.R, state.dc[s & 1] + row * at.H,
                b.dgx + r * at.GH, b.dgh + r * at.GH, projected ? b.hidden + r * at.H : nullptr},
               at.H, units);
    }
    if (dir.cell.late) {
      for (long n = 0; n < count; n++)
        in[n] = b.dgx + chunk_row(n) * at.GH + at.EH, out[n] = b.dreset + (block.begin + n) * at.H;
      multiply<T>(count, in, w_late, nullptr, out, next & 1);
      for (long n = 0; n < count; n++) {
        const long row = block.begin + n, r = chunk_row(n);
        dir.cell.reset_backward(dir.keep(t, row), dir.h_before(t, row), out[n],
                                rest_out + row * at.R, b.dgx + r * at.GH, b.reset + r * at.H, at.H);
      }
    }
    if (gang) {
      switch (gang->finish(s1 - 1 - next)) {
      case Gang::Next::kStep:
        break;
      case Gang::Next::kAlone:
        return s;
      case Gang::Next::kAloneAfterStep:
        return next;
      case Gang::Next::kLeave:
        return -1;
      }
    }
  }
}

// Steps [s0, s1) of a direction, last first, by `threads` threads: gradients of gates and states.
template <class T>
void backward_chunk(const Direction<T>& dir, const Gradients<T>& g, const BackwardBuffers<T>& b,
                    const Operands<T>& operands, long s0, long s1, long first_row, int threads) {
  const Shape<T>& at = dir.at;
  const Units all{0, at.H};
  const StateGradients<T> in_place{b.dh, {b.dh, b.dh}, {b.dc, b.dc}};
  const long blocks = num_blocks(at, threads);
  if (blocks > 1 || !pays_together(dir, threads)) {
    return parallel_for(threads, static_cast<int>(blocks), [&](int task) {
      backward_steps<T>(dir, g, b, in_place, operands, s0, s1, first_row,
                        row_block(at, blocks, task), all, nullptr, s1);
    });
  }

  // As in forward_block, one that was lost may write to the gang's: what is b's is written when the
  // gang has returned.
  const long R = at.N * at.R, H = dir.cell.states > 1 ? at.N * at.H : 0;
  Scratch::Frame scratch;
  StateGradients<T> shared, own;
  for (int i = 0; i < 2; i++)
    shared.dh_rest[i] = scratch.take<T>(R), shared.dc[i] = scratch.take<T>(H);
  T* const result = scratch.take<T>(R);
  own.dh = own.dh_rest[0] = own.dh_rest[1] = scratch.take<T>(R);
  own.dc[0] = own.dc[1] = scratch.take<T>(H);
  copy(shared.dc[(s1 - 1) & 1], static_cast<const T*>(b.dc), H);
  const T *dh = result, *dc = shared.dc[(s0 - 1) & 1];
  Gang gang(threads);
  parallel_for(threads, threads, [&](int) {
    const int part = gang.join();
    if (part < 0)
      return;
    const Units units = units_of(at, part, gang.parts());
    Scratch::Frame frame;
    StateGradients<T> mine = shared;
    mine.dh = frame.take<T>(R);
    copy(mine.dh, static_cast<const T*>(b.dh), R);
    const long done = backward_steps<T>(dir, g, b, mine, operands, s0, s1, first_row, {0, at.N},
                                        units, &gang, s1);
    if (done < 0) {
      for (long n = 0; n < at.N; n++)
        copy(result + n * at.R + units.from, static_cast<const T*>(mine.dh + n * at.R + units.from),
             units.to - units.from);
      return;
    }
    copy(own.dh, static_cast<const T*>(done < s1 ? shared.dh_rest[done & 1] : b.dh), R);
    copy(own.dc[0], static_cast<const T*>(shared.dc[(done - 1) & 1]), H);
    backward_steps<T>(dir, g, b, own, operands, s0, s1, first_row, {0, at.N}, all, nullptr, done);
    dh = own.dh, dc = own.dc[0];
  });
  copy(b.dh, dh, R);
  copy(b.dc, dc, H);
}

// dw[u] += sum over rows of dg[row][u] * in[row] for u in [from, to), and db likewise: the gradient
// of a weight whose output had gradient dg. `add` continues a sum of earlier rows; `at_once` of
// them are added together.
template <class T>
void weight_gradient(long rows, const T* const* dg, const T* const* in, long cols, long from,
                     long to, long at_once, bool add, T* dw, T* db) {
  const FlushDenormals mode;
  constexpr int V = kLanes<T>;
  const long units = to - from;
  if (rows == 0 && !add) {
    if (dw)
      copy<T>(dw + from * cols, nullptr, units * cols);
    if (db)
      copy<T>(db + from, nullptr, units);
    return;
  }
  Scratch::Frame scratch;
  T* panels = scratch.take<T>(dw ? packed_size<T>(cols, at_once) : 0);
  T* transposed = scratch.take<T>(units * at_once);
  const T** unit = scratch.take<const T*>(units);
  T** out = scratch.take<T*>(units);
  for (long u = 0; u < units; u++) {
    unit[u] = transposed + u * at_once;
    if (dw)
      out[u] = dw + (from + u) * cols;
  }

  for (long k0 = 0; k0 < rows; k0 += at_once, add = true) {
    const long depth = smaller(at_once, rows - k0);
    for (long k = 0; k < depth; k += V) {
      const int height = static_cast<int>(smaller(V, depth - k));
      for (long u = 0; u < units; u += V)
        transpose_block<T>(dg + k0 + k, from + u, height, static_cast<int>(smaller(V, units - u)),
                           transposed + u * at_once + k, at_once);
    }
    if (dw) {
      pack_rows<T>(in + k0, cols, depth, 0, num_panels<T>(cols), panels);
      multiply<T>(units, unit, {panels, depth, cols, Layout::kPacked}, add ? out : nullptr, out);
    }
    if (db) {
      for (long u = 0; u < units; u++) {
        Vec<T> sums{}; // rows past `depth` in the last block are zeros
        for (long k = 0; k < depth; k += V)
          sums += load(unit[u] + k);
        T sum = T(0);
        for (int lane = 0; lane < V; lane++)
          sum += sums[lane];
        db[from + u] = add ? db[from + u] + sum : sum;
      }
    }
  }
}

template <class T>
void backward_direction(const Direction<T>& dir, const Gradients<T>& g, const Operands<T>& operands,
                        int threads) {
  Scratch::Frame scratch;
  const Shape<T>& at = dir.at;
  const bool projected = dir.p.projection != 0;
  const long rows_at_once = packed_rows<T>(at.GH, larger(at.I, at.R));
  const long chunk_values = larger(kGradientChunkValues, g.groups * rows_at_once * at.GH);
  const long chunk = smaller(at.L, larger(1, chunk_values / larger(1, at.N * at.GH)));
  const long chunk_rows = smaller(at.rows(), chunk * at.N);
  BackwardBuffers<T> b;
  b.dh = scratch.take<T>(at.N * at.R);
  b.dc = scratch.take<T>(at.N * at.H);
  b.dgx = scratch.take<T>(chunk_rows * at.GH);
  b.dgh = dir.cell.adds ? b.dgx : scratch.take<T>(chunk_rows * at.GH);
  b.dh_total = scratch.take<T>(projected ? chunk_rows * at.R : 0);
  b.hidden = scratch.take<T>(projected ? chunk_rows * at.H : 0);
  b.dhidden = scratch.take<T>(projected ? at.N * at.H : 0);
  b.reset = scratch.take<T>(dir.cell.late ? chunk_rows * at.H : 0);
  b.dreset = scratch.take<T>(dir.cell.late ? at.N * at.H : 0);
  const long resetting = dir.p.resets ? at.N : 0;
  b.dh_to = scratch.take<T>(resetting * at.R);
  b.dc_to = scratch.take<T>(resetting * at.H);
  copy<T>(b.dh_to, nullptr, resetting * at.R);
  copy<T>(b.dc_to, nullptr, resetting * at.H);
  // Row addresses of a chunk, group by group: x, the previous h, dgx, dgh, what late gates see and,
  // projected, its input and output.
  const T **x = scratch.take<const T*>(chunk_rows), **h = scratch.take<const T*>(chunk_rows);
  const T **dgx = scratch.take<const T*>(chunk_rows), **dgh = scratch.take<const T*>(chunk_rows);
  const T **hidden = scratch.take<const T*>(chunk_rows), **dh = scratch.take<const T*>(chunk_rows);
  const T** reset = scratch.take<const T*>(chunk_rows);
  T** dx = scratch.take<T*>(chunk_rows);
  long *begin = scratch.take<long>(g.groups + 1), *end = scratch.take<long>(g.groups);
  auto group = [&](long n) { return g.groups == 1 ? 0 : at.column(n) * g.groups / at.N; };
  for (long n = 0; n < at.N; n++) {
    copy(b.dh + n * at.R, dir.state(g.dh_n, n, at.R), at.R);
    if (dir.cell.states > 1)
      copy(b.dc + n * at.H, dir.state(g.dc_n, n, at.H), at.H);
  }

  const WeightGradients<T>& dw = g.dweights[dir.d];
  bool add = false;
  for (long s1 = at.L; s1 > 0; s1 -= smaller(s1, chunk), add = true) {
    const long s0 = larger(0, s1 - chunk);
    const long early = smaller(dir.time(s0), dir.time(s1 - 1)), late = early + (s1 - s0);
    const long first_row = at.first[early], rows = at.first[late] - first_row;

    backward_chunk<T>(dir, g, b, operands, s0, s1, first_row, threads);

    for (long i = 0; i <= g.groups; i++)
      begin[i] = 0;
    for (long t = early; t < late; t++)
      for (long n = 0; n < at.batch_at(t); n++)
        begin[group(n) + 1]++;
    for (long i = 0; i < g.groups; i++)
      end[i] = begin[i], begin[i + 1] += begin[i];
    for (long t = early, row = 0; t < late; t++) {
      for (long n = 0; n < at.batch_at(t); n++, row++) {
        const long r = end[group(n)]++;
        x[r] = dir.x(t, n), h[r] = dir.h_before(t, n);
        dgx[r] = b.dgx + row * at.GH, dgh[r] = b.dgh + row * at.GH;
        if (projected)
          hidden[r] = b.hidden + row * at.H, dh[r] = b.dh_total + row * at.R;
        if (dir.cell.late)
          reset[r] = b.reset + row * at.H;
        if (g.dx)
          dx[r] = g.dx + at.place(t, n) * at.I;
      }
    }
    // Five jobs, each cut into `threads` parts by outputs, never by the terms of a sum.
    parallel_for(threads, 5 * threads, [&](int task) {
      const long part = task % threads;
      // The gradient of the rows [first, last) of a weight, in this part, for every group.
      auto gradient = [&](const T* const* outer, const T* const* inner, long cols, long first,
                          long last, long units, T* weight, T* bias) {
        const long from = first + (last - first) * part / threads;
        const long to = first + (last - first) * (part + 1) / threads;
        for (long i = 0; (weight || bias) && from < to && i < g.groups; i++)
          weight_gradient<T>(end[i] - begin[i], outer + begin[i], inner + begin[i], cols, from, to,
                             packed_rows<T>(units, cols), add,
                             weight ? weight + i * units * cols : nullptr,
                             bias ? bias + i * units : nullptr);
      };
      switch (task / threads) {
      case 0:
        return gradient(dgx, x, at.I, 0, at.GH, at.GH, dw.w_ih, dw.b_ih);
      case 1:
        return gradient(dgh, h, at.R, 0, at.EH, at.GH, dw.w_hh, dw.b_hh);
      case 2:
        return gradient(dgh, reset, at.R, at.EH, at.GH, at.GH, dw.w_hh, dw.b_hh);
      case 3:
        return gradient(dh, hidden, at.H, 0, at.R, at.R, dw.w_hr, nullptr);
      default:
        if (g.dx) {
          const FlushDenormals mode;
          const long from = rows * part / threads, to = rows * (part + 1) / threads;
          T** out = dx + from;
          // The directions come one after another and add up.
          multiply<T>(to - from, dgx + from, operands.ih.operand(), dir.d ? out : nullptr, out);
        }
      }
    });
  }
  for (long n = 0; n < at.N; n++) {
    if (g.dh_0)
      copy(dir.state(g.dh_0, n, at.R), b.dh + n * at.R, at.R);
    if (g.dc_0)
      copy(dir.state(g.dc_0, n, at.H), b.dc + n * at.H, at.H);
  }
  // Row by row in the caller's order, whoever computed which.
  if (g.dh_to)
    copy<T>(g.dh_to, nullptr, at.R);
  if (g.dc_to)
    copy<T>(g.dc_to, nullptr, at.H);
  for (long n = 0; n < resetting; n++) {
    if (g.dh_to)
      take(b.dh_to + n * at.R, g.dh_to, at.R);
    if (g.dc_to)
      take(b.dc_to + n * at.H, g.dc_to, at.H);
  }
}

template <class T>
void backward(int index, const Problem<T>& p, const Gradients<T>& g, int threads) {
  const CellKernel<T>& cell = Tables<Cells>::kernels<T>[index];
  Scratch::Frame scratch;
  const Shape<T> at(p, cell, scratch);
  const double work =
      2. * static_cast<double>(at.rows()) * static_cast<double>(at.D * at.GH * (at.I + at.R));

  expect<T>(g.dx, at.all_rows() * at.I);
  for (long d = 0; d < at.D; d++) {
    expect<T>(g.dweights[d].w_ih, g.groups * at.GH * at.I);
    expect<T>(g.dweights[d].w_hh, g.groups * at.GH * at.R);
  }
  if (g.dx)
    clear_padding(at, g.dx, at.I);
  Operands<T> operands[2];
  for (long d = 0; d < at.D; d++)
    operands[d] = make_operands(p.weights[d], at, false, g.dx != nullptr, scratch);
  pack_all(operands, at.D, threads);

  threads = worthwhile(threads, work);
  for (long d = 0; d < at.D; d++)
    backward_direction<T>({p, at, cell, d}, g, operands[d], threads);
}

// ---- the table ----

template <class T>
void activations(const T* x, T* tanh_x, T* sigmoid_x, long n) {
  const FlushDenormals mode;
  for_each_vector<T>({0, n}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    const Vec<T> v = get(x + i);
    put(tanh_x + i, tanh<T>(v));
    put(sigmoid_x + i, sigmoid<T>(v));
  });
}

template <class T>
constexpr ChainKernels<T> chain_kernels = {pack<T>, pack_linear<T>, linear<T>, layer_norm<T>,
                                           apply<T>};

} // namespace

#define ELMAN_CONCATENATE(a, b) a##b
#define ELMAN_TABLE(isa) ELMAN_CONCATENATE(kernels_, isa)
#define ELMAN_QUOTE(a) #a
#define ELMAN_NAME(isa) ELMAN_QUOTE(isa)

extern const Kernels ELMAN_TABLE(ELMAN_ISA);
const Kernels ELMAN_TABLE(ELMAN_ISA) = {
    ELMAN_NAME(ELMAN_ISA),
    std::tuple_size_v<Cells>,
    Tables<Cells>::infos,
    forward<float>,
    forward<double>,
    backward<float>,
    backward<double>,
    chain_kernels<float>,
    chain_kernels<double>,
    {has_dots, pack_layer_bytes, pack_linear_bytes},
    activations<float>,
    activations<double>,
    fma_peak,
    read_bandwidth,
};

} // namespace elman
