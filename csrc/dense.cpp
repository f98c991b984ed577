#include "dense.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "threads.hpp"

namespace elman {
namespace {

struct Axis {
  std::ptrdiff_t size, stride;
};

// The same array with as few axes as it has, but two at least: the last two are a plane of rows.
std::vector<Axis> fewest_axes(const std::vector<std::ptrdiff_t>& sizes,
                              const std::vector<std::ptrdiff_t>& strides) {
  std::vector<Axis> axes;
  for (std::size_t i = 0; i < sizes.size(); i++) {
    if (sizes[i] == 1)
      continue;
    if (!axes.empty() && axes.back().stride == sizes[i] * strides[i])
      axes.back() = {axes.back().size * sizes[i], strides[i]};
    else
      axes.push_back({sizes[i], strides[i]});
  }
  while (axes.size() < 2)
    axes.insert(axes.begin(), {1, 0});
  return axes;
}

// Shorter rows are copied before memcpy has found out how to; and squares of so many columns are
// copied row by row before their lines have left the cache.
constexpr std::size_t kBytesForMemcpy = 64;
constexpr std::ptrdiff_t kSquare = 16;

template <class T>
void copy_plane(const T* from, T* to, Axis column, Axis row) {
  const auto size = static_cast<std::size_t>(row.size) * sizeof(T);
  const bool by_memcpy = row.stride == 1 && size >= kBytesForMemcpy;
  if (by_memcpy || row.stride == 0) {
    for (std::ptrdiff_t r = 0; r < column.size; r++, from += column.stride, to += row.size)
      by_memcpy ? void(std::memcpy(to, from, size)) : void(std::fill_n(to, row.size, *from));
    return;
  }
  const std::ptrdiff_t width = row.stride == 1 ? row.size : kSquare;
  for (std::ptrdiff_t begin = 0; begin < row.size; begin += width) {
    const std::ptrdiff_t end = std::min(row.size, begin + width);
    for (std::ptrdiff_t r = 0; r < column.size; r++)
      for (std::ptrdiff_t i = begin; i < end; i++)
        to[r * row.size + i] = from[r * column.stride + i * row.stride];
  }
}

// Rows [first, last) of the array.
template <class T>
void copy_rows(const T* from, T* to, const std::vector<Axis>& axes, std::ptrdiff_t first,
               std::ptrdiff_t last) {
  const Axis column = axes[axes.size() - 2], row = axes.back();
  for (std::ptrdiff_t r = first, count; r < last; r += count) {
    count = std::min(last - r, column.size - r % column.size);
    const T* plane = from + r % column.size * column.stride;
    std::ptrdiff_t rest = r / column.size;
    for (std::size_t i = axes.size() - 2; i-- > 0; rest /= axes[i].size)
      plane += rest % axes[i].size * axes[i].stride;
    copy_plane(plane, to + r * row.size, {count, column.stride}, row);
  }
}

// Fewer bytes are copied before a helper is awake.
constexpr std::ptrdiff_t kBytesPerThread = 1 << 17;

template <class T>
void copy(const void* from, void* to, const std::vector<Axis>& axes, int threads) {
  std::ptrdiff_t rows = 1;
  for (std::size_t i = 0; i + 1 < axes.size(); i++)
    rows *= axes[i].size;
  const std::ptrdiff_t bytes = rows * axes.back().size * std::ptrdiff_t{sizeof(T)};
  const std::ptrdiff_t most = std::min(rows, 1 + bytes / kBytesPerThread);
  const int parts = static_cast<int>(std::min<std::ptrdiff_t>(threads, most));
  parallel_for(parts, parts, [&](int part) {
    copy_rows(static_cast<const T*>(from), static_cast<T*>(to), axes, rows * part / parts,
              rows * (part + 1) / parts);
  });
}

} // namespace

void make_dense(const void* from, void* to, std::size_t element,
                const std::vector<std::ptrdiff_t>& sizes,
                const std::vector<std::ptrdiff_t>& strides, int threads) {
  const std::vector<Axis> axes = fewest_axes(sizes, strides);
  switch (element) {
  case 4:
    return copy<std::uint32_t>(from, to, axes, threads);
  case 8:
    return copy<std::uint64_t>(from, to, axes, threads);
  default:
    throw std::invalid_argument("make_dense: elements must be of 4 or 8 bytes");
  }
}

} // namespace elman
