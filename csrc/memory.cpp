#include "memory.hpp"

namespace nb = nanobind;

namespace elman {
namespace {

// How tensors without memory of their own answer a question about it.
bool has_no_answer() {
  if (!PyErr_ExceptionMatches(PyExc_RuntimeError) && !PyErr_ExceptionMatches(PyExc_TypeError) &&
      !PyErr_ExceptionMatches(PyExc_OverflowError))
    throw nb::python_error();
  PyErr_Clear();
  return false;
}

nb::object call(nb::handle method, nb::handle self) {
  PyObject* const arguments[] = {self.ptr()};
  return nb::steal(PyObject_Vectorcall(method.ptr(), arguments, 1, nullptr));
}

bool number(nb::handle object, std::size_t& n) {
  if (!object.is_valid())
    return has_no_answer();
  n = PyLong_AsSize_t(object.ptr());
  return !PyErr_Occurred() || has_no_answer();
}

bool is(nb::handle object, nb::handle expected) {
  return object.is_valid() ? object.is(expected) : has_no_answer();
}

// The names of attributes, made once.
struct Names {
  nb::object nbytes, dtype, is_cpu;
  Names()
      : nbytes(nb::steal(PyUnicode_InternFromString("nbytes"))),
        dtype(nb::steal(PyUnicode_InternFromString("dtype"))),
        is_cpu(nb::steal(PyUnicode_InternFromString("is_cpu"))) {}
};

const Names& names() {
  static const Names* const made = new Names; // outlives the interpreter's end
  return *made;
}

nb::object attribute(nb::handle object, const nb::object& name) {
  return nb::steal(PyObject_GetAttr(object.ptr(), name.ptr()));
}

// Python's object from a container that holds it for as long as the call lasts.
nb::handle item(nb::handle sequence, Py_ssize_t i) {
  return PyList_Check(sequence.ptr()) ? PyList_GetItem(sequence.ptr(), i)
                                      : PyTuple_GetItem(sequence.ptr(), i);
}

Py_ssize_t size(nb::handle sequence) {
  return PyList_Check(sequence.ptr()) ? PyList_Size(sequence.ptr()) : PyTuple_Size(sequence.ptr());
}

} // namespace

nb::object addresses(nb::tuple ask, nb::object tensors, nb::handle dtype, std::size_t item_size,
                     nb::object counts) {
  const nb::handle is_contiguous = ask[0], is_neg = ask[1], storage_offset = ask[2],
                   untyped_storage = ask[3], data_ptr = ask[4], storage_nbytes = ask[5];
  const nb::handle yes(Py_True), no(Py_False);
  nb::list found;
  const Py_ssize_t n = size(tensors);
  if (n < 0 || (!counts.is_none() && size(counts) != n))
    throw nb::type_error("addresses: tensors and counts must be lists or tuples of one length");
  for (Py_ssize_t i = 0; i < n; i++) {
    const nb::handle tensor = item(tensors, i);
    std::size_t bytes = 0, offset = 0, allocated = 0, address = 0;
    if (!tensor.is_none()) {
      if (!number(attribute(tensor, names().nbytes), bytes) ||
          !number(call(storage_offset, tensor), offset) || !is(call(is_contiguous, tensor), yes) ||
          !is(call(is_neg, tensor), no))
        return nb::none();
      const nb::object storage = call(untyped_storage, tensor);
      if (!storage.is_valid())
        return has_no_answer(), nb::none();
      if (!number(call(storage_nbytes, storage), allocated) ||
          !number(call(data_ptr, tensor), address))
        return nb::none();
      if (!counts.is_none()) {
        std::size_t count = 0;
        if (!number(nb::borrow(item(counts, i)), count) || bytes != count * item_size ||
            !is(attribute(tensor, names().dtype), dtype) ||
            !is(attribute(tensor, names().is_cpu), yes))
          return nb::none();
      }
      // Of no bytes nothing is read.
      const std::size_t reach = offset * item_size;
      if (address == 0 || allocated < reach || allocated - reach < bytes)
        return nb::none();
    }
    found.append(address);
  }
  return found;
}

} // namespace elman
