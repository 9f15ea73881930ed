#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

// The operators of torch.ops.saccade, as plain functions on host tensors; library.cc gives them
// their schemas. Results are new tensors with the shapes and strides of the tensors that they
// belong to. All throw saccade::InvalidArgument and saccade::Unsupported.

namespace saccade::python {

using torch::stable::Tensor;

// `tiles` are the words of a TileMask: int64 [batch, q_heads, q_tiles, ceil(k_tiles / 64)].
// A null scale is 1 / sqrt(head_dim).
std::tuple<Tensor, Tensor> attention_forward(const Tensor& q,
                                             const Tensor& k,
                                             const Tensor& v,
                                             const std::optional<Tensor>& tiles,
                                             const std::optional<Tensor>& q_lens,
                                             const std::optional<Tensor>& k_lens,
                                             std::optional<double> scale,
                                             std::int64_t block_q,
                                             std::int64_t block_k);

std::tuple<Tensor, Tensor, Tensor> attention_backward(const Tensor& q,
                                                      const Tensor& k,
                                                      const Tensor& v,
                                                      const Tensor& out,
                                                      const Tensor& lse,
                                                      const Tensor& dout,
                                                      const std::optional<Tensor>& dlse,
                                                      const std::optional<Tensor>& tiles,
                                                      const std::optional<Tensor>& q_lens,
                                                      const std::optional<Tensor>& k_lens,
                                                      std::optional<double> scale,
                                                      std::int64_t block_q,
                                                      std::int64_t block_k);

std::tuple<Tensor, Tensor> merge_partials(const std::vector<Tensor>& outs,
                                          const std::vector<Tensor>& lses);

std::tuple<std::vector<Tensor>, std::vector<Tensor>> merge_partials_backward(
    const std::vector<Tensor>& outs,
    const std::vector<Tensor>& lses,
    const Tensor& out,
    const Tensor& lse,
    const Tensor& dout,
    const std::optional<Tensor>& dlse);

// A measure, a reference and an order are the numbers of Measure, lite::Reference and lite::Order.
// Throws InvalidArgument for others, and for rules that lite::validate refuses.
void lite_check_rule(std::int64_t measure,
                     std::int64_t reference,
                     std::int64_t order,
                     std::optional<double> mass_budget,
                     std::int64_t reprobe_period,
                     bool skips_values);

// Schedules are the bytes of their JSON, uint8 [n], and layers those of a JSON list of paths.

// The JSON of a schedule as the library writes it.
std::string lite_schedule_json(const Tensor& schedule);

// What a schedule says about a call: whether it is dense, and its thresholds.
std::tuple<bool, std::vector<double>> lite_plan_step(const Tensor& schedule,
                                                     std::int64_t step,
                                                     std::optional<double> sigma,
                                                     const std::string& layer,
                                                     std::int64_t heads,
                                                     std::int64_t length);

// JSON: the `text` of a table, and `plans` [layer][step], each a pair of is_dense and thresholds.
std::string lite_schedule_table(const Tensor& schedule,
                                const Tensor& layers,
                                const std::vector<double>& sigmas,
                                std::int64_t num_steps,
                                std::int64_t heads,
                                std::int64_t length);

// JSON: the list of those layers that are dense. Throws InvalidArgument for a pattern of the
// schedule that matches none of the layers.
std::string lite_dense_layers(const Tensor& schedule, const Tensor& layers);

// Throws InvalidArgument where the fingerprints of two schedules differ.
void lite_require_match(const Tensor& schedule, const Tensor& other);

// The step of the last of a transformer's calls, from the timesteps of all of them in their order.
std::int64_t lite_step_number(const std::vector<double>& timesteps);

// Whether a state must start anew; grids are batch, heads, q_len, k_len, block_q, block_k, and an
// empty last_grid is no last call.
bool lite_must_reset(const std::vector<std::int64_t>& last_grid,
                     std::int64_t last_step,
                     const std::vector<std::int64_t>& grid,
                     std::int64_t step);

// One step of LiteAttention. `mask` holds the words of a TileMask; it, `ref` (given with the lse
// reference), `spent` (given with a mass budget) and `last_scores` (given with the order strongest)
// are updated. Ranges are begin, end, begin, end, ... Returns out, lse, the tiles computed for each
// head, the bounds on the mass of the tiles that were probed, a mean over the rows of tiles of each
// head (empty without a re-probe period), and, of a partial step, which updates nothing, the words
// of the tiles computed and their scores.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> lite_step(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& mask,
    const std::optional<Tensor>& ref,
    const std::optional<Tensor>& spent,
    const std::optional<Tensor>& last_scores,
    const std::optional<Tensor>& q_lens,
    const std::optional<Tensor>& k_lens,
    std::optional<double> scale,
    std::int64_t block_q,
    std::int64_t block_k,
    std::int64_t step,
    bool is_first,
    bool is_partial,
    bool is_dense,
    const std::vector<double>& thresholds,
    std::int64_t measure,
    std::int64_t reference,
    std::int64_t order,
    std::optional<double> mass_budget,
    std::int64_t reprobe_period,
    bool skips_values,
    const std::vector<std::int64_t>& protected_queries,
    const std::vector<std::int64_t>& protected_keys,
    const std::vector<std::int64_t>& skipped_queries,
    const std::vector<std::int64_t>& skipped_keys);

