// The core without Python, for the sanitizers: `make sanitize` builds and runs it with each.
//
// Every array has exactly its size, so that reading or writing past one is seen; calls come from
// several threads at once and from forked children, with the pool's own helpers; whatever the
// number of threads, a result has the bits of one thread; and whichever allocation fails, the
// caller is told, and its next call is right. Whether the numbers are right is not asked here: the
// Python tests know.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "chain.hpp"
#include "dense.hpp"
#include "dispatch.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace {

// How many allocations succeed from now on, in all threads together.
std::atomic<long> allocations_left{LONG_MAX};

void* allocate(std::size_t size, std::size_t alignment) noexcept {
  if (allocations_left.fetch_sub(1) <= 0)
    return nullptr;
  return std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

void* allocate_or_throw(std::size_t size, std::size_t alignment) {
  if (void* p = allocate(size, alignment))
    return p;
  throw std::bad_alloc();
}

} // namespace

// Every allocation of this program and of the core comes here. Inlined into one another, GCC would
// take new and free for a mistake.
#define ELMAN_APART __attribute__((noinline))
ELMAN_APART void* operator new(std::size_t size) {
  return allocate_or_throw(size, alignof(std::max_align_t));
}
ELMAN_APART void* operator new(std::size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, static_cast<std::size_t>(alignment));
}
ELMAN_APART void* operator new(std::size_t size, std::align_val_t alignment,
                               const std::nothrow_t&) noexcept {
  return allocate(size, static_cast<std::size_t>(alignment));
}
ELMAN_APART void operator delete(void* p) noexcept {
  std::free(p);
}
ELMAN_APART void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}
ELMAN_APART void operator delete(void* p, std::align_val_t) noexcept {
  std::free(p);
}
ELMAN_APART void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

namespace {

using namespace elman;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "%s: %s\n", kernels().isa, what);
  std::_Exit(1);
}

void expect(bool holds, const char* what) {
  if (!holds)
    fail(what);
}

enum class Form { kDense, kPacked, kPadded };

struct Sizes {
  long seq_len, batch, input_size, hidden_size, projection, directions;
  Form form;
  bool staged = false; // whether all acts in the recurrence that can
};

template <class T>
struct Table;
template <>
struct Table<float> {
  static auto forward() { return kernels().forward_float; }
  static auto backward() { return kernels().backward_float; }
};
template <>
struct Table<double> {
  static auto forward() { return kernels().forward_double; }
  static auto backward() { return kernels().backward_double; }
};

// Lets so many allocations succeed while it lives, and then no more.
class Scarce {
public:
  explicit Scarce(long allocations) { allocations_left = allocations; }
  ~Scarce() { allocations_left = LONG_MAX; }
  Scarce(const Scarce&) = delete;
  Scarce& operator=(const Scarce&) = delete;
};

// A call forward and backward with random numbers, the same ones for the same sizes.
template <class T>
class Call {
public:
  using Array = std::vector<T>;

