/* The scoring kernel in C: the same features and the same additions, in the same order, as `score_kernel` in
 * features.py, which says what a feature is. Both give the same bits; tests/test_kernel.py proves it.
 *
 * A block of tokens of one text goes through five steps, each a loop without a long dependency: find where tokens begin
 * and end, hash eight of them side by side, look them up, hash their n-grams, add the weights. Each step asks for the
 * memory that the next one reads. The order of the additions is that of the text, whatever the size of a block.
 * Tokens by Unicode's classes of characters replace the first step; subwords join the third.
 *
 * Steps that profit from wider registers are written once, in the compilers' vector types, and compiled once more for
 * AVX2; which one runs is decided at run time. Nothing is allocated per text.
 */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <float.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) || !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the kernel needs gcc or clang and a little-endian machine; numba does its work elsewhere"
#endif
#if defined(__FAST_MATH__) || FLT_EVAL_METHOD != 0
#error "the kernel needs IEEE arithmetic in double precision: its sums must be those of numba, bit by bit"
#endif

#if defined(__x86_64__)
#define HAVE_AVX2 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,bmi,bmi2")))
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors are passed between inlined functions only */
#endif
#define INLINE static inline __attribute__((always_inline))

enum { TOKENS = 256, MAX_NGRAMS = 5, LANES = 8, MAX_SUBWORD = 32, SUBWORDS = 1024, POINTS = 0x110000 };

typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef double f64x4 __attribute__((vector_size(32)));

static const uint32_t FNV_SEED = 2166136261u, FNV_PRIME = 16777619u;
static const uint64_t NGRAM_PRIME = 116049371u;
static const uint64_t EOS_HEAD = 0x3e732f3cu; /* "</s>" */

/* The tokens of one block: token t is data[edges[2t] : edges[2t + 1]]. */
typedef struct {
    int64_t edges[2 * TOKENS + 64];
    uint32_t low[TOKENS + LANES], high[TOKENS + LANES];     /* bytes 0-3 and 4-7, whatever follows a shorter token */
    uint32_t low2[TOKENS + LANES], high2[TOKENS + LANES];   /* bytes 8-11 and 12-15 */
    uint32_t length[TOKENS + LANES];                        /* at most 17 */
    uint32_t hash[TOKENS + LANES];
    uint64_t token[TOKENS + 1];                             /* hashes of the tokens that count, sign-extended */
    int64_t word[TOKENS + 1];
    int64_t bucket[(TOKENS + 1) * (MAX_NGRAMS - 1)];
    int64_t subword[SUBWORDS];                              /* buckets whose weights are on their way from memory */
} Block;

typedef struct {
    const uint8_t *data;
    int64_t size;
    const uint64_t *slots; /* rows of four: first 8 bytes, last 8 bytes, length << 32 | id + 1, hash */
    uint64_t slot_mask;
    const uint8_t *pool;
    const int64_t *pool_offsets;
    const float *word_weights, *bucket_weights; /* [words, width], [buckets, width] */
    int64_t words, width, heads;
    uint64_t buckets, inverse;
    int word_ngrams, minn, maxn;
    const uint8_t *classes; /* of each code point, or NULL: white space cuts tokens */
    const uint8_t *prefix;
    int64_t prefix_size;
} Model;

/* Sums of one text so far: one double a head for words, one for n-grams, one for subwords, and how many words the head
 * knows. */
typedef struct {
    double *words, *ngrams, *subwords;
    int64_t *known;
} Sums;

typedef struct {
    int64_t (*find)(const uint8_t *, int64_t, int64_t *, int64_t, uint64_t *, int64_t *, int64_t);
    void (*hash)(const uint8_t *, int64_t, Block *, int64_t);
    void (*add)(const float *, int64_t, const int64_t *, int64_t, double *, int64_t *);
} Steps;

INLINE uint64_t load8(const uint8_t *p) {
    uint64_t word;
    memcpy(&word, p, 8);
    return word;
}

/* --- step 1: where tokens begin and end -------------------------------------------------------------------------- */

