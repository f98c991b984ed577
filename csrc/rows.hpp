// One row at one step: a cell of cells.hpp applied to its H units, forward and backward.
#pragma once

#include "cells.hpp"
#include "kernels.hpp"
#include "vec.hpp"

namespace elman {
namespace {

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

} // namespace
} // namespace elman
