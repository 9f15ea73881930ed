#include "core/files/safetensors_header.h"

#include <saccade/error.h>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <limits>
#include <utility>

namespace saccade {
namespace {

StoredDType dtype_named(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(StoredDType::u64); ++i) {
    const auto dtype = static_cast<StoredDType>(i);
    if (name == name_of(dtype)) return dtype;
  }
  throw InvalidArgument(fmt::format("the header has the unknown dtype {}", quote(name)));
}

// Takes the JSON token by token, so that a hostile header needs no more memory than what it
// describes, and checks each against the only form that a header may have.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t) override {
    switch (next_) {
      case Next::header:
        return expect(Next::name);
      case Next::metadata:
        return expect(Next::metadata_key);
      case Next::tensor:
        return expect(Next::field);
      default:
        refuse("an object");
    }
  }

  bool key(std::string& text) override {
    switch (next_) {
      case Next::name:
        return begin_entry(text);
      case Next::metadata_key:
        metadata_key_ = text;
        return expect(Next::metadata_value);
      default:
        return begin_field(text);
    }
  }

  bool string(std::string& text) override {
    switch (next_) {
      case Next::metadata_value:
        if (!header_.metadata.emplace(metadata_key_, text).second) refuse_second(metadata_key_);
        return expect(Next::metadata_key);
      case Next::dtype:
        tensor().dtype = dtype_named(text);
        return expect(Next::field);
      default:
        refuse("a string");
    }
  }

  bool start_array(std::size_t) override {
    switch (next_) {
      case Next::shape:
        return expect(Next::extent);
      case Next::offsets:
        return expect(Next::begin);
      default:
        refuse("an array");
    }
  }

  bool number_unsigned(std::uint64_t number) override {
    switch (next_) {
      case Next::extent:
        if (number > std::numeric_limits<std::int64_t>::max()) refuse("an extent beyond 63 bits");
        tensor().shape.push_back(static_cast<std::int64_t>(number));
        return true;
      case Next::begin:
        tensor().begin = number;
        return expect(Next::end);
      case Next::end:
        tensor().end = number;
        return expect(Next::offsets_end);
      default:
        refuse("a number");
    }
  }

  bool end_array() override {
    if (next_ != Next::extent && next_ != Next::offsets_end) refuse("the end of an array");
    return expect(Next::field);
  }

  bool end_object() override {
    const bool is_tensor = next_ == Next::field;
    if (is_tensor && !(has_dtype_ && has_shape_ && has_offsets_)) {
      refuse("a tensor without dtype, shape or data_offsets");
    }
    // After the outermost object, the parser itself accepts nothing but white space.
    return expect(Next::name);
  }

  bool null() override { refuse("null"); }
  bool boolean(bool) override { refuse("a boolean"); }
  bool number_integer(std::int64_t) override { refuse("a negative number"); }
  bool number_float(double, const std::string&) override {
    refuse("a number that is no integer of 64 bits");
  }
  bool binary(nlohmann::json::binary_t&) override { refuse("binary data"); }

  bool parse_error(std::size_t position,
                   const std::string&,
                   const nlohmann::json::exception&) override {
    throw InvalidArgument(
        fmt::format("the header is not JSON in UTF-8: see its byte {}", position));
  }

 private:
  // What may come next.
  enum class Next {
    header,
    name,
    metadata,
    metadata_key,
    metadata_value,
    tensor,
    field,
    dtype,
    shape,
    extent,
    offsets,
    begin,
    end,
    offsets_end,
  };

  TensorEntry& tensor() { return header_.tensors.back(); }

  bool expect(Next next) {
    next_ = next;
    return true;
  }

  [[noreturn]] void refuse(std::string_view what) const {
    const std::string place =
        header_.tensors.empty() ? "" : " at tensor " + quote(header_.tensors.back().name);
    throw InvalidArgument(
        fmt::format("the header has {} where the format has none{}", what, place));
  }

  [[noreturn]] static void refuse_second(std::string_view name) {
    throw InvalidArgument(fmt::format("the header has {} twice", quote(name)));
  }

  bool begin_entry(const std::string& name) {
    if (name == kMetadataName) {
      if (std::exchange(has_metadata_, true)) refuse_second(name);
      return expect(Next::metadata);
    }
    header_.tensors.emplace_back().name = name;
    has_dtype_ = has_shape_ = has_offsets_ = false;
    return expect(Next::tensor);
  }

  bool begin_field(const std::string& name) {
    if (name == "dtype") return begin_field(name, has_dtype_, Next::dtype);
    if (name == "shape") return begin_field(name, has_shape_, Next::shape);
    if (name == "data_offsets") return begin_field(name, has_offsets_, Next::offsets);
    refuse("the field " + quote(name));
  }

  bool begin_field(const std::string& name, bool& is_there, Next value) {
    if (std::exchange(is_there, true)) refuse_second(name);
    return expect(value);
  }

  SafetensorsHeader header_;
  Next next_ = Next::header;
  std::string metadata_key_;
  bool has_metadata_ = false;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;  // of the last tensor
};

}  // namespace

SafetensorsHeader parse_header(std::string_view json) {
  if (!json.starts_with('{')) {
    throw InvalidArgument("the header does not start with '{'; this is no safetensors file");
  }
  // The parser takes a zero for the end of its input.
  if (json.find('\0') != std::string_view::npos) {
    throw InvalidArgument("the header is not JSON: it has a byte that is zero");
  }
  HeaderReader reader;
  nlohmann::json::sax_parse(json, &reader);
  return reader.take();
}

}  // namespace saccade