/* One bit for each of eight bytes: set unless it is space, \n, \r, \t, \v, \f or NUL. */
INLINE uint64_t token_bits8(const uint8_t *p) {
    const uint64_t high = 0x8080808080808080u, ones = 0x0101010101010101u;
    uint64_t x = load8(p), low = x & ~high;
    /* Seven bits a byte, so no carry leaves it: bit 7 of the sum says that the byte is >= the bound. */
    uint64_t not_nul = low + 127 * ones, not_blank = (low ^ 32 * ones) + 127 * ones;
    uint64_t from_9 = low + (128 - 9) * ones, from_14 = low + (128 - 14) * ones;
    uint64_t token = ((not_nul & not_blank & (~from_9 | from_14)) | x) & high;
    return (token >> 7) * 0x0102040810204080u >> 56;
}

INLINE uint64_t token_bits64(const uint8_t *p) {
    uint64_t bits = 0;
    for (int k = 0; k < 8; k++) bits |= token_bits8(p + 8 * k) << (8 * k);
    return bits;
}

/* Append to edges[n..] the places where tokens begin and end, in turns, until `limit` of them are there or the text is
 * read. `*inside` is 1 where the byte before `*at` belongs to a token. Returns how many there are. */
#define FIND_TOKENS(token_bits)                                                                        \
    int64_t i = *at;                                                                                   \
    uint64_t in = *inside;                                                                             \
    while (i < end && n < limit) {                                                                     \
        uint8_t copy[64];                                                                              \
        const uint8_t *p = data + i;                                                                   \
        if (i + 64 > size) {                                                                           \
            memset(copy, ' ', 64);                                                                     \
            memcpy(copy, p, (size_t)(size - i));                                                       \
            p = copy;                                                                                  \
        }                                                                                              \
        uint64_t bits = token_bits(p);                                                                 \
        if (end - i < 64) bits &= ((uint64_t)1 << (end - i)) - 1;                                      \
        uint64_t changes = bits ^ (bits << 1 | in);                                                    \
        in = bits >> 63;                                                                               \
        int64_t *e = edges + n, count = __builtin_popcountll(changes);                                 \
        n += count;                                                                                    \
        for (; count > 0; count -= 8) {                                                                \
            for (int k = 0; k < 8; k++) {                                                              \
                *e++ = i + __builtin_ctzll(changes | (uint64_t)1 << 63);                               \
                changes &= changes - 1;                                                                \
            }                                                                                          \
        }                                                                                              \
        i += 64;                                                                                       \
    }                                                                                                  \
    if (i >= end) {                                                                                    \
        if (in) edges[n++] = end;                                                                      \
        in = 0;                                                                                        \
        i = end;                                                                                       \
    }                                                                                                  \
    *at = i;                                                                                           \
    *inside = in;                                                                                      \
    return n

static int64_t find_scalar(const uint8_t *data, int64_t size, int64_t *at, int64_t end, uint64_t *inside,
                           int64_t *edges, int64_t n) {
    const int64_t limit = 2 * TOKENS - 64;
    FIND_TOKENS(token_bits64);
}

/* The same by classes of characters: see segments.py. Every token is whole. */
enum { CLASS_S, CLASS_W, CLASS_C, CLASS_P, CLASS_M };

INLINE int continues(uint8_t byte) { return (byte & 0xc0) == 0x80; }

/* The class of the character at *at, which moves behind it; *point is its code point, -1 where it has none. */
INLINE int class_of(const uint8_t *data, int64_t *at, int64_t end, const uint8_t *classes, int32_t *point) {
    const int64_t i = *at;
    const int32_t lead = data[i];
    int64_t stop = i + 1;
    if (lead < 128) {
        *at = stop, *point = lead;
        return classes[lead];
    }
    while (stop < end && continues(data[stop])) stop++;
    const int64_t size = stop - i;
    *at = stop, *point = -1;
    if (size == 1 || size > 4 || lead >> (7 - size) != (1 << (size + 1)) - 2) return CLASS_W;
    int32_t found = lead & (0x7f >> size);
    for (int64_t k = i + 1; k < stop; k++) found = found << 6 | (data[k] & 0x3f);
    if (found >= POINTS) return CLASS_W;
    *point = found;
    return classes[found];
}

