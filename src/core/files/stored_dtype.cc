#include <saccade/error.h>
#include <saccade/safetensors.h>

#include <fmt/format.h>

#include <array>

namespace saccade {
namespace {

struct StoredDTypeTraits {
  std::string_view name;
  int bits;
  std::optional<DType> computed{};
};

constexpr std::array kTraits = {
    StoredDTypeTraits{"BOOL", 8},
    StoredDTypeTraits{"F4", 4},
    StoredDTypeTraits{"F6_E2M3", 6},
    StoredDTypeTraits{"F6_E3M2", 6},
    StoredDTypeTraits{"U8", 8},
    StoredDTypeTraits{"I8", 8},
    StoredDTypeTraits{"F8_E5M2", 8},
    StoredDTypeTraits{"F8_E4M3", 8},
    StoredDTypeTraits{"F8_E8M0", 8},
    StoredDTypeTraits{"F8_E4M3FNUZ", 8},
    StoredDTypeTraits{"F8_E5M2FNUZ", 8},
    StoredDTypeTraits{"I16", 16},
    StoredDTypeTraits{"U16", 16},
    StoredDTypeTraits{"F16", 16, DType::f16},
    StoredDTypeTraits{"BF16", 16, DType::bf16},
    StoredDTypeTraits{"I32", 32, DType::i32},
    StoredDTypeTraits{"U32", 32},
    StoredDTypeTraits{"F32", 32, DType::f32},
    StoredDTypeTraits{"C64", 64},
    StoredDTypeTraits{"F64", 64, DType::f64},
    StoredDTypeTraits{"I64", 64},
    StoredDTypeTraits{"U64", 64},
};
static_assert(kTraits.size() == static_cast<std::size_t>(StoredDType::u64) + 1);

const StoredDTypeTraits& traits_of(StoredDType dtype) {
  const auto index = static_cast<std::size_t>(dtype);
  if (index < kTraits.size()) return kTraits[index];
  throw InvalidArgument(
      fmt::format("dtype is {}, but must be a value of saccade::StoredDType", index));
}

}  // namespace

std::string_view name_of(StoredDType dtype) {
  return traits_of(dtype).name;
}

int bits_of(StoredDType dtype) {
  return traits_of(dtype).bits;
}

std::optional<DType> computed_dtype(StoredDType dtype) {
  return traits_of(dtype).computed;
}

StoredDType stored_dtype(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return StoredDType::f16;
    case DType::bf16:
      return StoredDType::bf16;
    case DType::f32:
      return StoredDType::f32;
    case DType::f64:
      return StoredDType::f64;
    case DType::i32:
      return StoredDType::i32;
  }
  throw InvalidArgument(
      fmt::format("dtype is {}, but must be a value of saccade::DType", static_cast<int>(dtype)));
}

}  // namespace saccade
