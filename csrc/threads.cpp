#include "threads.hpp"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "system.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

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

double seconds_now() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

// Losing this much time to helpers, and this share of the call, is a sign of a core that is not
// ours: they were waited for, or when they were woken they got this thread's core. The calls of the
// next kAbstinence times as long do without helpers, which bounds the loss to a few hundredths of
// the time.
constexpr double kPatienceSeconds = 100e-6, kPatienceShare = 0.2, kAbstinence = 30;

// A gang waits this long for its members at the door, in pauses, and on the way: longer than any
// but a lost core takes, and short beside the time for which a core is lost.
constexpr int kPausesAtTheDoor = 250;
#if defined(__SANITIZE_THREAD__)
// One that was lost writes again what stands there, which this sanitizer would call a race.
constexpr double kPatienceOnTheWay = 1e9;
#else
constexpr double kPatienceOnTheWay = 50e-6;
#endif

// The entry of GNU's OpenMP runtime, as compilers call it: runs body(data) on `threads` threads,
// this one among them, and returns when all have. Null if no such runtime is loaded.
using OpenMp = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

class Pool {
public:
  explicit Pool(OpenMp open_mp) : open_mp_(open_mp) {}

  void run(int threads, int count, void (*task)(void*, int), void* context) {
    std::unique_lock<std::mutex> turn(busy_, std::try_to_lock);
    const double begun = seconds_now();
    if (!turn.owns_lock() || begun < alone_until_) {
      for (int i = 0; i < count; i++)
        task(context, i);
      return;
    }
    // Closed first: a helper that is late for the last job must not take its used-up ticket for one
    // of this job's, which may have more tasks. The exchange keeps the stores below behind it.
    const uint64_t job = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
    ticket_.exchange(job << 32 | kClosed, std::memory_order_acq_rel);
    task_.store(task, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    count_.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(job << 32, std::memory_order_release);
    const double worked = open_mp_ ? run_borrowed(threads) : run_own(threads);

    const double ended = seconds_now(), lost = ended - begun - worked;
    if (lost > kPatienceSeconds && lost > kPatienceShare * (ended - begun))
      alone_until_ = ended + kAbstinence * lost;
  }

private:
  // Both return for how long this thread was at tasks.
  double run_borrowed(int threads) {
    struct Team {
      Pool* pool;
      std::thread::id caller;
      double worked;
    } team{this, std::this_thread::get_id(), 0};
    open_mp_(
        [](void* data) {
          Team& team = *static_cast<Team*>(data);
          const double worked = team.pool->take_tasks();
          if (std::this_thread::get_id() == team.caller)
            team.worked = worked;
        },
        &team, static_cast<unsigned>(threads), 0);
    return team.worked;
  }

  double run_own(int threads) {
    start_helpers(threads - 1);
    helpers_wanted_.store(threads - 1, std::memory_order_relaxed);
    call_.fetch_add(1, std::memory_order_release);
    call_.notify_all();
    const double worked = take_tasks();
    const uint32_t count = count_.load(std::memory_order_relaxed);
    for (int spins = 0; done_.load(std::memory_order_acquire) < count;) {
      if (++spins < kPausesBeforeYield) {
        pause_core();
      } else {
        std::this_thread::yield();
      }
    }
    return worked;
  }

  // A ticket is (job << 32 | next task). Whoever reads a ticket then reads the job's fields, and
  // takes the task by exchanging the very ticket it read: that can only succeed while the job still
  // has an untaken task, that is, while its fields still stand. Returns how long it took.
  double take_tasks() {
    const double begun = seconds_now();
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
      const auto task = task_.load(std::memory_order_relaxed);
      void* const context = context_.load(std::memory_order_relaxed);
      const uint32_t i = static_cast<uint32_t>(ticket);
      if (i >= count_.load(std::memory_order_relaxed))
        return seconds_now() - begun;
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel))
        continue;
      task(context, static_cast<int>(i));
      done_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void start_helpers(int wanted) {
    while (helpers_ < wanted) {
      try {
        std::thread([this, id = helpers_, seen = call_.load()] { help(id, seen); }).detach();
      } catch (const std::exception&) {
        return; // No thread or no memory to be had: the caller does the work.
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
        take_tasks();
    }
  }

  static constexpr uint64_t kClosed = UINT32_MAX; // in a ticket: no task to take, of any job

  const OpenMp open_mp_;
  std::mutex busy_;
  double alone_until_ = 0; // guarded by busy_, as is helpers_
  int helpers_ = 0;
  std::atomic<void (*)(void*, int)> task_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<uint32_t> count_{0};
  std::atomic<int> helpers_wanted_{0};
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<uint32_t> done_{0};
  alignas(64) std::atomic<uint32_t> call_{0};
};

// The pool is never destroyed: helpers are detached and may outlive static destruction. A forked
// child has none of the parent's threads, OpenMP's neither, and may have the pool's lock held: it
// starts with a pool of its own, in the same place, for which it needs no memory. The handler
// stands ready from loading on, since a fork can come before the first call.
alignas(Pool) unsigned char place[sizeof(Pool)];
std::atomic<Pool*> pool{nullptr};
[[maybe_unused]] const bool is_ready_for_forks =
    after_fork([] { pool.store(new (place) Pool(nullptr), std::memory_order_release); });

Pool& the_pool() {
  // Looked at first: a thread of the parent may have held the flag while it forked.
  if (!pool.load(std::memory_order_acquire)) {
    static std::once_flag once;
    std::call_once(once, [] {
      const auto open_mp = reinterpret_cast<OpenMp>(loaded_function("GOMP_parallel"));
      pool.store(new (place) Pool(open_mp), std::memory_order_release);
    });
  }
  return *pool.load(std::memory_order_acquire);
}

// A job whose tasks may throw. An exception can leave neither a helper's thread nor, while others
// are at the job, the caller's: it is kept until all are done, and tasks not yet begun are skipped.
struct Job {
  void (*task)(void*, int);
  void* context;
  std::atomic<bool> failed{false};
  std::exception_ptr error; // of the task that failed first