static int64_t find_segments(const uint8_t *data, int64_t *at, int64_t end, const uint8_t *classes, int64_t *edges) {
    int64_t i = *at, n = 0;
    while (i < end && n < 2 * TOKENS) {
        int32_t point, next_point;
        int64_t start = i;
        int kind = class_of(data, &i, end, classes, &point);
        if (kind == CLASS_S) continue;
        while (i < end) {
            int64_t after = i;
            const int next = class_of(data, &after, end, classes, &next_point);
            if (next == CLASS_M)
                point = -1; /* what follows a mark continues no run of symbols */
            else if (next != kind || (kind != CLASS_W && (kind != CLASS_P || next_point != point)))
                break;
            i = after;
        }
        edges[n] = start, edges[n + 1] = i, n += 2;
    }
    *at = i;
    return n;
}

/* --- step 2: hashes ---------------------------------------------------------------------------------------------- */

static uint32_t fnv(uint32_t hash, const uint8_t *p, const uint8_t *stop) {
    for (; p < stop; p++) hash = (hash ^ (uint32_t)(int32_t)(int8_t)*p) * FNV_PRIME;
    return hash;
}

INLINE void hash_step(u32x8 *hash, const u32x8 *bytes, int k, const i32x8 *length) {
    u32x8 byte = (u32x8)((i32x8)(*bytes << (24 - 8 * (k & 3))) >> 24);
    u32x8 next = (*hash ^ byte) * FNV_PRIME;
    u32x8 more = (u32x8)(*length > k);
    *hash = (next & more) | (*hash & ~more);
}

INLINE void hash_tokens(const uint8_t *data, int64_t size, Block *b, int64_t tokens) {
    int64_t t = 0;
    for (; t < tokens && b->edges[2 * t] + 16 <= size; t++) {
        const int64_t start = b->edges[2 * t], length = b->edges[2 * t + 1] - start;
        uint64_t head = load8(data + start), next = load8(data + start + 8);
        b->low[t] = (uint32_t)head, b->high[t] = (uint32_t)(head >> 32);
        b->low2[t] = (uint32_t)next, b->high2[t] = (uint32_t)(next >> 32);
        b->length[t] = (uint32_t)(length < 17 ? length : 17);
    }
    for (; t < tokens; t++) { /* at the end of the buffer */
        const int64_t start = b->edges[2 * t], length = b->edges[2 * t + 1] - start;
        uint8_t copy[16] = {0};
        memcpy(copy, data + start, (size_t)(length < 16 ? length : 16));
        uint64_t head = load8(copy), next = load8(copy + 8);
        b->low[t] = (uint32_t)head, b->high[t] = (uint32_t)(head >> 32);
        b->low2[t] = (uint32_t)next, b->high2[t] = (uint32_t)(next >> 32);
        b->length[t] = (uint32_t)(length < 17 ? length : 17);
    }
    for (int k = 0; k < LANES; k++) b->low[t + k] = b->high[t + k] = b->low2[t + k] = b->high2[t + k] = b->length[t + k] = 0;
    for (t = 0; t < tokens; t += LANES) {
        u32x8 low, high;
        i32x8 length;
        memcpy(&low, b->low + t, sizeof low), memcpy(&high, b->high + t, sizeof high);
        memcpy(&length, b->length + t, sizeof length);
        u32x8 hash = {FNV_SEED, FNV_SEED, FNV_SEED, FNV_SEED, FNV_SEED, FNV_SEED, FNV_SEED, FNV_SEED};
        for (int k = 0; k < 4; k++) hash_step(&hash, &low, k, &length);
        for (int k = 4; k < 8; k++) hash_step(&hash, &high, k, &length);
        uint32_t longest = 0;
        for (int k = 0; k < LANES; k++) longest |= b->length[t + k] + 7; /* bit 4: more than 8 bytes */
        if (longest & 16) {
            u32x8 low2, high2;
            memcpy(&low2, b->low2 + t, sizeof low2), memcpy(&high2, b->high2 + t, sizeof high2);
            for (int k = 8; k < 12; k++) hash_step(&hash, &low2, k, &length);
            for (int k = 12; k < 16; k++) hash_step(&hash, &high2, k, &length);
        }
        memcpy(b->hash + t, &hash, sizeof hash);
        if (longest & 16)
            for (int k = 0; k < LANES; k++)
                if (b->length[t + k] > 16)
                    b->hash[t + k] = fnv(b->hash[t + k], data + b->edges[2 * (t + k)] + 16, data + b->edges[2 * (t + k) + 1]);
    }
}

static void hash_scalar(const uint8_t *data, int64_t size, Block *b, int64_t tokens) { hash_tokens(data, size, b, tokens); }

