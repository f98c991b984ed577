// The part of the Python module elman._native that elman.runtime uses.
#pragma once

#include <nanobind/nanobind.h>

namespace elman {

// Adds the classes Chain32, Chain64, Session32 and Session64.
void bind_sessions(nanobind::module_& m);

} // namespace elman
