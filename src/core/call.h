#pragma once

#include "core/backend.h"
#include "core/validate.h"
#include "core/workspace.h"

#include <saccade/context.h>
#include <saccade/error.h>

#include <algorithm>
#include <cstddef>
#include <span>

// The path of every public call: checked once, then handed to the backend together with its
// executor and workspace.

namespace saccade {

const BackendOps& backend_of(const Context& context);
Executor& executor_of(const Context& context);

// Runs validated, supported problems: one body for the size query and the call of every primitive.
struct Call {
  explicit Call(const Context& context)
      : backend(backend_of(context)),
        executor(executor_of(context)),
        workers(std::max(1, executor.max_workers())) {}

  auto problem(const auto& inputs, const auto& options) const {
    auto problem = validate(inputs, options);
    require_support(problem);
    if constexpr (requires { problem.plan; }) {
      problem.plan = backend.visit_plan(problem, options);
    }
    return problem;
  }
  void require_support(const auto& problem) const {
    if (const auto reason = backend.why_unsupported(problem)) throw Unsupported(*reason);
  }
  std::size_t workspace_size(const auto& problem) const {
    return backend.workspace_size(problem, workers);
  }

  Execution execution(std::span<std::byte> workspace = {}) const {
    return {executor, workers, workspace};
  }

  const BackendOps& backend;
  Executor& executor;
  const int workers;
};

// The call of a primitive that uses a workspace.
template <auto kPrimitive>
void run(const Context& context, const auto& inputs, const auto& options, const auto& outputs) {
  const Call call(context);
  auto problem = call.problem(inputs, options);
  attach_outputs(problem, outputs);
  const Workspace workspace(context.workspace, call.workspace_size(problem));
  (call.backend.*kPrimitive)(call.execution(workspace.span()), problem);
}

std::size_t workspace_of(const Context& context, const auto& inputs, const auto& options) {
  const Call call(context);
  return call.workspace_size(call.problem(inputs, options));
}

}  // namespace saccade
