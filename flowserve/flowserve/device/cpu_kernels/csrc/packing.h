// From rows of floats to panels, and one row back (an embedding is a row of the matrix that also makes the logits).
#pragma once

#include "matrix.h"

namespace fs {

// Where value i (of k) of output lane `lane` lies in a panel of units of `bytes` bytes each.
inline int64_t unit_place(int lane, int i) { return (int64_t(i / UNIT) * LANES + lane) * UNIT + i % UNIT; }

inline void pack_float16_lane(uint8_t* panel, int lane, const float* row, int k) {
    for (int i = 0; i < k; i++) {
        uint16_t halves[LANES];
        store_half(halves, F16::all(row[i]));
        ((uint16_t*)panel)[int64_t(i) * LANES + lane] = halves[0];
    }
}

// Where value i of output lane `lane` lies in a bfloat16 panel.
inline int64_t pair_place(int lane, int i) { return (int64_t(i / 2) * LANES + lane) * 2 + i % 2; }

// The byte and shift of 4-bit value i of output lane `lane` in a panel.
inline void nibble_place(int lane, int i, int64_t* byte, int* shift) {
    const int unit = i / UNIT;
    *byte = (int64_t(unit / 2) * LANES + lane) * UNIT + i % UNIT;
    *shift = unit % 2 * 4;
}

inline uint16_t* int4_scales(uint8_t* panel, int k, int group) {
    return (uint16_t*)(panel + int64_t(round_up(k, GROUP) / GROUP) * GROUP_BYTES) + group * LANES;
}

inline void pack_int8_lane(uint8_t* panel, int lane, const float* row, int k, float amax) {
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    int8_t* values = (int8_t*)panel;
    int32_t sum = 0;
    for (int i = 0; i < k; i++) sum += values[unit_place(lane, i)] = int8_t(std::nearbyint(row[i] * inverse));
    uint8_t* tail = panel + int64_t(padded_inputs(INT8, k)) * LANES;
    ((float*)tail)[lane] = amax / 127.0f;
    if constexpr (ACTIVATION_OFFSET != 0) ((int32_t*)tail)[LANES + lane] = ACTIVATION_OFFSET * sum;
}

// The value of largest magnitude becomes exactly -8 (llama.cpp's Q4_0 chooses its scale like this).
inline void pack_int4_lane(uint8_t* panel, int lane, const float* row, int k) {
    for (int start = 0; start < k; start += GROUP) {
        float extreme = 0.0f;
        const int count = std::min(GROUP, k - start);
        for (int i = 0; i < count; i++)
            if (std::fabs(row[start + i]) > std::fabs(extreme)) extreme = row[start + i];
        uint16_t halves[LANES];
        F16 all = F16::all(extreme / -8.0f);
        store_half(halves, all);
        int4_scales(panel, k, start / GROUP)[lane] = halves[0];
        float stored[LANES];
        load_half(halves).store(stored);
        const float inverse = stored[0] != 0.0f ? 1.0f / stored[0] : 0.0f;
        for (int i = 0; i < count; i++) {
            int value = int(std::nearbyint(row[start + i] * inverse)) + 8;
            int64_t byte;
            int shift;
            nibble_place(lane, start + i, &byte, &shift);
            panel[byte] |= uint8_t(std::clamp(value, 0, 15) << shift);
        }
    }
}

// One panel from up to sixteen rows (missing ones are zero). Returns the first row with a NaN or infinity, or -1.
inline int pack_panel(int kind, const float* rows, int count, int k, uint8_t* panel) {
    std::memset(panel, 0, panel_bytes(kind, k));
    for (int lane = 0; lane < count; lane++) {
        const float* row = rows + int64_t(lane) * k;
        float amax = 0.0f, poison = 0.0f;
        for (int i = 0; i < k; i++) {
            amax = std::max(amax, std::fabs(row[i]));
            poison += row[i] * 0.0f;  // NaN or infinity times zero is NaN and stays
        }
        if (poison != 0.0f || std::isnan(poison)) return lane;
        if (kind == FLOAT32)
            for (int i = 0; i < k; i++) ((float*)panel)[int64_t(i) * LANES + lane] = row[i];
        else if (kind == BFLOAT16)
            for (int i = 0; i < k; i++) ((uint16_t*)panel)[pair_place(lane, i)] = float_to_bf16(row[i]);
        else if (kind == FLOAT16)
            pack_float16_lane(panel, lane, row, k);
        else if (kind == INT8)
            pack_int8_lane(panel, lane, row, k, amax);
        else
            pack_int4_lane(panel, lane, row, k);
    }
    return -1;
}

// Row `index` of the matrix as floats.
inline void unpack_row(const Matrix& m, int index, float* out) {
    const uint8_t* panel = m.panel(index / LANES);
    const int lane = index % LANES;
    if (m.kind == FLOAT32) {
        for (int i = 0; i < m.k; i++) out[i] = ((const float*)panel)[int64_t(i) * LANES + lane];
    } else if (m.kind == BFLOAT16) {
        for (int i = 0; i < m.k; i++) out[i] = bf16_to_float(((const uint16_t*)panel)[pair_place(lane, i)]);
    } else if (m.kind == FLOAT16) {
        for (int i = 0; i < m.k; i++) {
            float values[LANES];
            load_half((const uint16_t*)panel + int64_t(i) * LANES).store(values);
            out[i] = values[lane];
        }
    } else if (m.kind == INT8) {
        const float scale = ((const float*)(panel + int64_t(padded_inputs(INT8, m.k)) * LANES))[lane];
        for (int i = 0; i < m.k; i++) out[i] = scale * float(((const int8_t*)panel)[unit_place(lane, i)]);
    } else {
        for (int start = 0; start < m.k; start += GROUP) {
            float scales[LANES];
            load_half(int4_scales((uint8_t*)panel, m.k, start / GROUP)).store(scales);
            for (int i = 0; i < std::min(GROUP, m.k - start); i++) {
                int64_t byte;
                int shift;
                nibble_place(lane, start + i, &byte, &shift);
                out[start + i] = scales[lane] * float(int((panel[byte] >> shift) & 15) - 8);
            }
        }
    }
}

}  // namespace fs
