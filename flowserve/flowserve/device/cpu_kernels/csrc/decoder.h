// Decoder: a whole step of a decoder-only model in one call, walked through by all threads of a team.
//
// The order of a layer's phases: norm, qkv product, rotation and store, attention, output product, norm, gate and up
// product with the activation, down product. A norm prepares its rows for the product; the inputs of the output and
// down products are prepared in phases of their own, where their kind of weights needs it.
#pragma once

#include "arrival.h"
#include "attention.h"
#include "packing.h"
#include "team.h"

namespace fs {

struct LayerWeights {
    const float* attention_norm;
    Matrix qkv;
    const float* query_norm;  // D floats, or null
    const float* key_norm;
    Matrix output;
    const float* mlp_norm;
    Matrix gate_up;  // panels alternate: sixteen of gate, sixteen of up
    Matrix down;
    int32_t window, reserved;
};

struct DecoderSpec {
    int32_t hidden, num_heads, kv_heads, head_dim, intermediate, vocab, num_layers;
    int32_t rotary_dim, max_tokens, max_logits, num_threads;
    int32_t parts_there;  // see Arrival; num_layers + 2 where all of the weights are
    float eps, scale;
    const float* cos;  // [positions, rotary_dim / 2]
    const float* sin;
    Matrix embedding, head;
    const float* final_norm;
    const LayerWeights* layers;
    CacheShape cache;
    uint8_t* cache_data;
};

struct StepArrays {
    int32_t num_tokens, num_sequences, num_logits, reserved;
    const int32_t* token_ids;
    const int32_t* positions;
    const int32_t* query_starts;  // num_sequences + 1
    const int32_t* tables;        // blocks of all sequences, one after the other
    const int32_t* table_starts;  // num_sequences
    const int32_t* logit_rows;    // num_logits packed tokens
    float* logits;                // [num_logits, vocab]
    float* hidden;                // [num_logits, hidden]: what the logits are made of; or null
    int32_t* best;                // [num_logits]: the first of the largest logits; -1 where one is NaN or all are -inf
};

class Decoder {
  public:
    explicit Decoder(const DecoderSpec& spec)
        : s_(spec), layers_(spec.layers, spec.layers + spec.num_layers), group_(spec.num_heads / spec.kv_heads),
          query_block_(std::clamp(128 / group_, 4, 64)), arrival_(spec.parts_there) {
        const size_t tokens = std::max(spec.max_tokens, spec.max_logits);
        const int q_width = spec.num_heads * spec.head_dim;
        qkv_width_ = stride_of(q_width + 2 * spec.kv_heads * spec.head_dim);
        unit_stride_ = prepared_words(spec.head.kind, spec.hidden);
        for (const LayerWeights& layer : layers_)
            for (const Matrix& m : {layer.qkv, layer.output, layer.gate_up, layer.down})
                unit_stride_ = std::max(unit_stride_, prepared_words(m.kind, m.k));
        hidden_.resize(tokens * hidden_stride());
        normed_.resize(tokens * std::max(hidden_stride(), stride_of(q_width)));
        qkv_.resize(tokens * qkv_width_);
        inner_.resize(tokens * stride_of(spec.intermediate));
        units_.resize(round_up(int(tokens), MOST_TILE_ROWS) * unit_stride_);
        scales_.resize(tokens);
        for (int t = 0; t < spec.num_threads; t++) rooms_.emplace_back(spec.cache, query_block_ * group_);
        team_ = std::make_unique<Team>(spec.num_threads, MOST_PHASES_OF_LAYER * spec.num_layers + OTHER_PHASES,
                                       [this](Walk& walk) { return this->walk(walk); });
    }

    void step(const StepArrays& arrays) {
        a_ = arrays;
        clear_begun_blocks();
        plan_attention();
        best_.assign(size_t(a_.num_logits) * chunks_of(s_.head, a_.num_logits), {-INFINITY, -1});
        runs_++;
        if (arrival_.there() < num_parts()) waiting_runs_ = runs_;
        team_->run();
        if (is_cut_off_) throw std::runtime_error("the weights did not come");
    }

    void note_parts(int32_t there) { arrival_.note(there); }

  private:
    static constexpr int MOST_PHASES_OF_LAYER = 11;
    static constexpr int OTHER_PHASES = 6;  // embedding; norm, product and best of the logits; two waits

    struct Task {
        int sequence, head, first, rows;  // rows: positions
    };
    struct Best {
        float value;
        int32_t index;
    };

