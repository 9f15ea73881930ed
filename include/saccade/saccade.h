#pragma once

// saccade: attention of diffusion transformers over the tiles that matter.
// Start with attention.h (the kernels) and tile_mask.h (what they skip).

#include <saccade/attention.h>
#include <saccade/baselines.h>
#include <saccade/calibrate.h>
#include <saccade/context.h>
#include <saccade/error.h>
#include <saccade/executor.h>
#include <saccade/info.h>
#include <saccade/linear_attention.h>
#include <saccade/lite.h>
#include <saccade/lite_schedule.h>
#include <saccade/merge_partials.h>
#include <saccade/output_file.h>
#include <saccade/routing.h>
#include <saccade/safetensors.h>
#include <saccade/sparse_linear.h>
#include <saccade/tensor_view.h>
#include <saccade/tile_grid.h>
#include <saccade/tile_index.h>
#include <saccade/tile_mask.h>
#include <saccade/trace.h>
#include <saccade/update_mask.h>
#include <saccade/weight_analysis.h>
