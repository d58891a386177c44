// A product of a packed matrix the way this processor does it best: by tiles of AMX or by vectors. Which, depends on
// the matrix and the processor, and on the number of rows only where both give the same sums.
#pragma once

#include "amx.h"
#include "matrix.h"

namespace fs {

inline bool in_pieces(int kind) {
#if defined(FS_AMX)
    return kind == BFLOAT16 && amx::ENABLED;
#else
    return false;
#endif
}

// Whether rows of activations must be prepared for a kind of matrix; else it reads the floats.
inline bool is_prepared(int kind) { return is_integer(kind) || in_pieces(kind); }

// Words of 4 bytes that a prepared row needs, in whole lines of the cache.
inline int64_t prepared_words(int kind, int k) {
    int64_t words = in_pieces(kind) ? int64_t(padded_inputs(BFLOAT16, k)) * 3 / 2 : unit_words(k);
    if (kind == INT4) words += round_up(k, GROUP) / GROUP;
    return (words + 15) / 16 * 16;
}

// Prepares k floats as `kind` wants them; returns the scale of whole numbers.
inline float prepare_row(int kind, const float* x, int k, int32_t* out) {
#if defined(FS_AMX)
    if (in_pieces(kind)) return amx::split_row(x, k, (uint16_t*)out), 1.0f;
#endif
    Activation* const units = (Activation*)out;
    if (kind != INT4) return quantize_row(x, k, units);
    const float scale = quantize_row<false>(x, k, units);
    group_corrections(units, k, out + unit_words(k));
    return scale;
}

// Panels that are multiplied together; a pair of gate and up counts as one at least.
inline int panels_together(int kind) { return in_pieces(kind) ? 4 : 2; }

// All rows of x times panels [begin, end); begin is a multiple of panels_together. See multiply_by_vectors for the order of `take`.
template <class Take>
inline void multiply(const Matrix& m, const Rows& x, int num_rows, int begin, int end, Take take) {
#if defined(FS_AMX)
    if (amx::ENABLED && m.kind == INT8 && num_rows >= amx::LEAST_ROWS) return amx::multiply_int8(m, x, num_rows, begin, end, take);
    if (in_pieces(m.kind)) return amx::multiply_bfloat16(m, x, num_rows, begin, end, take);
#endif
    multiply_by_vectors(m, x, num_rows, begin, end, take);
}

}  // namespace fs