    // Floats from row to row of `width`: whole vectors, and no multiple of 4 KiB, at which rows would meet in the same
    // sets of the first-level cache.
    static int stride_of(int width) {
        const int stride = round_up(width, LANES);
        return stride % 1024 == 0 ? stride + LANES : stride;
    }
    int hidden_stride() const { return stride_of(s_.hidden); }

    // How many panels one chunk of a product takes: enough chunks to share, little enough to stay in the cache.
    int panels_per_chunk(const Matrix& m, int rows) const {
        const int64_t most = rows < 32 ? 64 << 10 : in_pieces(m.kind) ? 640 << 10 : 192 << 10;
        const int64_t fitting = std::max<int64_t>(1, most / panel_bytes(m.kind, m.k));
        const int64_t sharing = std::max<int64_t>(1, m.panels() / (4 * s_.num_threads));
        return round_up(int(std::min(fitting, sharing)), panels_together(m.kind));
    }
    int chunks_of(const Matrix& m, int rows) const {
        const int per = panels_per_chunk(m, rows);
        return (m.panels() + per - 1) / per;
    }

    static void store(float* row, const Matrix& m, int panel, F16 value) {
        const int column = panel * LANES;
        if (column + LANES <= m.n) return value.store(row + column);
        alignas(64) float rest[LANES];
        value.store(rest);
        std::memcpy(row + column, rest, sizeof(float) * (m.n - column));
    }

    template <class Take>
    bool product(Walk& walk, const Matrix& m, const Rows& x, int rows, Take take) {
        const int per = panels_per_chunk(m, rows);
        return walk.phase(chunks_of(m, rows), [&](int chunk) {
            const int begin = chunk * per, end = std::min(begin + per, m.panels());
            multiply(m, x, rows, begin, end, [&](int row, int panel, F16 value) { take(chunk, row, panel, value); });
        });
    }

    Rows rows_of(const float* floats, int64_t stride) const {
        return {floats, stride, units_.data(), unit_stride_, scales_.data()};
    }
    void prepare(const float* row, int index, const Matrix& m) {
        if (is_prepared(m.kind)) scales_[index] = prepare_row(m.kind, row, m.k, units_.data() + index * unit_stride_);
    }

    // What a block held for an earlier sequence must not reach a later one: a hidden token weighs nothing, but nothing
    // times NaN is NaN. Blocks that this step fills from their first place to their last hide nothing.
    void clear_begun_blocks() {
        const int size = s_.cache.block_size;
        const bool is_padded = s_.cache.tokens() != size;
        for (int sequence = 0; sequence < a_.num_sequences; sequence++) {
            const int32_t* table = a_.tables + a_.table_starts[sequence];
            const int first = a_.positions[a_.query_starts[sequence]], end = a_.positions[a_.query_starts[sequence + 1] - 1] + 1;
            for (int block = is_padded ? round_up(first, size) / size : std::max(end / size, round_up(first, size) / size);
                 block * size < end; block++)
                std::memset(s_.cache_data + s_.cache.block_bytes() * table[block], 0, s_.cache.block_bytes());
        }
    }

    void plan_attention() {
        tasks_.clear();
        for (int sequence = 0; sequence < a_.num_sequences; sequence++) {
            const int start = a_.query_starts[sequence], count = a_.query_starts[sequence + 1] - start;
            for (int first = (count - 1) / query_block_ * query_block_; first >= 0; first -= query_block_)
                for (int head = 0; head < s_.kv_heads; head++)
                    tasks_.push_back({sequence, head, first, std::min(query_block_, count - first)});
        }
    }

    // Rows of one phase that works row by row.
    template <class F>
    bool by_rows(Walk& walk, int rows, F f) {
        const int per = std::max(1, std::min(16, rows / (2 * s_.num_threads)));
        return walk.phase((rows + per - 1) / per, [&](int chunk) {
            for (int row = chunk * per; row < std::min(rows, (chunk + 1) * per); row++) f(row);
        });
    }

    int num_parts() const { return s_.num_layers + 2; }

    // A phase of one chunk: one thread waits for the weights, the others for it. False where the walk is over.
    // A latecomer of an earlier run must find that run's phases: so it is asked for its run's number.
    bool arrived(Walk& walk, int parts) {
        if (walk.run > waiting_runs_) return true;
        const bool is_on = walk.phase(1, [&](int) {
            if (!arrival_.wait_for(parts)) is_cut_off_ = true;
        });
        return is_on && !is_cut_off_;
    }

    // False where a phase told the thread to leave.
    bool walk(Walk& walk) {
        const bool is_whole = compute(walk);
        return is_whole || is_cut_off_;  // then there are no more phases, for any thread
    }

