// What acts on a row beside the step of its cell, where a call asks for it: dropout of h before the
// product, layer normalisation, the bound of c, and zoneout; forward and backward.
//
// A step is then: gx and gh are normalised; the cell makes its step; c is bounded, and h made anew
// of it, normalised if so asked; h is projected; h and c are mixed with what they were before. None
// of it is shared out among threads within a row.
#pragma once

#include "modules.hpp"
#include "sequence.hpp"

namespace elman {
namespace {

// ---- layer normalisation ----

// row = normal * gain + bias with normal = (row - its mean) / its deviation, which is returned.
template <class T>
T normalise(T* row, const T* gain, const T* bias, long width, T* normal) {
  constexpr double kLeast = 1e-5; // as torch's
  const double variance = static_cast<double>(centre<T>(row, width, normal));
  const T deviation = static_cast<T>(__builtin_sqrt(variance + kLeast));
  for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    const Vec<T> v = get(normal + i) / deviation;
    put(normal + i, v);
    put(row + i, bias ? v * get(gain + i) + get(bias + i) : v * get(gain + i));
  });
  return deviation;
}

// The gradient of the row, from that of its result; they may be one array.
template <class T>
void normalise_backward(const T* dout, const T* gain, const T* normal, T deviation, long width,
                        T* drow) {
  Vec<T> sums{}, products{};
  for_each_vector<T>({0, width}, [&](long i, auto get, auto) __attribute__((always_inline)) {
    const Vec<T> d = get(dout + i) * get(gain + i); // with zeros past the end
    sums += d, products += d * get(normal + i);
  });
  const T mean = sum_of_lanes<T>(sums) / static_cast<T>(width);
  const T slope = sum_of_lanes<T>(products) / static_cast<T>(width);
  for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    const Vec<T> d = get(dout + i) * get(gain + i);
    put(drow + i, (d - mean - get(normal + i) * slope) / deviation);
  });
}

// ---- rows that are mixed ----

template <class T>
void scale(const T* row, const T* factors, long width, T* out) {
  for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    put(out + i, get(row + i) * get(factors + i));
  });
}

template <class T>
void add(const T* row, T* out, long width) {
  for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    put(out + i, get(out + i) + get(row + i));
  });
}

// How much of the previous value stays in each new one.
template <class T>
struct Zone {
  const uint8_t* stays; // null: the same share of each
  T share;

  explicit operator bool() const { return stays || share != T(0); }
  T operator[](long i) const { return stays ? (stays[i] ? T(1) : T(0)) : share; }
};

template <class T>
void mix(const Zone<T>& zone, const T* previous, T* row, long width) {
  for (long i = 0; i < width; i++) {
    row[i] = !zone.stays     ? zone.share * previous[i] + (T(1) - zone.share) * row[i]
             : zone.stays[i] ? previous[i]
                             : row[i];
  }
}

// ---- the stages of one direction ----

template <class T>
struct Stages {
  const Direction<T>& dir;
  const Shape<T>& at;
  const Recurrence<T>& r;
  const Weights<T>& w;
  bool any, norms_x, norms_h, norms_c, drops, clips, zones;
  long together; // values of gx and gh that are normalised as one; those of gates apart follow
  // Where a row of `kept` has the normal values and deviations of gx, gh and c, and the new h and
  // c.
  long x, h, c, deviations, new_h, new_c, width;

  Stages(const Direction<T>& direction)
      : dir(direction), at(dir.at), r(dir.p.recurrence), w(dir.weights()), any(has_stages(dir)),
        norms_x(w.gain_ih), norms_h(w.gain_hh), norms_c(w.gain_c), drops(r.drop),
        clips(r.clip != T(0)), zones(r.zone_h || r.zone_c || r.stay_h != T(0) || r.stay_c != T(0)),
        together((dir.cell.gates - dir.cell.apart) * at.H) {
    width = 0;
    auto room = [&](bool needed, long values) {
      const long place = width;
      width += needed ? values : 0;
      return place;
    };
    x = room(norms_x, at.GH), h = room(norms_h, at.GH), c = room(norms_c, at.H);
    deviations = room(norms_x || norms_h || norms_c, 5);
    new_h = room(zones, at.R), new_c = room(zones, at.C);
  }

