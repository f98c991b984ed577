// The SIMD vectors of the instruction set that this translation unit is compiled for.
//
// GCC/Clang vector extensions carry the arithmetic; this is the only file with intrinsics or `#if`.
// Everything lives in an anonymous namespace: the same source is compiled once per instruction set,
// and the linker must never merge two of the copies.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.hpp"
#include "system.hpp"

#define ELMAN_INLINE inline __attribute__((always_inline))

namespace elman {
namespace {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
inline constexpr int kVectorBytes = 16, kRegisters = 32;
#else
inline constexpr int kVectorBytes = 16, kRegisters = 16;
#endif

// Of the registers, what a product may hold as accumulators; the rest carry operands.
inline constexpr int kAccumulators = kRegisters == 32 ? 24 : 12;

template <class T>
struct VecTypes;
template <>
struct VecTypes<float> {
  typedef float vec __attribute__((vector_size(kVectorBytes)));
  typedef float unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef int32_t bits __attribute__((vector_size(kVectorBytes)));
};
template <>
struct VecTypes<double> {
  typedef double vec __attribute__((vector_size(kVectorBytes)));
  typedef double unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef int64_t bits __attribute__((vector_size(kVectorBytes)));
};

template <class T>
using Vec = typename VecTypes<T>::vec;
template <class T>
using Bits = typename VecTypes<T>::bits;
template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
ELMAN_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VecTypes<T>::unaligned*>(p);
}
template <class T>
ELMAN_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VecTypes<T>::unaligned*>(p) = v;
}
// The same of values in bfloat16, the upper halves of float32: the lower ones are zeros.
ELMAN_INLINE Vec<float> load_widened(const uint16_t* p) {
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
  Halves halves;
  __builtin_memcpy(&halves, p, sizeof(halves));
  return (Vec<float>)(__builtin_convertvector(halves, Bits<float>) << 16);
}
// Asks for what is at p, to be near when it is used; p may be any address.
template <class T>
ELMAN_INLINE void fetch(const T* p) {
  __builtin_prefetch(p, 0, 2);
}
template <class T> // not 0 + x, which is an addition: it makes 0 of -0
ELMAN_INLINE Vec<T> broadcast(T x) {
  return [x]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    return Vec<T>{(static_cast<void>(i), x)...};
  }(std::make_integer_sequence<int, kLanes<T>>{});
}

// v, or the bound where v is beyond it; a NaN stays. Of the general form compilers make a
// comparison and a blend.
#if defined(__x86_64__)
#if defined(__AVX512F__) // masked, since GCC 12 takes the plain ones for uninitialised
inline constexpr __mmask16 every_ps = 0xffff;
inline constexpr __mmask8 every_pd = 0xff;
#define ELMAN_OF_TWO(name, type, a, b) _mm512_maskz_##name##_##type(every_##type, a, b)
#elif defined(__AVX2__)
#define ELMAN_OF_TWO(name, type, a, b) _mm256_##name##_##type(a, b)
#else
#define ELMAN_OF_TWO(name, type, a, b) _mm_##name##_##type(a, b)
#endif
ELMAN_INLINE Vec<float> at_most(Vec<float> bound, Vec<float> v) {
  return ELMAN_OF_TWO(min, ps, bound, v);
}
ELMAN_INLINE Vec<double> at_most(Vec<double> bound, Vec<double> v) {
  return ELMAN_OF_TWO(min, pd, bound, v);
}
ELMAN_INLINE Vec<float> at_least(Vec<float> bound, Vec<float> v) {
  return ELMAN_OF_TWO(max, ps, bound, v);
}
ELMAN_INLINE Vec<double> at_least(Vec<double> bound, Vec<double> v) {
  return ELMAN_OF_TWO(max, pd, bound, v);
}
#undef ELMAN_OF_TWO
#else
template <class V>
ELMAN_INLINE V at_most(V bound, V v) {
  return bound < v ? bound : v;
}
template <class V>
ELMAN_INLINE V at_least(V bound, V v) {
  return bound > v ? bound : v;
}
#endif

