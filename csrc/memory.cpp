#include "memory.hpp"

namespace nb = nanobind;

namespace elman {
namespace {

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
  nb::object nbytes, dtype, is_cpu, shape;
  Names()
      : nbytes(nb::steal(PyUnicode_InternFromString("nbytes"))),
        dtype(nb::steal(PyUnicode_InternFromString("dtype"))),
        is_cpu(nb::steal(PyUnicode_InternFromString("is_cpu"))),
        shape(nb::steal(PyUnicode_InternFromString("shape"))) {}
};

const Names& names() {
  static const Names* const made = new Names; // outlives the interpreter's end
  return *made;
}

} // namespace

Ask::Ask(nb::tuple functions)
    : is_contiguous(functions[0]), is_neg(functions[1]), storage_offset(functions[2]),
      untyped_storage(functions[3]), data_ptr(functions[4]), storage_nbytes(functions[5]) {}

bool has_no_answer() {
  if (!PyErr_ExceptionMatches(PyExc_RuntimeError) && !PyErr_ExceptionMatches(PyExc_TypeError) &&
      !PyErr_ExceptionMatches(PyExc_OverflowError))
    throw nb::python_error();
  PyErr_Clear();
  return false;
}

nb::object attribute(nb::handle object, const nb::object& name) {
  return nb::steal(PyObject_GetAttr(object.ptr(), name.ptr()));
}

nb::handle item(nb::handle sequence, Py_ssize_t i) {
  return PyList_Check(sequence.ptr()) ? PyList_GetItem(sequence.ptr(), i)
                                      : PyTuple_GetItem(sequence.ptr(), i);
}

Py_ssize_t length(nb::handle sequence) {
  if (PyList_Check(sequence.ptr()))
    return PyList_Size(sequence.ptr());
  return PyTuple_Check(sequence.ptr()) ? PyTuple_Size(sequence.ptr()) : -1;
}

bool is_memory(const Ask& ask, nb::handle tensor, std::size_t item_size, std::size_t& bytes,
               std::uintptr_t& address) {
  std::size_t offset = 0, allocated = 0;
  if (!number(attribute(tensor, names().nbytes), bytes) ||
      !number(call(ask.storage_offset, tensor), offset) ||
      !is(call(ask.is_contiguous, tensor), Py_True) || !is(call(ask.is_neg, tensor), Py_False))
    return false;
  const nb::object storage = call(ask.untyped_storage, tensor);
  if (!storage.is_valid())
    return has_no_answer();
  if (!number(call(ask.storage_nbytes, storage), allocated) ||
      !number(call(ask.data_ptr, tensor), address))
    return false;
  const std::size_t reach = offset * item_size;
  return bytes == 0 || (address != 0 && allocated >= reach && allocated - reach >= bytes);
}

bool is_kind(nb::handle tensor, nb::handle dtype) {
  return is(attribute(tensor, names().dtype), dtype) &&
         is(attribute(tensor, names().is_cpu), Py_True);
}

int sizes_of(nb::handle tensor, long* sizes, int most) {
  const nb::object shape = attribute(tensor, names().shape);
  if (!shape.is_valid())
    return has_no_answer() - 1;
  const Py_ssize_t axes = length(shape);
  if (axes > most)
    return -1;
  for (int i = 0; i < axes; i++) {
    sizes[i] = PyLong_AsLong(item(shape, i).ptr());
    if (sizes[i] == -1 && PyErr_Occurred())
      return has_no_answer() - 1;
  }
  return static_cast<int>(axes);
}

nb::object addresses(nb::tuple ask, nb::object tensors, nb::handle dtype, std::size_t item_size,
                     nb::object counts) {
  const Ask questions(ask);
  nb::list found;
  const Py_ssize_t n = length(tensors);
  if (n < 0 || (!counts.is_none() && length(counts) != n))
    throw nb::type_error("addresses: tensors and counts must be lists or tuples of one length");
  for (Py_ssize_t i = 0; i < n; i++) {
    const nb::handle tensor = item(tensors, i);
    std::size_t bytes = 0, count = 0;
    std::uintptr_t address = 0;
    const bool is_there =
        tensor.is_none() ||
        (is_memory(questions, tensor, item_size, bytes, address) &&
         (counts.is_none() || (number(nb::borrow(item(counts, i)), count) &&
                               bytes == count * item_size && is_kind(tensor, dtype))));
    found.append(is_there ? nb::object(nb::int_(address)) : nb::none());
  }
  return found;
}

} // namespace elman
