// Packed matrices: a weight [n outputs, k inputs] as panels of sixteen outputs, and the tiles that multiply them.
//
// Panel of each kind, k' = padded_inputs:
//   float32   k x 16 floats
//   float16   k x 16 halves of floats, IEEE's
//   bfloat16  k'/2 pairs x 16 outputs x 2 halves of floats
//   int8      k'/UNIT units x 16 outputs x UNIT values, then 16 float scales (one per output); where activations carry
//             an offset also 16 whole numbers, what it adds to the sum of each output
//   int4      k'/32 groups of 16 x 32 values of 4 bits (see Weights4), then for each group 16 half-precision scales;
//             apart, so that no load of values crosses a line of the cache
#pragma once

#include <algorithm>
#include <type_traits>

#include "aligned.h"
#include "simd.h"

namespace fs {

enum Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3, FLOAT16 = 4 };

constexpr int GROUP = 32;
constexpr int GROUP_BYTES = LANES * GROUP / 2;  // its values
constexpr int SCALES_BYTES = LANES * 2;          // of a group

// Rows of activations that one tile holds in registers.
#if defined(FS_AVX512)
constexpr int TILE_ROWS = 12;
constexpr int TILE_ROWS_INT4 = 8;
#else
constexpr int TILE_ROWS = 6;
constexpr int TILE_ROWS_INT4 = 3;
#endif
constexpr int MOST_TILE_ROWS = 32;  // memory of prepared rows ends at a multiple: tiles read beyond the last row

inline int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
inline bool is_integer(int kind) { return kind == INT8 || kind == INT4; }

// The inputs of a panel with those behind the last, which are zero: a multiple of what one instruction takes.
inline int padded_inputs(int kind, int k) {
    return kind == FLOAT32 || kind == FLOAT16 ? k : round_up(k, kind == INT8 ? 64 : GROUP);
}

constexpr int INT8_TAIL_BYTES = LANES * 4 * (ACTIVATION_OFFSET != 0 ? 2 : 1);

inline int64_t panel_bytes(int kind, int k) {
    const int64_t padded = padded_inputs(kind, k);
    switch (kind) {
        case FLOAT32: return padded * LANES * 4;
        case FLOAT16:
        case BFLOAT16: return padded * LANES * 2;
        case INT8: return padded * LANES + INT8_TAIL_BYTES;
        default: return padded / GROUP * GROUP_BYTES + (padded / GROUP * SCALES_BYTES + 63) / 64 * 64;
    }
}

struct Matrix {
    int32_t kind, n, k;
    const uint8_t* data;
    const float* bias;  // n floats, or null

    int panels() const { return (n + LANES - 1) / LANES; }
    const uint8_t* panel(int index) const { return data + panel_bytes(kind, k) * index; }
};

// Rows of activations as a kind of matrix wants them: floats, quantised with one scale per row, or in pieces (amx.h).
// For 4-bit weights, eight times the sum of each group follows the units.
struct Rows {
    const float* floats;
    int64_t stride;  // floats from row to row
    const int32_t* units;
    int64_t unit_stride;
    const float* scales;
};

inline F16 bias_of(const Matrix& m, int panel) {
    if (!m.bias) return F16::zero();
    alignas(64) float bias[LANES] = {};
    std::memcpy(bias, m.bias + panel * LANES, sizeof(float) * std::min(LANES, m.n - panel * LANES));
    return F16::load(bias);
}

// What makes values of the sums of an int8 panel.
struct Int8Tail {
    F16 scale;
    I16 offset = I16::zero();

    Int8Tail(const Matrix& m, const uint8_t* panel) {
        const uint8_t* tail = panel + int64_t(padded_inputs(INT8, m.k)) * LANES;
        scale = F16::load((const float*)tail);
        if constexpr (ACTIVATION_OFFSET != 0) offset = I16::load((const int32_t*)tail + LANES);
    }
    F16 value(I16 sum, float row_scale, F16 bias) const {
        return fma((sum - offset).to_float(), scale * F16::all(row_scale), bias);
    }
};

// --- tiles: R rows times one panel ------------------------------------------------------------------------------------

// The sums of a tile, one member per row. A chain of members and not an array: GCC gives each member a register of its
// own, but keeps an array that is indexed in a loop in memory.
template <class V, int R>
struct Sums {
    V first = V::zero();
    Sums<V, R - 1> rest;

    // f(sum, row) for each row.
    template <class F>
    [[gnu::always_inline]] void each(F f, int row = 0) {
        f(first, row);
        rest.each(f, row + 1);
    }
};
template <class V>
struct Sums<V, 0> {
    template <class F>
    [[gnu::always_inline]] void each(F, int) {}
};