/* --- step 5: sums ------------------------------------------------------------------------------------------------ */

/* Add the rows `row` of weights [*, width] to the sums of 4 * QUADS heads, in order, each head for itself. `known`, if
 * there, counts the weights that are not -0.0, which stands for "this head doesn't know the word". */
#define ADD_ROWS(QUADS)                                                                                 \
    do {                                                                                                \
        f64x4 s[QUADS];                                                                                 \
        i32x4 c[QUADS];                                                                                 \
        memcpy(s, sums, sizeof s);                                                                      \
        memset(c, 0, sizeof c);                                                                         \
        if (known) {                                                                                    \
            for (int64_t k = 0; k < n; k++)                                                             \
                for (int q = 0; q < QUADS; q++) {                                                       \
                    f32x4 w;                                                                            \
                    i32x4 bits;                                                                         \
                    memcpy(&w, weights + rows[k] * width + 4 * q, sizeof w);                            \
                    memcpy(&bits, &w, sizeof bits);                                                     \
                    s[q] += __builtin_convertvector(w, f64x4);                                          \
                    c[q] -= (i32x4)(bits != INT32_MIN);                                                 \
                }                                                                                       \
            for (int q = 0; q < 4 * QUADS; q++) known[q] += c[q / 4][q % 4];                            \
        } else {                                                                                        \
            for (int64_t k = 0; k < n; k++)                                                             \
                for (int q = 0; q < QUADS; q++) {                                                       \
                    f32x4 w;                                                                            \
                    memcpy(&w, weights + rows[k] * width + 4 * q, sizeof w);                            \
                    s[q] += __builtin_convertvector(w, f64x4);                                          \
                }                                                                                       \
        }                                                                                               \
        memcpy(sums, s, sizeof s);                                                                      \
    } while (0)

INLINE void add_rows(const float *weights, int64_t width, const int64_t *rows, int64_t n, double *sums, int64_t *known) {
    if (width == 1) { /* one head knows all the words of its vocabulary */
        double sum = *sums;
        for (int64_t k = 0; k < n; k++) sum += (double)weights[rows[k]];
        *sums = sum;
        if (known) *known += n;
    } else if (width == 4) {
        ADD_ROWS(1);
    } else if (width == 8) {
        ADD_ROWS(2);
    } else {
        for (int64_t strip = 0; strip < width; strip += 16) {
            ADD_ROWS(4);
            weights += 16, sums += 16;
            if (known) known += 16;
        }
    }
}

static void add_scalar(const float *weights, int64_t width, const int64_t *rows, int64_t n, double *sums, int64_t *known) {
    add_rows(weights, width, rows, n, sums, known);
}

static const Steps SCALAR = {find_scalar, hash_scalar, add_scalar};

#ifdef HAVE_AVX2
AVX2 INLINE uint64_t token_bits32_avx2(const uint8_t *p) {
    /* vpshufb looks a byte below 128 up by its low four bits, and gives 0 for the others: a byte is white space if that
     * gives the byte itself. Place 0 can hold only one of blank and NUL, hence the second comparison. */
    const __m256i table = _mm256_setr_epi8(32, 0, 0, 0, 0, 0, 0, 0, 0, 9, 10, 11, 12, 13, 0, 0,
                                           32, 0, 0, 0, 0, 0, 0, 0, 0, 9, 10, 11, 12, 13, 0, 0);
    __m256i x = _mm256_loadu_si256((const __m256i *)p);
    __m256i space = _mm256_or_si256(_mm256_cmpeq_epi8(_mm256_shuffle_epi8(table, x), x),
                                    _mm256_cmpeq_epi8(x, _mm256_setzero_si256()));
    return (uint32_t)~_mm256_movemask_epi8(space);
}

AVX2 INLINE uint64_t token_bits64_avx2(const uint8_t *p) { return token_bits32_avx2(p) | token_bits32_avx2(p + 32) << 32; }

AVX2 static int64_t find_avx2(const uint8_t *data, int64_t size, int64_t *at, int64_t end, uint64_t *inside,
                              int64_t *edges, int64_t n) {
    const int64_t limit = 2 * TOKENS - 64;
    FIND_TOKENS(token_bits64_avx2);
}

