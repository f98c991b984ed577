// The helper threads of a call, and its scratch memory.
//
// A call hands out tasks one by one, takes part itself, and does whatever nobody else takes: a
// helper that is late costs nothing but its absence. There is no barrier inside a task. Where a
// helper cost more than it gave, because other processes keep its core busy, calls do without for a
// while (see Pool::run).
//
// The helpers are the threads of the OpenMP runtime that PyTorch has loaded, if it is GNU's: after
// an operation of PyTorch's they keep their cores busy looking for the next one, and would leave no
// room for others. Else, and in a forked child, where OpenMP's threads are gone, they are our own.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <vector>

namespace elman {

// Calls task(context, i) once for each i in [0, count), on the calling thread and on up to
// threads - 1 helpers, and returns when all are done. If the helpers serve another call already,
// the caller does all of it. Throws what a task throws; then not every task has run. Safe from any
// thread, and in a forked child.
void run_tasks(int threads, int count, void (*task)(void*, int), void* context);

template <class F>
void parallel_for(int threads, int count, F&& body) {
  using Body = std::remove_reference_t<F>;
  run_tasks(threads, count, [](void* context, int i) { (*static_cast<Body*>(context))(i); }, &body);
}

// Threads that go through the steps of one sequence side by side, each doing its part of every
// step. None waits for one that does not come: those who are there set out without it, and later on
// one of them goes on alone. A thread that was lost does at most the step that it was in, on coming
// back.
class Gang {
public:
  // Asks `threads` threads to join.
  explicit Gang(int threads) : wanted_(threads) {}

  // Waits for the others, but not for long. Returns this thread's part of parts(), or -1 if they
  // have set out.
  int join();
  int parts() const { return parts_.load(std::memory_order_relaxed); }

  enum class Next { kStep, kAlone, kAloneAfterStep, kLeave };
  // Says that this thread has done its part of step number 0, 1, 2, ..., and waits until all have.
  // kStep: they have. kLeave: another goes on alone. kAlone: this thread does, and the others'
  // parts of the step may be missing; kAloneAfterStep: all of it is done.
  Next finish(long step);

private:
  const int wanted_;
  std::atomic<int> door_{0}, parts_{0}; // who has come; how many set out
  alignas(64) std::atomic<long> finished_{0};
  alignas(64) std::atomic<bool> parted_{false};
};

// Says that all of a large buffer is about to be written for the first time: it then gets huge
// pages where the system leaves that to programs. A fresh small page costs more than its share of
// the arithmetic of a training call.
void expect_writes(void* p, std::size_t bytes);

// Stack-like scratch memory of one thread, kept for its next call (up to a bound) so that a
// repeated call allocates nothing and touches no fresh page.
class Scratch {
public:
  // What was taken in a Frame's lifetime is given back when it ends; frames nest.
  class Frame {
  public:
    Frame();
    ~Frame();
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

    // Uninitialised room for n values, aligned to a cache line. Throws std::bad_alloc, and is then
    // as it was.
    template <class T>
    T* take(long n) {
      return static_cast<T*>(scratch_.take_bytes(static_cast<std::size_t>(n) * sizeof(T)));
    }

  private:
    Scratch& scratch_;
    std::size_t block_, used_;
  };

private:
  struct Free {
    void operator()(char* p) const;
  };
  struct Block {
    std::unique_ptr<char, Free> data;
    std::size_t size;
  };
  static Scratch& of_this_thread();
  static Block allocate(std::size_t size); // without data if there is no memory
  void* take_bytes(std::size_t size);
  void rewind(std::size_t block, std::size_t used) noexcept;

  std::vector<Block> blocks_;
  std::size_t block_ = 0, used_ = 0; // the block in use, and how much of it
  std::size_t wanted_ = 0;           // size of a first block that would have held the last call's
};

} // namespace elman