    bool compute(Walk& walk) {
        const int rows = a_.num_tokens;
        if (!arrived(walk, 1)) return false;
        if (!by_rows(walk, rows, [&](int r) { unpack_row(s_.embedding, a_.token_ids[r], hidden_.data() + int64_t(r) * hidden_stride()); }))
            return false;
        for (int layer = 0; layer < s_.num_layers; layer++)
            if (!arrived(walk, layer + 2) || !attention_part(walk, layer, rows) || !mlp_part(walk, layers_[layer], rows))
                return false;
        return arrived(walk, num_parts()) && logits_part(walk);
    }

    bool norm(Walk& walk, int rows, const float* weight, const Matrix& next) {
        return by_rows(walk, rows, [&](int r) {
            float* out = normed_.data() + int64_t(r) * hidden_stride();
            rms_norm_row(hidden_.data() + int64_t(r) * hidden_stride(), weight, s_.hidden, s_.eps, out);
            prepare(out, r, next);
        });
    }

    bool attention_part(Walk& walk, int index, int rows) {
        const LayerWeights& layer = layers_[index];
        const int q_width = s_.num_heads * s_.head_dim, attended_stride = stride_of(q_width);
        if (!norm(walk, rows, layer.attention_norm, layer.qkv)) return false;
        if (!product(walk, layer.qkv, rows_of(normed_.data(), hidden_stride()), rows, [&](int, int row, int panel, F16 v) {
                v.store(qkv_.data() + int64_t(row) * qkv_width_ + panel * LANES);
            }))
            return false;
        if (!by_rows(walk, rows, [&](int r) { rotate_and_store(layer, index, r); })) return false;
        if (!walk.phase(int(tasks_.size()), [&](int t) { attend_task(tasks_[t], layer, index, rooms_[walk.thread]); }))
            return false;
        if (is_prepared(layer.output.kind) &&
            !by_rows(walk, rows, [&](int r) { prepare(normed_.data() + int64_t(r) * attended_stride, r, layer.output); }))
            return false;
        return add_product(walk, layer.output, rows_of(normed_.data(), attended_stride), rows);
    }

    bool mlp_part(Walk& walk, const LayerWeights& layer, int rows) {
        const int inner_stride = stride_of(s_.intermediate);
        if (!norm(walk, rows, layer.mlp_norm, layer.gate_up)) return false;
        const int per = panels_per_chunk(layer.gate_up, rows);
        if (!walk.phase(chunks_of(layer.gate_up, rows), [&](int chunk) {
                alignas(64) float gates[MOST_ROWS][LANES];
                const Rows x = rows_of(normed_.data(), hidden_stride());
                const int begin = chunk * per, end = std::min(begin + per, layer.gate_up.panels());
                multiply(layer.gate_up, x, rows, begin, end, [&](int row, int panel, F16 value) {
                    float* gate = gates[row % MOST_ROWS];
                    if (panel % 2 == 0)
                        value.store(gate);
                    else
                        (silu(F16::load(gate)) * value).store(inner_.data() + int64_t(row) * inner_stride + panel / 2 * LANES);
                });
            }))
            return false;
        if (is_prepared(layer.down.kind) &&
            !by_rows(walk, rows, [&](int r) { prepare(inner_.data() + int64_t(r) * inner_stride, r, layer.down); }))
            return false;
        return add_product(walk, layer.down, rows_of(inner_.data(), inner_stride), rows);
    }

    // hidden += x * m; hidden's rows are padded, so whole vectors may be stored.
    bool add_product(Walk& walk, const Matrix& m, const Rows& x, int rows) {
        return product(walk, m, x, rows, [&](int, int row, int panel, F16 v) {
            float* out = hidden_.data() + int64_t(row) * hidden_stride() + panel * LANES;
            (F16::load(out) + v).store(out);
        });
    }

    void rotate(float* head, int position) const {
        const int half = s_.rotary_dim / 2;
        const float* cos = s_.cos + int64_t(position) * half;
        const float* sin = s_.sin + int64_t(position) * half;
        for (int i = 0; i < half; i++) {
            const float first = head[i], second = head[i + half];
            head[i] = first * cos[i] - second * sin[i];
            head[i + half] = second * cos[i] + first * sin[i];
        }
    }

    int sequence_of(int row) const {
        return int(std::upper_bound(a_.query_starts, a_.query_starts + a_.num_sequences, row) - a_.query_starts) - 1;
    }