  static void run(void* self, int i) noexcept {
    Job& job = *static_cast<Job*>(self);
    if (job.failed.load(std::memory_order_relaxed))
      return;
    try {
      job.task(job.context, i);
    } catch (...) {
      if (!job.failed.exchange(true, std::memory_order_relaxed))
        job.error = std::current_exception();
    }
  }
};

constexpr std::size_t kCacheLine = 64, kSmallestBlock = 1 << 16, kKeptBytes = std::size_t{64} << 20;
constexpr std::align_val_t kPage{4096};

// The address sanitizer sees blocks, and has to be told which parts of them are taken: kGap bytes
// after each part are nobody's.
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kGap = kCacheLine;
void mark_free(const char* p, std::size_t size) {
  ASAN_POISON_MEMORY_REGION(p, size);
}
void mark_taken(const char* p, std::size_t size) {
  ASAN_UNPOISON_MEMORY_REGION(p, size);
}
#else
constexpr std::size_t kGap = 0;
void mark_free(const char*, std::size_t) {}
void mark_taken(const char*, std::size_t) {}
#endif

} // namespace

void run_tasks(int threads, int count, void (*task)(void*, int), void* context) {
  if (threads <= 1 || count <= 1) {
    for (int i = 0; i < count; i++)
      task(context, i);
  } else {
    Job job{task, context, {}, {}};
    the_pool().run(threads < count ? threads : count, count, &Job::run, &job);
    if (job.error)
      std::rethrow_exception(job.error);
  }
}

