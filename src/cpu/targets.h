#pragma once

namespace saccade::cpu {

// How the products of bf16 attention multiply.
enum class Bf16Dot {
  none,      // operands are widened to f32
  native,    // pairs of bf16, by the instructions of AVX512-BF16
  emulated,  // the same pairs, by shifts and FMAs on AVX2: slow, to test with
};

// Makes SACCADE_CPU_TARGET take effect, once. Throws InvalidArgument if it names an instruction set
// that this build or machine lacks.
void choose_target();

// Valid once the target has been chosen.
Bf16Dot bf16_dot();

}  // namespace saccade::cpu
