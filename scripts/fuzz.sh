#!/usr/bin/env bash
# Runs every fuzzer of build/fuzz for this many inputs. What it finds interesting is kept in
# build/fuzz/corpus, where the next call goes on; an input that fails is kept in build/fuzz/failures.
set -euo pipefail
cd "$(dirname "$0")/.."

runs=$1
python3 tests/fuzz/make_seeds.py build/fuzz/seeds
mkdir -p build/fuzz/failures
for fuzzer in build/fuzz/tests/fuzz/*_fuzzer; do
  name=$(basename "$fuzzer" _fuzzer)
  dictionary=tests/fuzz/$name.dict
  options=(-runs="$runs" -max_len=4096 -artifact_prefix="build/fuzz/failures/$name-" -verbosity=0
    -print_final_stats=1)
  [[ ! -f $dictionary ]] || options+=(-dict="$dictionary")
  mkdir -p "build/fuzz/corpus/$name"
  echo "$name: $runs inputs"
  "$fuzzer" "${options[@]}" "build/fuzz/corpus/$name" "build/fuzz/seeds/$name"
done