// Keeps v in a register from here on, for compilers that would rather read it again at every use.
template <class T>
ELMAN_INLINE void keep_in_register(Vec<T>& v) {
#if defined(__x86_64__)
  asm("" : "+v"(v));
#elif defined(__aarch64__)
  asm("" : "+w"(v));
#else
  static_cast<void>(v);
#endif
}

// The first n lanes, 0 < n <= kLanes; lanes past them read as 0 and are never written.
#if defined(__AVX512F__)
ELMAN_INLINE Vec<float> load_first(const float* p, int n) {
  return (Vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
}
ELMAN_INLINE Vec<double> load_first(const double* p, int n) {
  return (Vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << n) - 1), p);
}
ELMAN_INLINE void store_first(float* p, Vec<float> v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
}
ELMAN_INLINE void store_first(double* p, Vec<double> v, int n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << n) - 1), (__m512d)v);
}
#else
template <class T>
ELMAN_INLINE Vec<T> load_first(const T* p, int n) {
  Vec<T> v{};
  for (int i = 0; i < n; i++)
    v[i] = p[i];
  return v;
}
template <class T>
ELMAN_INLINE void store_first(T* p, Vec<T> v, int n) {
  for (int i = 0; i < n; i++)
    p[i] = v[i];
}
#endif

// ---- int8 ----
//
// Sums of products of small integers are exact, in whatever order and by whatever instruction. A
// lane takes several neighbouring terms at a time: four bytes where the processor has an
// instruction for that (VNNI: kDots), which wants the terms as they are plus 128; else two, whose
// products are added in 32 bits.

#if defined(__AVX512F__)
inline constexpr bool kMayDot = true;
inline bool has_dots() {
  return __builtin_cpu_supports("avx512vnni");
}
#elif defined(__AVX2__)
inline constexpr bool kMayDot = true;
inline bool has_dots() { // AVX-VNNI: leaf 7.1, EAX bit 4
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 16);
}
#else
inline constexpr bool kMayDot = false;
inline bool has_dots() {
  return false;
}
#endif

template <bool kDots>
inline constexpr int kTerms = kDots ? 4 : 2; // that a lane takes at a time
#if defined(__aarch64__)
using PairTerm = int8_t;
using PairWeights = int8x8_t;
#else
using PairTerm = int16_t;
typedef int16_t PairWeights __attribute__((vector_size(kVectorBytes)));
#endif
template <bool kDots>
using Term = std::conditional_t<kDots, uint8_t, PairTerm>;
using Ints = Bits<float>;

ELMAN_INLINE Ints load_ints(const int32_t* p) {
  return (Ints)load(reinterpret_cast<const float*>(p));
}
ELMAN_INLINE void store_ints(int32_t* p, Ints v) {
  store(reinterpret_cast<float*>(p), (Vec<float>)v);
}

// The weights of kLanes lanes for the terms of one time.
template <bool kDots>
ELMAN_INLINE auto load_weights(const int8_t* p) {
  if constexpr (kDots) {
    return load_ints(reinterpret_cast<const int32_t*>(p));
  } else {
#if defined(__AVX512F__) // of the general form GCC makes twice the instructions
    return (PairWeights)_mm512_cvtepi8_epi16(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
    return (PairWeights)_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__x86_64__)
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return (PairWeights)_mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
#elif defined(__aarch64__)
    return vld1_s8(p);
#else
    typedef int8_t Narrow __attribute__((vector_size(kVectorBytes / 2)));
    Narrow narrow;
    __builtin_memcpy(&narrow, p, sizeof(narrow));
    return __builtin_convertvector(narrow, PairWeights);
#endif
  }
}