template <int R, class Load>
[[gnu::always_inline]] inline void tile_float(Load load, int k, const float* x, int64_t stride, F16 (&out)[R]) {
    Sums<F16, R> sums;
    for (int i = 0; i < k; i++) {
        const F16 w = load(i);
        sums.each([&](F16& sum, int r) __attribute__((always_inline)) { sum = fma(F16::all(x[r * stride + i]), w, sum), pin(sum); });
    }
    sums.each([&](F16& sum, int r) __attribute__((always_inline)) { out[r] = sum; });
}

#if defined(FS_AVX512)
constexpr bool FLOAT_PAIRS = true;
#else
constexpr bool FLOAT_PAIRS = false;  // too few registers
#endif

// R rows times two panels of floats: a broadcast input meets both, so that fewer loads stand beside each product.
template <int R>
[[gnu::always_inline]] inline void tile_float_pair(const float* first, const float* second, int k, const float* x, int64_t stride,
                                                  F16 (&out)[2][R]) {
    struct Pair {
        F16 first, second;
        static Pair zero() { return {F16::zero(), F16::zero()}; }
    };
    Sums<Pair, R> sums;
    for (int i = 0; i < k; i++) {
        const F16 v = F16::load(first + int64_t(i) * LANES), w = F16::load(second + int64_t(i) * LANES);
        sums.each([&](Pair& sum, int r) __attribute__((always_inline)) {
            const F16 input = F16::all(x[r * stride + i]);
            sum.first = fma(input, v, sum.first), sum.second = fma(input, w, sum.second);
            pin(sum.first), pin(sum.second);
        });
    }
    sums.each([&](Pair& sum, int r) __attribute__((always_inline)) { out[0][r] = sum.first, out[1][r] = sum.second; });
}

// Pairs of inputs at a time; k' is even and k may be odd, so the last input may stand alone.
template <int R>
[[gnu::always_inline]] inline void tile_bf16(const uint16_t* panel, int k, const float* x, int64_t stride, F16 (&out)[R]) {
    Sums<F16, R> sums;
    for (int i = 0; i + 1 < k; i += 2) {
        const WeightsBf16 w = WeightsBf16::load(panel + int64_t(i) * LANES);
        sums.each([&](F16& sum, int r) __attribute__((always_inline)) {
            sum = fma(F16::all(x[r * stride + i]), w.first, sum);
            sum = fma(F16::all(x[r * stride + i + 1]), w.second, sum);
            pin(sum);
        });
    }
    if (k % 2 != 0) {
        const WeightsBf16 w = WeightsBf16::load(panel + int64_t(k - 1) * LANES);
        sums.each([&](F16& sum, int r) __attribute__((always_inline)) { sum = fma(F16::all(x[r * stride + k - 1]), w.first, sum); });
    }
    sums.each([&](F16& sum, int r) __attribute__((always_inline)) { out[r] = sum; });
}

constexpr int AHEAD_BYTES = 1024;  // of what few rows prefetch: many are busy with what is there

// Sums of products with activations; OFFSET: they carry ACTIVATION_OFFSET, and what it adds is taken off.
template <int R, bool OFFSET>
[[gnu::always_inline]] inline void tile_int8(const int8_t* panel, int units, const int32_t* x, int64_t stride, I16 (&out)[R]) {
    Sums<I16, R> sums;
    I16 excess = I16::zero();
    for (int u = 0; u < units; u++) {
        const int8_t* place = panel + int64_t(u) * LANES * UNIT;
        const Weights8 w = Weights8::load(place);
        if constexpr (R <= 2) prefetch(place + AHEAD_BYTES);
        sums.each([&](I16& sum, int r) __attribute__((always_inline)) { sum = dot(sum, w, x[r * stride + u]), pin(sum); });
        if constexpr (OFFSET && ACTIVATION_OFFSET != 0) excess = dot(excess, w, int32_t(0x80808080));
    }
    sums.each([&](I16& sum, int r) __attribute__((always_inline)) { out[r] = sum - excess; });
}

// What ACTIVATION_OFFSET adds to the sums of a panel of whole numbers.
inline I16 offset_of(const int8_t* panel, int units) {
    I16 offset = I16::zero();
    for (int u = 0; u < units; u++) offset = dot(offset, Weights8::load(panel + int64_t(u) * LANES * UNIT), int32_t(0x80808080));
    return offset;
}