  Call(int cell, const Sizes& sizes) : cell_(cell), s_(sizes), random_(1) {
    const CellInfo& info = kernels().cells[cell];
    product_ = info.product, vectors_ = info.vectors;
    is_lstm_ = std::string_view(info.name) == "lstm";
    if (!is_lstm_)
      s_.projection = 0; // only an LSTM has one
    const long gates = static_cast<long>(std::string_view(info.gates).size()) * s_.hidden_size;
    out_ = s_.projection ? s_.projection : s_.hidden_size;
    states_ = std::string_view(info.states).size();
    // Of padded sequences the first is empty, of packed ones none is.
    for (long t = 0; s_.form == Form::kPacked && t < s_.seq_len; t++)
      batch_sizes_.push_back(s_.batch - (s_.batch - 1) * t / s_.seq_len);
    for (long n = 0; s_.form == Form::kPadded && n < s_.batch; n++)
      lengths_.push_back(s_.seq_len * n / s_.batch);
    long rows = s_.seq_len * s_.batch;
    if (s_.form == Form::kPacked)
      rows = std::accumulate(batch_sizes_.begin(), batch_sizes_.end(), 0L);
    kept_ = static_cast<std::size_t>(s_.directions * rows * info.kept * s_.hidden_size);
    const long sequences = s_.directions * s_.batch;
    x_ = draw(rows * s_.input_size), dy_ = draw(rows * s_.directions * out_);
    h_0_ = draw(sequences * out_), dh_n_ = draw(sequences * out_);
    const long after_h = static_cast<long>(states_ - 1) * s_.hidden_size;
    c_0_ = draw(sequences * after_h), dc_n_ = draw(sequences * after_h);
    for (long d = 0; d < s_.directions; d++) {
      weights_.push_back(draw(gates * s_.input_size));
      weights_.push_back(draw(product_ ? gates * out_ : 0));
      weights_.push_back(draw(gates)), weights_.push_back(draw(product_ ? gates : 0));
      weights_.push_back(draw(s_.projection * s_.hidden_size));
      for (int i = 0; i < kVectors; i++)
        weights_.push_back(draw(i < vectors_ ? s_.hidden_size : 0));
      weights_.push_back(draw(s_.staged ? gates : 0));
      weights_.push_back(draw(s_.staged && product_ ? gates : 0));
      for (int i = 0; i < 2; i++)
        weights_.push_back(draw(s_.staged && is_lstm_ ? s_.hidden_size : 0));
    }
    if (s_.staged) {
      drop_ = draw(product_ ? sequences * out_ : 0);
      auto zone = [&](long n) {
        std::vector<uint8_t> stays(static_cast<std::size_t>(n));
        for (uint8_t& value : stays)
          value = random_() % 3 == 0;
        return stays;
      };
      zone_h_ = zone(s_.directions * rows * out_);
      zone_c_ = zone(states_ == 2 ? s_.directions * rows * s_.hidden_size : 0);
    }
  }

