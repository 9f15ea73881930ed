#pragma once

namespace saccade::cpu {

// Makes SACCADE_CPU_TARGET take effect, once. Throws InvalidArgument if it names an instruction set
// that this build or machine lacks.
void choose_target();

}  // namespace saccade::cpu
