// The modules of a chain that keep no state: each row is computed for itself.
//
// Their sums, like those of the recurrence, have an order that depends on the width alone.
#pragma once

#include "gemm.hpp"
#include "kernels.hpp"
#include "threads.hpp"
#include "vecmath.hpp"

namespace elman {
namespace {

template <class T>
ELMAN_INLINE T sum_of_lanes(Vec<T> v) {
  T sum = T(0);
  for (int lane = 0; lane < kLanes<T>; lane++)
    sum += v[lane];
  return sum;
}

template <class T>
ELMAN_INLINE T sum_of(const T* row, long width) {
  Vec<T> sums{};
  for_each_vector<T>({0, width}, [&](long i, auto get, auto)
                                     __attribute__((always_inline)) { sums += get(row + i); });
  return sum_of_lanes<T>(sums);
}

// Leaves x less its mean in y, and returns its variance.
template <class T>
ELMAN_INLINE T centre(const T* x, long width, T* y) {
  const T mean = sum_of<T>(x, width) / static_cast<T>(width);
  Vec<T> squares{};
  for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    put(y + i, get(x + i) - mean);
    const Vec<T> centred = get(y + i); // with zeros past the end
    squares += centred * centred;
  });
  return sum_of_lanes<T>(squares) / static_cast<T>(width);
}

// Packs w, [width][inputs], unless packed is null; returns how many values it takes.
template <class T>
long pack_linear(const T* w, long inputs, long width, T* packed) {
  if (packed)
    pack_transposed<T>(w, width, inputs, 0, num_panels<T>(width), packed);
  return packed_size<T>(width, inputs);
}

inline long pack_linear_bytes(const float* w, const float* scales, long inputs, long width,
                              bool dots, int8_t* packed) {
  if (packed)
    pack_bytes(w, scales, width, inputs, dots, packed);
  return packed_bytes(width, inputs);
}

template <class T>
void linear(long rows, const T* x, const T* packed, const LowPrecision& low, const T* bias,
            long inputs, long width, T* y) {
  const FlushDenormals mode;
  Scratch::Frame scratch;
  const T **in = scratch.take<const T*>(rows), **initial = scratch.take<const T*>(rows);
  T** out = scratch.take<T*>(rows);
  for (long n = 0; n < rows; n++)
    in[n] = x + n * inputs, initial[n] = bias, out[n] = y + n * width;
  multiply<T>(rows, in, {packed, inputs, width, Layout::kPacked, low}, bias ? initial : nullptr,
              out);
}

template <class T>
void layer_norm(long rows, const T* x, const T* scale, const T* shift, double eps, long width,
                T* y) {
  const FlushDenormals mode;
  for (long n = 0; n < rows; n++, x += width, y += width) {
    const T variance = centre<T>(x, width, y);
    const T deviation = static_cast<T>(__builtin_sqrt(static_cast<double>(variance) + eps));
    for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
      Vec<T> v = get(y + i) / deviation;
      if (scale)
        v = v * get(scale + i);
      if (shift)
        v = v + get(shift + i);
      put(y + i, v);
    });
  }
}

template <class T>
ELMAN_INLINE T largest_of(const T* row, long width) {
  T most = row[0];
  if (width < kLanes<T>) {
    for (long i = 1; i < width; i++)
      most = row[i] > most ? row[i] : most;
    return most;
  }
  Vec<T> v = load(row);
  for (long i = kLanes<T>; i < width; i += kLanes<T>) // the last vector reaches back
    v = at_least(v, load(row + smaller(i, width - kLanes<T>)));
  for (int lane = 0; lane < kLanes<T>; lane++)
    most = v[lane] > most ? v[lane] : most;
  return most;
}

// The softmax of a row or its logarithm.
template <class T>
void softmax_row(const T* x, long width, bool logarithm, T* y) {
  const T most = largest_of<T>(x, width);
  for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    const Vec<T> v = get(x + i) - most;
    const Exp<T> e = exp<T>(at_least(broadcast(MathConstants<T>::exp_low), v));
    put(y + i, e.rest * e.scale + e.scale);
  });
  const T sum = sum_of<T>(y, width);
  if (logarithm) {
    const T log_sum = static_cast<T>(__builtin_log(static_cast<double>(sum)));
    for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
      put(y + i, get(x + i) - most - log_sum);
    });
  } else {
    for_each_vector<T>({0, width}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
      put(y + i, get(y + i) / sum);
    });
  }
}

template <class T>
void apply(Function function, long rows, const T* x, long width, T* y) {
  const FlushDenormals mode;
  auto each = [&](auto f) __attribute__((always_inline)) {
    for_each_vector<T>({0, rows * width},
                       [&](long i, auto get, auto put)
                           __attribute__((always_inline)) { put(y + i, f(get(x + i))); });
  };
  switch (function) {
  case Function::kIdentity:
    return each([](Vec<T> v) __attribute__((always_inline)) { return v; });
  case Function::kRelu:
    return each([](Vec<T> v)
                    __attribute__((always_inline)) { return v < Vec<T>{} ? Vec<T>{} : v; });
  case Function::kTanh:
    return each([](Vec<T> v) __attribute__((always_inline)) { return tanh<T>(v); });
  case Function::kSigmoid:
    return each([](Vec<T> v) __attribute__((always_inline)) { return sigmoid<T>(v); });
  case Function::kSilu:
    return each([](Vec<T> v) __attribute__((always_inline)) { return v * sigmoid<T>(v); });
  case Function::kSoftplus: // ln(1 + e^x), whatever the size of x
    for (long i = 0; i < rows * width; i++) {
      const double v = static_cast<double>(x[i]);
      y[i] = static_cast<T>(__builtin_log1p(__builtin_exp(v < 0 ? v : -v)) + (v < 0 ? 0 : v));
    }
    return;
  case Function::kSoftmax:
  case Function::kLogSoftmax:
    for (long n = 0; n < rows; n++)
      softmax_row<T>(x + n * width, width, function == Function::kLogSoftmax, y + n * width);
  }
}

} // namespace
} // namespace elman
