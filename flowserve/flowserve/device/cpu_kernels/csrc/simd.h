// Sixteen lanes at a time, whatever the processor: one register of AVX-512, two of AVX2, or a plain loop that the
// compiler vectorises as it can. Everything above this file is written once for all three.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define FS_AVX512 1
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define FS_AVX2 1
#include <immintrin.h>
#endif

#if defined(FS_AVX512) && defined(__AVX512VNNI__)
#define FS_VNNI 1
#endif

#if defined(FS_VNNI) && defined(__AMX_INT8__) && defined(__AMX_BF16__)
#define FS_AMX 1
#endif

namespace fs {

constexpr int LANES = 16;

inline float bf16_to_float(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float result;
    std::memcpy(&result, &bits, 4);
    return result;
}

// Round to nearest even; the caller has excluded NaN.
inline uint16_t float_to_bf16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

#if defined(FS_AVX512)

struct F16 {
    __m512 v;
    static F16 zero() { return {_mm512_setzero_ps()}; }
    static F16 all(float x) { return {_mm512_set1_ps(x)}; }
    static F16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    // Rounded to bfloat16; returns what was stored.
    F16 store_bf16(uint16_t* p) const {
        __m512i bits = _mm512_castps_si512(v);
        __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7FFF));
        _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
        return {_mm512_castsi512_ps(_mm512_and_si512(up, _mm512_set1_epi32(int32_t(0xFFFF0000))))};
    }
};
inline F16 operator+(F16 a, F16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F16 operator-(F16 a, F16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F16 operator*(F16 a, F16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F16 operator/(F16 a, F16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F16 fma(F16 a, F16 b, F16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F16 max(F16 a, F16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F16 min(F16 a, F16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F16 abs(F16 a) { return {_mm512_abs_ps(a.v)}; }
inline F16 round(F16 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline float sum(F16 a) { return _mm512_reduce_add_ps(a.v); }
inline float max_of(F16 a) { return _mm512_reduce_max_ps(a.v); }
// Whether one of them is larger, or no number.
inline bool any_above(F16 a, float limit) { return _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(limit), _CMP_NLE_UQ) != 0; }
// 2^n for integral n in [-126, 127].
inline F16 power_of_two(F16 n) {
    __m512i bits = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23);
    return {_mm512_castsi512_ps(bits)};
}
inline void store_int16(int16_t* p, F16 a) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a.v)));
}
inline void store_int8(int8_t* p, F16 a) {
    _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
// Values of -128 .. 127 as bytes that carry an offset of 128; values of 0 .. 255 as they are.
inline void store_offset_int8(uint8_t* p, F16 a) {
    __m512i whole = _mm512_add_epi32(_mm512_cvtps_epi32(a.v), _mm512_set1_epi32(128));
    _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(whole));
}
inline void store_uint8(uint8_t* p, F16 a) {
    _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
inline F16 load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_half(uint16_t* p, F16 a) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

struct I16 {
    __m512i v;
    static I16 zero() { return {_mm512_setzero_si512()}; }
    static I16 all(int32_t x) { return {_mm512_set1_epi32(x)}; }
    static I16 load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
    F16 to_float() const { return {_mm512_cvtepi32_ps(v)}; }
};
inline I16 operator+(I16 a, I16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I16 operator-(I16 a, I16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
inline void pin(I16& x) { asm("" : "+v"(x.v)); }
inline void pin(F16& x) { asm("" : "+v"(x.v)); }

#elif defined(FS_AVX2)

struct F16 {
    __m256 a, b;
    static F16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static F16 all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static F16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    void store(float* p) const { _mm256_storeu_ps(p, a), _mm256_storeu_ps(p + 8, b); }
};
inline F16 operator+(F16 x, F16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F16 operator-(F16 x, F16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F16 operator*(F16 x, F16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F16 operator/(F16 x, F16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F16 fma(F16 x, F16 y, F16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline F16 max(F16 x, F16 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F16 min(F16 x, F16 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F16 abs(F16 x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F16 round(F16 x) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, nearest), _mm256_round_ps(x.b, nearest)};
}
inline float sum(F16 x) {
    __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float max_of(F16 x) {
    __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline bool any_above(F16 x, float limit) {
    const __m256 l = _mm256_set1_ps(limit);
    return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, l, _CMP_NLE_UQ), _mm256_cmp_ps(x.b, l, _CMP_NLE_UQ))) != 0;
}
inline F16 power_of_two(F16 n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.a), bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.b), bias), 23))};
}
inline __m256i pack_int16(F16 x) {
    __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    return _mm256_permute4x64_epi64(mixed, 0xD8);
}
inline void store_int16(int16_t* p, F16 x) { _mm256_storeu_si256((__m256i*)p, pack_int16(x)); }
inline void store_int8(int8_t* p, F16 x) {
    __m256i words = pack_int16(x);
    _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline F16 load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline void store_half(uint16_t* p, F16 x) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

struct I16 {
    __m256i a, b;
    static I16 zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static I16 all(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
    static I16 load(const int32_t* p) {
        return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 8))};
    }
    F16 to_float() const { return {_mm256_cvtepi32_ps(a), _mm256_cvtepi32_ps(b)}; }
};
inline I16 operator+(I16 x, I16 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I16 operator-(I16 x, I16 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
// Holds a sum in its registers at this place of the program. Without it, GCC brings forward the loads of all rows of a
// tile, and half of the sums live in memory: a third of the speed is left.
inline void pin(I16& x) { asm volatile("" : "+x"(x.a), "+x"(x.b)); }
inline void pin(F16& x) { asm volatile("" : "+x"(x.a), "+x"(x.b)); }

#else

#define FS_LANES for (int i = 0; i < LANES; i++)

struct F16 {
    float v[LANES];
    static F16 all(float x) { F16 r; FS_LANES r.v[i] = x; return r; }
    static F16 zero() { return all(0.0f); }
    static F16 load(const float* p) { F16 r; std::memcpy(r.v, p, sizeof r.v); return r; }
    void store(float* p) const { std::memcpy(p, v, sizeof v); }
};
inline F16 operator+(F16 a, F16 b) { FS_LANES a.v[i] += b.v[i]; return a; }
inline F16 operator-(F16 a, F16 b) { FS_LANES a.v[i] -= b.v[i]; return a; }
inline F16 operator*(F16 a, F16 b) { FS_LANES a.v[i] *= b.v[i]; return a; }
inline F16 operator/(F16 a, F16 b) { FS_LANES a.v[i] /= b.v[i]; return a; }
inline F16 fma(F16 a, F16 b, F16 c) { FS_LANES c.v[i] += a.v[i] * b.v[i]; return c; }
inline F16 max(F16 a, F16 b) { FS_LANES a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F16 min(F16 a, F16 b) { FS_LANES a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return a; }
inline F16 abs(F16 a) { FS_LANES a.v[i] = std::fabs(a.v[i]); return a; }
inline F16 round(F16 a) { FS_LANES a.v[i] = std::nearbyint(a.v[i]); return a; }
inline float sum(F16 a) { float s = 0; FS_LANES s += a.v[i]; return s; }
inline float max_of(F16 a) { float m = a.v[0]; FS_LANES m = a.v[i] > m ? a.v[i] : m; return m; }
inline bool any_above(F16 a, float limit) { bool any = false; FS_LANES any |= !(a.v[i] <= limit); return any; }
inline F16 power_of_two(F16 n) { FS_LANES n.v[i] = std::ldexp(1.0f, int(n.v[i])); return n; }
inline void store_int16(int16_t* p, F16 a) { FS_LANES p[i] = int16_t(std::nearbyint(a.v[i])); }
inline void store_int8(int8_t* p, F16 a) { FS_LANES p[i] = int8_t(std::nearbyint(a.v[i])); }

inline float half_to_float(uint16_t h) {
    int exponent = (h >> 10) & 31, fraction = h & 1023;
    float magnitude = exponent ? std::ldexp(float(1024 + fraction), exponent - 25) : std::ldexp(float(fraction), -24);
    return h & 0x8000 ? -magnitude : magnitude;
}
// Round to nearest even; finite values within half precision's range, as scales are.
inline uint16_t float_to_half(float x) {
    uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    float magnitude = std::fabs(x);
    if (magnitude < std::ldexp(1.0f, -14)) return sign | uint16_t(std::nearbyint(std::ldexp(magnitude, 24)));
    int exponent;
    std::frexp(magnitude, &exponent);
    int fraction = int(std::nearbyint(std::ldexp(magnitude, 11 - exponent)));
    if (fraction == 2048) fraction = 1024, exponent++;
    return sign | uint16_t(((exponent + 14) << 10) + (fraction - 1024));
}
inline F16 load_half(const uint16_t* p) { F16 r; FS_LANES r.v[i] = half_to_float(p[i]); return r; }
inline void store_half(uint16_t* p, F16 a) { FS_LANES p[i] = float_to_half(a.v[i]); }

struct I16 {
    int32_t v[LANES];
    static I16 zero() { return I16{}; }
    static I16 all(int32_t x) { I16 r; FS_LANES r.v[i] = x; return r; }
    static I16 load(const int32_t* p) { I16 r; std::memcpy(r.v, p, sizeof r.v); return r; }
    F16 to_float() const { F16 r; FS_LANES r.v[i] = float(v[i]); return r; }
};
inline I16 operator+(I16 a, I16 b) { FS_LANES a.v[i] += b.v[i]; return a; }
inline I16 operator-(I16 a, I16 b) { FS_LANES a.v[i] -= b.v[i]; return a; }
inline void pin(I16&) {}
inline void pin(F16&) {}

#endif

// The values of two inputs, for sixteen outputs each, of a bfloat16 panel: pairs of inputs lie together.
struct WeightsBf16 {
    F16 first, second;
    static WeightsBf16 load(const uint16_t* p) {
#if defined(FS_AVX512)
        __m512i pairs = _mm512_loadu_si512(p);
        const __m512i high = _mm512_set1_epi32(int32_t(0xFFFF0000));
        return {{_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))}, {_mm512_castsi512_ps(_mm512_and_si512(pairs, high))}};
#elif defined(FS_AVX2)
        __m256i a = _mm256_loadu_si256((const __m256i*)p), b = _mm256_loadu_si256((const __m256i*)(p + 16));
        const __m256i high = _mm256_set1_epi32(int32_t(0xFFFF0000));
        return {{_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))},
                {_mm256_castsi256_ps(_mm256_and_si256(a, high)), _mm256_castsi256_ps(_mm256_and_si256(b, high))}};
#else
        WeightsBf16 w;
        FS_LANES w.first.v[i] = bf16_to_float(p[2 * i]), w.second.v[i] = bf16_to_float(p[2 * i + 1]);
        return w;
#endif
    }
};

// e^x to about two units in the last place; below -87.3 it is e^-87.3, about 1e-38.
inline F16 exp(F16 x) {
    x = max(min(x, F16::all(88.0f)), F16::all(-87.3f));
    F16 n = round(x * F16::all(1.44269504088896341f));
    F16 r = fma(n, F16::all(-0.693359375f), x);
    r = fma(n, F16::all(2.12194440e-4f), r);
    F16 p = F16::all(1.9875691500e-4f);
    p = fma(p, r, F16::all(1.3981999507e-3f));
    p = fma(p, r, F16::all(8.3334519073e-3f));
    p = fma(p, r, F16::all(4.1665795894e-2f));
    p = fma(p, r, F16::all(1.6666665459e-1f));
    p = fma(p, r, F16::all(5.0000001201e-1f));
    p = fma(p, r * r, r) + F16::all(1.0f);
    return p * power_of_two(n);
}

// --- products of small integers -------------------------------------------------------------------------------------
//
// A *unit* is 4 bytes of activations: four of them with VNNI (stored plus 128, because it multiplies unsigned by
// signed), else two of 16 bits. Weights lie unit by unit, sixteen outputs side by side, so that one broadcast unit
// meets one vector of weights and no sum across lanes is ever needed.

#if defined(FS_VNNI)
constexpr int UNIT = 4;
using Activation = uint8_t;
constexpr int ACTIVATION_OFFSET = 128;
constexpr int PROBABILITY_MAX = 255;  // probabilities are not negative and carry no offset
inline void store_activations(Activation* p, F16 a) { store_offset_int8(p, a); }
inline void store_signed_activations(Activation* p, F16 a) { store_int8((int8_t*)p, a); }
inline void store_probabilities(Activation* p, F16 a) { store_uint8(p, a); }
#else
constexpr int UNIT = 2;
using Activation = int16_t;
constexpr int ACTIVATION_OFFSET = 0;
constexpr int PROBABILITY_MAX = 4095;  // 12 bits: sums over 4,096 tokens stay within 31
inline void store_activations(Activation* p, F16 a) { store_int16(p, a); }
inline void store_signed_activations(Activation* p, F16 a) { store_int16(p, a); }
inline void store_probabilities(Activation* p, F16 a) { store_int16(p, a); }
#endif

#if defined(FS_VNNI)
struct Weights8 {
    __m512i v;
    static Weights8 load(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
};
inline I16 dot(I16 acc, const Weights8& w, int32_t unit) {
    return {_mm512_dpbusd_epi32(acc.v, _mm512_set1_epi32(unit), w.v)};
}
#elif defined(FS_AVX512)
struct Weights8 {
    __m512i v;
    static Weights8 load(const int8_t* p) { return {_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)p))}; }
};
inline I16 dot(I16 acc, const Weights8& w, int32_t unit) {
    return {_mm512_add_epi32(acc.v, _mm512_madd_epi16(w.v, _mm512_set1_epi32(unit)))};
}
#elif defined(FS_AVX2)
struct Weights8 {
    __m256i a, b;
    static Weights8 load(const int8_t* p) {
        return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)p)),
                _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(p + 16)))};
    }
};
inline I16 dot(I16 acc, const Weights8& w, int32_t unit) {
    __m256i x = _mm256_set1_epi32(unit);
    return {_mm256_add_epi32(acc.a, _mm256_madd_epi16(w.a, x)), _mm256_add_epi32(acc.b, _mm256_madd_epi16(w.b, x))};
}
#else
struct Weights8 {
    int16_t v[2 * LANES];
    static Weights8 load(const int8_t* p) {
        Weights8 w;
        for (int i = 0; i < 2 * LANES; i++) w.v[i] = p[i];
        return w;
    }
};
inline I16 dot(I16 acc, const Weights8& w, int32_t unit) {
    int16_t x[2];
    std::memcpy(x, &unit, 4);
    FS_LANES acc.v[i] += int32_t(w.v[2 * i]) * x[0] + int32_t(w.v[2 * i + 1]) * x[1];
    return acc;
}
#endif

