// The cells: everything that differs between them, and nothing else.
//
// A cell sees one vector of hidden units at one time step. It knows no time, no layer, no weights:
// gx = W_ih x + b_ih and gh = W_hh h + b_hh come in, the state goes on. The meaning of the gates
// and their order is defined in src/elman/cells.py; a test ties the two tables.
//
//   gates    one letter per gate, in storage order
//   states   one letter per state, h first; forward() replaces state[] by the new one
//   kept     vectors that backward() needs of a step besides h; the states after h come last, so
//            that the kept values of a step are also the previous state of the next one
//   adds     gx and gh enter only as gx + gh, hence dgx == dgh and backward() leaves dgh alone
//   passes   part of h reaches the new h past the product; of the others, backward() leaves no
//            gradient of the previous h
//   bounded  h, before a projection, is from -1 to 1 if the one before it is
//   late     how many of the last gates take their gh from what reset() returns in place of h.
//            reset() may leave in gh what forward() can use; reset_backward() gets the gradient of
//            its result, adds to the one of h, sets dgx of the gates that are not late, and returns
//            reset()'s result again
//
// backward() gets dstate[] = the gradient of the new state, and replaces it by that part of the
// gradient of the previous state that does not pass through gh. The kept values have
// gradients of their own where somebody reads them: plus(i, d) is d and that of keep[i].
#pragma once

#include <tuple>

#include "vecmath.hpp"

namespace elman {
namespace {

template <bool kRelu>
struct Rnn {
  static constexpr const char *name = kRelu ? "rnn_relu" : "rnn_tanh", *gates = "h", *states = "h";
  static constexpr int num_gates = 1, num_states = 1, kept = 0, late = 0;
  static constexpr bool adds = true, passes = false, bounded = !kRelu;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[1], const Vec<T> (&gh)[1], Vec<T> (&state)[1],
                                   Vec<T>*) {
    const Vec<T> a = gx[0] + gh[0];
    if constexpr (kRelu) {
      state[0] = a < Vec<T>{} ? Vec<T>{} : a;
    } else {
      state[0] = tanh<T>(a);
    }
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>*, const Vec<T> (&)[1], Vec<T> h,
                                    Vec<T> (&dstate)[1], Vec<T> (&dgx)[1], Vec<T> (&)[1], auto) {
    if constexpr (kRelu) {
      dgx[0] = h <= Vec<T>{} ? Vec<T>{} : dstate[0];
    } else {
      dgx[0] = dstate[0] * (T(1) - h * h);
    }
    dstate[0] = Vec<T>{};
  }
};

struct Gru {
  static constexpr const char *name = "gru", *gates = "rzn", *states = "h";
  static constexpr int num_gates = 3, num_states = 1, kept = 4, late = 0; // r, z, n, gh_n
  static constexpr bool adds = false, passes = true, bounded = true;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[3], const Vec<T> (&gh)[3], Vec<T> (&state)[1],
                                   Vec<T>* keep) {
    const Vec<T> r = sigmoid<T>(gx[0] + gh[0]);
    const Vec<T> z = sigmoid<T>(gx[1] + gh[1]);
    const Vec<T> n = tanh<T>(gx[2] + r * gh[2]);
    state[0] = n + z * (state[0] - n);
    keep[0] = r, keep[1] = z, keep[2] = n, keep[3] = gh[2];
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>* keep, const Vec<T> (&previous)[1], Vec<T>,
                                    Vec<T> (&dstate)[1], Vec<T> (&dgx)[3], Vec<T> (&dgh)[3],
                                    auto plus) {
    const Vec<T> r = keep[0], z = keep[1], n = keep[2], gh_n = keep[3], dh = dstate[0];
    dgx[2] = plus(2, dh * (T(1) - z)) * (T(1) - n * n);
    dgx[1] = plus(1, dh * (previous[0] - n)) * z * (T(1) - z);
    dgx[0] = plus(0, dgx[2] * gh_n) * r * (T(1) - r);
    dgh[0] = dgx[0], dgh[1] = dgx[1], dgh[2] = dgx[2] * r;
    dstate[0] = dh * z;
  }
};