AVX2 static void hash_avx2(const uint8_t *data, int64_t size, Block *b, int64_t tokens) { hash_tokens(data, size, b, tokens); }

AVX2 static void add_avx2(const float *weights, int64_t width, const int64_t *rows, int64_t n, double *sums, int64_t *known) {
    add_rows(weights, width, rows, n, sums, known);
}

static const Steps WIDE = {find_avx2, hash_avx2, add_avx2};
#endif

/* --- steps 3 and 4, and a text as a whole ------------------------------------------------------------------------ */

/* The id of the word of `length` bytes at p, or -1. `head` is its first 8 bytes, zero-padded: as no token holds a NUL,
 * it tells short words apart. Bytes are compared, so no unknown word is ever taken for a known one. */
INLINE int64_t lookup(const Model *m, const uint8_t *p, int64_t length, uint64_t head, uint32_t hash) {
    const uint64_t tail = length > 8 ? load8(p + length - 8) : head;
    for (uint64_t i = hash & m->slot_mask;; i = (i + 1) & m->slot_mask) {
        const uint64_t *slot = m->slots + 4 * i;
        const uint64_t info = slot[2];
        if (info == 0) return -1;
        if (((slot[0] ^ head) | (slot[1] ^ tail) | (info >> 32 ^ (uint64_t)length)) == 0) { /* one branch, not three */
            const int64_t word = (int64_t)(info & 0xffffffffu) - 1;
            if (length <= 16 || memcmp(m->pool + m->pool_offsets[word] + 8, p + 8, (size_t)(length - 16)) == 0) return word;
        }
    }
}

INLINE int is_label(const Model *m, const uint8_t *p, int64_t length) {
    return length >= m->prefix_size && memcmp(p, m->prefix, (size_t)m->prefix_size) == 0;
}

/* x % buckets; the estimated quotient is right or one too small, as often as not: no branch would be foretold. */
INLINE int64_t bucket_of(uint64_t x, uint64_t buckets, uint64_t inverse) {
    const uint64_t rest = x - (uint64_t)((unsigned __int128)x * inverse >> 64) * buckets;
    return (int64_t)(rest - (buckets & -(uint64_t)(rest >= buckets)));
}

INLINE uint32_t fnv_byte(uint32_t hash, uint8_t byte) { return (hash ^ (uint32_t)(int32_t)(int8_t)byte) * FNV_PRIME; }

/* Append the buckets of the subwords of the token of `length` bytes at p to b->subword, of which `*waiting` wait to be
 * added; they are, whenever there is no room for those of one more character. Returns how many there are. */
static int64_t hash_subwords(const Model *m, const Steps *steps, const uint8_t *p, int64_t length, Block *b, int64_t *waiting,
                             double *sums) {
    const uint64_t buckets = m->buckets, inverse = m->inverse;
    const int minn = m->minn, maxn = m->maxn;
    const int64_t width = m->width;
    const float *const weights = m->bucket_weights;
    int64_t w = *waiting, count = -w;
    for (int64_t first = -1; first < length; first++) { /* -1: the "<" before the token */
        uint32_t hash = FNV_SEED;
        int64_t i = first + 1;
        if (first >= 0 && continues(p[first])) continue;
        hash = fnv_byte(hash, first < 0 ? '<' : p[first]);
        while (i < length && continues(p[i])) hash = fnv_byte(hash, p[i++]);
        if (w > SUBWORDS - MAX_SUBWORD) {
            steps->add(weights, width, b->subword, w, sums, NULL);
            count += w, w = 0;
        }
        for (int n = 1; n <= maxn; n++) {
            if (n > 1) {
                if (i < length) {
                    hash = fnv_byte(hash, p[i++]);
                    while (i < length && continues(p[i])) hash = fnv_byte(hash, p[i++]);
                } else if (i == length) {
                    hash = fnv_byte(hash, '>'), i++;
                } else {
                    break;
                }
            }
            if (n >= minn && (n > 1 || first >= 0)) {
                const int64_t bucket = bucket_of(hash, buckets, inverse);
                __builtin_prefetch(weights + bucket * width);
                b->subword[w++] = bucket;
            }
        }
    }
    *waiting = w;
    return count + w;
}

