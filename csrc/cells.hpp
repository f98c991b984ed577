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
//   product  whether there is a recurrent product. A cell without one has no gh: forward() and
//            backward() are given its vectors instead, and backward() leaves the whole gradient of
//            the previous state, and in dvectors[] that of the vectors
//   vectors  parameters with one value for each unit
//   adds     gx and gh enter only as gx + gh, hence dgx == dgh and backward() leaves dgh alone
//   passes   part of h reaches the new h past the product; of the others, backward() leaves no
//            gradient of the previous h
//   bounded  h, before a projection, is from -1 to 1 if the one before it is
//   late     how many of the last gates take their gh from what reset() returns in place of h.
//            reset() may leave in gh what forward() can use; reset_backward() gets the gradient of
//            its result, adds to the one of h, sets dgx of the gates that are not late, and returns
//            reset()'s result again
//   told     whether somebody may read the kept values, so that they have gradients of their own
//   apart    how many of the last gates are normalised on their own, where gx and gh are
//
// backward() gets dstate[] = the gradient of the new state, and replaces it by that part of the
// gradient of the previous state that does not pass through gh. The kept values have
// gradients of their own where somebody reads them: plus(i, d) is d and that of keep[i].
//
// A cell that has c may tell how h comes of it: hidden(keep, c) is h, whatever has become of c
// since the step, and hidden_backward(keep, c, dh, dgx) sets the gradients of the gates in it and
// returns that of c.
#pragma once

#include <tuple>

#include "vecmath.hpp"

namespace elman {
namespace {

// What most cells are.
struct Usual {
  static constexpr int late = 0, vectors = 0, apart = 0;
  static constexpr bool product = true, told = true;
};

template <bool kRelu>
struct Rnn : Usual {
  static constexpr const char *name = kRelu ? "rnn_relu" : "rnn_tanh", *gates = "h", *states = "h";
  static constexpr int num_gates = 1, num_states = 1, kept = 0;
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

struct Gru : Usual {
  static constexpr const char *name = "gru", *gates = "rzn", *states = "h";
  static constexpr int num_gates = 3, num_states = 1, kept = 4, apart = 1; // r, z, n, gh_n
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

struct GruResetBefore : Usual {
  static constexpr const char *name = "gru_reset_before", *gates = "rzn", *states = "h";
  static constexpr int num_gates = 3, num_states = 1, kept = 3, late = 1, apart = 1; // r, z, n
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

struct Lstm : Usual {
  static constexpr const char *name = "lstm", *gates = "ifgo", *states = "hc";
  static constexpr int num_gates = 4, num_states = 2, kept = 5; // i, f, g, o, c
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

  template <class T>
  static ELMAN_INLINE Vec<T> hidden(const Vec<T>* keep, Vec<T> c) {
    return keep[3] * tanh<T>(c);
  }

