// The AVX-512 instructions that csrc/simd.h uses, in plain C++, after Intel's descriptions of them: so the code for
// those processors is run by the tests of every machine. Slow, and for nothing else.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

struct __m512 { float v[16]; };
struct __m512i { int32_t v[16]; };
struct __m256i { uint8_t b[32]; };
struct __m128i { uint8_t b[16]; };

#define _MM_FROUND_TO_NEAREST_INT 0
#define _MM_FROUND_NO_EXC 8
#define _CMP_NLE_UQ 6
#define EACH for (int i = 0; i < 16; i++)

template <class T>
T loaded(const void* p) { T r; std::memcpy(&r, p, sizeof r); return r; }

inline __m512 _mm512_set1_ps(float x) { __m512 r; EACH r.v[i] = x; return r; }
inline __m512 _mm512_setzero_ps() { return _mm512_set1_ps(0); }
inline __m512 _mm512_loadu_ps(const float* p) { return loaded<__m512>(p); }
inline void _mm512_storeu_ps(float* p, __m512 a) { std::memcpy(p, &a, sizeof a); }
inline __m512 _mm512_add_ps(__m512 a, __m512 b) { EACH a.v[i] += b.v[i]; return a; }
inline __m512 _mm512_sub_ps(__m512 a, __m512 b) { EACH a.v[i] -= b.v[i]; return a; }
inline __m512 _mm512_mul_ps(__m512 a, __m512 b) { EACH a.v[i] *= b.v[i]; return a; }
inline __m512 _mm512_div_ps(__m512 a, __m512 b) { EACH a.v[i] /= b.v[i]; return a; }
inline __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) { EACH c.v[i] = std::fma(a.v[i], b.v[i], c.v[i]); return c; }
inline __m512 _mm512_max_ps(__m512 a, __m512 b) { EACH a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline __m512 _mm512_min_ps(__m512 a, __m512 b) { EACH a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline __m512 _mm512_abs_ps(__m512 a) { EACH a.v[i] = std::fabs(a.v[i]); return a; }
inline __m512 _mm512_roundscale_ps(__m512 a, int) { EACH a.v[i] = std::nearbyint(a.v[i]); return a; }
inline float _mm512_reduce_add_ps(__m512 a) { float s = 0; EACH s += a.v[i]; return s; }
inline float _mm512_reduce_max_ps(__m512 a) { float m = a.v[0]; EACH m = a.v[i] > m ? a.v[i] : m; return m; }
// Of the comparisons the one that is asked for: not less or equal, or not to be ordered.
inline uint16_t _mm512_cmp_ps_mask(__m512 a, __m512 b, int) { uint16_t m = 0; EACH m |= uint16_t(!(a.v[i] <= b.v[i]) << i); return m; }

inline __m512i _mm512_setzero_si512() { return __m512i{}; }
inline __m512i _mm512_loadu_si512(const void* p) { return loaded<__m512i>(p); }
inline __m256i _mm256_loadu_si256(const __m256i* p) { return loaded<__m256i>(p); }
inline void _mm256_storeu_si256(__m256i* p, __m256i a) { std::memcpy(p, &a, sizeof a); }
inline void _mm_storeu_si128(__m128i* p, __m128i a) { std::memcpy(p, &a, sizeof a); }
inline __m512i _mm512_set1_epi32(int32_t x) { __m512i r; EACH r.v[i] = x; return r; }
inline __m512i _mm512_set1_epi16(int16_t x) { return _mm512_set1_epi32(int32_t(uint32_t(uint16_t(x)) * 0x10001u)); }
inline __m512i _mm512_set1_epi8(int8_t x) { return _mm512_set1_epi32(int32_t(uint32_t(uint8_t(x)) * 0x1010101u)); }
inline __m512i _mm512_add_epi32(__m512i a, __m512i b) { EACH a.v[i] += b.v[i]; return a; }
inline __m512i _mm512_sub_epi32(__m512i a, __m512i b) { EACH a.v[i] -= b.v[i]; return a; }
inline __m512i _mm512_slli_epi32(__m512i a, int n) { EACH a.v[i] = int32_t(uint32_t(a.v[i]) << n); return a; }
inline __m512i _mm512_and_si512(__m512i a, __m512i b) { EACH a.v[i] &= b.v[i]; return a; }
inline __m512 _mm512_castsi512_ps(__m512i a) { return loaded<__m512>(&a); }
inline __m512 _mm512_cvtepi32_ps(__m512i a) { __m512 r; EACH r.v[i] = float(a.v[i]); return r; }
inline __m512i _mm512_cvtps_epi32(__m512 a) { __m512i r; EACH r.v[i] = int32_t(std::nearbyint(a.v[i])); return r; }

template <class T, int N, class V, class F>
V by_elements(V a, V b, F f) {
    T x[N], y[N];
    std::memcpy(x, &a, sizeof a), std::memcpy(y, &b, sizeof b);
    for (int i = 0; i < N; i++) x[i] = f(x[i], y[i]);
    return loaded<V>(x);
}
inline __m512i _mm512_sub_epi16(__m512i a, __m512i b) {
    return by_elements<int16_t, 32>(a, b, [](int16_t x, int16_t y) { return int16_t(x - y); });
}
inline __m512i _mm512_sub_epi8(__m512i a, __m512i b) {
    return by_elements<int8_t, 64>(a, b, [](int8_t x, int8_t y) { return int8_t(x - y); });
}
inline __m512i _mm512_srli_epi16(__m512i a, int n) {
    return by_elements<uint16_t, 32>(a, a, [n](uint16_t x, uint16_t) { return uint16_t(x >> n); });
}
inline __m512i _mm512_srli_epi32(__m512i a, int n) { EACH a.v[i] = int32_t(uint32_t(a.v[i]) >> n); return a; }
inline __m512i _mm512_castps_si512(__m512 a) { return loaded<__m512i>(&a); }
inline __m256i _mm512_cvtepi32_epi16(__m512i a) {
    int16_t r[16];
    EACH r[i] = int16_t(a.v[i]);
    return loaded<__m256i>(r);
}
inline __m128i _mm512_cvtepi32_epi8(__m512i a) {
    int8_t r[16];
    EACH r[i] = int8_t(a.v[i]);
    return loaded<__m128i>(r);
}
inline __m512i _mm512_cvtepi8_epi16(__m256i a) {
    int16_t r[32];
    for (int i = 0; i < 32; i++) r[i] = int8_t(a.b[i]);
    return loaded<__m512i>(r);
}
inline __m512i _mm512_cvtepu8_epi16(__m256i a) {
    int16_t r[32];
    for (int i = 0; i < 32; i++) r[i] = a.b[i];
    return loaded<__m512i>(r);
}
inline __m256i _mm512_cvtsepi32_epi16(__m512i a) {
    int16_t r[16];
    EACH r[i] = int16_t(a.v[i] > 32767 ? 32767 : a.v[i] < -32768 ? -32768 : a.v[i]);
    return loaded<__m256i>(r);
}
inline __m128i _mm512_cvtsepi32_epi8(__m512i a) {
    int8_t r[16];
    EACH r[i] = int8_t(a.v[i] > 127 ? 127 : a.v[i] < -128 ? -128 : a.v[i]);
    return loaded<__m128i>(r);
}
inline __m512i _mm512_madd_epi16(__m512i a, __m512i b) {
    int16_t x[32], y[32];
    std::memcpy(x, &a, sizeof x), std::memcpy(y, &b, sizeof y);
    EACH a.v[i] = x[2 * i] * y[2 * i] + x[2 * i + 1] * y[2 * i + 1];
    return a;
}
// Unsigned bytes of b times signed bytes of c.
inline __m512i _mm512_dpbusd_epi32(__m512i a, __m512i b, __m512i c) {
    uint8_t x[64];
    int8_t y[64];
    std::memcpy(x, &b, sizeof x), std::memcpy(y, &c, sizeof y);
    for (int i = 0; i < 64; i++) a.v[i / 4] += int32_t(x[i]) * y[i];
    return a;
}

inline __m512 _mm512_cvtph_ps(__m256i a) {
    uint16_t h[16];
    std::memcpy(h, &a, sizeof h);
    __m512 r;
    EACH {
        int exponent = (h[i] >> 10) & 31, fraction = h[i] & 1023;
        float magnitude =
            exponent ? std::ldexp(float(1024 + fraction), exponent - 25) : std::ldexp(float(fraction), -24);
        r.v[i] = h[i] & 0x8000 ? -magnitude : magnitude;
    }
    return r;
}
// Within half precision's range: the nearest of all halves, the even one of two.
inline __m256i _mm512_cvtps_ph(__m512 a, int) {
    uint16_t r[16];
    EACH {
        float magnitude = std::fabs(a.v[i]);
        int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), -14) : -14;
        int steps = int(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));  // 1024 .. 2048, less if subnormal
        r[i] = uint16_t(((exponent + 14) << 10) + steps) | (std::signbit(a.v[i]) ? 0x8000 : 0);
    }
    return loaded<__m256i>(r);
}
#undef EACH