/* Compiled twice: `plain` says that white space cuts tokens and that there are no subwords. */
INLINE void score_any(const Model *m, const Steps *steps, int64_t at, int64_t end, int64_t eos_word, Block *b, Sums *sums,
                      double *margins, const int plain) {
    const int n = m->word_ngrams, has_subwords = !plain && m->maxn > 0;
    const uint64_t buckets = m->buckets, inverse = m->inverse; /* here no store can reach them */
    const int64_t width = m->width;
    const float *const bucket_weights = m->bucket_weights;
    uint64_t partial[MAX_NGRAMS] = {0}; /* running hashes of the n-grams that the next token continues */
    int open = 0, ended = 0;
    int64_t edges = 0, ngrams = 0, subwords = 0;
    uint64_t inside = 0;
    memset(sums->words, 0, sizeof(double) * (size_t)m->width);
    memset(sums->ngrams, 0, sizeof(double) * (size_t)m->width);
    if (has_subwords) memset(sums->subwords, 0, sizeof(double) * (size_t)m->width);
    memset(sums->known, 0, sizeof(int64_t) * (size_t)m->width);
    while (!ended) {
        edges = !plain && m->classes ? find_segments(m->data, &at, end, m->classes, b->edges)
                                     : steps->find(m->data, m->size, &at, end, &inside, b->edges, edges);
        const int64_t tokens = edges / 2;
        steps->hash(m->data, m->size, b, tokens);
        for (int64_t t = 0; t < tokens; t++) __builtin_prefetch(m->slots + 4 * (b->hash[t] & m->slot_mask));

        int64_t words = 0, kept = 0, found = 0, waiting = 0;
        for (int64_t t = 0; t < tokens && !ended; t++) {
            const uint8_t *p = m->data + b->edges[2 * t];
            const int64_t length = b->edges[2 * t + 1] - b->edges[2 * t];
            uint64_t head = b->low[t] | (uint64_t)b->high[t] << 32;
            if (length < 8) head &= ((uint64_t)1 << 8 * length) - 1;
            const int64_t word = lookup(m, p, length, head, b->hash[t]);
            ended = head == EOS_HEAD; /* the end of the text, where it stands */
            if (word >= m->words || (word < 0 && is_label(m, p, length))) continue;
            if (word >= 0) {
                b->word[words++] = word;
                __builtin_prefetch(m->word_weights + word * m->width);
            }
            b->token[kept++] = (uint64_t)(int64_t)(int32_t)b->hash[t];
            if (has_subwords && !ended) subwords += hash_subwords(m, steps, p, length, b, &waiting, sums->subwords);
        }
        if (edges % 2) b->edges[0] = b->edges[edges - 1]; /* a token that goes on in the next block */
        edges %= 2;
        if (!ended && at == end) {
            ended = 1;
            if (eos_word < m->words && (eos_word >= 0 || !is_label(m, (const uint8_t *)"</s>", 4))) {
                if (eos_word >= 0) b->word[words++] = eos_word;
                b->token[kept++] = (uint64_t)(int64_t)(int32_t)fnv(FNV_SEED, (const uint8_t *)"</s>", (const uint8_t *)"</s>" + 4);
            }
        }

        if (n == 2 && kept) {
            int64_t t = open ? 0 : 1;
            uint64_t previous = open ? partial[0] : b->token[0];
            for (; t < kept; t++) {
                const int64_t bucket = bucket_of(previous * NGRAM_PRIME + b->token[t], buckets, inverse);
                __builtin_prefetch(bucket_weights + bucket * width);
                b->bucket[found++] = bucket;
                previous = b->token[t];
            }
            partial[0] = previous, open = 1;
        } else if (n > 2) {
            for (int64_t t = 0; t < kept; t++) {
                for (int k = 0; k < open; k++) {
                    partial[k] = partial[k] * NGRAM_PRIME + b->token[t];
                    const int64_t bucket = bucket_of(partial[k], buckets, inverse);
                    __builtin_prefetch(bucket_weights + bucket * width);
                    b->bucket[found++] = bucket;
                }
                if (open < n - 1)
                    open++;
                else
                    for (int k = 0; k + 1 < open; k++) partial[k] = partial[k + 1];
                partial[open - 1] = b->token[t];
            }
        }
        ngrams += found;
        steps->add(m->word_weights, m->width, b->word, words, sums->words, sums->known);
        steps->add(m->bucket_weights, m->width, b->bucket, found, sums->ngrams, NULL);
        if (has_subwords) steps->add(m->bucket_weights, m->width, b->subword, waiting, sums->subwords, NULL);
    }
    for (int64_t h = 0; h < m->heads; h++) {
        const int64_t features = sums->known[h] + ngrams + subwords;
        double total = sums->words[h] + sums->ngrams[h];
        if (has_subwords) total += sums->subwords[h];
        margins[h] = features > 0 ? total / (double)features : 0.0;
    }
}

