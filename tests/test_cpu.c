// test_cpu.c: --simd, and what a program says on a processor that it was not built for. That every path gives
// the same bits is tests/digest.sh, which has all the builds.
#include "tests/program.h"
#include "lib/cpu.h"
#include "lib/simd.h"
#include <stdlib.h>

#define TINY "--data markov --vocab 20 --layers 1 --width 32 --heads 2 --context 16 --batch 2 --steps 2 --warmup 1 " \
             "--eval-tokens 64 --sample-tokens 0 "
static char *no_arguments[] = {"train", NULL};

static void switch_to(void *name) { cpu_switch(name, "commit", no_arguments); }

static void test_stays(void) {
    cpu_check("commit");
    switch_to("auto");
    switch_to(SIMD_NAME);
    CHECK(test_fails(2, "auto, avx512, avx2, neon, plain, but 'avx' was given", switch_to, "avx"), "%s", test_message);
#ifdef __aarch64__
    CHECK(test_fails(1, "this processor lacks avx2", switch_to, "avx2"), "%s", test_message);
#else
    CHECK(test_fails(1, "this processor lacks neon", switch_to, "neon"), "%s", test_message);
#endif
}

// Another path than that of this build, which every processor has.
#define OTHER (strcmp(SIMD_NAME, "plain") ? "plain" : IS_ARM ? "neon" : "avx2")
#ifdef __aarch64__
#define IS_ARM true
#else
#define IS_ARM false
#endif

static void refused(const char *command, const char *says) {
    Result r = shell(command);
    CHECK(r.status == 1 && strstr(r.error, says) && count_lines(r.error) == 1, "%s: status %d: %s", command, r.status,
          r.error);
}

// The program lies in home/, or in home/build/KIND/; its siblings in home/build/.
static void test_sibling(void) {
    const char *hint = xprintf("home/build/%s/train: No such file or directory; build it with: make SIMD=%s\n", OTHER,
                               OTHER);
    shell(xprintf("mkdir -p home/build/clang home/build/%s; cp '%s' home/train; cp home/train home/build/clang/train",
                  OTHER, train_binary()));
    refused(xprintf("home/train --simd %s", OTHER), hint);
    refused(xprintf("home/build/clang/train --simd %s", OTHER), hint);
    shell(xprintf("cp home/train home/build/%s/train", OTHER));
    refused(xprintf("home/train --simd %s", OTHER), xprintf("takes the path %s, not %s", SIMD_NAME, OTHER));
    shell(xprintf("printf '#!/bin/sh\\necho \"from $RECEIPTS_COMES_FROM, with $*\"\\n' > home/build/%s/train", OTHER));
    Result r = shell(xprintf("home/train --steps 3 --simd=%s", OTHER));
    const char *flags = xprintf(", with --steps 3 --simd=%s\n", OTHER);
    CHECK(r.status == 0 && strncmp(r.out, "from ", 5) == 0 && strstr(r.out, flags),
          "the sibling gets the commit and the flags: %s%s", r.out, r.error);
}

static void test_commit(void) {
    refused(xprintf("RECEIPTS_COMES_FROM=fedcba987654 '%s' --no-such-flag", train_binary()),
            "the program that --simd was given to from fedcba987654; build it with: make SIMD=");
}

static void test_same_name(void) {
    Result plain = train(TINY), forced = train(TINY "--simd " SIMD_NAME);
    CHECK(plain.status == 0 && strstr(forced.out, "holds this run, finished"), "%s%s", forced.out, forced.error);
}

// Not with AddressSanitizer: the emulator makes the terabytes of its shadow memory real.
#ifndef __has_feature
#define __has_feature(name) 0   // of clang
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define CAN_BE_EMULATED false
#else
#define CAN_BE_EMULATED true
#endif

static void test_lacking(void) {
    if (!CAN_BE_EMULATED) return;
    if (system("command -v qemu-x86_64 > /dev/null") != 0 || strcmp(SIMD_NAME, "plain") == 0 || IS_ARM) return;
    refused(xprintf("qemu-x86_64 -cpu Nehalem '%s' --dry-run", train_binary()),
            "built for a processor with avx, which this one lacks; build it here, with: make");
}

static const Test tests[] = {
    {"cpu/stays", "--simd accepts the own path, refuses unknown ones and those of other processors", test_stays},
    {"cpu/sibling", "--simd finds the build of another path, or says how to build it", test_sibling},
    {"cpu/commit", "a build of another commit is refused: it may have other bits", test_commit},
    {"cpu/same-name", "the path is no part of a run's name", test_same_name},
    {"cpu/lacking", "on an older processor (where qemu-user is there to play one): one line, no SIGILL", test_lacking},
};
REGISTER_TESTS(tests)
