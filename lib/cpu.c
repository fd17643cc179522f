// cpu.c: compares what a build needs with what the processor has. Nothing here computes.
#include "lib/cpu.h"
#include "lib/simd.h"
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

// ---- what this build needs ---------------------------------------------------------------------
// A compiler says by macros with the value 1 which instructions it may use.
#define TEXT_OF(macro) #macro
#define IS_DEFINED(macro) (TEXT_OF(macro)[0] == '1')
#define NEED(macro, has, name) if (IS_DEFINED(macro) && !(has)) return name;
#define NEED_X86(macro, name) NEED(macro, __builtin_cpu_supports(name), name)

// This much must run on any processor of its kind, whatever the rest is compiled for.
#if defined(__x86_64__)
#define ANYWHERE __attribute__((noinline, target("arch=x86-64,no-sse4.2,no-avx,no-bmi,no-bmi2")))
ANYWHERE static const char *missing(void) {
    NEED_X86(__SSE4_2__, "sse4.2")
    NEED_X86(__POPCNT__, "popcnt")
    NEED_X86(__AVX__, "avx")
    NEED_X86(__BMI__, "bmi")
    NEED_X86(__BMI2__, "bmi2")
    NEED_X86(__FMA__, "fma")
    NEED_X86(__AVX2__, "avx2")
    NEED_X86(__AVX512F__, "avx512f")
    NEED_X86(__AVX512BW__, "avx512bw")
    NEED_X86(__AVX512CD__, "avx512cd")
    NEED_X86(__AVX512DQ__, "avx512dq")
    NEED_X86(__AVX512VL__, "avx512vl")
    NEED_X86(__AVX512IFMA__, "avx512ifma")
    NEED_X86(__AVX512VBMI__, "avx512vbmi")
    NEED_X86(__AVX512VBMI2__, "avx512vbmi2")
    NEED_X86(__AVX512VNNI__, "avx512vnni")
    NEED_X86(__AVX512BITALG__, "avx512bitalg")
    NEED_X86(__AVX512VPOPCNTDQ__, "avx512vpopcntdq")
    NEED_X86(__AVX512BF16__, "avx512bf16")
    NEED_X86(__GFNI__, "gfni")
    return NULL;
}
#elif defined(__aarch64__) && defined(__linux__)
#define ANYWHERE __attribute__((noinline, target("arch=armv8-a")))
ANYWHERE static const char *missing(void) {
    NEED(__ARM_FEATURE_ATOMICS, getauxval(AT_HWCAP) & HWCAP_ATOMICS, "lse")
    NEED(__ARM_FEATURE_DOTPROD, getauxval(AT_HWCAP) & HWCAP_ASIMDDP, "dotprod")
    NEED(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC, getauxval(AT_HWCAP) & HWCAP_ASIMDHP, "fp16")
    NEED(__ARM_FEATURE_SVE, getauxval(AT_HWCAP) & HWCAP_SVE, "sve")
    NEED(__ARM_FEATURE_SVE2, getauxval(AT_HWCAP2) & HWCAP2_SVE2, "sve2")
    return NULL;
}
#else
#define ANYWHERE
static const char *missing(void) { return NULL; }
#endif

ANYWHERE static void check_processor(void) {  // prints by itself: fail() may already be made of such instructions
    const char *lacks = missing();
    if (!lacks) return;
    fprintf(stderr, "error: this program was built for a processor with %s, which this one lacks; build it here, with: "
            "make\n", lacks);
    exit(1);
}

// The commit of the program that changed over to this one.
#define COMES_FROM "RECEIPTS_COMES_FROM"

void cpu_check(const char *commit) {
    check_processor();
    const char *fault = fma_fault(), *from = getenv(COMES_FROM);
    if (fault) fail("%s", fault);
    if (from && strcmp(from, commit) != 0)
        fail("this build of the path %s is from commit %s, the program that --simd was given to from %s; "
             "build it with: make SIMD=%s", SIMD_NAME, commit, from, SIMD_NAME);
}

// ---- --simd ------------------------------------------------------------------------------------
// What the processor lacks for a path; NULL when it can take it.
static const char *lacking(const char *path) {
    if (strcmp(path, "plain") == 0) return NULL;
#if defined(__x86_64__)
#define LACKS(feature) if (!__builtin_cpu_supports(feature)) return feature;
    if (strcmp(path, "neon") == 0) return "neon";
    LACKS("avx2") LACKS("fma") LACKS("bmi") LACKS("bmi2")
    if (strcmp(path, "avx2") == 0) return NULL;
    LACKS("avx512f") LACKS("avx512bw") LACKS("avx512cd") LACKS("avx512dq") LACKS("avx512vl")
    return NULL;
#elif defined(__aarch64__)
    return strcmp(path, "neon") == 0 ? NULL : path;
#else
    return path;
#endif
}

// Where this program lies: /home/me/receipts/train, or .../build/avx2/train. As it was typed where no system says so.
static char *own_path(const char *typed) {
#ifdef __APPLE__
    char own[4096];
    uint32_t size = sizeof own;
    char *path = _NSGetExecutablePath(own, &size) == 0 ? realpath(own, NULL) : NULL;
#else
    char *path = realpath("/proc/self/exe", NULL);           // Linux
    if (!path) path = realpath("/proc/curproc/file", NULL);  // FreeBSD, where it is mounted
#endif
    if (!path) path = realpath(typed, NULL);
    if (!path) fail("--simd: cannot tell where %s lies: %s", typed, strerror(errno));
    return path;
}

// The build for a path: build/PATH/ below the directory of `own`, or beside it where that is such a build.
static char *sibling(const char *own, const char *path) {
    const char *name = strrchr(own, '/'), *build = NULL;
    for (const char *at = own; (at = strstr(at, "/build/")); at++)
        if (memchr(at + 7, '/', strlen(at + 7)) == name) build = at;
    return xprintf("%.*s/build/%s%s", (int)((build ? build : name) - own), own, path, name);
}

static void check_name(const char *name) {
    static const char *const names[] = {"avx512", "avx2", "neon", "plain"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0) return;
    usage_error("--simd is one of auto, avx512, avx2, neon, plain, but '%s' was given", name);
}

void cpu_switch(const char *name, const char *commit, char **argv) {
    if (strcmp(name, "auto") == 0) return;
    check_name(name);
    if (strcmp(name, SIMD_NAME) == 0) return;
    char *own = own_path(argv[0]), *other = sibling(own, name);
    const char *lacks = lacking(name);
    if (lacks) fail("--simd %s: this processor lacks %s; this program takes the path %s", name, lacks, SIMD_NAME);
    if (getenv(COMES_FROM))
        fail("%s takes the path %s, not %s; build it with: make SIMD=%s", own, SIMD_NAME, name, name);
    setenv(COMES_FROM, commit, 1);
    execv(other, argv);
    fail("--simd %s: cannot start %s: %s; build it with: make SIMD=%s", name, other, strerror(errno), name);
}
