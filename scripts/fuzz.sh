#!/usr/bin/env bash
# fuzz.sh RUNS SECONDS: runs every fuzzer of build/fuzz for so many inputs, or so many seconds where
# that comes first and is not 0. What it finds interesting is kept in build/fuzz/corpus, where the
# next call goes on; an input that fails is kept in build/fuzz/failures.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=$1
seconds=$2
python3 tests/fuzz/make_seeds.py build/fuzz/seeds
mkdir -p build/fuzz/failures
for fuzzer in build/fuzz/tests/fuzz/*_fuzzer; do
  name=$(basename "$fuzzer" _fuzzer)
  dictionary=tests/fuzz/$name.dict
  options=(-runs="$runs" -max_total_time="$seconds" -max_len=4096 -verbosity=0
    -artifact_prefix="build/fuzz/failures/$name-" -print_final_stats=1)
  [[ ! -f $dictionary ]] || options+=(-dict="$dictionary")
  mkdir -p "build/fuzz/corpus/$name"
  echo "$name"
  "$fuzzer" "${options[@]}" "build/fuzz/corpus/$name" "build/fuzz/seeds/$name"
done
