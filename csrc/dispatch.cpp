#include "dispatch.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace elman {

// Defined by kernels.cpp, compiled once for each row of ELMAN_ISAS in CMakeLists.txt.
#define ELMAN_ROW(isa, ...) extern const Kernels kernels_##isa;
#include "isas.inc"
#undef ELMAN_ROW

namespace {

struct Row {
  const Kernels* kernels;
  bool (*runs_here)();
};

// The best first. __builtin_cpu_supports asks the operating system too, not the processor alone.
const Row kRows[] = {
#define ELMAN_ROW(isa, condition) {&kernels_##isa, []() -> bool { return condition; }},
#include "isas.inc"
#undef ELMAN_ROW
};

const Kernels& find(const std::string& name) {
  std::string names;
  for (const Row& row : kRows) {
    if (!row.runs_here())
      continue;
    if (name == row.kernels->isa)
      return *row.kernels;
    names += (names.empty() ? "" : ", ") + std::string(row.kernels->isa);
  }
  throw std::invalid_argument("ELMAN_ISA must be one of this machine's instruction sets, " + names +
                              "; got '" + name + "': unset it to use the best of them");
}

std::atomic<const Kernels*> chosen{nullptr};
std::atomic<Bf16> best_allowed{Bf16::kTiles};

} // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Row& row : kRows)
    if (row.runs_here())
      names.emplace_back(row.kernels->isa);
  return names;
}

void use_isa(const std::string& name) {
  chosen.store(&find(name), std::memory_order_relaxed);
}

const Kernels& kernels() {
  const Kernels* k = chosen.load(std::memory_order_relaxed);
  if (!k) {
    const char* wanted = std::getenv("ELMAN_ISA");
    k = &find(wanted && *wanted ? wanted : available_isas().front());
    chosen.store(k, std::memory_order_relaxed);
  }
  return *k;
}

Bf16 bf16() {
  return std::min(kernels().best_bf16(), best_allowed.load(std::memory_order_relaxed));
}

void use_bf16(Bf16 best) {
  best_allowed.store(best, std::memory_order_relaxed);
}

} // namespace elman
