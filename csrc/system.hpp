// What the core asks of the operating system, beyond the standard library; where there is no such
// thing to ask for, nothing is done.
#pragma once

#include <cstddef>

#if !defined(_WIN32)
#include <dlfcn.h>
#include <pthread.h>
#include <sys/mman.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace elman {

// Calls f in a child that was forked, before anything else happens there.
inline bool after_fork([[maybe_unused]] void (*f)()) {
#if defined(_WIN32)
  return true; // no process is ever forked
#else
  return pthread_atfork(nullptr, nullptr, f) == 0;
#endif
}

// A function of a library that the process has loaded, or null.
inline void* loaded_function([[maybe_unused]] const char* name) {
#if defined(_WIN32)
  return nullptr;
#else
  return dlsym(RTLD_DEFAULT, name);
#endif
}

// Asks for large pages from `begin` on, which is aligned to one.
inline void advise_huge_pages([[maybe_unused]] void* begin, [[maybe_unused]] std::size_t bytes) {
#if defined(MADV_HUGEPAGE)
  (void)madvise(begin, bytes, MADV_HUGEPAGE);
#endif
}

// Whether this process may use the tile registers of the processor, which it asks for.
inline bool may_use_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kRequest = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}

} // namespace elman