  // Everything that is computed, one after another; the weights' gradients are those of the whole
  // batch or, with a group per sequence, of each. Throws std::bad_alloc if a kernel needs more than
  // so many allocations.
  Array run(int threads, bool grouped = false, long allocations = LONG_MAX) const {
    const long groups = grouped ? s_.batch : 1;
    Array y(dy_.size()), keep(kept_), h_n(h_0_.size()), c_n(c_0_.size());
    Array dx(x_.size()), dh_0(h_0_.size()), dc_0(c_0_.size());
    std::vector<Array> dweights;
    for (const Array& w : weights_)
      dweights.emplace_back(static_cast<std::size_t>(groups) * w.size());
    std::vector<Weights<T>> weights;
    std::vector<WeightGradients<T>> gradients;
    for (std::size_t i = 0; i < weights_.size(); i += 5 + kVectors + 4) {
      const Array* w = &weights_[i];
      Array* dw = &dweights[i];
      Weights<T> of{at(w[0]), at(w[1]), at(w[2]), at(w[3]), at(w[4])};
      WeightGradients<T> d{at(dw[0]), at(dw[1]), at(dw[2]), at(dw[3]), at(dw[4]),
                           {},        nullptr,   nullptr,   nullptr,   nullptr};
      w += 5, dw += 5;
      for (int v = 0; v < kVectors; v++)
        of.vectors[v] = at(*w++), d.vectors[v] = at(*dw++);
      of.gain_ih = at(w[0]), of.gain_hh = at(w[1]), of.gain_c = at(w[2]), of.bias_c = at(w[3]);
      d.gain_ih = at(dw[0]), d.gain_hh = at(dw[1]), d.gain_c = at(dw[2]), d.bias_c = at(dw[3]);
      weights.push_back(of), gradients.push_back(d);
    }
    const bool has_c = states_ > 1;
    Problem<T> p{};
    p.seq_len = s_.seq_len, p.batch = s_.batch, p.input_size = s_.input_size;
    p.hidden_size = s_.hidden_size, p.projection = s_.projection, p.directions = s_.directions;
    p.batch_sizes = at(batch_sizes_), p.lengths = at(lengths_);
    p.x = at(x_), p.h_0 = at(h_0_), p.c_0 = has_c ? at(c_0_) : nullptr;
    p.weights = weights.data();
    p.y = at(y), p.h_n = at(h_n), p.c_n = has_c ? at(c_n) : nullptr;
    p.recurrence.drop = at(drop_);
    p.recurrence.zone_h = at(zone_h_), p.recurrence.zone_c = at(zone_c_);
    p.recurrence.clip = s_.staged && is_lstm_ ? T(0.3) : T(0);
    Array staged;
    if (s_.staged) { // the width does not depend on the type, and asks only what there is
      Problem<float> q{};
      Weights<float> of{};
      const float there = 0;
      of.gain_ih = weights[0].gain_ih ? &there : nullptr;
      of.gain_hh = weights[0].gain_hh ? &there : nullptr;
      of.gain_c = weights[0].gain_c ? &there : nullptr;
      q.seq_len = q.batch = q.input_size = q.directions = 1, q.hidden_size = s_.hidden_size;
      q.projection = s_.projection, q.weights = &of;
      q.recurrence.zone_h = p.recurrence.zone_h;
      const long width = kernels().stage_width(cell_, q);
      staged.resize(static_cast<std::size_t>(width) * y.size() / static_cast<std::size_t>(out_));
    }
    auto forward = [&] {
      const Scarce scarce(allocations);
      Table<T>::forward()(cell_, p, threads);
    };
    forward();
    const Array inferred = y;
    p.keep = at(keep), p.recurrence.kept = at(staged);
    forward();
    expect(same(y, inferred), "training and inference differ");

    Gradients<T> g{};
    g.groups = groups;
    g.dy = at(dy_), g.dh_n = at(dh_n_), g.dc_n = has_c ? at(dc_n_) : nullptr;
    g.dx = at(dx), g.dh_0 = at(dh_0), g.dc_0 = has_c ? at(dc_0) : nullptr;
    g.dweights = gradients.data();
    {
      const Scarce scarce(allocations);
      Table<T>::backward()(cell_, p, g, threads);
    }

    Array all;
    for (const Array* part : {&y, &h_n, &c_n, &dx, &dh_0, &dc_0})
      all.insert(all.end(), part->begin(), part->end());
    for (const Array& part : dweights)
      all.insert(all.end(), part.begin(), part.end());
    return all;
  }

  static bool same(const Array& a, const Array& b) {
    return a.size() == b.size() && !std::memcmp(a.data(), b.data(), a.size() * sizeof(T));
  }

private:
  Array draw(long n) {
    Array values(static_cast<std::size_t>(n));
    std::uniform_real_distribution<T> distribution(T(-0.5), T(0.5));
    for (T& value : values)
      value = distribution(random_);
    return values;
  }
  template <class A>
  static auto at(A& array) { // null for what the problem does not have
    return array.empty() ? nullptr : array.data();
  }

  int cell_;
  Sizes s_;
  std::minstd_rand random_;
  long out_;
  std::size_t states_, kept_;
  bool product_, is_lstm_;
  int vectors_;
  std::vector<int64_t> batch_sizes_, lengths_;
  std::vector<uint8_t> zone_h_, zone_c_;
  Array x_, h_0_, c_0_, dy_, dh_n_, dc_n_, drop_;
  std::vector<Array> weights_;
};

