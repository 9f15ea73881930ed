#!/usr/bin/env bash
# fuzz.sh RUNS SECONDS [NAME...]: runs the fuzzers of build/fuzz, or those of these names, for so
# many inputs, or so many seconds where that comes first and is not 0. What it finds interesting is
# kept in build/fuzz/corpus, where the next call goes on; an input that fails is kept in
# build/fuzz/failures.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=$1
seconds=$2
names=("${@:3}")
if ((${#names[@]} == 0)); then
  for fuzzer in build/fuzz/tests/fuzz/*_fuzzer; do
    names+=("$(basename "$fuzzer" _fuzzer)")
  done
fi

python3 tests/fuzz/make_seeds.py build/fuzz/seeds
mkdir -p build/fuzz/failures
for name in "${names[@]}"; do
  fuzzer=build/fuzz/tests/fuzz/${name}_fuzzer
  corpus=build/fuzz/corpus/$name
  log=build/fuzz/$name.log
  options=(-max_len=4096)
  [[ ! -f tests/fuzz/$name.dict ]] || options+=(-dict="tests/fuzz/$name.dict")
  mkdir -p "$corpus"
  printf "%s: " "$name"
  "$fuzzer" "${options[@]}" -runs="$runs" -max_total_time="$seconds" -print_final_stats=1 \
    -artifact_prefix="build/fuzz/failures/$name-" "$corpus" "build/fuzz/seeds/$name" \
    >"$log" 2>&1 || { tail -n 100 "$log"; echo "$name failed: $log" >&2; exit 1; }
  inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  covered=$(sed -n 's/.* cov: \([0-9]*\) ft: .*/\1/p' "$log" | tail -n 1)
  echo "$inputs inputs, $covered edges covered, no failure"
done