static void score_words(const Model *m, const Steps *steps, int64_t at, int64_t end, int64_t eos_word, Block *b, Sums *sums,
                        double *margins) {
    score_any(m, steps, at, end, eos_word, b, sums, margins, 1);
}

static void score_text(const Model *m, const Steps *steps, int64_t at, int64_t end, int64_t eos_word, Block *b, Sums *sums,
                       double *margins) {
    score_any(m, steps, at, end, eos_word, b, sums, margins, 0);
}

/* --- Python ------------------------------------------------------------------------------------------------------ */

static const Steps *steps_named(const char *name) {
#ifdef HAVE_AVX2
    if (strcmp(name, "avx2") == 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") &&
        __builtin_cpu_supports("bmi2"))
        return &WIDE;
#endif
    return strcmp(name, "scalar") == 0 ? &SCALAR : NULL;
}

PyDoc_STRVAR(instruction_sets_doc, "instruction_sets()\n--\n\nWhat this machine can run of this build, the fastest first.");

static PyObject *instruction_sets(PyObject *self, PyObject *args) {
    (void)self, (void)args;
    return steps_named("avx2") ? Py_BuildValue("(ss)", "avx2", "scalar") : Py_BuildValue("(s)", "scalar");
}

PyDoc_STRVAR(score_doc,
             "score(instructions, data, starts, stops, slots, pool, pool_offsets, word_weights, bucket_weights, words, "
             "buckets, width, word_ngrams, minn, maxn, classes, label_prefix, margins)\n--\n\n"
             "Fill margins float64 [n, heads] for the n texts data[starts[i]:stops[i]].\n\n"
             "width >= heads is the length of a row of weights: 1, 4, 8 or a multiple of 16. classes is that of each code "
             "point, or empty: white space cuts tokens. The arrays must be "
             "contiguous, of the types of betr.features.score_kernel; ValueError where their sizes don't fit.");

enum { DATA, STARTS, STOPS, SLOTS, POOL, POOL_OFFSETS, WORD_WEIGHTS, BUCKET_WEIGHTS, CLASSES, PREFIX, MARGINS, BUFFERS };