    void rotate_and_store(const LayerWeights& layer, int index, int row) {
        float* qkv = qkv_.data() + int64_t(row) * qkv_width_;
        const int d = s_.head_dim, position = a_.positions[row];
        for (int head = 0; head < s_.num_heads + s_.kv_heads; head++) {
            const float* weight = head < s_.num_heads ? layer.query_norm : layer.key_norm;
            if (weight) rms_norm_row(qkv + head * d, weight, d, s_.eps, qkv + head * d);
            rotate(qkv + head * d, position);
        }
        const int32_t* table = a_.tables + a_.table_starts[sequence_of(row)];
        const int block = table[position / s_.cache.block_size], slot = position % s_.cache.block_size;
        const float* keys = qkv + s_.num_heads * d;
        for (int head = 0; head < s_.kv_heads; head++)
            store_token(s_.cache, head_block(s_.cache, s_.cache_data, block, index, head), slot, keys + head * d,
                        keys + (s_.kv_heads + head) * d);
    }

    void attend_task(const Task& task, const LayerWeights& layer, int index, AttentionRoom& room) {
        const int d = s_.head_dim, start = a_.query_starts[task.sequence] + task.first;
        const int stride = stride_of(s_.num_heads * d);
        for (int r = 0; r < task.rows * group_; r++) {
            const float* query = qkv_.data() + int64_t(start + r / group_) * qkv_width_ + (task.head * group_ + r % group_) * d;
            for (int i = 0; i < d; i++) room.query[int64_t(r) * d + i] = query[i] * s_.scale;
        }
        attend({s_.cache, s_.cache_data, index, task.head, a_.tables + a_.table_starts[task.sequence],
                a_.positions[start], task.rows * group_, group_, layer.window},
               room);
        for (int r = 0; r < task.rows * group_; r++)
            std::memcpy(normed_.data() + int64_t(start + r / group_) * stride + (task.head * group_ + r % group_) * d,
                        room.output.data() + int64_t(r) * s_.cache.value_columns(), sizeof(float) * d);
    }

    bool logits_part(Walk& walk) {
        const int n = a_.num_logits;
        if (n == 0) return true;
        if (!by_rows(walk, n, [&](int i) {
                float* out = normed_.data() + int64_t(i) * hidden_stride();
                rms_norm_row(hidden_.data() + int64_t(a_.logit_rows[i]) * hidden_stride(), s_.final_norm, s_.hidden, s_.eps, out);
                if (a_.hidden) std::memcpy(a_.hidden + int64_t(i) * s_.hidden, out, sizeof(float) * s_.hidden);
                prepare(out, i, s_.head);
            }))
            return false;
        const int chunks = chunks_of(s_.head, n);
        if (!product(walk, s_.head, rows_of(normed_.data(), hidden_stride()), n, [&](int chunk, int row, int panel, F16 v) {
                store(a_.logits + int64_t(row) * s_.vocab, s_.head, panel, v);
                note_best(best_[size_t(row) * chunks + chunk], panel, v);
            }))
            return false;
        return by_rows(walk, n, [&](int row) {
            Best best{-INFINITY, -1};
            for (int c = 0; c < chunks; c++) {
                const Best& other = best_[size_t(row) * chunks + c];
                if (other.value > best.value || std::isnan(other.value)) best = other;
            }
            a_.best[row] = best.index;
        });
    }

    // Once a NaN was seen it is the best, for nothing is larger.
    void note_best(Best& best, int panel, F16 value) const {
        const int count = std::min(LANES, s_.vocab - panel * LANES);
        if (count == LANES && !any_above(value, best.value)) return;
        alignas(64) float lanes[LANES];
        value.store(lanes);
        for (int i = 0; i < count; i++) {
            if (lanes[i] > best.value) best = {lanes[i], panel * LANES + i};
            if (std::isnan(lanes[i])) best = {NAN, -1};
        }
    }

    const DecoderSpec s_;
    const std::vector<LayerWeights> layers_;
    const int group_;
    const int query_block_;  // positions of one attention task
    int qkv_width_ = 0;
    int64_t unit_stride_ = 0;
    std::vector<float> scales_;
    Lines<float> hidden_, normed_, qkv_, inner_;
    Lines<int32_t> units_;
    std::vector<AttentionRoom> rooms_;
    std::vector<Task> tasks_;
    std::vector<Best> best_;
    StepArrays a_{};
    Arrival arrival_;
    uint32_t runs_ = 0;
    std::atomic<uint32_t> waiting_runs_{0};  // the last run in which some of the weights are waited for
    std::atomic<bool> is_cut_off_{false};    // and for ever
    std::unique_ptr<Team> team_;  // last: its threads end before what they read
};

}  // namespace fs
