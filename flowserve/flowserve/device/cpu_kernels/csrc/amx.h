// Products on AMX: tiles of sixteen rows of activations times sixteen outputs, in one instruction.
//
// Panels need no other packing for it: sixteen units of an int8 panel, or sixteen pairs of a bfloat16 one, are a tile.
// Whole numbers give the sums that the vector instructions give, so a row may come one way alone and the other among
// others. With bfloat16 weights float activations are multiplied in three pieces of 8 bits each, which are the 24 bits
// of their fraction; sums run in another order than with vectors, so all rows of such a matrix come this way.
#pragma once

#include "matrix.h"

#if defined(FS_AMX)

#if !defined(FS_EMULATED)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fs {
namespace amx {

// Linux gives the tiles' registers to a process that asks for them.
inline bool permitted() {
#if defined(FS_EMULATED)
    return true;
#else
    constexpr int request_permission = 0x1023, tile_data = 18;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#endif
}
inline const bool ENABLED = permitted();  // when the library is loaded, for all threads and forks of the process

constexpr int ROWS = 16;        // of a tile
constexpr int LEAST_ROWS = 4;   // of an int8 product: below, vectors are as fast
constexpr int TILE_BYTES = 64;  // of a tile's row

// The intrinsics do not tell the compiler what memory they read: all that was stored before must be there.
inline void fence() { asm volatile("" ::: "memory"); }

// Tiles 0-3 hold sums, 4-6 activations and 6-7 weights (see the products). `inputs` are the bytes of activations in a row.
class Tiles {
  public:
    explicit Tiles(int inputs = TILE_BYTES, int weights_from = 6) {
        struct alignas(64) {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int t = 0; t < 8; t++) {
            const bool activations = t >= 4 && t < weights_from, weights = t >= weights_from;
            config.row_bytes[t] = uint16_t(activations ? inputs : TILE_BYTES);
            config.rows[t] = uint8_t(weights ? inputs / 4 : ROWS);
        }
        fence();
        _tile_loadconfig(&config);
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

struct alignas(64) Sums32 {
    int32_t v[ROWS][LANES];
};

// sums[a][b] = sixteen rows from 16 a on times the weights w(step, b), over `steps` tiles of `inputs` activations.
template <int A, int B, class W>
[[gnu::always_inline]] inline void whole_products(const uint8_t* x, int64_t stride, int inputs, int steps, W w, Sums32 (&sums)[2][2]) {
    fence();
    _tile_zero(0);
    if constexpr (B > 1) _tile_zero(1);
    if constexpr (A > 1) _tile_zero(2);
    if constexpr (A > 1 && B > 1) _tile_zero(3);
    for (int s = 0; s < steps; s++, x += inputs) {
        _tile_loadd(4, x, stride);
        _tile_loadd(6, w(s, 0), TILE_BYTES);
        _tile_dpbusd(0, 4, 6);
        if constexpr (B > 1) {
            _tile_loadd(7, w(s, 1), TILE_BYTES);
            _tile_dpbusd(1, 4, 7);
        }
        if constexpr (A > 1) {
            _tile_loadd(5, x + ROWS * stride, stride);
            _tile_dpbusd(2, 5, 6);
            if constexpr (B > 1) _tile_dpbusd(3, 5, 7);
        }
    }
    _tile_stored(0, sums[0][0].v, TILE_BYTES);
    if constexpr (B > 1) _tile_stored(1, sums[0][1].v, TILE_BYTES);
    if constexpr (A > 1) _tile_stored(2, sums[1][0].v, TILE_BYTES);
    if constexpr (A > 1 && B > 1) _tile_stored(3, sums[1][1].v, TILE_BYTES);
}

// f(A, B) with the numbers of tiles as compile-time constants.
template <class F>
inline void with_tiles(int rows, int panels, F f) {
    constexpr std::integral_constant<int, 1> one;
    constexpr std::integral_constant<int, 2> two;
    if (rows > ROWS)
        panels > 1 ? f(two, two) : f(two, one);
    else
        panels > 1 ? f(one, two) : f(one, one);
}

// Rows [first, num_rows) in pairs of tiles, panels [begin, end) in pairs: take(row, panel, sum) gets each sum.
template <class W, class Take>
inline void whole_product(const uint8_t* x, int64_t stride, int num_rows, int begin, int end, int inputs, int steps, W w, Take take) {
    Sums32 sums[2][2];
    for (int first = 0; first < num_rows; first += 2 * ROWS)
        for (int panel = begin; panel < end; panel += 2) {
            const int rows = std::min(2 * ROWS, num_rows - first), panels = std::min(2, end - panel);
            with_tiles(rows, panels, [&](auto a, auto b) {
                whole_products<a.value, b.value>(x + first * stride, stride, inputs, steps,
                                                 [&](int step, int second) { return w(step, panel + second); }, sums);
            });
            for (int b = 0; b < panels; b++)
                for (int r = 0; r < rows; r++) take(first + r, panel + b, I16::load(sums[r / ROWS][b].v[r % ROWS]));
        }
}

template <class Take>
inline void multiply_int8(const Matrix& m, const Rows& x, int num_rows, int begin, int end, Take take) {
    const Tiles tiles;
    const uint8_t* const data = m.data;
    const int64_t bytes = panel_bytes(INT8, m.k);
    whole_product((const uint8_t*)x.units, x.unit_stride * 4, num_rows, begin, end, TILE_BYTES, padded_inputs(INT8, m.k) / TILE_BYTES,
                  [=](int step, int panel) { return data + panel * bytes + step * (LANES * TILE_BYTES); },
                  [&](int row, int panel, I16 sum) {
                      take(row, panel, Int8Tail(m, data + panel * bytes).value(sum, x.scales[row], bias_of(m, panel)));
                  });
}

constexpr int PIECES = 3;

// A float row as three rows of bfloat16 whose sum it is, each of padded_inputs(BFLOAT16, k).
inline void split_row(const float* x, int k, uint16_t* out) {
    const int padded = padded_inputs(BFLOAT16, k);
    for (int i = 0; i < padded; i += LANES) {
        alignas(64) float rest[LANES] = {};
        if (i < k) std::memcpy(rest, x + i, sizeof(float) * std::min(LANES, k - i));
        F16 left = F16::load(rest);
        for (int piece = 0; piece < PIECES; piece++) {
            const F16 part = left.store_bf16(out + piece * padded + i);
            left = left - part;
        }
    }
}

template <class Take>
inline void multiply_bfloat16(const Matrix& m, const Rows& x, int num_rows, int begin, int end, Take take) {
    const Tiles tiles(TILE_BYTES, 7);
    const int inputs = padded_inputs(BFLOAT16, m.k), steps = inputs * 2 / TILE_BYTES;
    const int64_t stride = x.unit_stride * 4, step_bytes = LANES * TILE_BYTES;
    alignas(64) float sums[4][ROWS][LANES];
    for (int first = 0; first < num_rows; first += ROWS) {
        const uint8_t* pieces = (const uint8_t*)(x.units + first * x.unit_stride);
        for (int panel = begin; panel < end; panel += 4) {
            const int rows = std::min(ROWS, num_rows - first), panels = std::min(4, end - panel);
            const uint8_t* w[4];
            for (int b = 0; b < 4; b++) w[b] = m.panel(panel + std::min(b, panels - 1));
            fence();
            _tile_zero(0);
            _tile_zero(1);
            _tile_zero(2);
            _tile_zero(3);
            for (int s = 0; s < steps; s++) {
                const uint8_t* a = pieces + s * TILE_BYTES;
                _tile_loadd(4, a, stride);
                _tile_loadd(5, a + inputs * 2, stride);
                _tile_loadd(6, a + inputs * 4, stride);
#define FS_PANEL(b)                                         \
    if (b < panels) {                                       \
        _tile_loadd(7, w[b] + s * step_bytes, TILE_BYTES);  \
        _tile_dpbf16ps(b, 4, 7);                            \
        _tile_dpbf16ps(b, 5, 7);                            \
        _tile_dpbf16ps(b, 6, 7);                            \
    }
                FS_PANEL(0)
                FS_PANEL(1)
                FS_PANEL(2)
                FS_PANEL(3)
#undef FS_PANEL
            }
            _tile_stored(0, sums[0], TILE_BYTES);
            _tile_stored(1, sums[1], TILE_BYTES);
            _tile_stored(2, sums[2], TILE_BYTES);
            _tile_stored(3, sums[3], TILE_BYTES);
            for (int b = 0; b < panels; b++)
                for (int r = 0; r < rows; r++)
                    take(first + r, panel + b, F16::load(sums[b][r]) + bias_of(m, panel + b));
        }
    }
}

}  // namespace amx
}  // namespace fs

#endif
