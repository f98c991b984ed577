// Which set of kernels serves this process: the best that the machine runs, or ELMAN_ISA's.
#pragma once

#include <string>
#include <type_traits>
#include <vector>

#include "kernels.hpp"

namespace elman {

// The kernels in use. First use reads ELMAN_ISA; throws std::invalid_argument if this machine or
// build has no such kernels.
const Kernels& kernels();

// Names of the instruction sets that this build holds and this machine runs, the best first.
std::vector<std::string> available_isas();

// Uses the named kernels from now on; throws std::invalid_argument if they are not available.
void use_isa(const std::string& name);

// How calls that ask for products in bfloat16 form them: the best way that the kernels in use have
// on this machine, or the best up to the one that use_bf16() was given.
Bf16 bf16();
void use_bf16(Bf16 best);

// The same for a call on values T that asks for it or not; of float alone.
template <class T>
Bf16 bf16_of(bool asked) {
  return asked && std::is_same_v<T, float> ? bf16() : Bf16::kNone;
}

} // namespace elman