// Two units of 4-bit weights from the bytes of one: the low halves are the first unit, the high ones the second.
// Values are 0 .. 15 and stand for -8 .. 7; who multiplies them takes 8 times the sum of the activations off.
struct Weights4 {
    Weights8 first, second;
    static Weights4 load(const uint8_t* p) {
#if defined(FS_VNNI)
        __m512i bytes = _mm512_loadu_si512(p);
        const __m512i low = _mm512_set1_epi8(15);
        return {{_mm512_and_si512(bytes, low)}, {_mm512_and_si512(_mm512_srli_epi16(bytes, 4), low)}};
#elif defined(FS_AVX512)
        __m512i words = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i*)p));
        return {{_mm512_and_si512(words, _mm512_set1_epi16(15))}, {_mm512_srli_epi16(words, 4)}};
#elif defined(FS_AVX2)
        const __m256i low = _mm256_set1_epi16(15);
        __m256i a = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
        __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)(p + 16)));
        return {{_mm256_and_si256(a, low), _mm256_and_si256(b, low)}, {_mm256_srli_epi16(a, 4), _mm256_srli_epi16(b, 4)}};
#else
        Weights4 w;
        for (int i = 0; i < 2 * LANES; i++) w.first.v[i] = p[i] & 15, w.second.v[i] = p[i] >> 4;
        return w;
#endif
    }
};

// A product with 4-bit weights, which are not negative: with VNNI the activations are the signed side.
inline I16 dot4(I16 acc, const Weights8& w, int32_t unit) {
#if defined(FS_VNNI)
    return {_mm512_dpbusd_epi32(acc.v, w.v, _mm512_set1_epi32(unit))};
#else
    return dot(acc, w, unit);
#endif
}

// Asks for memory that is read soon; the processor's own guesses end at each page.
inline void prefetch(const void* p) { __builtin_prefetch(p); }

}  // namespace fs