int Gang::join() {
  constexpr int kShut = 1 << 30;
  const int part = door_.fetch_add(1, std::memory_order_acq_rel);
  if (part >= kShut)
    return -1;
  // The first to come waits for the others and shuts the door; if it is lost meanwhile, another
  // does.
  const int patience = part == 0 ? kPausesAtTheDoor : 4 * kPausesAtTheDoor;
  for (int spins = 0; parts_.load(std::memory_order_acquire) == 0; spins++) {
    pause_core();
    if (spins < patience && (part != 0 || door_.load(std::memory_order_relaxed) < wanted_))
      continue;
    const int came = door_.fetch_or(kShut, std::memory_order_acq_rel);
    if (came < kShut)
      parts_.store(came, std::memory_order_release);
  }
  return part;
}

Gang::Next Gang::finish(long step) {
  const long all = (step + 1) * parts();
  finished_.fetch_add(1, std::memory_order_seq_cst);
  double since = 0;
  for (int spins = 0; finished_.load(std::memory_order_seq_cst) < all; spins++) {
    if (parted_.load(std::memory_order_relaxed))
      return Next::kLeave;
    pause_core();
    if (spins < kPausesBeforeYield)
      continue;
    const double now = seconds_now();
    if (since == 0)
      since = now;
    if (now - since < kPatienceOnTheWay)
      continue;
    if (parted_.exchange(true, std::memory_order_seq_cst))
      return Next::kLeave;
    // Whoever finishes the step after this look sees that the gang has parted, and leaves.
    return finished_.load(std::memory_order_seq_cst) < all ? Next::kAlone : Next::kAloneAfterStep;
  }
  return parted_.load(std::memory_order_seq_cst) ? Next::kLeave : Next::kStep;
}

void expect_writes(void* p, std::size_t bytes) {
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  if (bytes < 2 * kHugePage)
    return;
  const auto begin = (reinterpret_cast<std::uintptr_t>(p) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<std::uintptr_t>(p) + bytes) / kHugePage * kHugePage;
  // Advice: nothing depends on whether it is taken.
  advise_huge_pages(reinterpret_cast<void*>(begin), end - begin);
}

Scratch& Scratch::of_this_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

void Scratch::Free::operator()(char* p) const {
  operator delete(p, kPage);
}

Scratch::Block Scratch::allocate(std::size_t size) {
  char* p = static_cast<char*>(operator new(size, kPage, std::nothrow));
  if (p) {
    expect_writes(p, size);
    mark_free(p, size);
  }
  return {std::unique_ptr<char, Free>(p), size};
}

void* Scratch::take_bytes(std::size_t size) {
  const std::size_t room = (size + kGap + kCacheLine - 1) / kCacheLine * kCacheLine;
  while (block_ < blocks_.size() && used_ + room > blocks_[block_].size)
    block_++, used_ = 0;
  if (block_ == blocks_.size()) {
    Block block{};
    if (blocks_.empty() && room < wanted_)
      block = allocate(wanted_);
    if (!block.data)
      block = allocate(room > kSmallestBlock ? room : kSmallestBlock);
    if (!block.data)
      throw std::bad_alloc();
    blocks_.push_back(std::move(block));
  }
  char* p = blocks_[block_].data.get() + used_;
  mark_taken(p, size);
  used_ += room;
  return p;
}

// Frees, and allocates nothing: destructors call it.
void Scratch::rewind(std::size_t block, std::size_t used) noexcept {
  block_ = block, used_ = used;
  for (std::size_t b = block, from = used; b < blocks_.size(); b++, from = 0)
    mark_free(blocks_[b].data.get() + from, blocks_[b].size - from);
  if (block != 0 || used != 0)
    return;
  // Empty. Of several blocks the next call makes one that holds them all, unless that is too much
  // to keep.
  std::size_t total = 0;
  for (const Block& b : blocks_)
    total += b.size;
  if (blocks_.size() > 1 || total > kKeptBytes) {
    wanted_ = total > kKeptBytes ? 0 : total;
    blocks_.clear();
  }
}

Scratch::Frame::Frame()
    : scratch_(of_this_thread()), block_(scratch_.block_), used_(scratch_.used_) {}

Scratch::Frame::~Frame() {
  scratch_.rewind(block_, used_);
}

} // namespace elman
