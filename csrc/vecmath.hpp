// tanh and sigmoid on vectors, for every real number, infinity and NaN.
//
// float:  at most 2.5 ULP and 1.2e-7 in absolute terms, wherever the result is a normal number;
//         tests sweep the whole line.
// double: at most 4 ULP.
// Denormal results are flushed to zero, so that sigmoid(-inf) is 0. NaN gives NaN.
//
// exp(y) = 2^n e^r with n = round(y / ln 2) and |r| <= ln 2 / 2; e^r - 1 = r + r^2 q(r), where q is
// a minimax fit of the relative error that is stated beside it.
#pragma once

#include "vec.hpp"

namespace elman {
namespace {

template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr int32_t sign_bit = INT32_MIN;
  static constexpr float round_magic = 12582912.f + 127.f; // 1.5 * 2^23, plus the exponent bias
  static constexpr float log2_e = 1.44269504088896341f;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
  static constexpr float exp_high = 88.37f, exp_low = -87.3f; // 2^n and the result stay normal
  static constexpr float exp_q[] = {0.5f, 0.16666573f, 0.041666362f, 0.0083637759f,
                                    0.0013942161f}; // error of e^r: 8e-9
};

template <>
struct MathConstants<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr int64_t sign_bit = INT64_MIN;
  static constexpr double round_magic = 6755399441055744. + 1023.;
  static constexpr double log2_e = 1.44269504088896340736;
  static constexpr double ln2_high = 0.693147180369123816490, ln2_low = 1.90821492927058770002e-10;
  static constexpr double exp_high = 709.43, exp_low = -708.;
  static constexpr double exp_q[] = {0.5,
                                     0.1666666666666667,
                                     0.041666666666666685,
                                     0.008333333333325544,
                                     0.0013888888888873212,
                                     0.0001984126987686605,
                                     2.480158735012225e-05,
                                     2.7557252831676054e-06,
                                     2.755725024996044e-07,
                                     2.5106275400245942e-08,
                                     2.0922480814860178e-09}; // error of e^r: 2e-19
};

// c[0] + c[1] x + ... by pairs (Estrin's first round), which halves Horner's chain.
template <class T, int N>
ELMAN_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
  const Vec<T> x2 = x * x;
  constexpr int pairs = N / 2;
  Vec<T> sum;
  if constexpr (N % 2) {
    sum = broadcast(c[N - 1]);
  } else {
    sum = x * c[N - 1] + c[N - 2];
  }
  unroll<pairs - (N % 2 == 0)>([&](auto i) __attribute__((always_inline)) {
    constexpr int k = 2 * (pairs - (N % 2 == 0) - 1 - i.value);
    sum = sum * x2 + (x * c[k + 1] + c[k]);
  });
  return sum;
}

// exp(y) = scale + scale * rest; y is such that scale and the result are normal numbers.
template <class T>
struct Exp {
  Vec<T> scale, rest;
};
template <class T>
ELMAN_INLINE Exp<T> exp(Vec<T> y) {
  using C = MathConstants<T>;
  const Vec<T> t = y * C::log2_e + C::round_magic;
  const Vec<T> n = t - C::round_magic;
  Vec<T> r = y - n * C::ln2_high;
  r = r - n * C::ln2_low;
  const Vec<T> q = polynomial<T>(r, C::exp_q);
  return {(Vec<T>)((Bits<T>)t << C::mantissa_bits), q * (r * r) + r};
}

template <class T>
ELMAN_INLINE Vec<T> sigmoid(Vec<T> x) {
  using C = MathConstants<T>;
  const Exp<T> e = exp<T>(at_least(broadcast(C::exp_low), at_most(broadcast(C::exp_high), -x)));
  return T(1) / (T(1) + (e.rest * e.scale + e.scale));
}

// exp(x) of x up to 0.
template <class T>
ELMAN_INLINE Vec<T> exp_below(Vec<T> x) {
  const Exp<T> e = exp<T>(at_least(broadcast(MathConstants<T>::exp_low), x));
  return e.rest * e.scale + e.scale;
}

// log(sigmoid(x)) = min(x, 0) - log(1 + y) with y = exp(-|x|), and log(1 + y) = 2 atanh(s) with
// s = y / (2 + y), at most a third: the odd powers of s over their exponents, as many as it takes.
template <class T>
ELMAN_INLINE Vec<T> log_sigmoid(Vec<T> x) {
  constexpr int kTerms = sizeof(T) == 4 ? 8 : 17;
  const Vec<T> y = exp_below<T>(x < Vec<T>{} ? x : -x), s = y / (y + T(2)), s2 = s * s;
  Vec<T> sum = broadcast(T(1) / T(2 * kTerms - 1));
  unroll<kTerms - 1>([&](auto i) __attribute__((always_inline)) {
    sum = sum * s2 + T(1) / T(2 * (kTerms - 1 - i.value) - 1);
  });
  return at_most(Vec<T>{}, x) - T(2) * s * sum;
}

// (e^2|x| - 1) / (e^2|x| + 1), with the sign of x; beyond 20 it is 1 in any precision.
template <class T>
ELMAN_INLINE Vec<T> tanh(Vec<T> x) {
  const Bits<T> sign = Bits<T>{} + MathConstants<T>::sign_bit;
  const Vec<T> magnitude = at_most(broadcast(T(20)), (Vec<T>)((Bits<T>)x & ~sign));
  const Exp<T> e = exp<T>(magnitude + magnitude);
  const Vec<T> less_one = e.rest * e.scale + (e.scale - T(1));
  return (Vec<T>)((Bits<T>)(less_one / (less_one + T(2))) | ((Bits<T>)x & sign));
}

} // namespace
} // namespace elman