struct GruResetBefore {
  static constexpr const char *name = "gru_reset_before", *gates = "rzn", *states = "h";
  static constexpr int num_gates = 3, num_states = 1, kept = 3, late = 1; // r, z, n
  static constexpr bool adds = true, passes = true, bounded = true;

  template <class T>
  static ELMAN_INLINE Vec<T> reset(const Vec<T> (&gx)[2], Vec<T> (&gh)[2], Vec<T> h) {
    gh[0] = sigmoid<T>(gx[0] + gh[0]); // r
    return gh[0] * h;
  }

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[3], const Vec<T> (&gh)[3], Vec<T> (&state)[1],
                                   Vec<T>* keep) {
    const Vec<T> z = sigmoid<T>(gx[1] + gh[1]);
    const Vec<T> n = tanh<T>(gx[2] + gh[2]);
    state[0] = n + z * (state[0] - n);
    keep[0] = gh[0], keep[1] = z, keep[2] = n;
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>* keep, const Vec<T> (&previous)[1], Vec<T>,
                                    Vec<T> (&dstate)[1], Vec<T> (&dgx)[3], Vec<T> (&)[3],
                                    auto plus) {
    const Vec<T> z = keep[1], n = keep[2], dh = dstate[0];
    dgx[2] = plus(2, dh * (T(1) - z)) * (T(1) - n * n);
    dgx[1] = plus(1, dh * (previous[0] - n)) * z * (T(1) - z);
    dgx[0] = plus(0, Vec<T>{}); // of r itself, until reset_backward()
    dstate[0] = dh * z;
  }

  template <class T>
  static ELMAN_INLINE Vec<T> reset_backward(const Vec<T>* keep, Vec<T> previous, Vec<T> dreset,
                                            Vec<T>& dh, Vec<T> (&dgx)[2]) {
    const Vec<T> r = keep[0];
    dgx[0] = (dreset * previous + dgx[0]) * r * (T(1) - r);
    dh += dreset * r;
    return r * previous;
  }
};

struct Lstm {
  static constexpr const char *name = "lstm", *gates = "ifgo", *states = "hc";
  static constexpr int num_gates = 4, num_states = 2, kept = 5, late = 0; // i, f, g, o, c
  static constexpr bool adds = true, passes = false, bounded = true;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[4], const Vec<T> (&gh)[4], Vec<T> (&state)[2],
                                   Vec<T>* keep) {
    const Vec<T> i = sigmoid<T>(gx[0] + gh[0]);
    const Vec<T> f = sigmoid<T>(gx[1] + gh[1]);
    const Vec<T> g = tanh<T>(gx[2] + gh[2]);
    const Vec<T> o = sigmoid<T>(gx[3] + gh[3]);
    state[1] = f * state[1] + i * g;
    state[0] = o * tanh<T>(state[1]);
    keep[0] = i, keep[1] = f, keep[2] = g, keep[3] = o, keep[4] = state[1];
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>* keep, const Vec<T> (&previous)[2], Vec<T>,
                                    Vec<T> (&dstate)[2], Vec<T> (&dgx)[4], Vec<T> (&)[4],
                                    auto plus) {
    const Vec<T> i = keep[0], f = keep[1], g = keep[2], o = keep[3], tanh_c = tanh<T>(keep[4]);
    const Vec<T> dh = dstate[0];
    const Vec<T> dc = plus(4, dstate[1] + dh * o * (T(1) - tanh_c * tanh_c));
    dgx[0] = plus(0, dc * g) * i * (T(1) - i);
    dgx[1] = plus(1, dc * previous[1]) * f * (T(1) - f);
    dgx[2] = plus(2, dc * i) * (T(1) - g * g);
    dgx[3] = plus(3, dh * tanh_c) * o * (T(1) - o);
    dstate[0] = Vec<T>{};
    dstate[1] = dc * f;
  }

  // h before a projection, from the kept values.
  template <class T>
  static ELMAN_INLINE Vec<T> hidden(const Vec<T>* keep) {
    return keep[3] * tanh<T>(keep[4]);
  }
};

// The only list.
using Cells = std::tuple<Rnn<false>, Rnn<true>, Lstm, Gru, GruResetBefore>;

} // namespace
} // namespace elman
