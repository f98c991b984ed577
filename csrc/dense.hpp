// Arrays as PyTorch's strides describe them, made dense.
//
// PyTorch does that too, but with OpenMP's threads, for which it waits for ever in a forked child.
#pragma once

#include <cstddef>
#include <vector>

namespace elman {

// Copies an array of elements of 4 or 8 bytes to `to`, row-major. Strides count elements. Throws
// std::invalid_argument for other elements.
void make_dense(const void* from, void* to, std::size_t element,
                const std::vector<std::ptrdiff_t>& sizes,
                const std::vector<std::ptrdiff_t>& strides, int threads);

} // namespace elman
