// Which set of kernels serves this process: the best that the machine runs, or ELMAN_ISA's.
#pragma once

#include <string>
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

} // namespace elman
