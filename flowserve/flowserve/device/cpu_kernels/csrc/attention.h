// Attention over the paged cache.
//
// A block of the cache, of one layer and one KV head, is packed like a weight, so that both products of attention go
// through the tiles of matrix.h:
//   keys    [panels of 16 tokens] with the head's D values as inputs (scores = query x keys)
//   values  [panels of 16 dimensions] with the block's tokens as inputs (output = probabilities x values)
// Float cache: floats.  Int8 cache: int8 units, one scale per token for keys and one for values, as float32; the scale
// of a value is folded into its probability.
#pragma once

#include "product.h"

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

// n floats as whole numbers of -127 .. 127, sixteen at a time: take(index, bytes). Returns their scale.
template <class Take>
inline float quantize_to_bytes(const float* x, int n, Take take) {
    float amax = 0.0f, poison = 0.0f;
    for (int i = 0; i < n; i++) amax = std::max(amax, std::fabs(x[i])), poison += x[i] * 0.0f;
    if (std::isnan(poison)) amax = NAN;
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    for (int i = 0; i < n; i += LANES) {
        alignas(64) float rest[LANES] = {};
        alignas(16) int8_t bytes[LANES];
        std::memcpy(rest, x + i, sizeof(float) * std::min(LANES, n - i));
        store_int8(bytes, F16::load(rest) * F16::all(inverse));
        take(i, bytes);
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
    int8_t* keys = (int8_t*)block.keys + key_panel + lane * UNIT;
    block.key_scales[slot] = quantize_to_bytes(key, d, [=](int i, const int8_t* bytes) {
        const int units = (std::min(LANES, d - i) + UNIT - 1) / UNIT;  // zeros follow the last value
        for (int u = 0; u < units; u++) std::memcpy(keys + int64_t(i / UNIT + u) * LANES * UNIT, bytes + u * UNIT, UNIT);
    });
    int8_t* values = (int8_t*)block.values + int64_t(slot / UNIT) * LANES * UNIT + slot % UNIT;
    block.value_scales[slot] = quantize_to_bytes(value, d, [=](int i, const int8_t* bytes) {
        for (int j = 0; j < std::min(LANES, d - i); j++) values[int64_t(i / LANES) * tokens * LANES + j * UNIT] = bytes[j];
    });
}

constexpr int SPAN_TOKENS = 128;  // keys per pass of the running softmax, about

// Room for one task of `rows` queries; sizes depend on the shape only, so a thread allocates it once.
struct AttentionRoom {
    Lines<float> query, scores, output;
    std::vector<float> largest, total, row_scales, probability_scales;
    Lines<int32_t> query_units, probability_units;
    int span_blocks, span;
    Lines<I16> offsets;  // of the panels of keys in a span

    AttentionRoom(const CacheShape& s, int rows) {
        span_blocks = std::max(1, SPAN_TOKENS / s.tokens());
        span = span_blocks * s.tokens();
        offsets.resize(span / LANES);
        query.resize(size_t(rows) * s.head_dim);
        scores.resize(size_t(rows) * span);
        output.resize(size_t(rows) * s.value_columns());
        largest.resize(rows), total.resize(rows), row_scales.resize(rows), probability_scales.resize(rows);
        query_units.resize(round_up(rows, MOST_TILE_ROWS) * prepared_words(INT8, s.head_dim));
        probability_units.resize(size_t(round_up(rows, MOST_TILE_ROWS)) * span / UNIT);
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

// R rows of x times panels of floats that lie `panel_size` floats apart; take(panel, r, value).
template <int R, class Take>
[[gnu::always_inline]] inline void float_panels(const float* panels, int count, int64_t panel_size, int k, const float* x, int64_t stride,
                                               Take take) {
    int p = 0;
    for (; FLOAT_PAIRS && p + 1 < count; p += 2) {
        F16 out[2][R];
        tile_float_pair<R>(panels + p * panel_size, panels + (p + 1) * panel_size, k, x, stride, out);
        for (int second = 0; second < 2; second++)
            for (int r = 0; r < R; r++) take(p + second, r, out[second][r]);
    }
    for (; p < count; p++) {
        const float* panel = panels + p * panel_size;
        F16 out[R];
        tile_float<R>([panel](int i) { return F16::load(panel + int64_t(i) * LANES); }, k, x, stride, out);
        for (int r = 0; r < R; r++) take(p, r, out[r]);
    }
}

// scores[row, column of the span] for one block.
inline void score_block(const AttentionTask& t, AttentionRoom& room, const HeadBlock& block, int column) {
    const CacheShape& s = t.shape;
    const int d = s.head_dim;
    const int64_t unit_stride = prepared_words(INT8, d);
    by_tiles(0, t.rows, TILE_ROWS, [&](auto constant, int row) {
        constexpr int R = decltype(constant)::value;
        float* const scores = room.scores.data() + int64_t(row) * room.span + column;
        if (!s.int8) {
            float_panels<R>((const float*)block.keys, s.tokens() / LANES, int64_t(LANES) * d, d, room.query.data() + int64_t(row) * d, d,
                            [&](int p, int r, F16 v) { v.store(scores + int64_t(r) * room.span + p * LANES); });
            return;
        }
        for (int p = 0; p < s.tokens() / LANES; p++) {
            I16 sums[R];
            tile_int8<R, true>((const int8_t*)block.keys + int64_t(p) * LANES * s.key_inputs(), s.key_inputs() / UNIT,
                               room.query_units.data() + int64_t(row) * unit_stride, unit_stride, sums);
            F16 scale = F16::load(block.key_scales + p * LANES);
            for (int r = 0; r < R; r++)
                (sums[r].to_float() * (scale * F16::all(room.row_scales[row + r]))).store(scores + int64_t(r) * room.span + p * LANES);
        }
    });
}

// Scores of tokens that a position may not see: later ones, those behind its window, places behind a block's last.
inline void hide_unseen(const AttentionTask& t, int position, int first_token, int count, float* scores) {
    const int size = t.shape.block_size, tokens = t.shape.tokens();
    const int oldest = t.window > 0 ? std::max(0, position - t.window + 1) : 0;
    if (oldest <= first_token && position + 1 >= first_token + count * size && size == tokens) return;
    for (int b = 0; b < count; b++, scores += tokens) {
        const int token = first_token + b * size;
        std::fill(scores, scores + std::clamp(oldest - token, 0, size), -INFINITY);
        std::fill(scores + std::clamp(position + 1 - token, 0, size), scores + tokens, -INFINITY);
    }
}

// Softmax over the columns of a span whose tokens each row may see, keeping the largest score and the total so far.
// Turns scores into probabilities relative to the new largest and scales down what the row has accumulated. With an
// int8 cache the probabilities become whole numbers, the scales of the values folded in.
template <bool INT8_CACHE>
inline void soften(const AttentionTask& t, AttentionRoom& room, const HeadBlock* blocks, int count, int first_token) {
    const CacheShape& s = t.shape;
    const int tokens = s.tokens(), columns = count * tokens;
    for (int row = 0; row < t.rows; row++) {
        float* score = room.scores.data() + int64_t(row) * room.span;
        hide_unseen(t, t.first_position + row / t.group, first_token, count, score);
        F16 top = F16::all(-INFINITY);
        for (int i = 0; i < columns; i += LANES) top = max(top, F16::load(score + i));
        const float largest = std::max(room.largest[row], max_of(top));
        const bool any = largest != -INFINITY;  // else nothing of this span is visible yet
        const float keep = any ? std::exp(room.largest[row] - largest) : 1.0f;
        // A hidden score becomes e^-87, which is nothing beside the largest's 1 (and what it weighs is a number, see
        // Decoder::clear_begun_blocks).
        F16 total = F16::zero(), heaviest = F16::zero();
        for (int b = 0; b < count; b++)
            for (int i = b * tokens; i < (b + 1) * tokens; i += LANES) {
                F16 p = any ? exp(F16::load(score + i) - F16::all(largest)) : F16::zero();
                total = total + p;
                if constexpr (INT8_CACHE) {
                    p = p * F16::load(blocks[b].value_scales + i - b * tokens);
                    heaviest = max(heaviest, p);
                }
                p.store(score + i);
            }
        room.total[row] = room.total[row] * keep + sum(total);
        room.largest[row] = largest;
        if (keep != 1.0f) {
            float* out = room.output.data() + int64_t(row) * s.value_columns();
            for (int i = 0; i < s.value_columns(); i += LANES) (F16::load(out + i) * F16::all(keep)).store(out + i);
        }
        if constexpr (INT8_CACHE) {
            const float most = max_of(heaviest), inverse = most > 0 ? float(PROBABILITY_MAX) / most : 0.0f;
            room.probability_scales[row] = most / float(PROBABILITY_MAX);
            Activation* out = (Activation*)(room.probability_units.data() + int64_t(row) * room.span / UNIT);
            for (int i = 0; i < columns; i += LANES) store_probabilities(out + i, F16::load(score + i) * F16::all(inverse));
        }
    }
}

// out += the sums of a row's probabilities x values, scaled.
inline void add_weighed(const AttentionRoom& room, int row, float* out, I16 sum) {
    fma(sum.to_float(), F16::all(room.probability_scales[row]), F16::load(out)).store(out);
}

// output += probabilities of a span x its values.
inline void weigh_span(const AttentionTask& t, AttentionRoom& room, const HeadBlock* blocks, int count) {
    const CacheShape& s = t.shape;
    const int tokens = s.tokens();
    const int columns = s.value_columns(), panels = columns / LANES;
    by_tiles(0, t.rows, TILE_ROWS, [&](auto constant, int row) {
        constexpr int R = decltype(constant)::value;
        float* const out = room.output.data() + int64_t(row) * columns;
        if (!s.int8) {
            for (int b = 0; b < count; b++)
                float_panels<R>((const float*)blocks[b].values, panels, int64_t(tokens) * LANES, tokens,
                                room.scores.data() + int64_t(row) * room.span + b * tokens, room.span, [&](int p, int r, F16 v) {
                                    float* const place = out + int64_t(r) * columns + p * LANES;
                                    (F16::load(place) + v).store(place);
                                });
            return;
        }
        for (int p = 0; p < panels; p++) {
            I16 sums[R], part[R];
            for (int r = 0; r < R; r++) sums[r] = I16::zero();
            for (int b = 0; b < count; b++) {
                tile_int8<R, false>((const int8_t*)blocks[b].values + int64_t(p) * tokens * LANES, tokens / UNIT,
                                    room.probability_units.data() + (int64_t(row) * room.span + b * tokens) / UNIT,
                                    room.span / UNIT, part);
                for (int r = 0; r < R; r++) sums[r] = sums[r] + part[r];
            }
            for (int r = 0; r < R; r++) add_weighed(room, row + r, out + int64_t(r) * columns + p * LANES, sums[r]);
        }
    });
}

#if defined(FS_AMX)

// Whether the tiles of AMX have the shape for it; their sums are those of the vectors.
inline bool fits_tiles(const AttentionTask& t) {
    const int tokens = t.shape.tokens();
    return amx::ENABLED && t.shape.int8 && t.rows >= amx::LEAST_ROWS && t.shape.head_dim % amx::TILE_BYTES == 0 &&
           (tokens <= amx::TILE_BYTES || (tokens % amx::TILE_BYTES == 0 && tokens <= 4 * SPAN_TOKENS));
}

inline void score_span_by_tiles(const AttentionTask& t, AttentionRoom& room, const HeadBlock* blocks, int count) {
    const CacheShape& s = t.shape;
    const amx::Tiles tiles;
    const int d = s.head_dim, panels = s.tokens() / LANES;
    const int64_t panel_size = int64_t(LANES) * d;
    for (int b = 0; b < count; b++) {
        const int8_t* keys = (const int8_t*)blocks[b].keys;
        for (int p = 0; p < panels; p++) room.offsets[b * panels + p] = offset_of(keys + p * panel_size, d / UNIT);
        amx::whole_product(
            (const uint8_t*)room.query_units.data(), prepared_words(INT8, d) * 4, t.rows, 0, panels, amx::TILE_BYTES,
            d / amx::TILE_BYTES, [=](int step, int p) { return keys + p * panel_size + step * (LANES * amx::TILE_BYTES); },
            [&](int row, int p, I16 sum) {
                const F16 scale = F16::load(blocks[b].key_scales + p * LANES) * F16::all(room.row_scales[row]);
                float* out = room.scores.data() + int64_t(row) * room.span + b * s.tokens() + p * LANES;
                ((sum - room.offsets[b * panels + p]).to_float() * scale).store(out);
            });
    }
}

inline void weigh_span_by_tiles(const AttentionTask& t, AttentionRoom& room, const HeadBlock* blocks, int count) {
    const CacheShape& s = t.shape;
    const int tokens = s.tokens(), inputs = std::min(tokens, amx::TILE_BYTES), parts = tokens / inputs;
    const amx::Tiles tiles(inputs);
    const int8_t* values[SPAN_TOKENS / LANES];
    for (int b = 0; b < count; b++)
        for (int part = 0; part < parts; part++) values[b * parts + part] = (const int8_t*)blocks[b].values + part * inputs * LANES;
    amx::whole_product((const uint8_t*)room.probability_units.data(), room.span, t.rows, 0, s.value_columns() / LANES, inputs,
                       count * parts, [&](int step, int panel) { return values[step] + int64_t(panel) * tokens * LANES; },
                       [&](int row, int panel, I16 sum) {
                           add_weighed(room, row, room.output.data() + int64_t(row) * s.value_columns() + panel * LANES, sum);
                       });
}

#endif

inline void attend_span(const AttentionTask& t, AttentionRoom& room, const HeadBlock* blocks, int count, int first_token) {
    const CacheShape& s = t.shape;
#if defined(FS_AMX)
    const bool tiles = fits_tiles(t);
    if (tiles) score_span_by_tiles(t, room, blocks, count);
#else
    constexpr bool tiles = false;
#endif
    if (!tiles)
        for (int b = 0; b < count; b++) score_block(t, room, blocks[b], b * s.tokens());
    s.int8 ? soften<true>(t, room, blocks, count, first_token) : soften<false>(t, room, blocks, count, first_token);
#if defined(FS_AMX)
    if (tiles) return weigh_span_by_tiles(t, room, blocks, count);
#endif
    weigh_span(t, room, blocks, count);
}

// room.query holds the scaled queries [rows, D]; afterwards room.output [rows, value_columns] holds the answers.
inline void attend(const AttentionTask& t, AttentionRoom& room) {
    const CacheShape& s = t.shape;
    std::fill_n(room.output.begin(), int64_t(t.rows) * s.value_columns(), 0.0f);
    std::fill_n(room.largest.begin(), t.rows, -INFINITY);
    std::fill_n(room.total.begin(), t.rows, 0.0f);
    if (s.int8) {
        const int64_t stride = prepared_words(INT8, s.head_dim);
        for (int r = 0; r < t.rows; r++)
            room.row_scales[r] = quantize_row(room.query.data() + int64_t(r) * s.head_dim, s.head_dim,
                                              (Activation*)(room.query_units.data() + int64_t(r) * stride));
    }
    const int last = t.first_position + (t.rows - 1) / t.group;
    const int first = t.window > 0 ? std::max(0, t.first_position - t.window + 1) / s.block_size : 0;
    const int end = last / s.block_size + 1;
    HeadBlock blocks[SPAN_TOKENS / LANES];
    // Spans begin at fixed places, so that a row's sums do not depend on the rows beside it.
    for (int start = first, next; start < end; start = next) {
        next = std::min(end, (start / room.span_blocks + 1) * room.span_blocks);
        for (int b = 0; b < next - start; b++) blocks[b] = head_block(s, t.cache, t.table[start + b], t.layer, t.head);
        attend_span(t, room, blocks, next - start, start * s.block_size);
    }
    for (int r = 0; r < t.rows; r++) {
        float* out = room.output.data() + int64_t(r) * s.value_columns();
        const F16 inverse = F16::all(1.0f / room.total[r]);
        for (int i = 0; i < s.value_columns(); i += LANES) (F16::load(out + i) * inverse).store(out + i);
    }
}

}  // namespace fs