  bool norms() const { return norms_x || norms_h; }
  bool makes_h() const { return norms_c || clips; }
  T* kept(long t, long n) const {
    return r.kept + (dir.d * at.all_rows() + at.place(t, n)) * width;
  }
  const T* factors(long n) const { return r.drop + (dir.d * at.N + at.column(n)) * at.R; }
  Zone<T> zone_h(long t, long n) const {
    const long row = dir.d * at.all_rows() + at.place(t, n);
    return {r.zone_h ? r.zone_h + row * at.R : nullptr, r.stay_h};
  }
  Zone<T> zone_c(long t, long n) const {
    const long row = dir.d * at.all_rows() + at.place(t, n);
    return {r.zone_c ? r.zone_c + row * at.C : nullptr, r.stay_c};
  }

  // Calls f(from, to, deviation) for the gates that are normalised together in [first, last).
  template <class F>
  void groups(long first, long last, T* deviation, F&& f) const {
    if (first < smaller(last, together))
      f(first, smaller(last, together), deviation);
    if (larger(first, together) < last)
      f(larger(first, together), last, deviation + 1);
  }
  void normalise_x(T* gx, T* row) const {
    groups(0, at.GH, row + deviations, [&](long from, long to, T* deviation) {
      *deviation = normalise<T>(gx + from, w.gain_ih + from, w.b_ih ? w.b_ih + from : nullptr,
                                to - from, row + x + from);
    });
  }
  void normalise_h(T* gh, T* row, long first, long last) const {
    groups(first, last, row + deviations + 2, [&](long from, long to, T* deviation) {
      *deviation = normalise<T>(gh + from, w.gain_hh + from, w.b_hh ? w.b_hh + from : nullptr,
                                to - from, row + h + from);
    });
  }

  // The step of a row: `own_keep` and `own_c` are scratch, `kept_row` of `kept`.
  __attribute__((noinline)) void step(long t, long n, ForwardRow<T> row, T* own_keep, T* own_c,
                                      T* kept_row) const {
    if (!row.keep)
      row.keep = own_keep;
    if (zones) { // the new c may be written where the previous one is
      copy(own_c, row.c_previous, at.C);
      row.c_previous = own_c;
    }
    dir.cell.forward(row, at.H, {0, at.H});
    if (makes_h())
      make_h(row.c, row.keep, kept_row, row.h);
    if (zones)
      mix_c(t, n, row.c_previous, row.c, row.keep, kept_row);
    if (zones && !dir.p.projection)
      mix_h(t, n, row.h_previous, row.h, kept_row);
  }

  // After a step: bounds c, and makes h of it. `keep` is that of the step, `row` of `kept`; c is in
  // keep too.
  void make_h(T* step_c, T* keep, T* row, T* step_h) const {
    T* const kept_c = keep + dir.cell.kept * at.H - at.C;
    const T bound = r.clip;
    for (long i = 0; clips && i < at.H; i++)
      kept_c[i] = step_c[i] = step_c[i] > bound ? bound : step_c[i] < -bound ? -bound : step_c[i];
    if (!norms_c)
      return dir.cell.hidden(keep, step_c, step_h, at.H);
    Scratch::Frame scratch;
    T* const seen = scratch.take<T>(at.H);
    copy(seen, static_cast<const T*>(step_c), at.H);
    row[deviations + 4] = normalise<T>(seen, w.gain_c, w.bias_c, at.H, row + c);
    dir.cell.hidden(keep, seen, step_h, at.H);
  }

  // After that: mixes c, and h when it is projected, with what they were before. keep may be null.
  void mix_c(long t, long n, const T* previous, T* step_c, T* keep, T* row) const {
    if (at.C == 0)
      return;
    copy(row + new_c, static_cast<const T*>(step_c), at.C);
    if (const Zone<T> zone = zone_c(t, n))
      mix(zone, previous, step_c, at.C);
    if (keep)
      copy(keep + dir.cell.kept * at.H - at.C, static_cast<const T*>(step_c), at.C);
  }
  void mix_h(long t, long n, const T* previous, T* step_h, T* row) const {
    copy(row + new_h, static_cast<const T*>(step_h), at.R);
    if (const Zone<T> zone = zone_h(t, n))
      mix(zone, previous, step_h, at.R);
  }

  // ---- backward ----

