#!/usr/bin/env bash
# soak.sh: what takes too long for every change, in parts. A part that has passed is not run again
# for the same commit, so that what was interrupted goes on; build/soak holds the output of each.
# When all have passed, benchmarks/results/soak_DATE.txt says what ran, and where.
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(git describe --always --dirty)
folder=build/soak/$commit
[[ $commit != *-dirty ]] || rm -rf "$folder" # whatever passed, it may have been something else
mkdir -p "$folder"
passed=()

# part NAME COMMAND...
part() {
  local name=$1 log=$folder/$1.log started=$SECONDS
  shift
  if [[ -f $folder/$name.passed ]]; then
    echo "$name: passed before"
  else
    echo "$name: $*"
    if ! "$@" >"$log" 2>&1; then
      tail -n 100 "$log"
      echo "$name failed: $log" >&2
      exit 1
    fi
    printf '%s\n  %s\n  %s\n  %d s\n' "$name" "$*" "$(tail -n 1 "$log")" \
      $((SECONDS - started)) >"$folder/$name.passed"
  fi
  passed+=("$folder/$name.passed")
}

for fuzzer in build/fuzz/tests/fuzz/*_fuzzer; do
  name=$(basename "$fuzzer" _fuzzer)
  part "fuzz_$name" scripts/fuzz.sh 1000000 0 "$name"
done
part kill_cpp build/cpu/tests/core/core_files_test --gtest_filter='InterruptedSaveTest*' \
  --gtest_repeat=20
part kill_python .venv/bin/python -m pytest -q tests/python -k kill
part states .venv/bin/python -m pytest -q tests/python/test_lite_state_random.py \
  --hypothesis-profile=soak
for seed in {2..11}; do
  part "problems_$seed" build/cpu/tools/saccade/saccade check --seed "$seed"
done

result=benchmarks/results/soak_$(date +%F).txt
{
  echo "make soak, commit $commit, $(date +%F)"
  sed -n 's/^model name\s*: //p' /proc/cpuinfo | sort -u
  cat "${passed[@]}"
} >"$result"
echo "All parts have passed: $result"
