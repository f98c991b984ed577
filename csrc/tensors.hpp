// Calls that take tensors: what is usual is checked, computed and returned at once. Of what is not,
// or is in doubt, nothing is done, and None is returned: then Python checks everything, copies what
// is strided, and says what is wrong.
#pragma once

#include <nanobind/nanobind.h>

namespace elman {

// Adds `usual`, `forward_of` and `backward_of`.
void bind_tensors(nanobind::module_& m);

} // namespace elman