  // Splits the gradient of a mixed row in that of the new one, in place, and that of the previous.
  void mix_backward(const Zone<T>& zone, T* d, long values, T* dprevious) const {
    for (long i = 0; i < values; i++) {
      const T share = zone[i];
      dprevious[i] = share * d[i];
      d[i] = (T(1) - share) * d[i];
    }
  }

  // The backward pass of a step, but for the product and what comes before the cell. `step` is as
  // it would be without stages, but that with a projection the gradient of h has been split
  // already; `dseen` is out with a norm of c, the gradient of what h is made of.
  __attribute__((noinline)) void backward(long t, long n, BackwardRow<T> step, T* dseen) const {
    Scratch::Frame scratch;
    const T* const row = r.kept ? kept(t, n) : nullptr;
    const long kept_values = dir.cell.kept * at.H, hidden = dir.p.projection ? at.H : at.R;
    T *const dh = scratch.take<T>(hidden), *const stays_h = scratch.take<T>(zones ? at.R : 0);
    T *const dc = scratch.take<T>(at.C), *const stays_c = scratch.take<T>(zones ? at.C : 0);
    T* const keep = scratch.take<T>(kept_values);
    copy(dh, step.dh, hidden);
    if (step.dy)
      add(step.dy, dh, hidden);
    copy(dc, step.dc, at.C);
    copy(keep, step.keep, kept_values);
    if (zones) {
      if (!dir.p.projection) {
        mix_backward(zone_h(t, n), dh, at.R, stays_h);
        step.h = row + new_h;
      }
      mix_backward(zone_c(t, n), dc, at.C, stays_c);
      copy(keep + kept_values - at.C, row + new_c, at.C);
    }
    step.keep = keep, step.dh = dh, step.dc = dc, step.dy = nullptr;
    if (makes_h()) {
      make_h_backward(step, row, dh, dc, dseen);
    } else {
      dir.cell.backward(step, at.H, {0, at.H});
    }
    if (zones && !dir.p.projection)
      add<T>(stays_h, step.dh_previous, at.R);
    if (zones)
      add<T>(stays_c, step.dc_previous, at.C);
  }

  // The same of a cell whose h is made anew.
  void make_h_backward(BackwardRow<T> step, const T* row, T* dh, T* dc, T* dseen) const {
    Scratch::Frame scratch;
    const T* const step_c = step.keep + dir.cell.kept * at.H - at.C;
    T *const seen = scratch.take<T>(at.H), *const of_gates = scratch.take<T>(at.GH);
    T* const dc_of_h = scratch.take<T>(at.H);
    dseen = norms_c ? dseen : dc_of_h;
    if (norms_c) {
      scale(row + c, w.gain_c, at.H, seen);
      if (w.bias_c)
        add(w.bias_c, seen, at.H);
    } else {
      copy(seen, step_c, at.H);
    }
    if (step.hidden)
      dir.cell.hidden(step.keep, seen, step.hidden, at.H);
    step.hidden = nullptr;
    dir.cell.hidden_backward(step.keep, seen, dh, dseen, of_gates, at.H);
    if (norms_c)
      normalise_backward<T>(dseen, w.gain_c, row + c, row[deviations + 4], at.H, dc_of_h);
    add<T>(dc_of_h, dc, at.H);
    for (long i = 0; clips && i < at.H; i++)
      if (step_c[i] >= r.clip || step_c[i] <= -r.clip)
        dc[i] = T(0);
    step.dh = at.zeros;
    dir.cell.backward(step, at.H, {0, at.H});
    add<T>(of_gates, step.dgx, at.GH);
  }

  // The gradients of W_ih x and W_hh h, of those of gx and gh.
  void normalise_x_backward(const T* dgx, T* row, T* dsum) const {
    groups(0, at.GH, row + deviations, [&](long from, long to, const T* deviation) {
      normalise_backward<T>(dgx + from, w.gain_ih + from, row + x + from, *deviation, to - from,
                            dsum + from);
    });
  }
  void normalise_h_backward(const T* dgh, T* row, T* dsum, long first, long last) const {
    groups(first, last, row + deviations + 2, [&](long from, long to, const T* deviation) {
      normalise_backward<T>(dgh + from, w.gain_hh + from, row + h + from, *deviation, to - from,
                            dsum + from);
    });
  }
};

} // namespace
} // namespace elman