// Around the widths of vectors and tiles, too small for helpers; then large enough for them.
constexpr Sizes kSmall[] = {
    {1, 1, 1, 1, 0, 1, Form::kDense},        {3, 2, 7, 5, 0, 2, Form::kPacked},
    {2, 5, 17, 16, 0, 1, Form::kPadded},     {5, 3, 20, 33, 10, 2, Form::kPadded},
    {2, 9, 15, 31, 0, 1, Form::kPacked},     {1, 3, 3, 70, 0, 2, Form::kDense},
    {3, 2, 7, 5, 3, 2, Form::kPacked, true}, {4, 5, 9, 33, 10, 1, Form::kPadded, true},
    {3, 6, 4, 16, 0, 2, Form::kDense, true},
};
constexpr Sizes kLarge[] = {
    {12, 13, 40, 65, 24, 2, Form::kPacked},
    {9, 17, 33, 64, 0, 1, Form::kDense},
    {14, 16, 20, 48, 0, 2, Form::kPadded},
    // Fewer rows than threads could share: they share out the units of a step.
    {30, 1, 150, 160, 0, 1, Form::kDense},
    {20, 3, 24, 136, 0, 1, Form::kPadded},
    {12, 17, 20, 48, 0, 2, Form::kPadded, true},
};

template <class T>
void check_threads(const Sizes& sizes) {
  for (int cell = 0; cell < kernels().num_cells; cell++) {
    const Call<T> call(cell, sizes);
    for (bool grouped : {false, true}) {
      const auto alone = call.run(1, grouped);
      for (int threads : {2, 3, 8})
        expect(Call<T>::same(call.run(threads, grouped), alone), "bits depend on the threads");
    }
  }
}

// Many jobs of unlike size. A task writes a plain field; a caller that returned before its tasks
// were done, or a task that ran twice, is a race or a wrong count.
void check_pool(int jobs) {
  std::vector<int> runs(40);
  for (int job = 0; job < jobs; job++) {
    const int count = 2 + job * 7 % 38;
    parallel_for(2 + job % 3, count, [&](int i) { runs[static_cast<std::size_t>(i)]++; });
    for (int i = 0; i < 40; i++)
      expect(runs[static_cast<std::size_t>(i)] == (i < count), "a task ran not once");
    std::fill(runs.begin(), runs.end(), 0);
  }
}

// What a task throws reaches the caller, after all that have begun, and the pool goes on.
void check_throwing() {
  for (int job = 0; job < 200; job++) {
    const int bad = job % 9;
    std::atomic<int> begun{0}, ended{0};
    bool caught = false;
    try {
      parallel_for(1 + job % 3, 9, [&](int i) {
        begun++;
        if (i >= bad) {
          ended++;
          throw std::bad_alloc();
        }
        std::this_thread::yield();
        ended++;
      });
    } catch (const std::bad_alloc&) {
      caught = true;
    }
    expect(caught && begun == ended, "a task's exception did not reach the caller");
  }
  check_pool(100);
}

// Each number of allocations that is too few, from threads and helpers that have no memory yet.
template <class T>
void check_memory(int cell, const Sizes& sizes, int threads) {
  const Call<T> call(cell, sizes);
  const auto right = call.run(1);
  const pid_t child = fork();
  expect(child >= 0, "fork failed");
  if (child == 0) {
    bool is_enough = false;
    long allocations = 0;
    while (!is_enough) {
      expect(allocations < 100, "a call needs no end of memory");
      std::thread([&] {
        try {
          is_enough = Call<T>::same(call.run(threads, false, allocations), right);
          expect(is_enough, "a call that had little memory is wrong");
        } catch (const std::bad_alloc&) {
        }
        expect(Call<T>::same(call.run(threads), right), "a call after one without memory is wrong");
      }).join();
      expect(allocations > 0 || !is_enough, "a call needed no memory, which is hard to believe");
      allocations++;
    }
    std::_Exit(0);
  }
  int status = 0;
  expect(waitpid(child, &status, 0) == child && status == 0, "running out of memory was not told");
}

