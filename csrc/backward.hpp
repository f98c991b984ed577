// The recurrence from the last step to the first, and the gradients of the weights, which are
// formed for a chunk of steps at once.
#pragma once

#include "stages.hpp"

namespace elman {
namespace {

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
  T *dh, *dc;          // [N, R], [N, C] the gradient of the state between two steps
  T *dgx, *dgh;        // [chunk rows, G*H]; the same buffer if the cell adds
  T *dsum_x, *dsum_h;  // [chunk rows, G*H] of W_ih x and W_hh h: other buffers with norms alone
  T* dseen;            // [chunk rows, H] with a norm of c: of what h is made of
  T* dvectors;         // [chunk rows, vectors*H]
  T* dropped;          // [chunk rows, R] with dropout: h as the product saw it
  T* dh_total;         // [chunk rows, R] with a projection: gradient of its output, ...
  T *hidden, *dhidden; // [chunk rows, H], [N, H] ... its input, and the gradient of that
  T *reset, *dreset;   // the same two with late gates: of the h that they see
  T *dh_to, *dc_to;    // [N, R], [N, C] with resets: of what each row started anew from
};

// The gradients of the states between two steps, for the rows of the batch: step s reads dh and
// dc[s % 2], and writes what of the previous state's does not pass through the product to
// dh_rest[s % 2] and dc[(s + 1) % 2].
template <class T>
struct StateGradients {
  T* dh;                 // [N, R]
  T *dh_rest[2], *dc[2]; // [N, R], [N, C]
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
  const Weights<T>& weights = dir.weights();
  const Stages<T> stages(dir);
  const bool staged = stages.any, passes = dir.cell.passes || stages.zones;

