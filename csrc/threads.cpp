#include "threads.hpp"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>

namespace elman {
namespace {

void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long a helper looks for work before it sleeps, and a caller for its helpers' last tasks
// before it gives its core away, in pauses of about 40 ns. Short: on a shared machine somebody else
// needs the core, torch's own threads among them.
constexpr int kPausesBeforeSleep = 500, kPausesBeforeYield = 200;

class Pool {
public:
  void run(int threads, int count, void (*task)(void*, int), void* context) {
    std::unique_lock<std::mutex> turn(busy_, std::try_to_lock);
    if (!turn.owns_lock()) {
      for (int i = 0; i < count; i++)
        task(context, i);
      return;
    }
    start_helpers(threads - 1);
    task_.store(task, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    count_.store(count, std::memory_order_relaxed);
    helpers_wanted_.store(threads - 1, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    const uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.store(job << 32, std::memory_order_release);
    call_.fetch_add(1, std::memory_order_release);
    call_.notify_all();

    take_tasks(static_cast<uint32_t>(job));
    for (int spins = 0; done_.load(std::memory_order_acquire) < count;) {
      if (++spins < kPausesBeforeYield) {
        pause_core();
      } else {
        std::this_thread::yield();
      }
    }
  }

private:
  // A ticket is (job << 32 | next task). A helper reads the ticket, then the job's fields, then
  // takes the task by exchanging the very ticket it read: that can only succeed while the job still
  // has an untaken task, that is, while its fields still stand.
  void take_tasks(uint32_t job) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(ticket >> 32) == job) {
      const auto task = task_.load(std::memory_order_relaxed);
      void* const context = context_.load(std::memory_order_relaxed);
      const int i = static_cast<int>(ticket & 0xffffffff);
      if (i >= count_.load(std::memory_order_relaxed))
        return;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel))
        continue;
      task(context, i);
      done_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void start_helpers(int wanted) {
    while (helpers_ < wanted) {
      try {
        std::thread([this, id = helpers_, seen = call_.load()] { help(id, seen); }).detach();
      } catch (const std::system_error&) {
        return; // No thread to be had: the caller does the work.
      }
      helpers_++;
    }
  }

  void help(int id, uint32_t seen) {
    for (;;) {
      for (int spins = 0; call_.load(std::memory_order_acquire) == seen;) {
        if (++spins < kPausesBeforeSleep) {
          pause_core();
        } else {
          call_.wait(seen, std::memory_order_acquire);
        }
      }
      seen = call_.load(std::memory_order_acquire);
      if (id < helpers_wanted_.load(std::memory_order_relaxed))
        take_tasks(static_cast<uint32_t>(ticket_.load(std::memory_order_acquire) >> 32));
    }
  }

  std::mutex busy_;
  int helpers_ = 0;
  std::atomic<void (*)(void*, int)> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int> count_{0}, helpers_wanted_{0};
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<uint32_t> call_{0};
};

std::atomic<Pool*> pool{nullptr};

// The pool is never destroyed: helpers are detached and may outlive static destruction. A forked
// child has none of the parent's threads and may have its lock held, so it starts a pool of its
// own.
Pool& the_pool() {
  static std::once_flag once;
  std::call_once(once, [] {
    pool.store(new Pool);
    pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); });
  });
  return *pool.load(std::memory_order_acquire);
}

constexpr std::size_t kCacheLine = 64, kSmallestBlock = 1 << 16, kKeptBytes = std::size_t{64} << 20;

} // namespace

void run_tasks(int threads, int count, void (*task)(void*, int), void* context) {
  if (threads <= 1 || count <= 1) {
    for (int i = 0; i < count; i++)
      task(context, i);
  } else {
    the_pool().run(threads < count ? threads : count, count, task, context);
  }
}

Scratch& Scratch::of_this_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

void Scratch::Free::operator()(void* p) const {
  std::free(p);
}

Scratch::Block Scratch::allocate(std::size_t size) {
  size = (size + 4095) / 4096 * 4096;
  void* p = std::aligned_alloc(4096, size);
  if (!p)
    throw std::bad_alloc();
  return {std::unique_ptr<char, Free>(static_cast<char*>(p)), size};
}

void* Scratch::take_bytes(std::size_t size) {
  size = (size + kCacheLine - 1) / kCacheLine * kCacheLine;
  while (block_ < blocks_.size() && used_ + size > blocks_[block_].size)
    block_++, used_ = 0;
  if (block_ == blocks_.size())
    blocks_.push_back(allocate(size > kSmallestBlock ? size : kSmallestBlock));
  void* p = blocks_[block_].data.get() + used_;
  used_ += size;
  return p;
}

void Scratch::rewind(std::size_t block, std::size_t used) {
  block_ = block, used_ = used;
  if (block != 0 || used != 0)
    return;
  // Empty. Several blocks become one that holds them all, unless that is too much to keep.
  std::size_t total = 0;
  for (const Block& b : blocks_)
    total += b.size;
  if (total > kKeptBytes) {
    blocks_.clear();
  } else if (blocks_.size() > 1) {
    blocks_.clear();
    blocks_.push_back(allocate(total));
  }
}

Scratch::Frame::Frame()
    : scratch_(of_this_thread()), block_(scratch_.block_), used_(scratch_.used_) {}

Scratch::Frame::~Frame() {
  scratch_.rewind(block_, used_);
}

} // namespace elman