// Three axes of an array in any order, parts of them, and one value for all.
template <class T>
void check_dense(int threads) {
  const std::ptrdiff_t size[3] = {37, 53, 41}, stride[3] = {53 * 41, 41, 1};
  std::vector<T> values(37 * 53 * 41);
  std::iota(values.begin(), values.end(), T(0));
  int order[3] = {0, 1, 2};
  do {
    for (std::ptrdiff_t part : {0, 1, 2, 1000}) {
      std::vector<std::ptrdiff_t> sizes, strides;
      for (int axis : order) {
        sizes.push_back(std::min(size[axis], axis == 2 ? 40 - part : size[axis]));
        sizes.back() = std::max<std::ptrdiff_t>(sizes.back(), 1);
        strides.push_back(part == 2 ? 0 : stride[axis]);
      }
      std::vector<T> expected;
      for (std::ptrdiff_t i = 0; i < sizes[0]; i++)
        for (std::ptrdiff_t j = 0; j < sizes[1]; j++)
          for (std::ptrdiff_t k = 0; k < sizes[2]; k++)
            expected.push_back(
                values[static_cast<std::size_t>(i * strides[0] + j * strides[1] + k * strides[2])]);
      std::vector<T> copy(expected.size());
      make_dense(values.data(), copy.data(), sizeof(T), sizes, strides, threads);
      expect(copy == expected, "a dense copy is wrong");
    }
  } while (std::next_permutation(order, order + 3));
}

// How the matrices of a chain are kept: in int8 by the processor's instructions for that, or not.
enum class Kept { kFloats, kBytes, kBytesInPairs };

// A chain of every cell and module, its weights the same ones for the same sizes.
template <class T>
class SomeChain {
public:
  SomeChain(long hidden_size, bool both, bool reads_symbols, Kept kept)
      : in_bytes_(kept != Kept::kFloats), chain_(kept == Kept::kBytes) {
    const long first = 5;
    if (reads_symbols)
      chain_.add_embedding(draw(kSymbols * first).data(), kSymbols, first);
    long width = first;
    for (int cell = 0; cell < kernels().num_cells; cell++) {
      if (!takes(kernels().cells[cell]))
        continue;
      const CellInfo& info = kernels().cells[cell];
      const long rows = static_cast<long>(std::string_view(info.gates).size()) * hidden_size;
      const long projection = info.states[1] ? hidden_size / 2 : 0;
      const long out = projection ? projection : hidden_size;
      std::vector<Array> values;
      std::vector<std::vector<float>> scales;
      std::vector<Weights<T>> weights;
      for (int d = 0; d < (both ? 2 : 1); d++) {
        values.push_back(draw(rows)), values.push_back(draw(rows));
        for (auto [outputs, inputs] : {std::pair{rows, width}, {rows, out}, {out, hidden_size}}) {
          values.push_back(draw(outputs * inputs));
          scales.push_back(round(values.back(), inputs));
        }
        const auto* w = &values[values.size() - 5];
        const auto* s = &scales[scales.size() - 3];
        weights.push_back({w[2].data(), w[3].data(), cell ? w[0].data() : nullptr,
                           cell ? w[1].data() : nullptr, projection ? w[4].data() : nullptr});
        if (in_bytes_)
          weights.back().scales_ih = s[0].data(), weights.back().scales_hh = s[1].data(),
          weights.back().scales_hr = s[2].data();
      }
      chain_.add_layer(cell, width, hidden_size, projection, weights);
      width = out * (both ? 2 : 1);
    }
    chain_.add_layer_norm(draw(width).data(), nullptr, 1e-5, width);
    Array w = draw(kWidth * width);
    const std::vector<float> scales = round(w, width);
    chain_.add_linear(w.data(), draw(kWidth).data(), width, kWidth,
                      in_bytes_ ? scales.data() : nullptr);
    for (int f = 0; f <= static_cast<int>(Function::kLogSoftmax); f++)
      chain_.add_function(static_cast<Function>(f), kWidth);
    for (long i = 0; i < kSteps * kBatch * first; i++)
      numbers_.push_back(draw(1)[0]), symbols_.push_back(i % kSymbols);
    // exactly as much as is there
    numbers_.shrink_to_fit();
    symbols_.resize(kSteps * kBatch), symbols_.shrink_to_fit();
  }

  static constexpr long kSteps = 7, kBatch = 3, kSymbols = 11, kWidth = 19;
  using Array = std::vector<T>;
  using States = std::vector<Array>;