// The same terms for every lane.
template <bool kDots>
ELMAN_INLINE auto broadcast_terms(const Term<kDots>* p) {
#if defined(__aarch64__)
  int16_t pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return vreinterpret_s8_s16(vdup_n_s16(pair));
#else
  float word;
  __builtin_memcpy(&word, p, sizeof(word));
  return (Ints)broadcast(word);
#endif
}

template <bool kDots, class Terms, class Weights>
ELMAN_INLINE void add_products(Ints& sum, Terms terms, Weights weights) {
#if defined(__AVX512F__)
  if constexpr (kDots)
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(terms), "vm"(weights));
  else
    sum += (Ints)_mm512_madd_epi16((__m512i)terms, (__m512i)weights);
#elif defined(__AVX2__)
  if constexpr (kDots)
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(terms), "xm"(weights));
  else
    sum += (Ints)_mm256_madd_epi16((__m256i)terms, (__m256i)weights);
#elif defined(__x86_64__)
  sum += (Ints)_mm_madd_epi16((__m128i)terms, (__m128i)weights);
#elif defined(__aarch64__)
  sum = (Ints)vpadalq_s16((int32x4_t)sum, vmull_s8(terms, weights));
#else
  const PairWeights products = (PairWeights)terms * weights; // 127^2 fits, and twice that too
  for (int lane = 0; lane < kLanes<float>; lane++)
    sum[lane] += products[2 * lane] + products[2 * lane + 1];
#endif
}

// Writes kLanes terms, each from -127 to 127.
template <bool kDots>
ELMAN_INLINE void store_terms(Term<kDots>* p, Ints v) {
  typedef Term<kDots> Narrow __attribute__((vector_size(kLanes<float> * sizeof(Term<kDots>))));
  const Narrow narrow = __builtin_convertvector(kDots ? v + 128 : v, Narrow);
  __builtin_memcpy(p, &narrow, sizeof(narrow));
}
ELMAN_INLINE Vec<float> to_floats(Ints v) {
  return __builtin_convertvector(v, Vec<float>);
}
// The nearest integers, the even one of two; |v| < 2^22. A product and a sum are never fused here.
ELMAN_INLINE Ints nearest(Vec<float> v) {
  keep_in_register<float>(v);
  const Vec<float> magic = broadcast(12582912.f); // 1.5 * 2^23
  return (Ints)(v + magic) - (Ints)magic;
}
ELMAN_INLINE int32_t largest_lane(Ints v) {
  int32_t most = v[0];
  for (int lane = 1; lane < kLanes<float>; lane++)
    most = v[lane] > most ? v[lane] : most;
  return most;
}

// ---- bfloat16 ----
//
// The upper half of a float32. Sums of products are formed by instructions that take neighbouring
// terms together; see bf16.hpp. Both operands are rounded to the nearest, the even one of two;
// denormals are taken for 0.

template <class T>
class Tiles;
#if defined(__AVX512F__)
inline constexpr bool kMayRound = true;
inline Bf16 find_bf16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & 1u << 5)) // AVX512_BF16
    return Bf16::kNone;
  constexpr unsigned kTiles = 1u << 24 | 1u << 22; // AMX-TILE, AMX-BF16
  __get_cpuid_count(7, 0, &a, &b, &c, &d);
  return (d & kTiles) == kTiles && may_use_tiles() ? Bf16::kTiles : Bf16::kPairs;
}
inline Bf16 best_bf16() {
  static const Bf16 best = find_bf16();
  return best;
}

// `first`, then `second`.
ELMAN_INLINE Vec<float> round_both(Vec<float> first, Vec<float> second) {
  Vec<float> rounded;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(rounded) : "v"(second), "v"(first));
  return rounded;
}
// Lane by lane `first` and `second`.
ELMAN_INLINE Vec<float> round_pairs(Vec<float> first, Vec<float> second) {
  constexpr int V = kLanes<float>;
  return [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    typedef int16_t Words __attribute__((vector_size(kVectorBytes)));
    const Words words{static_cast<int16_t>(i / 2 + i % 2 * V)...};
    const __m512i rounded = (__m512i)round_both(first, second);
    return (Vec<float>)_mm512_maskz_permutexvar_epi16(~__mmask32{}, (__m512i)words, rounded);
  }(std::make_integer_sequence<int, 2 * V>{});
}

