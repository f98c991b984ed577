// The addresses of tensors, asked of the tensors themselves: of PyTorch nothing is included or
// linked.
#pragma once

#include <nanobind/nanobind.h>

namespace elman {

// The addresses of a sequence of tensors as a list, 0 for None; or None if one of them is not plain
// memory that is there: dense, without PyTorch's negative bit, and in a storage that reaches as far
// as the tensor does. `ask` has the unbound methods is_contiguous, is_neg, storage_offset,
// untyped_storage and data_ptr of tensors, and nbytes of storages. With `counts`, a sequence of
// numbers of values, each tensor must also have as many, be of `dtype` and lie on the CPU.
nanobind::object addresses(nanobind::tuple ask, nanobind::object tensors, nanobind::handle dtype,
                           std::size_t item_size, nanobind::object counts);

} // namespace elman
