// The kernels of one instruction set: what follows is compiled once for each.
//
// No std:: function with a body is used in it: the linker may keep one instruction set's copy for
// all.
#include "kernels.hpp"

#include "backward.hpp"
#include "calibrate.hpp"
#include "forward.hpp"
#include "modules.hpp"

#ifndef ELMAN_ISA
#error "compile with -DELMAN_ISA=<name>"
#endif

namespace elman {
namespace {

template <class T>
void activations(const T* x, T* tanh_x, T* sigmoid_x, long n) {
  const FlushDenormals mode;
  for_each_vector<T>({0, n}, [&](long i, auto get, auto put) __attribute__((always_inline)) {
    const Vec<T> v = get(x + i);
    put(tanh_x + i, tanh<T>(v));
    put(sigmoid_x + i, sigmoid<T>(v));
  });
}

long stage_width(int index, const Problem<float>& p) {
  const CellKernel<float>& cell = Tables<Cells>::kernels<float>[index];
  Scratch::Frame scratch;
  const Shape<float> at(p, cell, scratch);
  return Stages<float>({p, at, cell, 0}).width;
}

template <class T>
constexpr ChainKernels<T> chain_kernels = {pack<T>, pack_linear<T>, linear<T>, layer_norm<T>,
                                           apply<T>};

} // namespace

#define ELMAN_CONCATENATE(a, b) a##b
#define ELMAN_TABLE(isa) ELMAN_CONCATENATE(kernels_, isa)
#define ELMAN_QUOTE(a) #a
#define ELMAN_NAME(isa) ELMAN_QUOTE(isa)

extern const Kernels ELMAN_TABLE(ELMAN_ISA);
const Kernels ELMAN_TABLE(ELMAN_ISA) = {
    ELMAN_NAME(ELMAN_ISA),
    std::tuple_size_v<Cells>,
    Tables<Cells>::infos,
    stage_width,
    best_bf16,
    forward<float>,
    forward<double>,
    backward<float>,
    backward<double>,
    chain_kernels<float>,
    chain_kernels<double>,
    {has_dots, pack_layer_bytes, pack_linear_bytes},
    activations<float>,
    activations<double>,
    fma_peak,
    read_bandwidth,
};

} // namespace elman
