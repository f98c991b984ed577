// The core without Python, for the sanitizers: `make sanitize` builds and runs it with each.
//
// Every array has exactly its size, so that reading or writing past one is seen; calls come from
// several threads at once and from forked children, with the pool's own helpers; and whatever the
// number of threads, a result has the bits of one thread. Whether the numbers are right is not
// asked here: the Python tests know.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

#include "dispatch.hpp"
#include "kernels.hpp"
#include "threads.hpp"

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

// A call forward and backward with random numbers, the same ones for the same sizes.
template <class T>
class Call {
public:
  using Array = std::vector<T>;

  Call(int cell, const Sizes& sizes) : cell_(cell), s_(sizes), random_(1) {
    const CellInfo& info = kernels().cells[cell];
    if (std::string_view(info.name) != "lstm")
      s_.projection = 0; // only an LSTM has one
    const long gates = static_cast<long>(std::string_view(info.gates).size()) * s_.hidden_size;
    out_ = s_.projection ? s_.projection : s_.hidden_size;
    states_ = std::string_view(info.states).size();
    // Of padded sequences the first is empty, of packed ones none is.
    for (long t = 0; s_.form == Form::kPacked && t < s_.seq_len; t++)
      batch_sizes_.push_back(s_.batch - (s_.batch - 1) * t / s_.seq_len);
    for (long n = 0; s_.form == Form::kPadded && n < s_.batch; n++)
      lengths_.push_back(s_.seq_len * n / s_.batch);
    rows_ = s_.seq_len * s_.batch;
    if (s_.form == Form::kPacked)
      rows_ = std::accumulate(batch_sizes_.begin(), batch_sizes_.end(), 0L);
    kept_ = s_.directions * rows_ * info.kept * s_.hidden_size;
    x_ = draw(rows_ * s_.input_size), h_0_ = draw(s_.directions * s_.batch * out_);
    c_0_ = draw(s_.directions * s_.batch * s_.hidden_size);
    dy_ = draw(rows_ * s_.directions * out_), dh_n_ = draw(h_0_.size()), dc_n_ = draw(c_0_.size());
    for (long d = 0; d < s_.directions; d++) {
      weights_.push_back(draw(gates * s_.input_size)), weights_.push_back(draw(gates * out_));
      weights_.push_back(draw(gates)), weights_.push_back(draw(gates));
      weights_.push_back(draw(s_.projection * s_.hidden_size));
    }
  }

  // Everything that is computed, one after another; the weights' gradients are those of the whole
  // batch or, with a group per sequence, of each.
  Array run(int threads, bool grouped = false) const {
    const long groups = grouped ? s_.batch : 1;
    Array y(dy_.size()), keep(kept_), h_n(h_0_.size()), c_n(c_0_.size());
    Array dx(x_.size()), dh_0(h_0_.size()), dc_0(c_0_.size());
    std::vector<Array> dweights;
    for (const Array& w : weights_)
      dweights.emplace_back(static_cast<std::size_t>(groups) * w.size());
    std::vector<Weights<T>> weights;
    std::vector<WeightGradients<T>> gradients;
    for (std::size_t i = 0; i < weights_.size(); i += 5) {
      const Array* w = &weights_[i];
      Array* dw = &dweights[i];
      weights.push_back({at(w[0]), at(w[1]), at(w[2]), at(w[3]), at(w[4])});
      gradients.push_back({at(dw[0]), at(dw[1]), at(dw[2]), at(dw[3]), at(dw[4])});
    }
    const bool has_c = states_ > 1;
    Problem<T> p{};
    p.seq_len = s_.seq_len, p.batch = s_.batch, p.input_size = s_.input_size;
    p.hidden_size = s_.hidden_size, p.projection = s_.projection, p.directions = s_.directions;
    p.batch_sizes = at(batch_sizes_), p.lengths = at(lengths_);
    p.x = at(x_), p.h_0 = at(h_0_), p.c_0 = has_c ? at(c_0_) : nullptr;
    p.weights = weights.data();
    p.y = at(y), p.h_n = at(h_n), p.c_n = has_c ? at(c_n) : nullptr;
    Table<T>::forward()(cell_, p, threads);
    const Array inferred = y;
    p.keep = at(keep);
    Table<T>::forward()(cell_, p, threads);
    expect(same(y, inferred), "training and inference differ");

    Gradients<T> g{};
    g.groups = groups;
    g.dy = at(dy_), g.dh_n = at(dh_n_), g.dc_n = has_c ? at(dc_n_) : nullptr;
    g.dx = at(dx), g.dh_0 = at(dh_0), g.dc_0 = has_c ? at(dc_0) : nullptr;
    g.dweights = gradients.data();
    Table<T>::backward()(cell_, p, g, threads);

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
  Array draw(std::size_t n) {
    Array values(n);
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
  long out_, rows_, kept_;
  std::size_t states_;
  std::vector<int64_t> batch_sizes_, lengths_;
  Array x_, h_0_, c_0_, dy_, dh_n_, dc_n_;
  std::vector<Array> weights_;
};

// Around the widths of vectors and tiles, too small for helpers; then large enough for them.
constexpr Sizes kSmall[] = {
    {1, 1, 1, 1, 0, 1, Form::kDense},    {3, 2, 7, 5, 0, 2, Form::kPacked},
    {2, 5, 17, 16, 0, 1, Form::kPadded}, {5, 3, 20, 33, 10, 2, Form::kPadded},
    {2, 9, 15, 31, 0, 1, Form::kPacked}, {1, 3, 3, 70, 0, 2, Form::kDense},
};
constexpr Sizes kLarge[] = {
    {12, 13, 40, 65, 24, 2, Form::kPacked},
    {9, 17, 33, 64, 0, 1, Form::kDense},
    {14, 16, 20, 48, 0, 2, Form::kPadded},
    // Fewer rows than threads could share: they share out the units of a step.
    {30, 1, 150, 160, 0, 1, Form::kDense},
    {20, 3, 24, 136, 0, 1, Form::kPadded},
};

template <class T>
void check_threads(const Sizes& sizes) {
  for (int cell = 0; cell < kernels().num_cells; cell++) {
    const Call<T> call(cell, sizes);
    for (bool grouped : {false, true}) {
      const auto alone = call.run(1, grouped);
      for (int threads : {2, 3})
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

void check_callers(int callers) {
  const int num_cells = kernels().num_cells;
  std::vector<std::thread> threads;
  for (int caller = 0; caller < callers; caller++) {
    threads.emplace_back([caller, num_cells] {
      const Call<float> call(caller % num_cells, kLarge[caller % std::size(kLarge)]);
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

} // namespace

int main() {
  for (const std::string& isa : available_isas()) {
    use_isa(isa);
    for (const Sizes& sizes : kSmall)
      check_threads<float>(sizes), check_threads<double>(sizes);
    for (const Sizes& sizes : kLarge)
      check_threads<float>(sizes);
    std::printf("%s: sizes and threads\n", isa.c_str());
  }
  check_pool(20000);
  check_callers(6);
  check_children(2);
  check_pool(1000); // the parent's helpers are as they were
  std::printf("callers and children\n");
}
