#include "check/comparison.h"
#include "check/primitives.h"

#include <saccade/linear_attention.h>

#include <cmath>

namespace saccade::cli {
namespace {

// The numbers of a call beyond those of the problem, all exact in f32.
struct LinearData {
  LinearOptions options;
  std::vector<double> q_weight, k_weight;  // hedgehog only
};

std::vector<double> draw_weight(Random& random, std::int64_t heads, int head_dim) {
  std::vector<double> weight(heads * head_dim * head_dim);
  for (double& element : weight) {
    element = round_to(DType::f32, random.normal() / std::sqrt(static_cast<double>(head_dim)));
  }
  return weight;
}

LinearData draw_data(Random& random, const Problem& problem) {
  LinearData data;
  data.options.feature_map = random.pick(
      {FeatureMap::softmax, FeatureMap::elu_plus_one, FeatureMap::relu, FeatureMap::hedgehog});
  data.options.epsilon = random.pick({0.0, 1e-5, 1.0});
  if (data.options.feature_map == FeatureMap::hedgehog) {
    data.q_weight = draw_weight(random, problem.grid.heads, problem.head_dim);
    data.k_weight = draw_weight(random, problem.k_heads, problem.head_dim);
  }
  return data;
}

// Runs linear attention on one backend, in the problem's dtype or, for the reference, in f64.
class LinearRunner {
 public:
  LinearRunner(const Problem& problem,
               const ProblemData& data,
               const LinearData& linear,
               Backend backend,
               DType dtype)
      : problem_(problem),
        linear_(linear),
        context_{.backend = backend},
        dtype_(dtype),
        q_(tensor(problem.grid.heads, problem.grid.q_len, data.q)),
        k_(tensor(problem.k_heads, problem.grid.k_len, data.k)),
        v_(tensor(problem.k_heads, problem.grid.k_len, data.v)),
        q_weight_(weight(problem.grid.heads, linear.q_weight)),
        k_weight_(weight(problem.k_heads, linear.k_weight)),
        inputs_{.q = q_.view(),
                .k = k_.view(),
                .v = v_.view(),
                .tiles = data.tiles ? data.tiles->view() : TileMaskView{},
                .q_lens = lens_view(data.q_lens),
                .k_lens = lens_view(data.k_lens)} {
    if (linear.q_weight.empty()) return;
    inputs_.q_weight = q_weight_.view();
    inputs_.k_weight = k_weight_.view();
  }

  std::vector<double> forward() const {
    const HostTensor out = tensor(problem_.grid.heads, problem_.grid.q_len, {});
    linear_forward(context_, inputs_, linear_.options, out.view());
    return out.values();
  }

  struct Gradients {
    std::vector<double> dq, dk, dv;
  };
  Gradients backward(std::span<const double> out, std::span<const double> dout) const {
    const TileGrid& grid = problem_.grid;
    const HostTensor out_tensor = tensor(grid.heads, grid.q_len, out);
    const HostTensor dout_tensor = tensor(grid.heads, grid.q_len, dout);
    const HostTensor dq = tensor(grid.heads, grid.q_len, {});
    const HostTensor dk = tensor(problem_.k_heads, grid.k_len, {});
    const HostTensor dv = tensor(problem_.k_heads, grid.k_len, {});
    const HostTensor dq_weight = weight(grid.heads, {});
    const HostTensor dk_weight = weight(problem_.k_heads, {});
    LinearGradients gradients{.dq = dq.view(), .dk = dk.view(), .dv = dv.view()};
    if (inputs_.q_weight) {
      gradients.dq_weight = dq_weight.view();
      gradients.dk_weight = dk_weight.view();
    }
    linear_backward(context_,
                    {.forward = inputs_, .out = out_tensor.view(), .dout = dout_tensor.view()},
                    linear_.options, gradients);
    return {dq.values(), dk.values(), dv.values()};
  }

 private:
  HostTensor tensor(std::int64_t heads, std::int64_t length, std::span<const double> values) const {
    HostTensor tensor(dtype_, {problem_.grid.batch, heads, length, problem_.head_dim},
                      problem_.layout);
    if (!values.empty()) tensor.fill(values);
    return tensor;
  }
  HostTensor weight(std::int64_t heads, std::span<const double> values) const {
    HostTensor tensor(dtype_ == DType::f64 ? DType::f64 : DType::f32,
                      {heads, problem_.head_dim, problem_.head_dim});
    if (!values.empty()) tensor.fill(values);
    return tensor;
  }

  const Problem& problem_;
  const LinearData& linear_;
  const Context context_;
  const DType dtype_;
  const HostTensor q_, k_, v_, q_weight_, k_weight_;
  LinearInputs inputs_;
};

}  // namespace

// Each side's gradients start from its own out, as they do in use.
std::vector<Finding> check_linear(const Problem& problem,
                                  const ProblemData& data,
                                  Backend backend) {
  Random random(problem.seed, problem.number, Random::Stream::linear);
  const LinearData linear = draw_data(random, problem);
  const LinearRunner runner(problem, data, linear, backend, problem.dtype);
  const LinearRunner reference(problem, data, linear, Backend::reference, DType::f64);
  const std::string detail(name_of(linear.options.feature_map));
  std::vector<Finding> findings;

  const std::vector<double> got_out = runner.forward();
  const std::vector<double> want_out = reference.forward();
  const std::int64_t q_slice = problem.grid.q_len * problem.head_dim;
  const std::int64_t k_slice = problem.grid.k_len * problem.head_dim;
  findings.push_back({Quantity::linear_out, detail, relative_l2(got_out, want_out, q_slice),
                      caps_of(problem.dtype).forward});

  const auto got = runner.backward(got_out, data.dout);
  const auto want = reference.backward(want_out, data.dout);
  // With out = 0 nothing is subtracted from dout v: the sizes of the terms that may cancel.
  const auto terms = reference.backward(std::vector<double>(want_out.size()), data.dout);
  const auto compare = [&](const char* name, std::span<const double> got_gradient,
                           std::span<const double> want_gradient, std::int64_t slice,
                           std::span<const double> gradient_terms) {
    findings.push_back({Quantity::linear_gradients, detail + ", " + name,
                        relative_l2(got_gradient, want_gradient, slice, gradient_terms),
                        caps_of(problem.dtype).gradient});
  };
  compare("dq", got.dq, want.dq, q_slice, terms.dq);
  compare("dk", got.dk, want.dk, k_slice, terms.dk);
  compare("dv", got.dv, want.dv, k_slice, {});
  return findings;
}

}  // namespace saccade::cli
