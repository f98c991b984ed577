// The recurrence from the first step to the last.
//
// This loop, as that of backward.hpp, knows projections, directions, packed rows and threads, and
// no cell: what a cell does to one row at one step is in rows.hpp, what multiplies is gemm.hpp.
// Products are formed for as many rows at once as there are: gx for a chunk of steps, gh for the
// rows of a step.
#pragma once

#include "stages.hpp"

namespace elman {
namespace {

// Values of gx that are computed ahead; they and the rows of x should stay in the second-level
// cache, unless they are few beside the weights, which are read once for all of them.
constexpr long kChunkValues = 1 << 16, kWeightsPerValue = 4;

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
  const Stages<T> stages(dir);
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
  // What is normalised gets its bias after that.
  const T* const* const plus_ih = w.b_ih && !stages.norms_x ? bias_ih : nullptr;
  const T* const* const plus_hh = w.b_hh && !stages.norms_h ? bias_hh : nullptr;
  const long late_rows = dir.cell.late ? rows : 0;
  T* reset = scratch.take<T>(late_rows * at.H);
  const T** late_in = scratch.take<const T*>(late_rows);
  const T** late_bias = scratch.take<const T*>(late_rows);
  T** late_out = scratch.take<T*>(late_rows);
  for (long i = 0; i < late_rows; i++) {
    late_in[i] = reset + i * at.H, late_out[i] = gh + i * at.GH + at.EH;
    late_bias[i] = w.b_hh + at.EH;
  }
  // With stages, of each row of a step: the previous states, and what they need.
  const bool staged = stages.any;
  const long staged_rows = staged ? rows : 0;
  const T** h_previous = staged ? scratch.take<const T*>(rows) : in;
  T* dropped = scratch.take<T>(stages.drops ? rows * at.R : 0);
  T* own_kept = scratch.take<T>(dir.p.recurrence.kept ? 0 : staged_rows * stages.width);
  T* own_keep = scratch.take<T>(dir.p.keep ? 0 : smaller(staged_rows, 1) * dir.cell.kept * at.H);
  T* own_c = scratch.take<T>(stages.zones ? at.C : 0);

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
      multiply_units<T>(to - from, in + from, w_ih, plus_ih, out + from, false, units, at.H);
    });

    m = 0;
    for (long s = s0; s < s1; s++) {
      const long t = dir.time(s), count = at.running(block, t);
      auto kept = [&](long n) {
        return dir.p.recurrence.kept ? stages.kept(t, block.begin + n)
                                     : own_kept + n * stages.width;
      };
      for (long n = 0; n < count; n++)
        h_previous[n] = in[n] = dir.h_before(t, block.begin + n), out[n] = gh + n * at.GH;
      for (long n = 0; staged && stages.drops && n < count; n++) {
        scale(h_previous[n], stages.factors(block.begin + n), at.R, dropped + n * at.R);
        in[n] = dropped + n * at.R;
      }
      if (dir.cell.product)
        multiply_units<T>(count, in, w_hh, plus_hh, out, s & 1, units, at.H);
      for (long n = 0; staged && stages.norms() && n < count; n++) {
        if (stages.norms_x)
          stages.normalise_x(gx + (m + n) * at.GH, kept(n));
        if (stages.norms_h)
          stages.normalise_h(out[n], kept(n), 0, at.EH);
      }
      if (dir.cell.late) {
        for (long n = 0; n < count; n++)
          dir.cell.reset(gx + (m + n) * at.GH, out[n], in[n], reset + n * at.H, at.H);
        multiply<T>(count, late_in, w_late, plus_hh ? late_bias : nullptr, late_out, s & 1);
        for (long n = 0; stages.norms_h && n < count; n++)
          stages.normalise_h(out[n], kept(n), at.EH, at.GH);
      }
      for (long n = 0; n < count; n++, m++) {
        const long row = block.begin + n;
        const T* c_previous = c[s & 1] + n * at.C;
        if (dir.resets(t, row))
          c_previous = dir.p.c_to ? dir.p.c_to + dir.d * at.C : at.zeros;
        T* const c_out = c[(s + 1) & 1] + n * at.C;
        const ForwardRow<T> step{gx + m * at.GH,
                                 gh + n * at.GH,
                                 hidden ? at.zeros : h_previous[n],
                                 c_previous,
                                 hidden ? hidden + n * at.H : dir.y(t, row),
                                 c_out,
                                 dir.p.keep ? dir.keep(t, row) : nullptr,
                                 w.vectors};
        if (staged) {
          stages.step(t, row, step, own_keep, own_c, kept(n));
        } else {
          dir.cell.forward(step, at.H, units);
        }
        for (long i = units.from; dir.p.c && i < at.C; i += at.H)
          copy(dir.c(t, row) + i, static_cast<const T*>(c_out + i), units.to - units.from);
      }
      if (hidden) {
        for (long n = 0; n < count; n++)
          in[n] = hidden + n * at.H, out[n] = dir.y(t, block.begin + n);
        multiply<T>(count, in, w_hr, nullptr, out);
        for (long n = 0; stages.zones && n < count; n++)
          stages.mix_h(t, block.begin + n, h_previous[n], out[n], kept(n));
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

// A direction's rows [block.begin, block.end) over the whole sequence, by up to `threads` threads,
// or by a gang of so many.
template <class T>
void forward_block(const Direction<T>& dir, RowBlock block, const Operands<T>& operands,
                   int threads, int members) {
  const Shape<T>& at = dir.at;
  const long rows = block.end - block.begin;
  const Units all{0, at.H};
  Scratch::Frame scratch;
  T* c = scratch.take<T>(rows * at.C);
  for (long n = 0; dir.cell.states > 1 && n < rows; n++)
    copy(c + n * at.C, dir.state(dir.p.c_0, block.begin + n, at.C), at.C);

  if (members > 1) {
    // Who goes on alone has a c of its own: one that was lost may still write to the gang's.
    T* const shared[2] = {c, scratch.take<T>(rows * at.C)};
    T* const own = scratch.take<T>(rows * at.C);
    c = shared[at.L & 1];
    Gang gang(members);
    parallel_for(members, members, [&](int) {
      const int part = gang.join();
      if (part < 0)
        return;
      const Units units = units_of(at, part, gang.parts());
      const long s = forward_steps(dir, block, operands, 1, units, &gang, 0, shared);
      if (s < at.L) {
        copy(own, static_cast<const T*>(shared[s & 1]), rows * at.C);
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
    copy(dir.state(dir.p.c_n, block.begin + n, at.C), c + n * at.C, at.C);
}

template <class T>
void forward(int index, const Problem<T>& p, int threads) {
  const CellKernel<T>& cell = Tables<Cells>::kernels<T>[index];
  Scratch::Frame scratch;
  const Shape<T> at(p, cell, scratch);
  const double work =
      static_cast<double>(at.rows()) * static_cast<double>(at.D * at.GH * (at.I + at.R));

  expect<T>(p.y, at.all_rows() * at.D * at.R);
  expect<T>(p.keep, at.kept_rows() * at.D * at.H * cell.kept);
  clear_padding(at, p.y, at.D * at.R);
  for (long d = 0; p.keep && !at.keeps_packed && d < at.D; d++) // it is seen then
    clear_padding(at, p.keep + d * at.all_rows() * cell.kept * at.H, cell.kept * at.H);
  for (long d = 0; p.c && d < at.D; d++)
    clear_padding(at, p.c + d * at.all_rows() * at.C, at.C);
  Operands<T>* operands = scratch.take<Operands<T>>(at.D);
  const bool is_packed = p.weights[0].packed || p.weights[0].low;
  for (long d = 0; d < at.D; d++)
    operands[d] = is_packed ? find_operands(p.weights[d], at, cell)
                            : make_operands(p.weights[d], at, true, true, p.bf16, scratch);
  if (!is_packed)
    pack_all(operands, at.D, threads);

  threads = worthwhile(threads, work);
  const long blocks = num_blocks(at, threads);
  const int tasks = static_cast<int>(at.D * blocks);
  const int members = gang_size<T>({p, at, cell, 0}, threads, smaller(threads, tasks));
  for (long d = 0; members > 1 && d < at.D; d++)
    forward_block<T>({p, at, cell, d}, {0, at.N}, operands[d], members, members);
  if (members > 1)
    return;
  parallel_for(threads, tasks, [&](int task) {
    const long d = task / blocks;
    forward_block<T>({p, at, cell, d}, row_block(at, blocks, task % blocks, 0, at.L), operands[d],
                     tasks == 1 ? threads : 1, 1);
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

} // namespace
} // namespace elman
