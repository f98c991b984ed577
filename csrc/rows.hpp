// One row at one step: a cell of cells.hpp applied to its H units, forward and backward.
#pragma once

#include "cells.hpp"
#include "kernels.hpp"
#include "vec.hpp"

namespace elman {
namespace {

// The values of a row; gates of gx, gh and their gradients lie one after another, H apart, and so
// do the states after h, which are called c. With a projection h has another size than the units:
// such a cell must not need it, and gets zeros.
template <class T>
struct ForwardRow {
  const T *gx, *gh, *h_previous, *c_previous;
  T *h, *c, *keep; // c may be c_previous; keep may be null
  const T* const* vectors;
};
template <class T>
struct BackwardRow {
  const T *keep, *h_previous, *c_previous, *h, *dy; // c_previous null: zeros; dy null: zeros
  const T* dkeep;                                   // null: zeros
  const T *dh, *dc;                                 // gradient of the new state
  T *dh_previous, *dc_previous; // out: of the previous one, but for gh's part; may be dh and dc
  T *dgx, *dgh;                 // out
  T* hidden;                    // out, if not null: h before the projection
  const T* const* vectors;
  T* dvectors; // out, one after another, H apart
};

// A length for an array that may have nothing to hold.
template <int n>
inline constexpr int kAtLeastOne = n > 0 ? n : 1;

template <class T, class Cell>
inline constexpr bool kTellsHidden = requires(Vec<T> v) { Cell::template hidden<T>(&v, v); };

template <class T, class Cell>
void forward_row(const ForwardRow<T>& row, long H, Units units) {
  for_each_vector<T>(units, [&](long u, auto get, auto put) __attribute__((always_inline)) {
    Vec<T> gx[Cell::num_gates], gh[Cell::num_gates], state[Cell::num_states];
    Vec<T> keep[kAtLeastOne<Cell::kept>], vectors[kAtLeastOne<Cell::vectors>];
    unroll<Cell::num_gates>([&](auto g) __attribute__((always_inline)) {
      gx[g] = get(row.gx + g * H + u);
      if constexpr (Cell::product)
        gh[g] = get(row.gh + g * H + u);
    });
    unroll<Cell::vectors>(
        [&](auto i) __attribute__((always_inline)) { vectors[i] = get(row.vectors[i] + u); });
    state[0] = get(row.h_previous + u);
    unroll<Cell::num_states - 1>([&](auto i) __attribute__((always_inline)) {
      state[i + 1] = get(row.c_previous + i * H + u);
    });
    if constexpr (Cell::product) {
      Cell::template forward<T>(gx, gh, state, keep);
    } else {
      Cell::template forward<T>(gx, vectors, state, keep);
    }
    put(row.h + u, state[0]);
    unroll<Cell::num_states - 1>(
        [&](auto i) __attribute__((always_inline)) { put(row.c + i * H + u, state[i + 1]); });
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
    Vec<T> vectors[kAtLeastOne<Cell::vectors>], dvectors[kAtLeastOne<Cell::vectors>];
    unroll<Cell::vectors>(
        [&](auto i) __attribute__((always_inline)) { vectors[i] = get(row.vectors[i] + u); });
    unroll<Cell::kept>([&](auto i)
                           __attribute__((always_inline)) { keep[i] = get(row.keep + i * H + u); });
    previous[0] = get(row.h_previous + u);
    dstate[0] = get(row.dh + u);
    if (row.dy)
      dstate[0] += get(row.dy + u);
    unroll<Cell::num_states - 1>([&](auto i) __attribute__((always_inline)) {
      previous[i + 1] = row.c_previous ? get(row.c_previous + i * H + u) : Vec<T>{};
      dstate[i + 1] = get(row.dc + i * H + u);
    });
    if constexpr (kTellsHidden<T, Cell>) {
      if (row.hidden)
        put(row.hidden + u, Cell::template hidden<T>(keep, keep[Cell::kept - 1]));
    }
    auto plus = [&](int i, Vec<T> d) __attribute__((always_inline)) {
      if constexpr (kGatesAreRead)
        d += get(row.dkeep + i * H + u);
      return d;
    };
    if constexpr (Cell::product) {
      Cell::template backward<T>(keep, previous, get(row.h + u), dstate, dgx, dgh, plus);
    } else {
      Cell::template backward<T>(keep, previous, get(row.h + u), dstate, dgx, vectors, dvectors,
                                 plus);
      unroll<Cell::vectors>([&](auto i) __attribute__((always_inline)) {
        put(row.dvectors + i * H + u, dvectors[i]);
      });
    }
    put(row.dh_previous + u, dstate[0]);
    unroll<Cell::num_states - 1>([&](auto i) __attribute__((always_inline)) {
      put(row.dc_previous + i * H + u, dstate[i + 1]);
    });
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

// How h comes of c, on one row, and the gradients of that: of the gates, in dgx, and of c, in dc.
template <class T, class Cell>
void hidden_row(const T* keep, const T* c, T* h, long H) {
  for_each_vector<T>({0, H}, [&](long u, auto get, auto put) __attribute__((always_inline)) {
    Vec<T> kept[Cell::kept];
    unroll<Cell::kept>([&](auto i)
                           __attribute__((always_inline)) { kept[i] = get(keep + i * H + u); });
    put(h + u, Cell::template hidden<T>(kept, get(c + u)));
  });
}

template <class T, class Cell>
void hidden_backward_row(const T* keep, const T* c, const T* dh, T* dc, T* dgx, long H) {
  for_each_vector<T>({0, H}, [&](long u, auto get, auto put) __attribute__((always_inline)) {
    Vec<T> kept[Cell::kept], gates[Cell::num_gates] = {};
    unroll<Cell::kept>([&](auto i)
                           __attribute__((always_inline)) { kept[i] = get(keep + i * H + u); });
    put(dc + u, Cell::template hidden_backward<T>(kept, get(c + u), get(dh + u), gates));
    unroll<Cell::num_gates>([&](auto g)
                                __attribute__((always_inline)) { put(dgx + g * H + u, gates[g]); });
  });
}

// A cell as the loop sees it.
template <class T>
struct CellKernel {
  int gates, states, kept, late, vectors, apart;
  bool product, adds, passes, bounded;
  void (*forward)(const ForwardRow<T>&, long hidden_size, Units);
  void (*backward)(const BackwardRow<T>&, long hidden_size, Units);
  void (*backward_of_gates)(const BackwardRow<T>&, long hidden_size, Units); // with dkeep
  // null unless late
  void (*reset)(const T* gx, T* gh, const T* h, T* out, long hidden_size);
  void (*reset_backward)(const T* keep, const T* h_previous, const T* dreset, T* dh, T* dgx,
                         T* reset, long hidden_size);
  // null unless the cell tells it
  void (*hidden)(const T* keep, const T* c, T* h, long hidden_size);
  void (*hidden_backward)(const T* keep, const T* c, const T* dh, T* dc, T* dgx, long hidden_size);
};

template <class T, class Cell>
constexpr CellKernel<T> make_kernel() {
  CellKernel<T> kernel{};
  kernel.gates = Cell::num_gates, kernel.states = Cell::num_states, kernel.kept = Cell::kept;
  kernel.late = Cell::late, kernel.vectors = Cell::vectors, kernel.apart = Cell::apart;
  kernel.product = Cell::product, kernel.adds = Cell::adds;
  kernel.passes = Cell::passes, kernel.bounded = Cell::bounded;
  kernel.forward = &forward_row<T, Cell>;
  kernel.backward = &backward_row<T, Cell, false>;
  kernel.backward_of_gates = &backward_row<T, Cell, Cell::told>;
  if constexpr (Cell::late > 0) {
    kernel.reset = &reset_row<T, Cell>;
    kernel.reset_backward = &reset_backward_row<T, Cell>;
  }
  if constexpr (kTellsHidden<T, Cell>) {
    kernel.hidden = &hidden_row<T, Cell>;
    kernel.hidden_backward = &hidden_backward_row<T, Cell>;
  }
  return kernel;
}

template <class List>
struct Tables;
template <class... C>
struct Tables<std::tuple<C...>> {
  static constexpr CellInfo infos[] = {
      {C::name, C::gates, C::states, C::kept, C::vectors, C::product}...};
  template <class T>
  static constexpr CellKernel<T> kernels[] = {make_kernel<T, C>()...};
};

} // namespace
} // namespace elman
