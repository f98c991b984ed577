// Calls that let other Python threads run meanwhile.
#pragma once

#include <Python.h>

#include <chrono>
#include <exception>
#include <thread>

namespace elman {

// Runs f without the GIL; throws what f throws.
template <class F>
void without_gil(F&& f) {
  PyThreadState* const state = PyEval_SaveThread();
  std::exception_ptr error;
  try {
    f();
  } catch (...) {
    error = std::current_exception();
  }
  try {
    PyEval_RestoreThread(state);
  } catch (...) {
    // Python before 3.14 ends a thread that comes back while the interpreter exits, by unwinding
    // its stack. Frames above allow no exceptions and would abort the process, so the thread stays
    // here until the process ends, as it does in newer Pythons.
    for (;;)
      std::this_thread::sleep_for(std::chrono::hours(1));
  }
  if (error)
    std::rethrow_exception(error);
}

} // namespace elman