  Scratch::Frame scratch;
  const long dropped = stages.drops ? at.R : 0;
  T* const products = scratch.take<T>(rows * dropped);
  T *const dropped_h = scratch.take<T>(dropped), *const of_dropped = scratch.take<T>(dropped);
  const T **in = scratch.take<const T*>(rows), **rest = scratch.take<const T*>(rows);
  T** out = scratch.take<T*>(rows);
  for (long s = done;; s--) {
    if (s < s1) {
      const long t = dir.time(s), count = at.running(block, t);
      for (long n = 0; n < count; n++) {
        const long row = block.begin + n;
        in[n] = b.dsum_h + (at.first[t] - first_row + row) * at.GH;
        rest[n] = state.dh_rest[s & 1] + row * at.R;
        out[n] = stages.drops ? products + n * at.R : state.dh + row * at.R;
      }
      if (dir.cell.product) {
        multiply_units<T>(count, in, w_hh, passes && !stages.drops ? rest : nullptr, out, s & 1,
                          units, at.R);
      }
      for (long n = 0; staged && stages.drops && n < count; n++) {
        const T* const factors = stages.factors(block.begin + n);
        T* const dh = state.dh + (block.begin + n) * at.R;
        const T* const stays = passes ? rest[n] : nullptr;
        for_each_vector<T>({0, at.R},
                           [&](long i, auto get, auto put) __attribute__((always_inline)) {
                             const Vec<T> v = get(out[n] + i) * get(factors + i);
                             put(dh + i, stays ? v + get(stays + i) : v);
                           });
      }
      for (long n = 0; dir.p.resets && n < count; n++) {
        const long row = block.begin + n;
        if (dir.resets(t, row)) { // the gradient goes where the state came from
          take(state.dh + row * at.R, b.dh_to + row * at.R, at.R);
          if (dir.cell.states > 1)
            take(state.dc[(s - 1) & 1] + row * at.C, b.dc_to + row * at.C, at.C);
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
        if (stages.zones)
          stages.mix_backward(stages.zone_h(t, row), total, at.R, rest_out + row * at.R);
        in[n] = total, out[n] = b.dhidden + row * at.H;
      }
      multiply<T>(count, in, w_hr, nullptr, out);
    }
    for (long n = 0; n < count; n++) {
      const long row = block.begin + n, r = chunk_row(n);
      T* const dhidden = b.dhidden + row * at.H; // with a projection h does not pass on
      const BackwardRow<T> step{dir.cell.kept ? dir.keep(t, row) : nullptr,
                                projected ? at.zeros : dir.h_before(t, row),
                                dir.cell.states > 1 ? dir.c_before(t, row) : nullptr,
                                projected ? at.zeros : dir.y(t, row),
                                projected ? nullptr : dy(n),
                                g.dkeep ? g.dkeep + (dir.keep(t, row) - dir.p.keep) : nullptr,
                                projected ? dhidden : state.dh + row * at.R,
                                dc + row * at.C,
                                projected ? dhidden : rest_out + row * at.R,
                                state.dc[s & 1] + row * at.C,
                                b.dgx + r * at.GH,
                                b.dgh + r * at.GH,
                                projected ? b.hidden + r * at.H : nullptr,
                                weights.vectors,
                                b.dvectors + r * dir.cell.vectors * at.H};
      if (staged) {
        stages.backward(t, row, step, stages.norms_c ? b.dseen + r * at.H : nullptr);
        if (stages.norms_h) {
          stages.normalise_h_backward(b.dgh + r * at.GH, stages.kept(t, row), b.dsum_h + r * at.GH,
                                      dir.cell.late ? at.EH : 0, at.GH);
        }
      } else {
        (g.dkeep ? dir.cell.backward_of_gates : dir.cell.backward)(step, at.H, units);
      }
    }
    if (dir.cell.late) {
      for (long n = 0; n < count; n++) {
        in[n] = b.dsum_h + chunk_row(n) * at.GH + at.EH;
        out[n] = b.dreset + (block.begin + n) * at.H;
      }
      multiply<T>(count, in, w_late, nullptr, out, next & 1);
      for (long n = 0; n < count; n++) {
        const long row = block.begin + n, r = chunk_row(n);
        const T* h = dir.h_before(t, row);
        T* dh = rest_out + row * at.R;
        if (stages.drops) {
          scale(h, stages.factors(row), at.R, dropped_h), h = dropped_h;
          dh = of_dropped, copy<T>(dh, nullptr, at.R);
        }
        dir.cell.reset_backward(dir.keep(t, row), h, out[n], dh, b.dgx + r * at.GH,
                                b.reset + r * at.H, at.H);
        for (long i = 0; stages.drops && i < at.R; i++)
          rest_out[row * at.R + i] += dh[i] * stages.factors(row)[i];
        if (stages.norms_h) {
          stages.normalise_h_backward(b.dgh + r * at.GH, stages.kept(t, row), b.dsum_h + r * at.GH,
                                      0, at.EH);
        }
      }
    }
    for (long n = 0; staged && stages.norms_x && n < count; n++) {
      const long r = chunk_row(n);
      stages.normalise_x_backward(b.dgx + r * at.GH, stages.kept(t, block.begin + n),
                                  b.dsum_x + r * at.GH);
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
  const int members = gang_size(dir, threads, blocks);
  if (members == 1) {
    // Shared out anew for every chunk, in each of which other rows run.
    const long early = smaller(dir.time(s0), dir.time(s1 - 1)), late = early + (s1 - s0);
    return parallel_for(threads, static_cast<int>(blocks), [&](int task) {
      backward_steps<T>(dir, g, b, in_place, operands, s0, s1, first_row,
                        row_block(at, blocks, task, early, late), all, nullptr, s1);
    });
  }

  // As in forward_block, one that was lost may write to the gang's: what is b's is written when the
  // gang has returned.
  const long R = at.N * at.R, C = at.N * at.C;
  Scratch::Frame scratch;
  StateGradients<T> shared, own;
  for (int i = 0; i < 2; i++)
    shared.dh_rest[i] = scratch.take<T>(R), shared.dc[i] = scratch.take<T>(C);
  T* const result = scratch.take<T>(R);
  own.dh = own.dh_rest[0] = own.dh_rest[1] = scratch.take<T>(R);
  own.dc[0] = own.dc[1] = scratch.take<T>(C);
  copy(shared.dc[(s1 - 1) & 1], static_cast<const T*>(b.dc), C);
  const T *dh = result, *dc = shared.dc[(s0 - 1) & 1];
  Gang gang(members);
  parallel_for(members, members, [&](int) {
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
    copy(own.dc[0], static_cast<const T*>(shared.dc[(done - 1) & 1]), C);
    backward_steps<T>(dir, g, b, own, operands, s0, s1, first_row, {0, at.N}, all, nullptr, done);
    dh = own.dh, dc = own.dc[0];
  });
  copy(b.dh, dh, R);
  copy(b.dc, dc, C);
}

// `weight_gradient` with operands in bfloat16, of one row or more. The bias is a sum in float32, to
// which rows are added one after another.
template <class T>
void weight_gradient_bf16(long rows, const T* const* dg, const T* const* in, long cols, long from,
                          long to, long at_once, Bf16 way, bool add, T* dw, T* db) {
  constexpr int V = kLanes<T>, kAtOnce = 4;
  for (long u = from; db && u < to; u += kAtOnce * V) {
    Vec<T> sum[kAtOnce];
    auto each = [&](auto f) __attribute__((always_inline)) {
      unroll<kAtOnce>([&](auto i) __attribute__((always_inline)) {
        f(sum[i], u + i * V, static_cast<int>(smaller(V, to - u - i * V)));
      });
    };
    each([&](Vec<T>& v, long at, int n)
             __attribute__((always_inline)) { v = load_up_to(add ? db + at : nullptr, n); });
    for (long k = 0; k < rows; k++)
      each([&](Vec<T>& v, long at, int n)
               __attribute__((always_inline)) { v += load_up_to(dg[k] + at, n); });
    each([&](Vec<T>& v, long at, int n) __attribute__((always_inline)) {
      if (n > 0)
        n < V ? store_first(db + at, v, n) : store(db + at, v);
    });
  }
  if (!dw)
    return;
  const long units = to - from, stride = term_stride(at_once);
  Scratch::Frame scratch;
  uint16_t* const panels = scratch.take<uint16_t>(packed_pairs(cols, at_once));
  uint16_t* const terms = scratch.take<uint16_t>((units + 2 * kTileRows) * stride);
  T** out = scratch.take<T*>(units);
  for (long u = 0; u < units; u++)
    out[u] = dw + (from + u) * cols;
  for (long k = 0; k < rows; k += at_once, add = true) {
    const long depth = smaller(at_once, rows - k);
    round_transposed(dg + k, depth, from, to, terms, stride);
    pack_pairs_of_rows(in + k, cols, depth, 0, num_panels<T>(cols), panels);
    Operand<T> right{nullptr, depth, cols, Layout::kPacked};
    right.low.pairs = panels, right.low.way = way;
    multiply_rounded<T>(units, terms, stride, right, add ? out : nullptr, out, false, 0,
                        num_panels<T>(cols));
  }
}

// dw[u] += sum over rows of dg[row][u] * in[row] for u in [from, to), and db likewise: the gradient
// of a weight whose output had gradient dg. `add` continues a sum of earlier rows; `at_once` of
// them are added together.
template <class T>
void weight_gradient(long rows, const T* const* dg, const T* const* in, long cols, long from,
                     long to, long at_once, Bf16 way, bool add, T* dw, T* db) {
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
  if constexpr (kMayRound && std::is_same_v<T, float>) {
    if (way != Bf16::kNone)
      return weight_gradient_bf16<T>(rows, dg, in, cols, from, to, at_once, way, add, dw, db);
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

// The sum over rows of values of a buffer of the chunk, or of their products with kept values.
template <class T>
struct ColumnSum {
  const T* rows;
  long stride;
  long factor; // where a kept row has the other factors; -1: there are none
  long width;
  T* out;
};

// out[u] += the sum for u in [from, to), of some rows: their places in the chunk, and what is kept
// of them. `add` continues a sum of earlier rows.
template <class T>
void column_sum(long rows, const long* place, const T* const* kept, const ColumnSum<T>& sum,
                long from, long to, bool add, T* out) {
  const FlushDenormals mode;
  if (!add)
    copy<T>(out + from, nullptr, to - from);
  for (long r = 0; r < rows; r++) {
    const T* const row = sum.rows + place[r] * sum.stride;
    const T* const factors = sum.factor < 0 ? nullptr : kept[r] + sum.factor;
    for_each_vector<T>({from, to}, [&](long u, auto get, auto put) __attribute__((always_inline)) {
      const Vec<T> v = factors ? get(row + u) * get(factors + u) : get(row + u);
      put(out + u, get(out + u) + v);
    });
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
  b.dc = scratch.take<T>(at.N * at.C);
  const Stages<T> stages(dir);
  b.dgx = scratch.take<T>(chunk_rows * at.GH);
  b.dgh = dir.cell.adds ? b.dgx : scratch.take<T>(chunk_rows * at.GH);
  b.dsum_x = stages.norms_x ? scratch.take<T>(chunk_rows * at.GH) : b.dgx;
  b.dsum_h = stages.norms_h ? scratch.take<T>(chunk_rows * at.GH) : b.dgh;
  b.dseen = scratch.take<T>(stages.norms_c ? chunk_rows * at.H : 0);
  b.dvectors = scratch.take<T>(chunk_rows * dir.cell.vectors * at.H);
  b.dropped = scratch.take<T>(stages.drops ? chunk_rows * at.R : 0);
  b.dh_total = scratch.take<T>(projected ? chunk_rows * at.R : 0);
  b.hidden = scratch.take<T>(projected ? chunk_rows * at.H : 0);
  b.dhidden = scratch.take<T>(projected ? at.N * at.H : 0);
  b.reset = scratch.take<T>(dir.cell.late ? chunk_rows * at.H : 0);
  b.dreset = scratch.take<T>(dir.cell.late ? at.N * at.H : 0);
  const long resetting = dir.p.resets ? at.N : 0;
  b.dh_to = scratch.take<T>(resetting * at.R);
  b.dc_to = scratch.take<T>(resetting * at.C);
  copy<T>(b.dh_to, nullptr, resetting * at.R);
  copy<T>(b.dc_to, nullptr, resetting * at.C);
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
      copy(b.dc + n * at.C, dir.state(g.dc_n, n, at.C), at.C);
  }

  const WeightGradients<T>& dw = g.dweights[dir.d];
  T* const b_hh = stages.norms_h ? nullptr : dw.b_hh;
  ColumnSum<T> sums[6 + kVectors];
  long num_sums = 0;
  auto sum = [&](bool there, const T* rows, long stride, long factor, long width, T* out) {
    if (there && out)
      sums[num_sums++] = {rows, stride, factor, width, out};
  };
  sum(stages.norms_x, b.dgx, at.GH, -1, at.GH, dw.b_ih);
  sum(stages.norms_x, b.dgx, at.GH, stages.x, at.GH, dw.gain_ih);
  sum(stages.norms_h, b.dgh, at.GH, -1, at.GH, dw.b_hh);
  sum(stages.norms_h, b.dgh, at.GH, stages.h, at.GH, dw.gain_hh);
  sum(stages.norms_c, b.dseen, at.H, -1, at.H, dw.bias_c);
  sum(stages.norms_c, b.dseen, at.H, stages.c, at.H, dw.gain_c);
  for (int i = 0; i < dir.cell.vectors; i++)
    sum(true, b.dvectors + i * at.H, dir.cell.vectors * at.H, -1, at.H, dw.vectors[i]);
  long* place = scratch.take<long>(num_sums ? chunk_rows : 0);
  const T** kept = scratch.take<const T*>(num_sums ? chunk_rows : 0);
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
        if (stages.drops)
          scale(h[r], stages.factors(n), at.R, b.dropped + row * at.R),
              h[r] = b.dropped + row * at.R;
        dgx[r] = b.dsum_x + row * at.GH, dgh[r] = b.dsum_h + row * at.GH;
        if (num_sums)
          place[r] = row, kept[r] = dir.p.recurrence.kept ? stages.kept(t, n) : nullptr;
        if (projected)
          hidden[r] = b.hidden + row * at.H, dh[r] = b.dh_total + row * at.R;
        if (dir.cell.late)
          reset[r] = b.reset + row * at.H;
        if (g.dx)
          dx[r] = g.dx + at.place(t, n) * at.I;
      }
    }
    // Jobs, each cut into `threads` parts by outputs, never by the terms of a sum.
    parallel_for(threads, static_cast<int>(5 + num_sums) * threads, [&](int task) {
      const long part = task % threads;
      if (task / threads >= 5) {
        const ColumnSum<T>& sum = sums[task / threads - 5];
        const long from = sum.width * part / threads, to = sum.width * (part + 1) / threads;
        for (long i = 0; i < g.groups; i++)
          column_sum(end[i] - begin[i], place + begin[i], kept + begin[i], sum, from, to, add,
                     sum.out + i * sum.width);
        return;
      }
      // The gradient of the rows [first, last) of a weight, in this part, for every group.
      auto gradient = [&](const T* const* outer, const T* const* inner, long cols, long first,
                          long last, long units, T* weight, T* bias) {
        const long from = first + (last - first) * part / threads;
        const long to = first + (last - first) * (part + 1) / threads;
        for (long i = 0; (weight || bias) && from < to && i < g.groups; i++)
          weight_gradient<T>(end[i] - begin[i], outer + begin[i], inner + begin[i], cols, from, to,
                             packed_rows<T>(units, cols), dir.p.bf16, add,
                             weight ? weight + i * units * cols : nullptr,
                             bias ? bias + i * units : nullptr);
      };
      switch (task / threads) {
      case 0:
        return gradient(dgx, x, at.I, 0, at.GH, at.GH, dw.w_ih, stages.norms_x ? nullptr : dw.b_ih);
      case 1:
        return gradient(dgh, h, at.R, 0, at.EH, at.GH, dw.w_hh, b_hh);
      case 2:
        return gradient(dgh, reset, at.R, at.EH, at.GH, at.GH, dw.w_hh, b_hh);
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
      copy(dir.state(g.dc_0, n, at.C), b.dc + n * at.C, at.C);
  }
  // Row by row in the caller's order, whoever computed which.
  T* const dh_to = g.dh_to ? g.dh_to + dir.d * at.R : nullptr;
  T* const dc_to = g.dc_to ? g.dc_to + dir.d * at.C : nullptr;
  if (dh_to)
    copy<T>(dh_to, nullptr, at.R);
  if (dc_to)
    copy<T>(dc_to, nullptr, at.C);
  for (long n = 0; n < resetting; n++) {
    if (dh_to)
      take(b.dh_to + n * at.R, dh_to, at.R);
    if (dc_to)
      take(b.dc_to + n * at.C, dc_to, at.C);
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
  Operands<T>* operands = scratch.take<Operands<T>>(at.D);
  for (long d = 0; d < at.D; d++)
    operands[d] = make_operands(p.weights[d], at, false, g.dx != nullptr, p.bf16, scratch);
  pack_all(operands, at.D, threads);

  threads = worthwhile(threads, work);
  for (long d = 0; d < at.D; d++)
    backward_direction<T>({p, at, cell, d}, g, operands[d], threads);
}

} // namespace
} // namespace elman
