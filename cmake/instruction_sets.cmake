# Compile definitions of every file that is built once for each instruction set. Those that hardly
# anything runs on are left out to keep builds short, and SVE because it lacks the arrays of vectors
# that the micro-kernel is written with. On x86 nothing is built below SSE4 (2010).
set(saccade_instruction_sets
    "HWY_DISABLED_TARGETS=(HWY_SSSE3|HWY_SVE|HWY_SVE2|HWY_SVE_256|HWY_SVE2_128)")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  list(APPEND saccade_instruction_sets "HWY_BASELINE_TARGETS=HWY_SSE4")
endif()