  States zeros(long batch = kBatch) const {
    States states;
    for (const auto& [directions, width] : chain_.states())
      states.emplace_back(static_cast<std::size_t>(directions * batch * width));
    return states;
  }
  // Step t of all rows; returns the allocations that it took.
  long step(long t, States& states, Array& y) const {
    const std::vector<T*> at = addresses(states);
    const long before = allocations_left;
    expect(chain_.step(nullptr, kBatch, x(t * kBatch), at.data(), y.data() + t * kBatch * kWidth),
           "a chain did not run");
    return before - allocations_left;
  }
  // Steps [from, to) of all rows.
  void run(long from, long to, States& states, Array& y, int threads = 1,
           const int64_t* lengths = nullptr) const {
    const std::vector<T*> at = addresses(states);
    T* const out = y.data() + from * kBatch * kWidth;
    expect(chain_.run(to - from, kBatch, x(from * kBatch), lengths, at.data(), out, threads),
           "a chain did not run");
  }
  // A step of one row of states of which there are more.
  void step_row(long t, int64_t n, States& states, Array& y) const {
    const std::vector<T*> at = addresses(states);
    const long row = t * kBatch + n;
    expect(chain_.step(&n, 1, x(row), at.data(), y.data() + row * kWidth), "a chain did not run");
  }
  // A step of so many rows with the same numbers.
  void step_many(long count, States& states, Array& y) const {
    const Array same(static_cast<std::size_t>(count * chain_.inputs()), T(0.3));
    const std::vector<T*> at = addresses(states);
    expect(chain_.step(nullptr, count, same.data(), at.data(), y.data()), "a chain did not run");
  }
  bool refuses(int64_t symbol) const {
    States states = zeros();
    Array y(kBatch * kWidth);
    const int64_t symbols[kBatch] = {0, symbol, 1};
    const std::vector<T*> at = addresses(states);
    return !chain_.run(1, kBatch, symbols, nullptr, at.data(), y.data(), 1) &&
           !chain_.step(nullptr, kBatch, symbols, at.data(), y.data()) && states == zeros();
  }
  static Array outputs() { return Array(kSteps * kBatch * kWidth); }

private:
  static std::vector<T*> addresses(States& states) {
    std::vector<T*> at;
    for (Array& state : states)
      at.push_back(state.data());
    return at;
  }
  const void* x(long row) const {
    return chain_.symbols() ? static_cast<const void*>(symbols_.data() + row)
                            : numbers_.data() + row * chain_.inputs();
  }
  Array draw(long n) {
    Array values(static_cast<std::size_t>(n));
    std::uniform_real_distribution<T> distribution(T(-0.5), T(0.5));
    for (T& value : values)
      value = distribution(random_);
    return values;
  }

  // Makes the values of each row multiples of a scale, if they are to be kept so.
  std::vector<float> round(Array& values, long inputs) const {
    std::vector<float> scales;
    for (std::size_t i = 0; i < values.size() && in_bytes_; i++) {
      if (i % static_cast<std::size_t>(inputs) == 0)
        scales.push_back(0.5f / 127 / (1 + static_cast<float>(scales.size() % 7)));
      values[i] = std::rint(values[i] * T(2 * 127)) * T(scales.back());
    }
    return scales;
  }

  const bool in_bytes_;
  std::minstd_rand random_{1};
  Chain<T> chain_;
  Array numbers_;
  std::vector<int64_t> symbols_;
};

// Whichever allocation of a step fails, in a thread that has no memory yet, all states are as they
// were.
void check_scarce_steps(long count, Kept kept) {
  using Some = SomeChain<float>;
  const Some some(9, false, false, kept);
  auto right = some.zeros(count);
  auto y = Some::Array(static_cast<std::size_t>(count * Some::kWidth));
  some.step_many(count, right, y);
  bool is_enough = false;
  long allocations = 0;
  for (; !is_enough; allocations++) {
    expect(allocations < 100, "a step needs no end of memory");
    std::thread([&] {
      auto states = some.zeros(count);
      try {
        const Scarce scarce(allocations);
        some.step_many(count, states, y);
        is_enough = true;
      } catch (const std::bad_alloc&) {
      }
      expect(states == (is_enough ? right : some.zeros(count)),
             "a step without memory is half done");
    }).join();
  }
  expect(allocations > 3, "a step needed no memory, which is hard to believe");
}