// sum + the products of a pair of terms and of weights in each lane, the second one first.
ELMAN_INLINE void add_pairs(Vec<float>& sum, Vec<float> terms, Vec<float> weights) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(terms), "v"(weights));
}

// The tile registers of this thread, for as long as it lives: each 16 rows of 64 bytes.
template <>
class Tiles<float> {
public:
  explicit Tiles(bool wanted) : wanted_(wanted) {
    if (!wanted)
      return;
    alignas(64) unsigned char configuration[64] = {1}; // the palette; 16 widths; 16 heights
    for (int i = 0; i < 8; i++)
      configuration[16 + 2 * i] = 64, configuration[48 + i] = 16;
    asm volatile("ldtilecfg %0" : : "m"(configuration));
  }
  ~Tiles() {
    if (wanted_)
      asm volatile("tilerelease");
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  // sums[m][n] = row m of a . column n of b, of 32 rows and columns, over `blocks` times 32 terms.
  // Strides are in bytes.
  static void multiply_square(const uint16_t* a, long a_stride, long blocks, const uint16_t* b,
                              long b_stride, float* sums, long sums_stride) {
    const uint16_t* const a_lower = a + 16 * a_stride / 2;
    asm volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" : :);
    for (long i = 0; i < blocks; i++) {
      asm volatile("tileloadd (%0,%3), %%tmm4\n\t"
                   "tileloadd (%2,%4), %%tmm6\n\t"
                   "tdpbf16ps %%tmm6, %%tmm4, %%tmm0\n\t"
                   "tileloadd 64(%2,%4), %%tmm7\n\t"
                   "tdpbf16ps %%tmm7, %%tmm4, %%tmm1\n\t"
                   "tileloadd (%1,%3), %%tmm5\n\t"
                   "tdpbf16ps %%tmm6, %%tmm5, %%tmm2\n\t"
                   "tdpbf16ps %%tmm7, %%tmm5, %%tmm3"
                   :
                   : "r"(a + 32 * i), "r"(a_lower + 32 * i), "r"(b + 8 * i * b_stride),
                     "r"(a_stride), "r"(b_stride)
                   : "memory");
    }
    asm volatile("tilestored %%tmm0, (%0,%2)\n\t"
                 "tilestored %%tmm1, 64(%0,%2)\n\t"
                 "tilestored %%tmm2, (%1,%2)\n\t"
                 "tilestored %%tmm3, 64(%1,%2)"
                 :
                 : "r"(sums), "r"(sums + 4 * sums_stride), "r"(sums_stride)
                 : "memory");
  }
  // The same of 16 rows and 64 columns.
  static void multiply_wide(const uint16_t* a, long a_stride, long blocks, const uint16_t* b,
                            long b_stride, float* sums, long sums_stride) {
    asm volatile("tilezero %%tmm0\n\ttilezero %%tmm1\n\ttilezero %%tmm2\n\ttilezero %%tmm3" : :);
    for (long i = 0; i < blocks; i++) {
      asm volatile("tileloadd (%0,%2), %%tmm4\n\t"
                   "tileloadd (%1,%3), %%tmm5\n\t"
                   "tdpbf16ps %%tmm5, %%tmm4, %%tmm0\n\t"
                   "tileloadd 64(%1,%3), %%tmm6\n\t"
                   "tdpbf16ps %%tmm6, %%tmm4, %%tmm1\n\t"
                   "tileloadd 128(%1,%3), %%tmm7\n\t"
                   "tdpbf16ps %%tmm7, %%tmm4, %%tmm2\n\t"
                   "tileloadd 192(%1,%3), %%tmm5\n\t"
                   "tdpbf16ps %%tmm5, %%tmm4, %%tmm3"
                   :
                   : "r"(a + 32 * i), "r"(b + 8 * i * b_stride), "r"(a_stride), "r"(b_stride)
                   : "memory");
    }
    asm volatile("tilestored %%tmm0, (%0,%1)\n\t"
                 "tilestored %%tmm1, 64(%0,%1)\n\t"
                 "tilestored %%tmm2, 128(%0,%1)\n\t"
                 "tilestored %%tmm3, 192(%0,%1)"
                 :
                 : "r"(sums), "r"(sums_stride)
                 : "memory");
  }

private:
  const bool wanted_;
};
#else
inline constexpr bool kMayRound = false;
inline Bf16 best_bf16() {
  return Bf16::kNone;
}
#endif

// Calls f(std::integral_constant<int, i>) for i in [0, N): unrolling that does not depend on the
// optimiser's mood.
template <int N, class F>
ELMAN_INLINE void unroll(F&& f) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, i>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// Transposes the square block of kLanes x kLanes values in r, in log2(kLanes) rounds of two-operand
// shuffles.
template <class T>
ELMAN_INLINE void transpose(Vec<T> (&r)[kLanes<T>]) {
  constexpr int V = kLanes<T>;
  auto round = [&]<int S>(std::integral_constant<int, S>) __attribute__((always_inline)) {
    unroll<V>([&](auto i) __attribute__((always_inline)) {
      if constexpr (!(i.value & S)) {
        const Vec<T> a = r[i], b = r[i + S];
        [&]<int... l>(std::integer_sequence<int, l...>) __attribute__((always_inline)) {
          r[i] = __builtin_shufflevector(a, b, ((l & S) ? V + l - S : l)...);
          r[i + S] = __builtin_shufflevector(a, b, ((l & S) ? V + l : l + S)...);
        }(std::make_integer_sequence<int, V>{});
      }
    });
  };
  round(std::integral_constant<int, 1>{});
  if constexpr (V > 2)
    round(std::integral_constant<int, 2>{});
  if constexpr (V > 4)
    round(std::integral_constant<int, 4>{});
  if constexpr (V > 8)
    round(std::integral_constant<int, 8>{});
}

// A range of the values of a row: of hidden units, mostly.
struct Units {
  long from, to;
};

// Calls f(unit, load, store) for each vector of units; the last one may be partial.
template <class T, class F>
ELMAN_INLINE void for_each_vector(Units units, F&& f) {
  constexpr int V = kLanes<T>;
  long u = units.from;
  for (; u + V <= units.to; u += V) {
    f(
        u, [](const T* p) __attribute__((always_inline)) { return load(p); },
        [](T* p, Vec<T> v) __attribute__((always_inline)) { store(p, v); });
  }
  if (const int n = static_cast<int>(units.to - u)) {
    f(
        u, [n](const T* p) __attribute__((always_inline)) { return load_first(p, n); },
        [n](T* p, Vec<T> v) __attribute__((always_inline)) { store_first(p, v, n); });
  }
}

// Flushes denormals on this thread for as long as it lives; the thread's mode returns with it.
class FlushDenormals {
public:
#if defined(__x86_64__)
  FlushDenormals() : mode_(_mm_getcsr()) { _mm_setcsr(mode_ | kFlushAndTreatAsZero); }
  ~FlushDenormals() { _mm_setcsr(mode_); }

private:
  static constexpr unsigned kFlushAndTreatAsZero = 0x8040;
  unsigned mode_;
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(mode_));
    asm volatile("msr fpcr, %0" : : "r"(mode_ | kFlush));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" : : "r"(mode_)); }

private:
  static constexpr uint64_t kFlush = 1u << 24;
  uint64_t mode_;
#else
  FlushDenormals() {}
#endif
public:
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;
};

} // namespace
} // namespace elman