// The rest of a partial step, once `lse`, that of all shards, is known. `grid` is batch, heads,
// q_len, k_len, block_q, block_k of this shard. Returns the probed mass, as lite_step does.
Tensor lite_finish_step(const Tensor& lse,
                        const Tensor& mask,
                        const Tensor& ref,
                        const std::optional<Tensor>& spent,
                        const Tensor& computed,
                        const Tensor& scores,
                        const std::optional<Tensor>& q_lens,
                        const std::optional<Tensor>& k_lens,
                        const std::vector<std::int64_t>& grid,
                        bool is_first,
                        bool is_probing,
                        const std::vector<double>& thresholds,
                        std::optional<double> mass_budget,
                        const std::vector<std::int64_t>& protected_queries,
                        const std::vector<std::int64_t>& protected_keys);

// The relative L1 error that each step may have.
std::vector<double> lite_error_targets(double level, double slope, std::int64_t steps);

// Sums of the errors of each head: f64 [heads, 6], an ErrorSums in each row. Rows may be added up.
Tensor lite_measure_errors(const Tensor& out, const Tensor& dense);

// Relative L1, relative RMSE and cosine of such rows: f64 [any, 3].
Tensor lite_errors(const Tensor& sums);

// One step of calibration. The state, updated, is `mask`, the words of a TileMask, `scores`,
// `shares` and, with the lse reference, `ref`. Returns dense attention, the thresholds of the step
// before, one for each head, the sums of their errors at this step, and the tiles that it computes
// and that the search computed.
std::tuple<Tensor, std::vector<double>, Tensor, std::int64_t, std::int64_t> lite_calibrate_step(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& mask,
    const Tensor& scores,
    const Tensor& shares,
    const std::optional<Tensor>& ref,
    std::int64_t block_q,
    std::int64_t block_k,
    std::int64_t step,
    bool is_dense,
    std::int64_t measure,
    std::int64_t reference,
    std::int64_t order,
    double target,
    bool by_head,
    double most_work,
    const std::vector<std::int64_t>& protected_queries,
    const std::vector<std::int64_t>& protected_keys,
    const std::vector<std::int64_t>& skipped_queries,
    const std::vector<std::int64_t>& skipped_keys);

// One step of the dense trajectory, with the same state. Returns dense attention, and how many
// tiles this step would skip for each of lite::predicted_thresholds().
std::tuple<Tensor, std::vector<std::int64_t>> lite_observe_step(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& mask,
    const Tensor& scores,
    const Tensor& shares,
    const std::optional<Tensor>& ref,
    std::int64_t block_q,
    std::int64_t block_k,
    std::int64_t step,
    bool is_dense,
    std::int64_t measure,
    std::int64_t reference,
    std::int64_t order,
    const std::vector<std::int64_t>& protected_queries,
    const std::vector<std::int64_t>& protected_keys,
    const std::vector<std::int64_t>& skipped_queries,
    const std::vector<std::int64_t>& skipped_keys);

// A threshold, and the share that it is predicted to skip.
std::tuple<double, double> lite_choose_threshold(const std::vector<std::int64_t>& skipped,
                                                 std::int64_t tiles,
                                                 double sparsity);

// Means of the tiles of x: f32 [batch, heads, tiles, head_dim], f64 for f64 x.
Tensor pool_tiles(const Tensor& x, const std::optional<Tensor>& lens, std::int64_t block);

// Words of the critical and of the marginal tiles. A share of the tiles is a count where that is
// not negative, a ratio elsewhere.
std::tuple<Tensor, Tensor> select_tiles(const Tensor& q_means,
                                        const Tensor& k_means,
                                        std::int64_t q_len,
                                        std::int64_t k_len,
                                        std::int64_t block_q,
                                        std::int64_t block_k,
                                        const std::optional<Tensor>& q_lens,
                                        const std::optional<Tensor>& k_lens,
                                        const std::optional<Tensor>& always,
                                        std::optional<double> scale,
                                        double critical_ratio,
                                        std::int64_t critical_count,
                                        double critical_mass,
                                        double negligible_ratio,
                                        std::int64_t negligible_count);

// The tiles of the baselines, as words of masks; see saccade/baselines.h. A grid is batch, heads,
// q_len, k_len, block_q, block_k, a video frames, height, width, prefix, suffix, and ranges are
// begin, end, begin, end, ...
Tensor random_tiles(const std::vector<std::int64_t>& grid,
                    double sparsity,
                    std::int64_t seed,
                    const std::vector<std::int64_t>& protected_queries,
                    const std::vector<std::int64_t>& protected_keys);

