// The addresses of tensors, asked of the tensors themselves: of PyTorch nothing is included or
// linked.
#pragma once

#include <nanobind/nanobind.h>

#include <cstddef>
#include <cstdint>

namespace elman {

// What PyTorch is asked by: unbound methods of tensors, then one of storages.
struct Ask {
  // The first six of a tuple: is_contiguous, is_neg, storage_offset, untyped_storage and data_ptr
  // of tensors, and nbytes of storages.
  explicit Ask(nanobind::tuple functions);
  nanobind::handle is_contiguous, is_neg, storage_offset, untyped_storage, data_ptr, storage_nbytes;
};

// Whether a tensor is plain memory that is there: dense, without PyTorch's negative bit, and in a
// storage that reaches as far as the tensor does. If so, its size and its address, 0 of no bytes.
bool is_memory(const Ask& ask, nanobind::handle tensor, std::size_t item_size, std::size_t& bytes,
               std::uintptr_t& address);

// Whether a tensor has this dtype, and lies on the CPU.
bool is_kind(nanobind::handle tensor, nanobind::handle dtype);

// The size of each axis of a tensor of at most so many, and their number; -1 for none to be had.
int sizes_of(nanobind::handle tensor, long* sizes, int most);

// The addresses of a sequence of tensors as a list, 0 for None, and None for what is not memory as
// above. With `counts`, a sequence of numbers of values, each tensor must also have as many, be of
// `dtype` and lie on the CPU.
nanobind::object addresses(nanobind::tuple ask, nanobind::object tensors, nanobind::handle dtype,
                           std::size_t item_size, nanobind::object counts);

// Python's object from a list or a tuple, which holds it for as long as the call lasts.
nanobind::handle item(nanobind::handle sequence, Py_ssize_t i);
// The length of a list or a tuple; -1 of what is neither.
Py_ssize_t length(nanobind::handle sequence);

// A value of a tensor, or nothing where it has none, as tensors without memory of their own.
nanobind::object attribute(nanobind::handle object, const nanobind::object& name);
// Forgets why a question had no answer, and returns false; throws what is no answer to it.
bool has_no_answer();

} // namespace elman
