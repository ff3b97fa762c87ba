// Arrays in NumPy's files: .npy, and .npz as numpy.savez writes it (a zip of .npy, not compressed).
#ifndef MILLIFIT_NATIVE_RUNNER_ARRAY_H_
#define MILLIFIT_NATIVE_RUNNER_ARRAY_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace millifit {

// Shape and element type ("float32", ...) of a tensor.
struct TensorType {
  std::vector<int64_t> shape;
  std::string dtype;

  // Throw ParseFailure for an unknown type, a negative extent, and more bytes than memory can hold.
  size_t ElementBytes() const;
  size_t Bytes() const;
  std::string Name() const;  // e.g. "(1, 3, 224, 224) of float32"
};

bool operator==(const TensorType& one, const TensorType& other);

// Values in C order.
struct NumpyArray {
  TensorType type;
  std::vector<uint8_t> bytes;

  double Value(size_t index) const;
  size_t size() const { return bytes.size() / type.ElementBytes(); }
};

// Throws ParseFailure where `raw` is no .npy file, or one of an order or type that is not read.
NumpyArray ParseNpy(std::string_view raw);
std::string NpyText(const NumpyArray& array);

// The members of a zip file, each by its name without ".npy".
std::vector<std::pair<std::string, NumpyArray>> ParseNpz(std::string_view raw);

// Largest difference, relative to the largest magnitude of `wanted`; infinite for NaN, and where
// the two are of another shape.
double RelativeError(const NumpyArray& made, const NumpyArray& wanted);

}  // namespace millifit

#endif