// corrections: of the first row's groups; they lie `stride` words from row to row, as the units do.
template <int R>
[[gnu::always_inline]] inline void tile_int4(const uint8_t* panel, int groups, const int32_t* x, const int32_t* corrections, int64_t stride,
                                            F16 (&out)[R]) {
    constexpr int UNITS = GROUP / UNIT;
    Sums<F16, R> totals;
    const uint16_t* scales = (const uint16_t*)(panel + int64_t(groups) * GROUP_BYTES);
    for (int g = 0; g < groups; g++, panel += GROUP_BYTES, x += UNITS) {
        Sums<I16, R> sums;
        for (int u = 0; u < UNITS; u += 2) {
            const uint8_t* place = panel + u / 2 * LANES * UNIT;
            const Weights4 w = Weights4::load(place);
            if constexpr (R <= 2) prefetch(place + AHEAD_BYTES);
            sums.each([&](I16& sum, int r) __attribute__((always_inline)) {
                sum = dot4(sum, w.first, x[r * stride + u]);
                sum = dot4(sum, w.second, x[r * stride + u + 1]);
                pin(sum);
            });
        }
        const F16 scale = load_half(scales + g * LANES);
        I16 whole[R];
        sums.each([&](I16& sum, int r) __attribute__((always_inline)) { whole[r] = sum - I16::all(corrections[r * stride + g]); });
        totals.each([&](F16& total, int r) __attribute__((always_inline)) { total = fma(whole[r].to_float(), scale, total); });
    }
    totals.each([&](F16& total, int r) __attribute__((always_inline)) { out[r] = total; });
}

// Words of 4 bytes that the units of a quantised row of k take.
inline int64_t unit_words(int k) { return padded_inputs(INT8, k) / UNIT; }

// R rows from `row` on times one panel, scaled, plus the bias: the values of sixteen outputs each.
template <int R>
inline void tile(const Matrix& m, const uint8_t* panel, const Rows& x, int64_t row, F16 bias, F16 (&out)[R]) {
    if (m.kind == FLOAT32) {
        const float* w = (const float*)panel;
        tile_float<R>([w](int i) { return F16::load(w + i * LANES); }, m.k, x.floats + row * x.stride, x.stride, out);
    } else if (m.kind == FLOAT16) {
        const uint16_t* w = (const uint16_t*)panel;
        tile_float<R>([w](int i) { return load_half(w + i * LANES); }, m.k, x.floats + row * x.stride, x.stride, out);
    } else if (m.kind == BFLOAT16) {
        tile_bf16<R>((const uint16_t*)panel, m.k, x.floats + row * x.stride, x.stride, out);
    } else if (m.kind == INT8) {
        const int units = padded_inputs(INT8, m.k) / UNIT;
        I16 sums[R];
        tile_int8<R, false>((const int8_t*)panel, units, x.units + row * x.unit_stride, x.unit_stride, sums);
        const Int8Tail tail(m, panel);
        for (int r = 0; r < R; r++) out[r] = tail.value(sums[r], x.scales[row + r], bias);
        return;
    } else if constexpr (R <= TILE_ROWS_INT4) {
        const int32_t* units = x.units + row * x.unit_stride;
        const int groups = round_up(m.k, GROUP) / GROUP;
        tile_int4<R>(panel, groups, units, units + unit_words(m.k), x.unit_stride, out);
        for (int r = 0; r < R; r++) out[r] = out[r] * F16::all(x.scales[row + r]);
    } else {
        for (int r = 0; r < R; r++) out[r] = F16::zero();  // not reached: 4-bit tiles are lower
    }
    for (int r = 0; r < R; r++) out[r] = out[r] + bias;
}

// Calls f with the number of rows as a compile-time constant.
template <int MAX, class F>
inline void with_rows(int rows, F f) {
    if (rows == MAX) return f(std::integral_constant<int, MAX>{});
    if constexpr (MAX > 1) with_rows<MAX - 1>(rows, f);
}

// f(R, row) for tiles of at most `most` rows, about equally high, since a low one costs nearly as much.
template <class F>
inline void by_tiles(int first, int num_rows, int most, F f) {
    const int tiles = (num_rows + most - 1) / most;
    for (int t = 0, row = first; t < tiles; t++) {
        const int rows = (first + num_rows - row + tiles - t - 1) / (tiles - t);
        with_rows<TILE_ROWS>(rows, [&](auto constant) { f(constant, row); });
        row += rows;
    }
}

// Rows [first, first + num_rows) of x times one panel; `take(row, panel, value)` gets sixteen outputs each.
template <class Take>
inline void multiply_panel(const Matrix& m, const Rows& x, int first, int num_rows, int panel, Take take) {
    const F16 bias = bias_of(m, panel);
    by_tiles(first, num_rows, m.kind == INT4 ? TILE_ROWS_INT4 : TILE_ROWS, [&](auto constant, int row) {
        constexpr int R = decltype(constant)::value;
        F16 out[R];
        tile<R>(m, m.panel(panel), x, row, bias, out);
        for (int r = 0; r < R; r++) take(row + r, panel, out[r]);
    });
}

