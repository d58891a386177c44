// Attention over the paged cache.
//
// A block of the cache, of one layer and one KV head, is packed like a weight, so that both products of attention go
// through the tiles of matrix.h:
//   keys    [panels of 16 tokens] with the head's D values as inputs (scores = query x keys)
//   values  [panels of 16 dimensions] with the block's tokens as inputs (output = probabilities x values)
// Float cache: floats.  Int8 cache: int8 units, one scale per token for keys and one for values, as float32; the scale
// of a value is folded into its probability.
#pragma once

#include <vector>

#include "matrix.h"

namespace fs {

struct CacheShape {
    int32_t num_layers, kv_heads, head_dim, block_size;
    int32_t int8;

    int tokens() const { return round_up(block_size, LANES); }         // of a block, padded
    int key_inputs() const { return int8 ? round_up(head_dim, UNIT) : head_dim; }
    int value_columns() const { return round_up(head_dim, LANES); }
    int element() const { return int8 ? 1 : 4; }
    int64_t keys_bytes() const { return int64_t(tokens()) * key_inputs() * element(); }
    int64_t values_bytes() const { return int64_t(tokens()) * value_columns() * element(); }
    int64_t scales_bytes() const { return int8 ? int64_t(tokens()) * 4 * 2 : 0; }
    // One block of one layer and one head: keys, values, scales of keys, scales of values.
    int64_t head_bytes() const { return (keys_bytes() + values_bytes() + scales_bytes() + 63) / 64 * 64; }
    int64_t block_bytes() const { return head_bytes() * kv_heads * num_layers; }
};

struct HeadBlock {
    uint8_t* keys;
    uint8_t* values;
    float* key_scales;
    float* value_scales;
};

inline HeadBlock head_block(const CacheShape& s, uint8_t* cache, int block, int layer, int head) {
    uint8_t* base = cache + s.block_bytes() * block + s.head_bytes() * (int64_t(layer) * s.kv_heads + head);
    float* scales = (float*)(base + s.keys_bytes() + s.values_bytes());
    return {base, base + s.keys_bytes(), scales, scales + s.tokens()};
}

// n floats as whole numbers of -127 .. 127; returns their scale.
inline float quantize_to_bytes(const float* x, int n, int8_t* out) {
    float amax = 0.0f;
    for (int i = 0; i < n; i++) amax = std::max(amax, std::fabs(x[i]));
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    for (int i = 0; i < n; i += LANES) {
        alignas(64) float rest[LANES] = {};
        std::memcpy(rest, x + i, sizeof(float) * std::min(LANES, n - i));
        store_int8(out + i, F16::load(rest) * F16::all(inverse));
    }
    return amax / 127.0f;
}

// Put one token's key and value (D floats each) at place `slot` of a block.
inline void store_token(const CacheShape& s, const HeadBlock& block, int slot, const float* key, const float* value) {
    const int lane = slot % LANES, d = s.head_dim, tokens = s.tokens();
    const int64_t key_panel = int64_t(slot / LANES) * LANES * s.key_inputs();
    if (!s.int8) {
        float* keys = (float*)block.keys + key_panel + lane;
        for (int i = 0; i < d; i++) keys[int64_t(i) * LANES] = key[i];
        float* values = (float*)block.values + int64_t(slot) * LANES;
        for (int i = 0; i < d; i += LANES)
            std::memcpy(values + int64_t(i) * tokens, value + i, sizeof(float) * std::min(LANES, d - i));
        return;
    }
    std::vector<int8_t> bytes(round_up(d, LANES));
    block.key_scales[slot] = quantize_to_bytes(key, d, bytes.data());
    int8_t* keys = (int8_t*)block.keys + key_panel + lane * UNIT;
    for (int i = 0; i < d; i++) keys[int64_t(i / UNIT) * LANES * UNIT + i % UNIT] = bytes[i];
    block.value_scales[slot] = quantize_to_bytes(value, d, bytes.data());
    int8_t* values = (int8_t*)block.values + int64_t(slot / UNIT) * LANES * UNIT + slot % UNIT;
    for (int i = 0; i < d; i++) values[int64_t(i / LANES) * tokens * LANES + i % LANES * UNIT] = bytes[i];
}

constexpr int SPAN_TOKENS = 128;  // keys per pass of the running softmax, about

// Room for one task of `rows` queries; sizes depend on the shape only, so a thread allocates it once.
struct AttentionRoom {
    std::vector<float> query, scores, output, largest, total, row_scales, probability_scales;
    std::vector<int32_t> query_units, probability_units;
    int span_blocks, span;