Tensor radial_tiles(const std::vector<std::int64_t>& grid,
                    const std::vector<std::int64_t>& video,
                    double decay,
                    std::int64_t window,
                    std::int64_t sink_frames,
                    const std::vector<std::int64_t>& protected_queries,
                    const std::vector<std::int64_t>& protected_keys);

Tensor spatial_tiles(const std::vector<std::int64_t>& grid,
                     const std::vector<std::int64_t>& video,
                     double ratio,
                     std::int64_t count,
                     std::int64_t sink_frames,
                     const std::vector<std::int64_t>& protected_queries,
                     const std::vector<std::int64_t>& protected_keys);

Tensor temporal_tiles(const std::vector<std::int64_t>& grid,
                      const std::vector<std::int64_t>& video,
                      double ratio,
                      std::int64_t count,
                      std::int64_t sink_frames,
                      const std::vector<std::int64_t>& protected_queries,
                      const std::vector<std::int64_t>& protected_keys);

Tensor svg_tiles(const Tensor& q,
                 const Tensor& k,
                 const Tensor& v,
                 const Tensor& spatial,
                 const Tensor& temporal,
                 std::optional<double> scale,
                 std::int64_t block_q,
                 std::int64_t block_k,
                 std::int64_t sampled_tiles,
                 std::int64_t rows_per_tile,
                 std::int64_t seed);

Tensor pooled_tiles(const Tensor& q,
                    const Tensor& k,
                    const std::optional<Tensor>& q_lens,
                    const std::optional<Tensor>& k_lens,
                    std::optional<double> scale,
                    std::int64_t block_q,
                    std::int64_t block_k,
                    double ratio,
                    std::int64_t count,
                    double mass,
                    const std::vector<std::int64_t>& protected_queries,
                    const std::vector<std::int64_t>& protected_keys);

Tensor linear_forward(const Tensor& q,
                      const Tensor& k,
                      const Tensor& v,
                      const std::optional<Tensor>& tiles,
                      const std::optional<Tensor>& q_lens,
                      const std::optional<Tensor>& k_lens,
                      const std::optional<Tensor>& q_weight,
                      const std::optional<Tensor>& k_weight,
                      const std::string& feature_map,
                      double epsilon,
                      std::int64_t block_q,
                      std::int64_t block_k);

// dq, dk, dv, dq_weight, dk_weight; the last two without elements where there are no weights.
using LinearGradientTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

LinearGradientTensors linear_backward(const Tensor& q,
                                      const Tensor& k,
                                      const Tensor& v,
                                      const Tensor& out,
                                      const Tensor& dout,
                                      const std::optional<Tensor>& tiles,
                                      const std::optional<Tensor>& q_lens,
                                      const std::optional<Tensor>& k_lens,
                                      const std::optional<Tensor>& q_weight,
                                      const std::optional<Tensor>& k_weight,
                                      const std::string& feature_map,
                                      double epsilon,
                                      std::int64_t block_q,
                                      std::int64_t block_k);

// out, lse, linear_out
std::tuple<Tensor, Tensor, Tensor> sparse_linear_forward(const Tensor& q,
                                                         const Tensor& k,
                                                         const Tensor& v,
                                                         const Tensor& critical,
                                                         const std::optional<Tensor>& marginal,
                                                         const std::optional<Tensor>& q_lens,
                                                         const std::optional<Tensor>& k_lens,
                                                         const std::optional<Tensor>& q_weight,
                                                         const std::optional<Tensor>& k_weight,
                                                         std::optional<double> scale,
                                                         const std::string& feature_map,
                                                         double epsilon,
                                                         std::int64_t block_q,
                                                         std::int64_t block_k);

LinearGradientTensors sparse_linear_backward(const Tensor& q,
                                             const Tensor& k,
                                             const Tensor& v,
                                             const Tensor& out,
                                             const Tensor& lse,
                                             const Tensor& linear_out,
                                             const Tensor& dout,
                                             const std::optional<Tensor>& dlse,
                                             const Tensor& dlinear_out,
                                             const Tensor& critical,
                                             const std::optional<Tensor>& marginal,
                                             const std::optional<Tensor>& q_lens,
                                             const std::optional<Tensor>& k_lens,
                                             const std::optional<Tensor>& q_weight,
                                             const std::optional<Tensor>& k_weight,
                                             std::optional<double> scale,
                                             const std::string& feature_map,
                                             double epsilon,
                                             std::int64_t block_q,
                                             std::int64_t block_k);

// Writes a trace, whole or not at all. `recording` is JSON: the fields of TraceInfo but for
// `scale`, with `video` [frames, height, width] or null, and `calls`, as in the file; `tensors` are
// q, k and v of each call, [batch, heads, length, head_dim].
void write_trace(const Tensor& path, const Tensor& recording, const std::vector<Tensor>& tensors);

// JSON: version, commit, backends, cpu_targets.
std::string info();

}  // namespace saccade::python
