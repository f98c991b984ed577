// What this core can do at most, measured: the yardstick of the benchmark.
#pragma once

#include <chrono>
#include <new>

#include "vec.hpp"

namespace elman {
namespace {

ELMAN_INLINE double seconds_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// GFLOP/s of float32 multiply-adds in registers, the best of several stretches of `seconds` in all.
inline double fma_peak(double seconds) {
  constexpr int kSums = kRegisters / 2;
  Vec<float> sum[kSums];
  for (int i = 0; i < kSums; i++)
    sum[i] = broadcast(static_cast<float>(i));
  Vec<float> scale = broadcast(.999f), shift = broadcast(.001f);
  asm volatile("" : "+m"(scale), "+m"(shift));
  double best = 0;
  const double end = seconds_now() + seconds;
  for (double start = seconds_now(); start < end;) {
    constexpr int kRounds = 20000;
    for (int round = 0; round < kRounds; round++)
      unroll<kSums>([&](auto i)
                        __attribute__((always_inline)) { sum[i] = sum[i] * scale + shift; });
    const double now = seconds_now();
    const double rate = 2e-9 * kRounds * kSums * kLanes<float> / (now - start);
    best = rate > best ? rate : best;
    start = now;
  }
  for (int i = 0; i < kSums; i++)
    asm volatile("" : : "m"(sum[i]));
  return best;
}

// GB/s of reading `bytes` again and again, the best of several stretches.
inline double read_bandwidth(long bytes, double seconds) {
  constexpr int kStreams = 8;
  const long step = kStreams * kLanes<float>;
  const long n = bytes / static_cast<long>(sizeof(float)) / step * step;
  if (n == 0)
    return 0;
  // Aligned, so that no vector lies in two cache lines; and written, so that it is there.
  auto* data = new (std::align_val_t{kVectorBytes}) float[static_cast<size_t>(n)]();
  Vec<float> sum[kStreams] = {};
  double best = 0;
  const double end = seconds_now() + seconds;
  for (double start = seconds_now(); start < end;) {
    const long rounds = 1 + (1 << 22) / bytes;
    for (long round = 0; round < rounds; round++) {
      for (long i = 0; i < n; i += step)
        unroll<kStreams>([&](auto s) __attribute__((always_inline)) {
          sum[s] += load(data + i + s * kLanes<float>);
        });
      asm volatile("" : : "r"(data) : "memory");
    }
    const double now = seconds_now();
    const double rate = 1e-9 * static_cast<double>(rounds * n) * sizeof(float) / (now - start);
    best = rate > best ? rate : best;
    start = now;
  }
  for (int i = 0; i < kStreams; i++)
    asm volatile("" : : "m"(sum[i]));
  operator delete[](data, std::align_val_t{kVectorBytes});
  return best;
}

} // namespace
} // namespace elman