    AttentionRoom(const CacheShape& s, int rows) {
        span_blocks = std::max(1, SPAN_TOKENS / s.tokens());
        span = span_blocks * s.tokens();
        query.resize(size_t(rows) * s.head_dim);
        scores.resize(size_t(rows) * span);
        output.resize(size_t(rows) * s.value_columns());
        largest.resize(rows), total.resize(rows), row_scales.resize(rows), probability_scales.resize(rows);
        query_units.resize(size_t(rows) * round_up(s.head_dim, GROUP) / UNIT);
        probability_units.resize(size_t(rows) * span / UNIT + 16);
    }
};

// Queries of one sequence and one KV head: row r is position first_position + r / group, head r % group of the group.
struct AttentionTask {
    const CacheShape& shape;
    uint8_t* cache;
    int layer, head;
    const int32_t* table;  // blocks of the sequence
    int first_position, rows, group, window;  // window 0: all earlier tokens
};

template <class F>
inline void row_tiles(int rows, F f) {
    const int tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    for (int t = 0, row = 0; t < tiles; t++) {
        int count = (rows - row + tiles - t - 1) / (tiles - t);
        with_rows<TILE_ROWS>(count, [&](auto constant) { f(constant, row); });
        row += count;
    }
}

// scores[row, column of the span] for one block.
inline void score_block(const AttentionTask& t, AttentionRoom& room, const HeadBlock& block, int column) {
    const CacheShape& s = t.shape;
    const int d = s.head_dim, unit_stride = round_up(d, GROUP) / UNIT;
    row_tiles(t.rows, [&](auto constant, int row) {
        constexpr int R = decltype(constant)::value;
        for (int p = 0; p < s.tokens() / LANES; p++) {
            float* out = room.scores.data() + int64_t(row) * room.span + column + p * LANES;
            if (s.int8) {
                I16 sums[R];
                tile_int8<R, true>((const int8_t*)block.keys + int64_t(p) * LANES * s.key_inputs(),
                                   s.key_inputs() / UNIT, room.query_units.data() + int64_t(row) * unit_stride,
                                   unit_stride, sums);
                F16 scale = F16::load(block.key_scales + p * LANES);
                for (int r = 0; r < R; r++)
                    (sums[r].to_float() * (scale * F16::all(room.row_scales[row + r]))).store(out + int64_t(r) * room.span);
            } else {
                const float* keys = (const float*)block.keys + int64_t(p) * LANES * d;
                F16 acc[R];
                tile_float<R>([keys](int i) { return F16::load(keys + int64_t(i) * LANES); }, d,
                              room.query.data() + int64_t(row) * d, d, acc);
                for (int r = 0; r < R; r++) acc[r].store(out + int64_t(r) * room.span);
            }
        }
    });
}

// Softmax over the columns of a span whose tokens each row may see, keeping the largest score and the total so far.
// Turns scores into probabilities relative to the new largest and scales down what the row has accumulated.
inline void soften(const AttentionTask& t, AttentionRoom& room, int first_token, int columns) {
    const CacheShape& s = t.shape;
    const int tokens = s.tokens();
    for (int row = 0; row < t.rows; row++) {
        float* score = room.scores.data() + int64_t(row) * room.span;
        const int position = t.first_position + row / t.group;
        const int oldest = t.window > 0 ? std::max(0, position - t.window + 1) : 0;
        const auto hide = [&](float value) {  // the tokens that this row may not see
            for (int b = 0; b * tokens < columns; b++) {
                const int token = first_token + b * s.block_size;
                const int begin = std::clamp(oldest - token, 0, s.block_size);
                const int end = std::clamp(position + 1 - token, 0, s.block_size);
                std::fill(score + b * tokens, score + b * tokens + begin, value);
                std::fill(score + b * tokens + end, score + (b + 1) * tokens, value);
            }
        };
        hide(-INFINITY);
        F16 top = F16::all(-INFINITY);
        for (int i = 0; i < columns; i += LANES) top = max(top, F16::load(score + i));
        const float largest = std::max(room.largest[row], max_of(top));
        if (largest == -INFINITY) {  // nothing of this span is visible yet
            std::memset(score, 0, sizeof(float) * columns);
            continue;
        }
        const float keep = std::exp(room.largest[row] - largest);
        F16 total = F16::zero();
        for (int i = 0; i < columns; i += LANES) {
            F16 p = exp(F16::load(score + i) - F16::all(largest));
            p.store(score + i);
        }
        hide(0.0f);  // `exp` made e^-87 of -inf
        for (int i = 0; i < columns; i += LANES) total = total + F16::load(score + i);
        room.total[row] = room.total[row] * keep + sum(total);
        room.largest[row] = largest;
        if (keep != 1.0f) {
            float* out = room.output.data() + int64_t(row) * s.value_columns();
            for (int i = 0; i < s.value_columns(); i += LANES) (F16::load(out + i) * F16::all(keep)).store(out + i);
        }
    }
}

// Probabilities of a span as whole numbers, the scales of the values folded in.
inline void quantize_probabilities(const AttentionTask& t, AttentionRoom& room, const HeadBlock* blocks, int count) {
    const int tokens = t.shape.tokens(), columns = count * tokens;
    for (int row = 0; row < t.rows; row++) {
        float* p = room.scores.data() + int64_t(row) * room.span;
        F16 top = F16::zero();
        for (int b = 0; b < count; b++)
            for (int i = 0; i < tokens; i += LANES) {
                F16 v = F16::load(p + b * tokens + i) * F16::load(blocks[b].value_scales + i);
                v.store(p + b * tokens + i);
                top = max(top, v);
            }
        const float largest = max_of(top);
        const float inverse = largest > 0 ? float(PROBABILITY_MAX) / largest : 0.0f;
        room.probability_scales[row] = largest / float(PROBABILITY_MAX);
        Activation* out = (Activation*)(room.probability_units.data() + int64_t(row) * room.span / UNIT);
        for (int i = 0; i < columns; i += LANES) {
            F16 v = F16::load(p + i) * F16::all(inverse);
            if constexpr (ACTIVATION_OFFSET != 0) {
                int16_t words[LANES];
                store_int16(words, v);
                for (int j = 0; j < LANES; j++) out[i + j] = Activation(words[j]);
            } else {
                store_int16((int16_t*)(out + i), v);
            }
        }
    }
}

// output += probabilities of one block (columns from `column` on) x its values.
inline void weigh_block(const AttentionTask& t, AttentionRoom& room, const HeadBlock& block, int column) {
    const CacheShape& s = t.shape;
    const int tokens = s.tokens();
    row_tiles(t.rows, [&](auto constant, int row) {
        constexpr int R = decltype(constant)::value;
        for (int p = 0; p < s.value_columns() / LANES; p++) {
            float* out = room.output.data() + int64_t(row) * s.value_columns() + p * LANES;
            F16 acc[R];
            if (s.int8) {
                I16 sums[R];
                tile_int8<R, false>((const int8_t*)block.values + int64_t(p) * tokens * LANES, tokens / UNIT,
                                    room.probability_units.data() + (int64_t(row) * room.span + column) / UNIT,
                                    room.span / UNIT, sums);
                for (int r = 0; r < R; r++) acc[r] = sums[r].to_float() * F16::all(room.probability_scales[row + r]);
            } else {
                const float* values = (const float*)block.values + int64_t(p) * tokens * LANES;
                tile_float<R>([values](int i) { return F16::load(values + int64_t(i) * LANES); }, tokens,
                              room.scores.data() + int64_t(row) * room.span + column, room.span, acc);
            }
            for (int r = 0; r < R; r++)
                (F16::load(out + int64_t(r) * s.value_columns()) + acc[r]).store(out + int64_t(r) * s.value_columns());
        }
    });
}

// room.query holds the scaled queries [rows, D]; afterwards room.output [rows, value_columns] holds the answers.
inline void attend(const AttentionTask& t, AttentionRoom& room) {
    const CacheShape& s = t.shape;
    std::fill_n(room.output.begin(), int64_t(t.rows) * s.value_columns(), 0.0f);
    std::fill_n(room.largest.begin(), t.rows, -INFINITY);
    std::fill_n(room.total.begin(), t.rows, 0.0f);
    if (s.int8) {
        const int stride = round_up(s.head_dim, GROUP) / UNIT;
        for (int r = 0; r < t.rows; r++)
            room.row_scales[r] = quantize_row(room.query.data() + int64_t(r) * s.head_dim, s.head_dim,
                                              (Activation*)(room.query_units.data() + int64_t(r) * stride));
    }
    const int last = t.first_position + (t.rows - 1) / t.group;
    const int first = t.window > 0 ? std::max(0, t.first_position - t.window + 1) / s.block_size : 0;
    const int end = last / s.block_size + 1;
    HeadBlock blocks[SPAN_TOKENS / LANES];
    for (int start = first; start < end; start += room.span_blocks) {
        const int count = std::min(room.span_blocks, end - start);
        for (int b = 0; b < count; b++) {
            blocks[b] = head_block(s, t.cache, t.table[start + b], t.layer, t.head);
            score_block(t, room, blocks[b], b * s.tokens());
        }
        soften(t, room, start * s.block_size, count * s.tokens());
        if (s.int8) quantize_probabilities(t, room, blocks, count);
        for (int b = 0; b < count; b++) weigh_block(t, room, blocks[b], b * s.tokens());
    }
    for (int r = 0; r < t.rows; r++) {
        float* out = room.output.data() + int64_t(r) * s.value_columns();
        const F16 inverse = F16::all(1.0f / room.total[r]);
        for (int i = 0; i < s.value_columns(); i += LANES) (F16::load(out + i) * inverse).store(out + i);
    }
}

}  // namespace fs