// However a run is cut into calls, rows and threads, it has the same bits; a step takes no memory.
template <class T>
typename SomeChain<T>::Array check_chain(long hidden_size, bool reads_symbols,
                                         Kept kept = Kept::kFloats) {
  using Some = SomeChain<T>;
  const Some some(hidden_size, false, reads_symbols, kept);
  auto whole = Some::outputs(), stepped = Some::outputs(), apart = Some::outputs();
  auto after = some.zeros(), step_by_step = some.zeros(), row_by_row = some.zeros();
  some.run(0, Some::kSteps, after, whole, 2);
  for (long t = 0; t < Some::kSteps; t++) {
    const long taken = some.step(t, step_by_step, stepped);
    expect(t < 3 || taken == 0, "a step of a chain allocates");
    for (long n = 0; n < Some::kBatch; n++)
      some.step_row(t, n, row_by_row, apart);
  }
  expect(whole == stepped && whole == apart, "a chain's bits depend on how it is cut");
  expect(after == step_by_step && after == row_by_row, "a chain's states depend on how it is cut");
  expect(!reads_symbols || (some.refuses(-1) && some.refuses(Some::kSymbols)),
         "a symbol that is none was read");

  const Some both(hidden_size, true, reads_symbols, kept);
  const int64_t lengths[Some::kBatch] = {Some::kSteps, 0, 2};
  auto alone = Some::outputs(), together = Some::outputs();
  auto alone_after = both.zeros(), together_after = both.zeros();
  both.run(0, Some::kSteps, alone_after, alone, 1, lengths);
  both.run(0, Some::kSteps, together_after, together, 3, lengths);
  expect(alone == together && alone_after == together_after, "a chain's bits depend on threads");
  return whole;
}

// Products in int8 have these bits on every processor.
void check_bytes(bool may_dot) {
  uint64_t digest = 14695981039346656037u; // FNV-1a
  for (long inputs : {1, 5, 33, 300})
    for (long width : {1, 7, 40, 130}) {
      uint32_t random = 1;
      auto draw = [&random](float scale) {
        random = random * 1664525u + 1013904223u;
        return static_cast<float>(static_cast<int>(random >> 16) % 255 - 127) * scale;
      };
      auto draw_all = [&draw](long n, float scale) {
        std::vector<float> values(static_cast<std::size_t>(n));
        for (float& value : values)
          value = draw(scale);
        return values;
      };
      const std::vector<float> scales(static_cast<std::size_t>(width), 0.003f);
      const std::vector<float> w = draw_all(inputs * width, 0.003f), bias = draw_all(width, 0.01f);
      const std::vector<float> x = draw_all(inputs * 9, 0.013f);
      std::vector<float> y(static_cast<std::size_t>(width * 9));
      Chain<float> chain(may_dot);
      chain.add_linear(w.data(), bias.data(), inputs, width, scales.data());
      expect(chain.run(3, 3, x.data(), nullptr, nullptr, y.data(), 1), "a chain did not run");
      for (float value : y) {
        uint32_t bits = 0;
        std::memcpy(&bits, &value, sizeof(bits));
        digest = (digest ^ bits) * 1099511628211u;
      }
    }
  expect(digest == 0x8b2d13effa088564u, "products in int8 have other bits here");
}

// Many threads run one chain, each with a state of its own.
void check_sessions(int callers) {
  const SomeChain<float> some(33, false, false, Kept::kFloats);
  auto right = SomeChain<float>::outputs();
  auto states = some.zeros();
  some.run(0, SomeChain<float>::kSteps, states, right);
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; caller++)
    threads.emplace_back([&] {
      for (int round = 0; round < 20; round++) {
        auto y = SomeChain<float>::outputs();
        auto own = some.zeros();
        for (long t = 0; t < SomeChain<float>::kSteps; t++)
          some.step(t, own, y);
        expect(y == right, "sessions of one chain disturb each other");
      }
    });
  for (std::thread& thread : threads)
    thread.join();
}