// --- AMX: eight tiles for each thread ---------------------------------------------------------------------------------

struct EmulatedTile {
    int rows, row_bytes;
    uint8_t bytes[16][64];
};
inline EmulatedTile* emulated_tiles() {
    static thread_local EmulatedTile tiles[8];
    return tiles;
}
inline void _tile_loadconfig(const void* config) {
    const uint8_t* c = (const uint8_t*)config;
    for (int t = 0; t < 8; t++) {
        EmulatedTile& tile = emulated_tiles()[t];
        tile = EmulatedTile{};
        tile.rows = c[48 + t], tile.row_bytes = loaded<uint16_t>(c + 16 + 2 * t);
    }
}
inline void _tile_release() {}
inline void _tile_zero(int t) { std::memset(emulated_tiles()[t].bytes, 0, sizeof(EmulatedTile::bytes)); }
inline void _tile_loadd(int t, const void* from, int64_t stride) {
    EmulatedTile& tile = emulated_tiles()[t];
    for (int r = 0; r < tile.rows; r++) std::memcpy(tile.bytes[r], (const uint8_t*)from + r * stride, tile.row_bytes);
}
inline void _tile_stored(int t, void* to, int64_t stride) {
    const EmulatedTile& tile = emulated_tiles()[t];
    for (int r = 0; r < tile.rows; r++) std::memcpy((uint8_t*)to + r * stride, tile.bytes[r], tile.row_bytes);
}
// f(sum, bytes of a, bytes of b) for each sum of 4 bytes and each group of 4 bytes of a's row.
template <class T, class F>
void emulated_products(int sums, int a, int b, F f) {
    EmulatedTile *c = emulated_tiles() + sums, *x = emulated_tiles() + a, *w = emulated_tiles() + b;
    for (int r = 0; r < c->rows; r++)
        for (int group = 0; group < x->row_bytes / 4; group++)
            for (int column = 0; column < c->row_bytes / 4; column++) {
                T sum = loaded<T>(c->bytes[r] + 4 * column);
                f(sum, x->bytes[r] + 4 * group, w->bytes[group] + 4 * column);
                std::memcpy(c->bytes[r] + 4 * column, &sum, 4);
            }
}
inline void _tile_dpbusd(int sums, int a, int b) {
    emulated_products<int32_t>(sums, a, b, [](int32_t& sum, const uint8_t* x, const uint8_t* w) {
        for (int i = 0; i < 4; i++) sum += int32_t(x[i]) * int8_t(w[i]);
    });
}
inline void _tile_dpbf16ps(int sums, int a, int b) {
    emulated_products<float>(sums, a, b, [](float& sum, const uint8_t* x, const uint8_t* w) {
        for (int i = 0; i < 2; i++) {
            const uint32_t left = uint32_t(loaded<uint16_t>(x + 2 * i)) << 16, right = uint32_t(loaded<uint16_t>(w + 2 * i)) << 16;
            sum = std::fma(loaded<float>(&left), loaded<float>(&right), sum);
        }
    });
}

inline void _mm_pause() {}

#define asm(...)  // registers that are structures cannot be pinned
