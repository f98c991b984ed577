// What a set of kernels computes: one recurrent layer, all its directions, over a whole sequence.
//
// All arrays are dense and time-major. Of unequal sequences, each step computes those that still
// run. They lie packed: [rows, .] has nothing but these, batch_sizes[t] at step t, the longest
// first; or padded: [L, N, .] has each in a column of its own, in any order, and what is written
// past its end is zeros. `rows` is the number of rows there are, L * N of padded arrays.
// Symbols: L seq_len, N batch, D directions, H hidden_size, G gates of the cell, R the size of h
// (H, or the projection's), C that of the states after h, side by side: H of one, called c.
#pragma once

#include <cstdint>

namespace elman {

// How products of two operands in bfloat16 are formed, the better ways later: not at all; from
// pairs of terms, by VDPBF16PS of AVX-512; from tiles, by AMX. See bf16.hpp.
enum class Bf16 { kNone, kPairs, kTiles };

// The parameters of one direction as torch stores them, and their gradients; biases may be null
// together, w_hr is null without a projection. A gradient is null where it is not wanted. Where
// `packed` or `low` are given, `forward` reads that in place of the matrices, and of those only
// asks which there are.
//
// In int8 a matrix has a scale for each of its rows: the values are multiples of it, at most 127
// of them either way.
struct LowPrecision {
  const uint16_t* halves = nullptr; // bfloat16, widened when it is read
  const int8_t* bytes = nullptr;    // int8, with the scales
  bool dots = false;                // which of two ways bytes lie
  const uint16_t* pairs = nullptr;  // bfloat16, for a left side that is rounded to it too ...
  Bf16 way = Bf16::kNone;           // ... and is multiplied so