void check_callers(int callers) {
  const int num_cells = kernels().num_cells;
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; caller++) {
    threads.emplace_back([caller, num_cells] {
      const Call<float> call(caller % num_cells,
                             kLarge[static_cast<std::size_t>(caller) % std::size(kLarge)]);
      const auto alone = call.run(1);
      for (int threads : {2, 1, 3, 2})
        expect(Call<float>::same(call.run(threads), alone), "callers disturb each other");
      check_pool(500);
    });
  }
  for (std::thread& thread : threads)
    thread.join();
}

// Goes on in a child and, from there, in a child's child, each with helpers of its own.
void check_children(int generations) {
  if (generations == 0)
    return;
  const Call<float> call(0, kLarge[1]);
  const auto alone = call.run(1);
  const pid_t child = fork();
  expect(child >= 0, "fork failed");
  if (child == 0) {
    expect(Call<float>::same(call.run(2), alone), "a forked child computes something else");
    check_callers(2);
    check_children(generations - 1);
    std::_Exit(0);
  }
  int status = 0;
  expect(waitpid(child, &status, 0) == child && status == 0, "a forked child failed");
}

// Whether the address sanitizer, which asks here, cannot tell memory that is lost from memory that
// threads hold which it has failed to stop.
bool has_running_threads = false;

} // namespace

extern "C" int __lsan_is_turned_off() {
  return has_running_threads;
}

namespace {

// Ends while calls run, which nobody waits for.
void check_exit() {
  std::fflush(stdout);
  const pid_t child = fork();
  expect(child >= 0, "fork failed");
  if (child == 0) {
    for (int caller = 0; caller < 2; caller++)
      std::thread([] {
        const Call<float> call(0, kLarge[3]);
        for (;;)
          call.run(2);
      }).detach();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    has_running_threads = true;
    std::exit(0);
  }
  int status = 0;
  expect(waitpid(child, &status, 0) == child && status == 0, "exit was disturbed by a call");
}

} // namespace

int main() {
  for (const std::string& isa : available_isas()) {
    use_isa(isa);
    for (const Sizes& sizes : kSmall)
      check_threads<float>(sizes), check_threads<double>(sizes);
    for (const Sizes& sizes : kLarge)
      check_threads<float>(sizes);
    for (long hidden_size : {3, 16, 65})
      check_chain<float>(hidden_size, true), check_chain<double>(hidden_size, false);
    for (long count : {1, 7, 250})
      for (Kept kept : {Kept::kFloats, Kept::kBytes, Kept::kBytesInPairs})
        check_scarce_steps(count, kept);
    for (long hidden_size : {3, 16, 65, 130})
      expect(check_chain<float>(hidden_size, false, Kept::kBytes) ==
                 check_chain<float>(hidden_size, false, Kept::kBytesInPairs),
             "products in int8 depend on the instructions");
    check_sessions(4);
    check_bytes(true), check_bytes(false);
    std::printf("%s: sizes and threads\n", isa.c_str());
  }
  check_pool(20000);
  check_callers(6);
  check_children(2);
  check_pool(1000); // the parent's helpers are as they were
  check_throwing();
  check_exit();
  std::printf("callers and children\n");

  for (int threads : {1, 2, 3})
    check_dense<float>(threads), check_dense<int64_t>(threads);
  for (int cell = 0; cell < kernels().num_cells; cell++) {
    for (int threads : {1, 3}) {
      for (const Sizes& sizes : {kSmall[1], kLarge[0], kLarge[2]})
        check_memory<float>(cell, sizes, threads);
#if !defined(__SANITIZE_THREAD__) // under it a gang waits for ever for one that has no memory
      check_memory<float>(cell, kLarge[3], threads);
#endif
    }
  }
  std::printf("copies and memory\n");
}