static PyObject *score(PyObject *self, PyObject *args) {
    static const Py_ssize_t ITEM[BUFFERS] = {1, 8, 8, 8, 1, 8, 4, 4, 1, 1, 8};
    PyObject *object[BUFFERS];
    Py_buffer view[BUFFERS];
    const char *name, *wrong = NULL;
    long long words, buckets, width;
    int word_ngrams, minn, maxn, taken = 0;
    void *memory = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "sOOOOOOOOLLLiiiOOO", &name, &object[DATA], &object[STARTS], &object[STOPS], &object[SLOTS],
                          &object[POOL], &object[POOL_OFFSETS], &object[WORD_WEIGHTS], &object[BUCKET_WEIGHTS], &words,
                          &buckets, &width, &word_ngrams, &minn, &maxn, &object[CLASSES], &object[PREFIX],
                          &object[MARGINS]))
        return NULL;
    for (; taken < BUFFERS; taken++) {
        const int flags = taken == MARGINS ? PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE : PyBUF_C_CONTIGUOUS;
        if (PyObject_GetBuffer(object[taken], &view[taken], flags) < 0) goto done;
        if (view[taken].itemsize != ITEM[taken] || (uintptr_t)view[taken].buf % (size_t)ITEM[taken] != 0) {
            wrong = "an array has another type of item, or is not aligned";
            taken++;
            goto done;
        }
    }
    const Steps *steps = steps_named(name);
    const Py_ssize_t texts = view[STARTS].len / 8, slots = view[SLOTS].len / 32;
    const int64_t heads = texts ? view[MARGINS].len / 8 / texts : 0;
    const int64_t *starts = view[STARTS].buf, *stops = view[STOPS].buf;
    if (!steps)
        wrong = "there is no such set of instructions";
    else if (view[STOPS].len != view[STARTS].len || view[MARGINS].len != texts * heads * 8 || (texts && heads < 1))
        wrong = "starts, stops and margins have different lengths";
    else if (!(width == 1 || width == 4 || width == 8 || (width > 0 && width % 16 == 0 && width < 1 << 20)) || heads > width)
        wrong = "width must be 1, 4, 8 or a multiple of 16, and no fewer than the heads";
    else if (slots < 1 || (slots & (slots - 1)) || view[SLOTS].len != slots * 32)
        wrong = "the table has no rows of four, or their number is no power of two";
    else if (words < 0 || buckets < 0 || word_ngrams < 1 || word_ngrams > MAX_NGRAMS || (word_ngrams > 1 && buckets < 1))
        wrong = "words, buckets or word_ngrams are out of range";
    else if (maxn < 0 || maxn > MAX_SUBWORD || minn < (maxn > 0) || minn > maxn || (maxn > 0 && buckets < 1))
        wrong = "minn or maxn is out of range";
    else if (view[CLASSES].len != 0 && view[CLASSES].len != POINTS)
        wrong = "there must be a class for each code point, or none";
    else if (words > view[WORD_WEIGHTS].len / 4 / width || buckets > view[BUCKET_WEIGHTS].len / 4 / width)
        wrong = "there are too few weights";
    for (Py_ssize_t i = 0; !wrong && i < texts; i++)
        if (starts[i] < 0 || stops[i] < starts[i] || stops[i] > view[DATA].len) wrong = "a text lies outside its buffer";
    if (wrong) goto done;

    const size_t row = sizeof(double) * (size_t)width;
    memory = PyMem_Malloc(sizeof(Block) + 4 * row); /* once a call, not once a text */
    if (!memory) {
        PyErr_NoMemory();
        goto done;
    }
    Block *block = memory;
    char *rows = (char *)memory + sizeof(Block);
    Sums sums = {(double *)rows, (double *)(rows + row), (double *)(rows + 2 * row), (int64_t *)(rows + 3 * row)};
    const Model model = {
        .data = view[DATA].buf,
        .size = view[DATA].len,
        .slots = view[SLOTS].buf,
        .slot_mask = (uint64_t)slots - 1,
        .pool = view[POOL].buf,
        .pool_offsets = view[POOL_OFFSETS].buf,
        .word_weights = view[WORD_WEIGHTS].buf,
        .bucket_weights = view[BUCKET_WEIGHTS].buf,
        .words = words,
        .width = width,
        .heads = heads,
        .buckets = buckets > 0 ? (uint64_t)buckets : 1,
        .inverse = ~(uint64_t)0 / (buckets > 0 ? (uint64_t)buckets : 1),
        .word_ngrams = word_ngrams,
        .minn = minn,
        .maxn = maxn,
        .classes = view[CLASSES].len ? view[CLASSES].buf : NULL,
        .prefix = view[PREFIX].buf,
        .prefix_size = view[PREFIX].len,
    };
    double *margins = view[MARGINS].buf;
    Py_BEGIN_ALLOW_THREADS;
    const uint8_t *eos = (const uint8_t *)"</s>";
    const int64_t eos_word = lookup(&model, eos, 4, EOS_HEAD, fnv(FNV_SEED, eos, eos + 4));
    const int plain = !model.classes && model.maxn == 0;
    for (Py_ssize_t i = 0; i < texts; i++)
        (plain ? score_words : score_text)(&model, steps, starts[i], stops[i], eos_word, block, &sums, margins + i * heads);
    Py_END_ALLOW_THREADS;

done:
    PyMem_Free(memory);
    while (taken > 0) PyBuffer_Release(&view[--taken]);
    if (wrong) PyErr_SetString(PyExc_ValueError, wrong);
    if (PyErr_Occurred()) return NULL;
    return Py_NewRef(Py_None);
}

static PyMethodDef METHODS[] = {
    {"instruction_sets", instruction_sets, METH_NOARGS, instruction_sets_doc},
    {"score", score, METH_VARARGS, score_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS_OF_MODULE[] = {{0, NULL}};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "betr._kernel",
    .m_doc = "The scoring kernel in C: see betr.kernel.",
    .m_methods = METHODS,
    .m_slots = SLOTS_OF_MODULE,
};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&MODULE); }