  template <class T>
  static ELMAN_INLINE Vec<T> hidden_backward(const Vec<T>* keep, Vec<T> c, Vec<T> dh,
                                             Vec<T> (&dgx)[4]) {
    const Vec<T> o = keep[3], tanh_c = tanh<T>(c);
    dgx[3] = dh * tanh_c * o * (T(1) - o);
    return dh * o * (T(1) - tanh_c * tanh_c);
  }
};

// c and n are kept divided by exp(m), so that exp(i) may be of any size: see slstm in cells.py.
struct Slstm : Usual {
  static constexpr const char *name = "slstm", *gates = "ifzo", *states = "hcnm";
  static constexpr int num_gates = 4, num_states = 4, kept = 8; // i, f, z, o, sigmoid(f), c, n, m
  static constexpr bool adds = true, passes = false, bounded = false;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[4], const Vec<T> (&gh)[4], Vec<T> (&state)[4],
                                   Vec<T>* keep) {
    const Vec<T> i = gx[0] + gh[0], f = gx[1] + gh[1];
    const Vec<T> past = state[2] > Vec<T>{} ? state[3] + log_sigmoid<T>(f) : i;
    const Vec<T> m = i > past ? i : past;
    keep[0] = exp_below<T>(i - m), keep[1] = exp_below<T>(past - m);
    keep[2] = tanh<T>(gx[2] + gh[2]), keep[3] = sigmoid<T>(gx[3] + gh[3]);
    keep[4] = sigmoid<T>(f);
    state[1] = keep[1] * state[1] + keep[0] * keep[2];
    state[2] = keep[1] * state[2] + keep[0];
    state[3] = m;
    state[0] = keep[3] * (state[1] / state[2]);
    keep[5] = state[1], keep[6] = state[2], keep[7] = m;
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>* keep, const Vec<T> (&previous)[4], Vec<T>,
                                    Vec<T> (&dstate)[4], Vec<T> (&dgx)[4], Vec<T> (&)[4],
                                    auto plus) {
    const Vec<T> i = keep[0], f = keep[1], z = keep[2], o = keep[3], c = keep[5], n = keep[6];
    const Vec<T> ratio = c / n, dratio = dstate[0] * o;
    const Vec<T> dc = plus(5, dstate[1] + dratio / n), dn = plus(6, dstate[2] - dratio * ratio / n);
    const Vec<T> di = (dc * z + dn) * i, dpast = (dc * previous[1] + dn * previous[2]) * f;
    // m is the larger of two, of which the gradient is shared where they are equal.
    const Vec<T> dm = plus(7, dstate[3] - di - dpast), one = broadcast(T(1)),
                 half = broadcast(T(0.5));
    const Vec<T> of_i = i < one ? Vec<T>{} : f < one ? one : half;
    const Vec<T> to_past = dpast + dm * (T(1) - of_i), to_i = di + dm * of_i;
    const Bits<T> has_past = previous[2] > Vec<T>{};
    dgx[0] = has_past ? to_i : to_i + to_past;
    dgx[1] = has_past ? to_past * (T(1) - keep[4]) : Vec<T>{};
    dgx[2] = dc * i * (T(1) - z * z);
    dgx[3] = dstate[0] * ratio * o * (T(1) - o);
    dstate[0] = Vec<T>{}, dstate[1] = dc * f, dstate[2] = dn * f;
    dstate[3] = has_past ? to_past : Vec<T>{};
  }
};

struct Ligru : Usual {
  static constexpr const char *name = "ligru", *gates = "zn", *states = "h";
  static constexpr int num_gates = 2, num_states = 1, kept = 2; // z, n
  static constexpr bool told = false, adds = true, passes = true, bounded = false;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[2], const Vec<T> (&gh)[2], Vec<T> (&state)[1],
                                   Vec<T>* keep) {
    const Vec<T> z = sigmoid<T>(gx[0] + gh[0]), a = gx[1] + gh[1];
    const Vec<T> n = a < Vec<T>{} ? Vec<T>{} : a;
    state[0] = n + z * (state[0] - n);
    keep[0] = z, keep[1] = n;
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>* keep, const Vec<T> (&previous)[1], Vec<T>,
                                    Vec<T> (&dstate)[1], Vec<T> (&dgx)[2], Vec<T> (&)[2], auto) {
    const Vec<T> z = keep[0], n = keep[1], dh = dstate[0];
    dgx[0] = dh * (previous[0] - n) * z * (T(1) - z);
    dgx[1] = n <= Vec<T>{} ? Vec<T>{} : dh * (T(1) - z);
    dstate[0] = dh * z;
  }
};

// ---- without a recurrent product ----

struct Indrnn : Usual {
  static constexpr const char *name = "indrnn", *gates = "h", *states = "h";
  static constexpr int num_gates = 1, num_states = 1, kept = 0, vectors = 1; // u
  static constexpr bool product = false, told = false, adds = true, passes = true, bounded = false;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[1], const Vec<T>* u, Vec<T> (&state)[1],
                                   Vec<T>*) {
    const Vec<T> a = gx[0] + u[0] * state[0];
    state[0] = a < Vec<T>{} ? Vec<T>{} : a;
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>*, const Vec<T> (&previous)[1], Vec<T> h,
                                    Vec<T> (&dstate)[1], Vec<T> (&dgx)[1], const Vec<T>* u,
                                    Vec<T>* du, auto) {
    dgx[0] = h <= Vec<T>{} ? Vec<T>{} : dstate[0];
    du[0] = dgx[0] * previous[0];
    dstate[0] = dgx[0] * u[0];
  }
};

struct MinGru : Usual {
  static constexpr const char *name = "mingru", *gates = "zn", *states = "h";
  static constexpr int num_gates = 2, num_states = 1, kept = 2; // z, n
  static constexpr bool product = false, told = false, adds = true, passes = true, bounded = false;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[2], const Vec<T>*, Vec<T> (&state)[1],
                                   Vec<T>* keep) {
    keep[0] = sigmoid<T>(gx[0]), keep[1] = gx[1];
    state[0] = state[0] + keep[0] * (keep[1] - state[0]);
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>* keep, const Vec<T> (&previous)[1], Vec<T>,
                                    Vec<T> (&dstate)[1], Vec<T> (&dgx)[2], const Vec<T>*, Vec<T>*,
                                    auto) {
    const Vec<T> z = keep[0], n = keep[1], dh = dstate[0];
    dgx[0] = dh * (n - previous[0]) * z * (T(1) - z);
    dgx[1] = dh * z;
    dstate[0] = dh * (T(1) - z);
  }
};

struct MinLstm : Usual {
  static constexpr const char *name = "minlstm", *gates = "fin", *states = "h";
  static constexpr int num_gates = 3, num_states = 1, kept = 4; // f, i, n, f / (f + i)
  static constexpr bool product = false, told = false, adds = true, passes = true, bounded = false;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[3], const Vec<T>*, Vec<T> (&state)[1],
                                   Vec<T>* keep) {
    keep[0] = sigmoid<T>(gx[0]), keep[1] = sigmoid<T>(gx[1]), keep[2] = gx[2];
    keep[3] = sigmoid<T>(log_sigmoid<T>(gx[0]) - log_sigmoid<T>(gx[1]));
    state[0] = keep[2] + keep[3] * (state[0] - keep[2]);
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>* keep, const Vec<T> (&previous)[1], Vec<T>,
                                    Vec<T> (&dstate)[1], Vec<T> (&dgx)[3], const Vec<T>*, Vec<T>*,
                                    auto) {
    const Vec<T> n = keep[2], stays = keep[3], dh = dstate[0];
    const Vec<T> d = dh * (previous[0] - n) * stays * (T(1) - stays); // of log f - log i
    dgx[0] = d * (T(1) - keep[0]);
    dgx[1] = -d * (T(1) - keep[1]);
    dgx[2] = dh * (T(1) - stays);
    dstate[0] = dh * stays;
  }
};