  explicit operator bool() const { return halves || bytes || pairs; }
};
inline constexpr int kVectors = 2;
template <class T>
struct Weights {
  const T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr; // [G*H, I], [G*H, R], [G*H], [G*H], [R, H]
  T* packed = nullptr;                       // what `pack` made of the matrices
  LowPrecision low = {};                     // the same in less, in place of `packed`
  // Of matrices that are to be packed in int8.
  const float *scales_ih = nullptr, *scales_hh = nullptr, *scales_hr = nullptr;
  const T* vectors[kVectors] = {};                // [H] each, those of the cell
  const T *gain_ih = nullptr, *gain_hh = nullptr; // [G*H] where gx, gh are normalised, else null
  const T *gain_c = nullptr, *bias_c = nullptr;   // [H] where c is, of which the bias may be null
};
template <class T>
struct WeightGradients {
  T *w_ih, *w_hh, *b_ih, *b_hh, *w_hr;
  T* vectors[kVectors] = {};
  T *gain_ih = nullptr, *gain_hh = nullptr, *gain_c = nullptr, *bias_c = nullptr;
};

// What acts in the recurrence at every step, beyond the cell and the norms; nothing by default.
// Zoneout needs a cell whose c is all that it has besides h.
template <class T>
struct Recurrence {
  const T* drop = nullptr;         // [D, N, R] factors of h before the product
  const uint8_t* zone_h = nullptr; // [D, rows, R] not 0 where the previous value stays, ...
  const uint8_t* zone_c = nullptr; // [D, rows, H]
  T stay_h = 0, stay_c = 0;        // ... or, where these are null, its share of the new one
  T clip = 0;                      // the bound of c either way, 0 for none
  T* kept = nullptr;               // [D, rows, stage_width()] as Problem::keep
};

template <class T>
struct Problem {
  long seq_len, batch, input_size, hidden_size, projection, directions; // projection 0: none
  long heads = 1;             // how many of the directions run forwards, before the others
  const int64_t* batch_sizes; // [L] descending, of packed arrays, or null
  const int64_t* lengths;     // [N] from 0 to L, of padded arrays, or null: all have L
  const T* x;                 // [rows, I]
  const T *h_0, *c_0;         // [D, N, R], [D, N, C], or null: zeros
  const uint8_t* resets;      // [L, N] of padded arrays: not 0 where a row starts anew before a
                              // step, from h_to and c_to; or null. Forwards alone
  const T *h_to, *c_to;       // [D, R], [D, C], or null: zeros
  const Weights<T>* weights;  // [D]
  T* y;                       // [rows, D, R] out of forward, into backward
  T* keep;                    // [D, rows, kept * H] likewise; null: forward keeps nothing
  bool keeps_packed;          // whether keep has no padding, [D, rows that run, .]
  T* c;                       // [D, rows, C] out of forward; null: not wanted
  T *h_n, *c_n;               // [D, N, R], [D, N, C] out of forward
  Recurrence<T> recurrence = {};
  Bf16 bf16 = Bf16::kNone; // the operands of all products are rounded to bfloat16
};

// Upstream gradients may be null (zeros), results where they are not wanted. The batch falls into
// `groups` of N / groups neighbouring columns, each with gradients of the weights of its own, one
// group's after another's.
template <class T>
struct Gradients {
  long groups;
  const T *dy, *dh_n, *dc_n;          // [rows, D, R], [D, N, R], [D, N, C]
  const T* dkeep;                     // [D, rows, kept * H], of the gates and c
  T *dx, *dh_0, *dc_0;                // [rows, I], [D, N, R], [D, N, C]
  T *dh_to, *dc_to;                   // [D, R], [D, C]
  const WeightGradients<T>* dweights; // [D]
};

struct CellInfo {
  const char *name, *gates, *states;
  int kept; // vectors of H values per row that forward keeps for backward
  int vectors;
  bool product;
};

// Functions of the values of a row, each for itself but for the softmaxes.
enum class Function { kIdentity, kRelu, kTanh, kSigmoid, kSilu, kSoftplus, kSoftmax, kLogSoftmax };

// What a chain of modules needs besides `forward`. Matrices are packed once; a null `packed` asks
// for how many values they take. Biases and scales may be null.
template <class T>
struct ChainKernels {
  long (*pack)(int cell, const Problem<T>&, T* packed); // of the only direction
  long (*pack_linear)(const T* w, long inputs, long width, T* packed);
  void (*linear)(long rows, const T* x, const T* packed, const LowPrecision& low, const T* bias,
                 long inputs, long width, T* y);
  void (*layer_norm)(long rows, const T* x, const T* scale, const T* shift, double eps, long width,
                     T* y);
  void (*apply)(Function, long rows, const T* x, long width, T* y);
};

// The same packing in int8; sizes are in bytes.
struct ByteKernels {
  bool (*has_dots)(); // whether this machine can do with `dots`
  long (*pack)(int cell, const Problem<float>&, bool dots, int8_t* packed);
  long (*pack_linear)(const float* w, const float* scales, long inputs, long width, bool dots,
                      int8_t* packed);
};

// The kernels of one instruction set; `cell` indexes `cells`.
struct Kernels {
  const char* isa;
  int num_cells;
  const CellInfo* cells;
  // How many values Recurrence::kept has in a row.
  long (*stage_width)(int cell, const Problem<float>&);
  Bf16 (*best_bf16)(); // of this machine
  void (*forward_float)(int cell, const Problem<float>&, int threads);
  void (*forward_double)(int cell, const Problem<double>&, int threads);
  void (*backward_float)(int cell, const Problem<float>&, const Gradients<float>&, int threads);
  void (*backward_double)(int cell, const Problem<double>&, const Gradients<double>&, int threads);
  ChainKernels<float> chain_float;
  ChainKernels<double> chain_double;
  ByteKernels chain_bytes;
  void (*activations_float)(const float* x, float* tanh, float* sigmoid, long n);
  void (*activations_double)(const double* x, double* tanh, double* sigmoid, long n);
  double (*fma_peak)(double seconds);                   // GFLOP/s of this thread, float32
  double (*read_bandwidth)(long bytes, double seconds); // GB/s of this thread
};

} // namespace elman