template <class Take>
inline void multiply_float_pair(const Matrix& m, const Rows& x, int first, int num_rows, int panel, Take take) {
    by_tiles(first, num_rows, TILE_ROWS, [&](auto constant, int row) {
        constexpr int R = decltype(constant)::value;
        F16 out[2][R];
        tile_float_pair<R>((const float*)m.panel(panel), (const float*)m.panel(panel + 1), m.k, x.floats + row * x.stride, x.stride, out);
        for (int p = 0; p < 2; p++) {
            const F16 bias = bias_of(m, panel + p);
            for (int r = 0; r < R; r++) take(row + r, panel + p, out[p][r] + bias);
        }
    });
}

// All rows of x times panels [begin, end). Blocks of rows that stay in the second-level cache meet all panels in turn.
// Of a row and an even panel, `take` gets the value before that of the next panel, and none of rows that are MOST_ROWS
// away in between.
constexpr int MOST_ROWS = 96;

template <class Take>
inline void multiply_by_vectors(const Matrix& m, const Rows& x, int num_rows, int begin, int end, Take take) {
    const int row_bytes = is_integer(m.kind) ? round_up(m.k, GROUP) * int(sizeof(Activation)) : m.k * 4;
    const int block = std::clamp((256 << 10) / row_bytes / TILE_ROWS * TILE_ROWS, 4 * TILE_ROWS, MOST_ROWS);
    for (int first = 0; first < num_rows; first += block)
        for (int panel = begin; panel < end;) {
            const int rows = std::min(block, num_rows - first);
            if (FLOAT_PAIRS && m.kind == FLOAT32 && panel + 1 < end) {
                multiply_float_pair(m, x, first, rows, panel, take);
                panel += 2;
            } else {
                multiply_panel(m, x, first, rows, panel++, take);
            }
        }
}

// --- activations ------------------------------------------------------------------------------------------------------

// k floats as whole numbers of -127 .. 127 and their scale, in padded_inputs(INT8, k) activations (zero beyond k). OFFSET false:
// signed, for 4-bit weights.
template <bool OFFSET = true>
inline float quantize_row(const float* x, int k, Activation* out) {
    F16 largest = F16::zero(), poison = F16::zero();
    int i = 0;
    for (; i + LANES <= k; i += LANES) {
        const F16 v = F16::load(x + i);
        largest = max(largest, abs(v));
        poison = fma(v, F16::zero(), poison);
    }
    float amax = max_of(largest), poisoned = sum(poison);
    for (; i < k; i++) amax = std::max(amax, std::fabs(x[i])), poisoned += x[i] * 0.0f;
    if (std::isnan(poisoned)) amax = NAN;  // not hidden in whole numbers: the row's products are none either
    const float inverse = amax > 0 ? 127.0f / amax : 0.0f;
    const int padded = padded_inputs(INT8, k);
    for (i = 0; i < padded; i += LANES) {
        F16 value;
        if (i + LANES <= k) {
            value = F16::load(x + i);
        } else {
            alignas(64) float rest[LANES] = {};
            if (i < k) std::memcpy(rest, x + i, sizeof(float) * (k - i));
            value = F16::load(rest);
        }
        if constexpr (OFFSET)
            store_activations(out + i, value * F16::all(inverse));
        else
            store_signed_activations(out + i, value * F16::all(inverse));
    }
    return amax / 127.0f;
}

// Eight times the sum of each group of a row quantised without offset.
inline void group_corrections(const Activation* x, int k, int32_t* out) {
    using Signed = std::make_signed_t<Activation>;
    for (int g = 0; g < round_up(k, GROUP) / GROUP; g++) {
        int32_t sum = 0;
        for (int i = 0; i < GROUP; i++) sum += Signed(x[g * GROUP + i]);
        out[g] = 8 * sum;
    }
}

// out = x / rms(x) * weight over k floats; out may be x.
inline void rms_norm_row(const float* x, const float* weight, int k, float eps, float* out) {
    F16 squares = F16::zero();
    int i = 0;
    for (; i + LANES <= k; i += LANES) {
        F16 v = F16::load(x + i);
        squares = fma(v, v, squares);
    }
    float total = sum(squares);
    for (; i < k; i++) total += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(total / float(k) + eps);
    for (i = 0; i + LANES <= k; i += LANES)
        (F16::load(x + i) * F16::all(scale) * F16::load(weight + i)).store(out + i);
    for (; i < k; i++) out[i] = x[i] * scale * weight[i];
}

inline F16 silu(F16 x) { return x / (F16::all(1.0f) + exp(F16::zero() - x)); }

}  // namespace fs