struct Sru : Usual {
  static constexpr const char *name = "sru", *gates = "xfrk", *states = "hc";
  static constexpr int num_gates = 4, num_states = 2, kept = 5, vectors = 2; // x, f, r, k, c
  static constexpr bool product = false, adds = true, passes = true, bounded = false;

  template <class T>
  static ELMAN_INLINE void forward(const Vec<T> (&gx)[4], const Vec<T>* v, Vec<T> (&state)[2],
                                   Vec<T>* keep) {
    const Vec<T> x = gx[0], k = gx[3], before = state[1];
    const Vec<T> f = sigmoid<T>(gx[1] + v[0] * before), r = sigmoid<T>(gx[2] + v[1] * before);
    state[1] = x + f * (before - x);
    state[0] = k + r * (state[1] - k);
    keep[0] = x, keep[1] = f, keep[2] = r, keep[3] = k, keep[4] = state[1];
  }

  template <class T>
  static ELMAN_INLINE void backward(const Vec<T>* keep, const Vec<T> (&previous)[2], Vec<T>,
                                    Vec<T> (&dstate)[2], Vec<T> (&dgx)[4], const Vec<T>* v,
                                    Vec<T>* dv, auto plus) {
    const Vec<T> x = keep[0], f = keep[1], r = keep[2], k = keep[3], dh = dstate[0];
    const Vec<T> dc = plus(4, dstate[1] + dh * r);
    dgx[0] = dc * (T(1) - f);
    dgx[1] = dc * (previous[1] - x) * f * (T(1) - f);
    dgx[2] = dh * (keep[4] - k) * r * (T(1) - r);
    dgx[3] = dh * (T(1) - r);
    dv[0] = dgx[1] * previous[1], dv[1] = dgx[2] * previous[1];
    dstate[0] = Vec<T>{};
    dstate[1] = dc * f + dgx[1] * v[0] + dgx[2] * v[1];
  }
};

// The only list.
using Cells = std::tuple<Rnn<false>, Rnn<true>, Lstm, Gru, GruResetBefore, Slstm, Ligru, Indrnn,
                         MinGru, MinLstm, Sru>;

} // namespace
} // namespace elman
