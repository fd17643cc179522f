// test_flags.c: the command line. Parsing, help and printing (flags.c), the tables of the programs, derived values and
// refused combinations (the sections of config/).
#include "tests/test.h"
#include "config/config.h"
#include "config/generate.h"
#include "config/quantize.h"
#include "config/serve.h"
#include "lib/rng.h"
#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static Config parsed(const char *line) {
    Config c;
    flags_parse_text(&config_table, &c, line, NULL);
    return c;
}

static Config resolved(const char *line) {
    Config c = parsed(line);
    config_resolve(&c);
    return c;
}

static void parse_only(void *line) { (void)parsed(line); }
static void parse_and_resolve(void *line) { (void)resolved(line); }

// ---- parsing -----------------------------------------------------------------------------------
static void test_defaults(void) {
    Config c = parsed("");
    CHECK(c.layers == 4 && c.width == 128 && c.lr == 3e-3 && c.tie && !c.bias, "defaults of train.def");
    CHECK(c.attn.count == 1 && c.attn.at[0] == ATTN_mha && strcmp(c.data, "stories") == 0, "defaults of train.def");
    char *summary = flags_summary(&config_table, &c, false);
    CHECK(*summary == '\0', "a summary of nothing is empty: %s", summary);
    free(summary);
    for (size_t i = 0; i < config_table.count; i++)
        CHECK(flags_is_default(&config_table, &c, i), "%s", config_table.flag[i].name);
}

static void test_forms(void) {
    Config c = parsed(
        "--layers 3 --width=64 --kv_heads=2 --head-dim 8 --min-lr -1 --bias --attn gqa+mla+mha --qk-norm --tie 0");
    CHECK(c.layers == 3 && c.width == 64 && c.kv_heads == 2 && c.head_dim == 8 && c.min_lr == -1, "numbers");
    CHECK(c.bias && !c.tie && c.qk_norm == QK_head, "flags that stand alone");
    CHECK(c.attn.count == 3 && pattern_at(&c.attn, 0) == ATTN_gqa && pattern_at(&c.attn, 4) == ATTN_mla,
          "a pattern repeats");
    CHECK(parsed("--layers 3 --layers 5").layers == 5, "the later wins");
    CHECK(parsed("--bias --qk-norm full --log-layers=1").qk_norm == QK_full, "alone, then with a value");
    CHECK(strcmp(parsed("--data=a=b").data, "a=b") == 0, "only the first = separates");
}

static void test_given(void) {
    bool given[256];
    Config c;
    flags_parse_text(&config_table, &c, "--layers 4 --preset llama", given);
    CHECK(given[flags_find(&config_table, "layers")] && given[flags_find(&config_table, "tie")],
          "given, also by a preset");
    CHECK(!given[flags_find(&config_table, "width")], "not given");
}

// The same as a command line, but for the words: text with no blank inside of them.
static void test_text(void) {
    Config c = parsed("  --layers 3  --bias   --data=x --preset llama "), d = parsed("");
    CHECK(c.layers == 3 && c.bias && !strcmp(c.data, "x") && !c.tie, "blanks before, between and behind words");
    char *all = xprintf("%s", ""), *one = NULL;
    for (int i = 0; i < 300; i++, free(all), all = one) one = xprintf("%s--layers %d ", all, i + 1);
    flags_parse_text(&config_table, &d, all, NULL);
    CHECK(d.layers == 300, "as many words as one likes: %zu", d.layers);
    free(all);
}

// ---- the programs ------------------------------------------------------------------------------
static const FlagTable *const programs[] = {&config_table, &generate_table, &serve_table, &quantize_table};
enum { PROGRAMS = sizeof programs / sizeof programs[0] };

static const Flag *find(const FlagTable *t, const char *name) {
    for (size_t i = 0; i < t->count; i++)
        if (t->flag[i].kind != FLAG_GROUP && !strcmp(t->flag[i].name, name)) return &t->flag[i];
    return NULL;
}

// A flag of two programs comes from one section, so that it means the same. An older spelling may be a flag of another
// program, which is why it was given up, or a switch of this one.
static void test_one_meaning(void) {
    size_t shared = 0;
    for (size_t i = 0; i < config_table.count; i++) {
        const Flag *a = &config_table.flag[i], *b = a->kind == FLAG_GROUP ? NULL : find(&generate_table, a->name);
        if (!b) continue;
        shared++;
        CHECK(a->kind == b->kind && !strcmp(a->help, b->help) && !strcmp(a->default_text, b->default_text),
              "--%s is one thing in %s and another in %s", a->name, config_table.program, generate_table.program);
    }
    CHECK(shared >= 4, "seed, profile, threads and simd are shared, but only %zu flags were found", shared);
    for (size_t p = 0; p < PROGRAMS; p++)
        for (const FlagAlias *a = programs[p]->alias; a->old; a++) {
            const Flag *old = find(programs[p], a->old);
            CHECK(find(programs[p], a->name) && (!old || old->kind == FLAG_BOOL), "--%s stands for --%s", a->old,
                  a->name);
        }
}

// A row names its fields; what it forgets would be NULL, or a range without numbers.
static void test_rows(void) {
    for (size_t p = 0; p < PROGRAMS; p++)
        for (size_t i = 0; i < programs[p]->count; i++) {
            const Flag *f = &programs[p]->flag[i];
            bool number = f->kind == FLAG_SIZE || f->kind == FLAG_REAL;
            CHECK(f->help && *f->help && f->default_text, "--%s has a help and a default", f->name);
            CHECK(number == (f->high > f->low), "--%s is from %g to %g", f->name, f->low, f->high);
            CHECK((f->kind == FLAG_ENUM || f->kind == FLAG_PATTERN || f->kind == FLAG_TEXT) == !!f->values,
                  "--%s: its values", f->name);
            CHECK((!f->posts || *f->posts) && (!f->needs || *f->needs), "--%s: what is left out is NULL", f->name);
        }
}

// What parsing says on stderr.
static char *generate_notes(GenerateOptions *o, const char *line) {
    int saved = dup(2), file = open(test_path("notes"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    fflush(stderr), dup2(file, 2), close(file);
    flags_parse_text(&generate_table, o, line, NULL);
    fflush(stderr), dup2(saved, 2), close(saved);
    return read_whole_file(test_path("notes"), NULL);
}

static void parse_generate(void *line) {
    GenerateOptions o;
    flags_parse_text(&generate_table, &o, line, NULL);
}

static void test_aliases(void) {
    static const struct { const char *line, *says; } lines[] = {
        {"--top-k 5 --seed 3", "note     --top-k 5 is now written --sample-top-k 5\n"},
        {"--top_k=5", "note     --top-k 5 is now written --sample-top-k 5\n"},
        {"--sample-top-k 5", ""},
        {"--profile p.png", "note     --profile p.png is now written --roofline p.png\n"},
        {"--profile", ""}, {"--profile 1 --seed 3", ""}, {"--profile=0", ""},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        GenerateOptions o;
        char *notes = generate_notes(&o, lines[i].line);
        CHECK(!strcmp(notes, lines[i].says), "%s: %s", lines[i].line, notes);
        CHECK(i > 2 || o.sample_top_k == 5, "%s: %zu", lines[i].line, o.sample_top_k);
        CHECK(i < 3 || o.profile == (i == 4 || i == 5), "%s: a switch", lines[i].line);
        CHECK(!strcmp(o.roofline, i == 3 ? "p.png" : ""), "%s: %s", lines[i].line, o.roofline);
        free(notes);
    }
    CHECK(test_fails(2, "--sample-top-k takes a whole number", parse_generate, "--top-k x"), "%s", test_message);
    GenerateOptions o;
    flags_parse_text(&generate_table, &o, "--prompt -h --seed 3", NULL);
    CHECK(!strcmp(o.prompt, "-h") && o.seed == 3, "-h is a text where one is expected");
    CHECK(test_fails(2, "--sample-top-k needs a value", parse_generate, "--top-k"), "%s", test_message);
    CHECK(test_fails(2, "--run is given, but empty", parse_generate, "--run="), "%s", test_message);
}

// A width is another way to say a format: nothing of it is left, so the run is that of --quant, name and all.
static void test_widths(void) {
    static const struct { const char *line, *says; } lines[] = {
        {"--weight-bits 8", "--quant q8-0"},
        {"--weight-bits 8 --group row", "--quant int8"},
        {"--group 32 --weight-bits 4 --quant-embed", "--quant q4-0 --quant-embed 1"},
        {"--weight-bits 3 --quant-search", "--quant int3 --quant-search 1"},
        {"--weight-bits 2", "--quant int2"},
        {"--weight-bits none --quant mxfp4", "--quant mxfp4"},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        static bool given[256];
        static GenerateOptions o;
        Config c = parsed(lines[i].line);
        char *trained = flags_summary(&config_table, &c, false);
        flags_parse_text(&generate_table, &o, lines[i].line, given);
        char *written = flags_summary(&generate_table, &o, false);
        CHECK(!strcmp(trained, lines[i].says), "%s: %s", lines[i].line, trained);
        CHECK(!strcmp(written, lines[i].says), "%s: %s", lines[i].line, written);
        for (size_t f = 0; f < generate_table.count; f++)     // as ./generate does with all that was given
            if (given[f]) flags_refuse_unused(&generate_table, &o, f);
        CHECK(given[flags_find(&generate_table, "quant")], "%s gives --quant", lines[i].line);
        free(trained), free(written);
    }
    static const struct { const char *line, *says; } refused[] = {
        {"--weight-bits 4 --quant int4", "--weight-bits 4 is another way to say --quant q4_0: give one of them"},
        {"--weight-bits 4 --group row", "--group row: only --weight-bits 8 has one scale for a row"},
        {"--weight-bits 4 --group 64", "--group is one of 32|row, but '64' was given"},
        {"--group row", "--group has no effect with --weight-bits none; leave it out"},
        {"--quant q4_0 --group row", "--group has no effect with --weight-bits none"},
        {"--weight-bits 5", "--weight-bits is one of none|8|4|3|2, but '5' was given"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        CHECK(test_fails(2, refused[i].says, parse_only, (void *)refused[i].line), "%s: %s", refused[i].line,
              test_message);
}

// A beginning or a slip gets a suggestion, a word that resembles nothing gets none.
static void test_suggestions(void) {
    static const struct { const char *line, *says; bool suggests; } lines[] = {
        {"--zzzzzz 1", "unknown flag --zzzzzz (--help lists all)", false},
        {"--bitsandbytes 1", "unknown flag --bitsandbytes (", false},
        {"--wdith 1", "unknown flag --wdith; the nearest known one is --width (--help", true},
        {"--norm zzzzzz", "but 'zzzzzz' was given", false},
        {"--norm per", "; the nearest is peri", true},
        {"--preset zzzzzz", "there is no preset 'zzzzzz' (--help", false},
        {"--preset lama", "there is no preset 'lama'; the nearest is llama (--help", true},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        CHECK(test_fails(2, lines[i].says, parse_only, (void *)lines[i].line), "%s: %s", lines[i].line, test_message);
        CHECK(!strstr(test_message, "nearest") == !lines[i].suggests, "%s: %s", lines[i].line, test_message);
    }
}

static void test_presets(void) {
    Config c = parsed("--width 64 --preset shakespeare --heads 2");
    CHECK(c.width == 64 && c.heads == 2 && c.steps == 2000 && c.pos == POS_learned,
          "others win, wherever the preset stands");
    for (size_t i = 0; i < config_table.presets; i++) {
        char *line = xprintf("--data input.txt --preset=%s", config_table.preset[i].name);
        c = parsed(line);
        c.vocab = 256;
        config_resolve(&c);
        char *summary = flags_summary(&config_table, &c, true);
        CHECK(*summary, "%s changes something", config_table.preset[i].name);
        free(summary);
        free(line);
    }
}

// Every flag, set to something that is not its default, is read back from its own printed text.
static const char *other_value(const Flag *f, char out[64]) {
    switch (f->kind) {
    case FLAG_SIZE: snprintf(out, 64, "%.0f", f->low + 5 <= f->high ? f->low + 5 : f->high); break;
    case FLAG_REAL: snprintf(out, 64, "%.17g", f->low + (f->high - f->low) / 3); break;
    case FLAG_BOOL: snprintf(out, 64, "%d", strcmp(f->default_text, "0") == 0); break;
    case FLAG_TEXT: snprintf(out, 64, "it's here"); break;
    default:
        for (int v = 1; v >= 0; v--)
            if (strcmp(flags_value_name(f, v, out), f->default_text) != 0) break;
    }
    return out;
}

static void test_round_trip(void) {
    Config a = parsed(""), b = parsed("");
    for (size_t i = 0; i < config_table.count; i++) {
        const Flag *f = &config_table.flag[i];
        char value[64];
        if (f->kind == FLAG_GROUP) continue;
        flags_set(&config_table, &a, f->name, other_value(f, value));
        char *text = flags_get(&config_table, &a, i);
        flags_set(&config_table, &b, f->name, text);
        char *again = flags_get(&config_table, &b, i);
        CHECK(strcmp(text, again) == 0 && !flags_is_default(&config_table, &b, i), "%s: %s, %s", f->name, text, again);
        free(text);
        free(again);
    }
}

static void test_reals(void) {
    Rng r = rng_stream(1, RNG_TEST, 0);
    Config c = parsed(""), d = c;
    size_t lr = flags_find(&config_table, "lr");
    for (int i = 0; i < 1000; i++) {
        c.lr = 1000 * rng_uniform(&r);
        char *text = flags_get(&config_table, &c, lr);
        flags_set(&config_table, &d, "lr", text);
        CHECK(c.lr == d.lr, "%s", text);
        free(text);
    }
    char *nan_text = flags_real_text(-NAN);
    CHECK(strcmp(nan_text, "nan") == 0, "no sign: %s", nan_text);
    free(nan_text);
    c.lr = 0.001;
    char *text = flags_get(&config_table, &c, lr);
    CHECK(strcmp(text, "0.001") == 0, "%s", text);
    free(text);
}

static void test_summary(void) {
    Config c = parsed("--layers 6 --attn gqa+mla --out x --threads 2 --bias");
    strcpy(c.data, "my file");
    char *all = flags_summary(&config_table, &c, false), *identity = flags_summary(&config_table, &c, true);
    CHECK(strcmp(all, "--data 'my file' --layers 6 --attn gqa+mla --bias 1 --out x --threads 2") == 0, "%s", all);
    CHECK(strcmp(identity, "--data 'my file' --layers 6 --attn gqa+mla --bias 1") == 0, "%s", identity);
    free(all);
    free(identity);
}

// What is printed for a shell to read again stays on one line and commands no terminal.
static void test_quote(void) {
    static const char *const pairs[][2] = {{"plain-1", "plain-1"}, {"", "''"}, {"a b", "'a b'"}, {"it's", "'it'\\''s'"},
                                           {"a\nb'\033\\", "$'a\\x0ab\\'\\x1b\\\\'"}};
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        char *quoted = flags_quote(pairs[i][0]);
        CHECK(strcmp(quoted, pairs[i][1]) == 0, "%s, but %s was expected", quoted, pairs[i][1]);
        free(quoted);
    }
}

static void test_bad_lines(void) {
    static const struct { const char *line, *says; } bad[] = {
        {"--layer 3", "nearest known one is --layers"},
        {"--kv-head 3", "--kv-heads"},
        {"--hlep", "--help"},
        {"--preste x", "--preset"},
        {"layers 3", "'layers' was not expected"},
        {"-l 3", "--name value"},
        {"--", "not expected"},
        {"--layers", "needs a value"},
        {"--layers --bias", "--layers needs a value"},
        {"--layers=", "whole number"},
        {"--layers 0", "from 1 to 100000, but '0'"},
        {"--layers -1", "'-1'"},
        {"--layers 1.5", "'1.5'"},
        {"--layers 3x", "'3x'"},
        {"--layers 99999999999999999999999", "whole number"},
        {"--lr 1e-3,3e-4", "lists are for sweeps"},
        {"--lr nan", "'nan'"},
        {"--lr inf", "'inf'"},
        {"--lr -1", "from 0 to 1000"},
        {"--lr x", "a number"},
        {"--beta1 1", "--beta1"},
        {"--bias 2", "0 or 1"},
        {"--bias yes", "0 or 1"},
        {"--norm pri", "nearest is pre"},
        {"--norm=", "one of pre|post"},
        {"--attn gqa+mlaa", "nearest is mla"},
        {"--attn gqa,mla", "joined by +"},
        {"--attn +", "one of"},
        {"--temp 3", "unknown flag"},
        {"--sched wsd", "nearest known one is --schedule"},
        {"--seed -1", "from 0 to 2^53, but '-1'"},
        {"--seed 9007199254740993", "from 0 to 2^53, but '9007199254740993'"},
        {"--steps x", "from 0 to 10^9, but 'x'"},
        {"--out --layers 3", "written with ="},
        {"--preset llama --width 64 --preset gpt2", "--preset llama and --preset gpt2: only one"},
        {"--preset=llama --preset=llama", "only one"},
        {"--preset", "needs a name"},
        {"--preset --layers 3", "--preset needs a name, but the flag --layers follows it"},
        {"--preset lama", "nearest is llama"},
        {"--preset=", "no preset"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(test_fails(2, bad[i].says, parse_only, (void *)bad[i].line), "%s: %s", bad[i].line, test_message);
    char *longer = xprintf("--out %02000d", 1), *pattern = xprintf("--attn mha");
    CHECK(test_fails(2, "at most 1023 bytes", parse_only, longer), "%s", test_message);
    for (int i = 0; i < PATTERN_SIZE; i++) {
        char *next = xprintf("%s+mla", pattern);
        free(pattern);
        pattern = next;
    }
    CHECK(test_fails(2, "at most 64 values", parse_only, pattern), "%s", test_message);
    free(longer);
    free(pattern);
}

// Words with one space between them, as the table has them: the help is cut into lines and columns.
static void join_lines(char *text) {
    char *out = text;
    for (const char *in = text; *in; in++)
        if (!isspace((unsigned char)*in)) *out++ = *in;
        else if (out > text && out[-1] != ' ') *out++ = ' ';
    *out = '\0';
}

static void test_help(void) {
    FILE *f = fopen(test_path("help"), "w+");
    flags_help(&config_table, f);
    fclose(f);
    char *help = read_whole_file(test_path("help"), NULL);
    size_t longest = 0;
    for (const char *line = help, *end; (end = strchr(line, '\n')); line = end + 1)
        if ((size_t)(end - line) > longest) longest = (size_t)(end - line);
    CHECK(longest <= 100, "a line of %zu characters", longest);
    join_lines(help);
    for (size_t i = 0; i < config_table.count; i++) {
        const Flag *row = &config_table.flag[i];
        char *name = xprintf("--%s ", row->name);
        for (char *p = name; *p; p++) *p = *p == '_' ? '-' : *p;
        CHECK(row->kind == FLAG_GROUP || strstr(help, name), "%s is in the help", name);
        CHECK(strstr(help, row->help) && strstr(help, row->default_text), "help and default of %s", name);
        free(name);
    }
    for (size_t i = 0; i < config_table.presets; i++)
        CHECK(strstr(help, config_table.preset[i].flags), "presets are explained");
    CHECK(!strchr(help, '\033'), "no colour without a terminal");
    CHECK(strstr(help, "[3e-3; 0 to 1000; post 14]") && strstr(help, "[1; 0 to 2^53]"), "defaults and limits");
    CHECK(strstr(help, "[8; 1 to 65536; with --data recall|khop; posts 1,6]"), "where a flag has an effect");
    CHECK(strstr(help, "not with --data FILE]"), "and where it has none");
    free(help);
}

// ---- derived values ----------------------------------------------------------------------------
static void test_derived(void) {
    Config c = resolved("--width 96 --heads 6 --steps 100 --lr 0.01 --batch 8");
    CHECK(c.head_dim == 16 && c.rope_dim == 16 && c.ffn_width == 256 && c.micro_batch == 8, "%zu", c.ffn_width);
    CHECK(resolved("").min_lr == 3e-4, "a tenth as one would write it, not 0.00030000000000000003");
    CHECK(c.min_lr == 0.001 && c.eval_every == 10 && c.save_every == 10, "%g", c.min_lr);
    CHECK(c.kv_rank == 0 && c.nope_dim == 0 && c.expert_width == 0, "what is not used stays 0");
    CHECK(resolved("--ffn gelu --width 96 --heads 6").ffn_width == 384, "4 width");
    c = resolved("--attn mla --head-dim 18 --experts 4");
    CHECK(c.kv_rank == 36 && c.nope_dim == 18 && c.v_dim == 18 && c.rope_dim == 10, "rope %zu", c.rope_dim);
    CHECK(c.expert_width == c.ffn_width, "an expert is as wide as the feed-forward");
    CHECK(c.aux_loss == 0.01 && resolved("--experts 4 --router bias").aux_loss == 0, "bias balances without a loss");
    CHECK(resolved("--experts 4 --router dense").top_k == 4, "dense: all experts");
    c = resolved("--experts 4 --router soft --context 50");
    CHECK(!strcmp(c.pool, "time:50") && config_pool_share(&c) == 25, "a whole row is a pool, and its slots do the work "
          "of --top-k 2: --pool %s, %zu slots", c.pool, config_pool_share(&c));
    c = resolved("--experts 8 --router expert-choice --pool time:50 --context 50");
    CHECK(config_experts_per_token(&c) == 13 * 8 / 50.0, "12.5 of 50 tokens are 13: %g experts per token",
          config_experts_per_token(&c));
    c = resolved("--experts 8 --capacity 1.25 --context 50");
    CHECK(config_capacity(&c, 50) == 16 && !config_router_looks_ahead(&c), "15.6 are 16: %zu", config_capacity(&c, 50));
    c = resolved("--attn mla --pos none");
    CHECK(c.rope_dim == 0 && config_rope_dim(&c, ATTN_mla) == 0, "no rotation without RoPE");
    CHECK(resolved("--steps 0").eval_every == 1, "something to divide by");
}

static void test_derived_by_kind(void) {
    Config c = resolved("--attn mha+gqa+mla --heads 8 --head-dim 12 --width 64");
    CHECK(c.rope_dim == 0 && config_rope_dim(&c, ATTN_mha) == 12 && config_rope_dim(&c, ATTN_mla) == 6,
          "rotated, by kind");
    CHECK(config_kv_heads(&c, ATTN_mha) == 8 && config_kv_heads(&c, ATTN_gqa) == 4, "key heads, by kind");
    c = resolved("--attn gqa+mla --rope-dim 4 --kv-heads 1 --heads 3 --head-dim 8");
    CHECK(config_rope_dim(&c, ATTN_gqa) == 4 && config_rope_dim(&c, ATTN_mla) == 4 &&
              config_kv_heads(&c, ATTN_gqa) == 1,
          "given");
    CHECK(config_kv_heads(&(Config){.heads = 1}, ATTN_gqa) == 1, "at least one");
    c = resolved("--experts 4 --layers 6 --first-dense 1 --moe-layers dense+moe+moe");
    Config every = resolved("--layers 4 --attn mha+mla --rope-layers rope+rope+none+none --rope-dim 4");
    static const size_t rotated[] = {4, 4, 0, 0};
    for (size_t l = 0; l < 4; l++) CHECK(config_layer_rope_dim(&every, l) == rotated[l], "rotated in layer %zu", l);
    static const bool expected[] = {false, true, true, false, true, true};
    for (size_t l = 0; l < 6; l++) CHECK(config_layer_has_experts(&c, l) == expected[l], "layer %zu", l);
    c = resolved("--moe-layers moe");
    CHECK(!config_layer_has_experts(&c, 0), "no experts, no expert layer");
}

// --bias alone, and each of the two that speak for a part of it.
static void test_biases(void) {
    static const struct { const char *flags; bool norm, qkv, o, ffn; } cases[] = {
        {"", false, false, false, false}, {"--bias", true, true, true, true},
        {"--attn-bias qkv", false, true, false, false}, {"--attn-bias all", false, true, true, false},
        {"--ffn-bias all", false, false, false, true}, {"--bias --attn-bias none", true, false, false, true},
        {"--bias --attn-bias qkv --ffn-bias none", true, true, false, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        Config c = resolved(cases[i].flags);
        CHECK(c.bias == cases[i].norm && config_qkv_bias(&c) == cases[i].qkv && config_o_bias(&c) == cases[i].o &&
                  config_ffn_bias(&c) == cases[i].ffn, "%s: biases on norms %d, q, k, v %d, o %d, feed-forward %d",
              cases[i].flags, c.bias, config_qkv_bias(&c), config_o_bias(&c), config_ffn_bias(&c));
    }
}

static void test_refused(void) {
    static const struct { const char *line, *says; } bad[] = {
        {"--width 100 --heads 3", "--width 100 cannot be divided among --heads 3"},
        {"--attn gqa --heads 4 --kv-heads 3", "divide heads"},
        {"--attn gqa --heads 4 --kv-heads 8", "divide heads"},
        {"--kv-heads 2", "--kv-heads belongs to --attn gqa|swa and has no effect with --attn mha"},
        {"--rope-dim 3", "even"},
        {"--rope-dim 1", "but 1 dimension would be"},
        {"--head-dim 15", "even"},
        {"--rope-dim 64", "more than the 32"},
        {"--attn mha+mla --rope-dim 64", "64"},
        {"--attn mla --rope-dim 5", "even"},
        {"--pos learned --rope-dim 4", "--pos rope"},
        {"--pos none --rope-theta 5", "--pos rope"},
        {"--kv-rank 8", "--attn mla"},
        {"--q-rank 8", "--attn mla"},
        {"--attn gqa --v-dim 8", "--attn mla"},
        {"--nope-dim 8", "--attn mla"},
        {"--attn mla --qk-norm", "--qk-norm"},
        {"--attn-kernel naive --tile 32", "flash"},
        {"--tile 40", "multiple of 32"},
        {"--decay 0.5", "--schedule wsd"},
        {"--top-k 1", "--experts"},
        {"--shared-experts 1", "--experts"},
        {"--gate sigmoid", "--experts"},
        {"--router bias", "--experts"},
        {"--experts 4 --bias-rate 0.1", "--router bias"},
        {"--aux-loss 0", "--experts"},
        {"--z-loss 1", "--experts"},
        {"--expert-width 8", "--experts"},
        {"--first-dense 1", "--experts"},
        {"--moe-layers dense+moe", "--experts"},
        {"--norm-topk 0", "--experts"},
        {"--route-scale 2", "--experts"},
        {"--experts 4 --top-k 5", "--top-k 5"},
        {"--experts 4 --aux-loss -0.5", "negative"},
        {"--experts 4 --gate sigmoid --z-loss 1", "--gate sigmoid has none"},
        {"--experts 4 --first-dense 4", "leave none of 4 layers"},
        {"--layers 1 --experts 4 --first-dense 4", "leave none of 1 layer"},
        {"--experts 4 --router relu --gate sigmoid", "--gate sigmoid has no effect with --router relu"},
        {"--experts 4 --router expert-choice --aux-loss 0.1",
         "--aux-loss 0.1 has no effect with --router expert-choice"},
        {"--experts 4 --router hash --z-loss 1", "--router hash has none"},
        {"--experts 4 --router soft --capacity 1", "--capacity 1 limits what tokens choose"},
        {"--experts 4 --router soft --route-scale 2", "--route-scale 2 has no effect"},
        {"--experts 4 --router dense --top-k 3", "--top-k 3 contradicts --router dense"},
        {"--experts 4 --pool time:4", "--router expert-choice"},
        {"--experts 4 --router threshold --sparsity-rate 0.1", "--router relu"},
        {"--experts 4 --router soft --pool time", "--pool is time:N"},
        {"--experts 4 --router soft --pool time:0", "--pool is time:N"},
        {"--experts 4 --router soft --pool time:-1", "--pool is time:N"},
        {"--experts 4 --router soft --pool time:8x", "--pool is time:N"},
        {"--experts 4 --router soft --pool time:65 --context 64", "longer than the --context 64"},
        {"--experts 4 --router expert-choice --pool batch --micro-batch 2", "which --micro-batch 2 cuts apart"},
        {"--experts 4 --router expert-choice --pool all --batch 12 --context 64 --eval-tokens 640", "10 rows"},
        {"--experts 8 --router expert-choice --pool time:3", "which --experts 8 cannot share"},
        {"--experts 4 --moe-layers dense", "no layer has experts"},
        {"--batch 4 --micro-batch 5", "--micro-batch 5"},
        {"--lr 0.1 --min-lr 0.2", "--min-lr 0.2"},
        {"--min-lr -0.5", "negative"},
        {"--layers 2 --attn gqa+mla+mha", "--attn has 3 entries, but there are only --layers 2"},
        {"--layers 2 --experts 4 --moe-layers dense+moe+moe", "--moe-layers has 3 entries"},
        {"--attn delta --kv-heads 2", "--kv-heads belongs to --attn gqa|swa and has no effect with --attn delta"},
        {"--attn gla+delta --attn-kernel naive", "--attn-kernel belongs to --attn mha|gqa|mla|swa"},
        {"--attn gated-delta --tile 32", "--tile belongs to --attn mha|gqa|mla|swa and has no effect with --attn ga"},
        {"--attn delta --rope-dim 4", "--rope-dim belongs to --pos rope and has no effect with --pos none"},
        {"--attn delta+gla --pos alibi", "--pos alibi is added to the scores of softmax attention"},
        {"--attn delta --attn-gate", "--attn-gate belongs to --attn mha|gqa|mla|swa"},
        {"--attn delta --feature-map unit", "--feature-map belongs to --attn linear"},
        {"--short-conv 2", "--short-conv belongs to --attn linear|gla|delta|gated-delta|mamba2"},
        {"--attn gated-deltas", "linear|gla|delta|gated-delta|mamba2, or several joined by +, but 'gated-deltas'"},
        {"--pairs 9", "--pairs belongs to --data recall|khop and has no effect with --data stories"},
        {"--data markov --hops 3", "--hops belongs to --data khop"},
        {"--tokenizer byte", "--tokenizer belongs to --data FILE"},
        {"--data x.txt --data-seed 2", "--data-seed has no effect with --data x.txt"},
        {"--window 8", "--window belongs to --attn swa"},
        {"--attn swa --heads 6 --width 36 --kv-heads 4", "cannot share --kv-heads 4"},
        {"--data stories --val-fraction 0.2", "--data FILE"},
        {"--preset shakespeare", "--tokenizer belongs to --data FILE"},
        {"--rope-factor 4", "--rope-factor belongs to --rope-scaling"},
        {"--pos none --rope-scaling ntk", "slows down the rotations of --pos rope"},
        {"--attn delta --rope-scaling ntk", "slows down the rotations of --pos rope"},
        {"--rope-scaling yarn", "--rope-scaling yarn needs --rope-trained"},
        {"--rope-scaling llama3", "--rope-scaling llama3 needs --rope-trained"},
        {"--rope-scaling ntk --rope-trained 8", "--rope-trained belongs to --rope-scaling yarn|llama3|dynamic"},
        {"--rope-scaling yarn --rope-trained 8 --rope-high-freq 3", "--rope-high-freq belongs to --rope-scaling lla"},
        {"--rope-scaling llama3 --rope-trained 8 --rope-beta-fast 3", "--rope-beta-fast belongs to --rope-scaling ya"},
        {"--rope-scaling llama3 --rope-trained 8 --rope-high-freq 1", "not above --rope-low-freq 1"},
        {"--rope-scaling yarn --rope-trained 8 --rope-beta-fast 0.5", "fewer than --rope-beta-slow 1"},
        {"--rope-scaling yarn --rope-trained 8 --rope-theta 1", "--rope-theta 1 lets all pairs turn alike"},
        {"--rope-scaling yarn --rope-trained 8 --rope-mscale 1", "without --rope-mscale-all-dim"},
        {"--rope-scaling yarn --rope-trained 8 --rope-mscale-all-dim 1", "or a layer of --attn mla"},
        {"--rope-scaling yarn --rope-trained 8 --rope-mscale 1 --rope-mscale-all-dim 1 --rope-attention-factor 2",
         "beside --rope-attention-factor"},
        {"--rope-scaling dynamic --rope-trained 64 --context 65", "--context 65 is beyond the --rope-trained 64"},
        {"--rope-layers none", "--rope-layers leaves no layer that rotates; give --pos none"},
        {"--attn delta+mha --rope-layers rope+none", "--rope-layers leaves no layer that rotates"},
        {"--pos learned --rope-layers rope+none", "--rope-layers belongs to --pos rope"},
        {"--layers 2 --rope-layers rope+none+none", "--rope-layers has 3 entries"},
        {"--experts 8 --route-top-groups 2", "--route-top-groups belongs to --route-groups"},
        {"--route-groups 2", "--route-groups belongs to --experts"},
        {"--experts 8 --route-groups 3", "--experts 8 cannot be divided into --route-groups 3"},
        {"--experts 8 --route-groups 4 --route-top-groups 4", "leave nothing out"},
        {"--experts 8 --route-groups 4 --top-k 3", "--top-k 3 experts cannot be chosen from --route-top-groups 1 of 2"},
        {"--experts 8 --route-groups 8 --route-top-groups 2", "sums two experts of a group"},
        {"--experts 8 --route-groups 2 --router threshold", "limits what --router topk and bias choose"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(test_fails(2, bad[i].says, parse_and_resolve, (void *)bad[i].line), "%s: %s", bad[i].line, test_message);
}

// What somebody typed is refused at its default too where another --data ignores it; where another architecture does,
// it is not, so that a sweep over --experts 0,4 may fix --top-k 2.
static void refuse_typed(void *line) {
    bool given[256];
    Config c;
    flags_parse_text(&config_table, &c, line, given);
    config_refuse_unused(&c, given);
}

static void test_refused_at_default(void) {
    CHECK(test_fails(2, "--pairs belongs to --data recall", refuse_typed, "--pairs 8"), "%s", test_message);
    CHECK(test_fails(2, "--order belongs to --data markov", refuse_typed, "--data iid --order 1"), "%s", test_message);
    refuse_typed("--data khop --pairs 8 --hops 2");
    refuse_typed("--experts 0 --top-k 2 --kv-heads 0");
    refuse_typed("--data x.txt --tokenizer auto --val-fraction 0.1");
}

// "attn gqa|mla", "data !FILE", "experts": a slip in such a text would switch the check off.
static void test_needs_exist(void) {
    Config c = parsed("");
    for (size_t i = 0; i < generate_table.count; i++)
        if (generate_table.flag[i].needs) {
            size_t length = strcspn(generate_table.flag[i].needs, " ");
            char *name = xprintf("%.*s", (int)length, generate_table.flag[i].needs);
            flags_find(&generate_table, name);
            free(name);
        }
    for (size_t i = 0; i < config_table.count; i++) {
        const char *text = config_table.flag[i].needs;
        char *needs = xprintf("%s", text ? text : ""), *name = strtok(needs, " ");
        const Flag *f = name ? &config_table.flag[flags_find(&config_table, name)] : NULL;
        for (char *word = strtok(NULL, "!|"); name && word; word = strtok(NULL, "!|"))
            if (f->kind == FLAG_TEXT) CHECK(strstr(f->values, word), "%s needs %s", config_table.flag[i].name, word);
            else flags_set(&config_table, &c, name, word);
        free(needs);
    }
}

// Resolving what is resolved changes nothing: a reader of run.json may do it again.
static void test_resolve_twice(void) {
    static const char *const lines[] = {"", "--attn gqa+mla", "--attn mla --experts 4 --router bias",
                                        "--pos none --attn-kernel naive"};
    for (size_t i = 0; i < 4; i++) {
        Config once = resolved(lines[i]), twice = once;
        config_resolve(&twice);
        char *a = flags_summary(&config_table, &once, false), *b = flags_summary(&config_table, &twice, false);
        CHECK(strcmp(a, b) == 0, "%s, then %s", a, b);
        free(a);
        free(b);
    }
}

// ---- schedules ---------------------------------------------------------------------------------
static void refuse_jump(void *line) {
    Config c = resolved(line);
    config_refuse_jump(&c);
}

// Where the warm-up ends on a step at which wsd goes down already, by more than the one step that is its pace.
static void test_jump(void) {
    static const struct { const char *line; bool jumps; } lines[] = {
        {"--steps 20 --warmup 10 --decay 0.9", true}, {"--steps 20 --warmup 2 --decay 0.9", false},
        {"--steps 20 --warmup 3 --decay 0.9", false}, {"--steps 20 --warmup 4 --decay 0.9", true},
        {"--steps 20 --warmup 20 --decay 0.9", false}, {"--steps 20 --warmup 10 --decay 0.9 --min-lr 3e-3", false},
        {"--steps 20 --warmup 19 --decay 0", false},
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        char *line = xprintf("--schedule wsd %s", lines[i].line);
        if (!lines[i].jumps) refuse_jump(line);
        else CHECK(test_fails(2, "reaches into the decay of --schedule wsd, which begins after step 2 (--decay 0.9 of "
                              "--steps 20)", refuse_jump, line), "%s: %s", line, test_message);
        free(line);
    }
    refuse_jump("--steps 20 --warmup 10");
}

static void give_long_prompt(void *unused) {
    (void)unused;
    char line[1300] = "--prompt ";
    for (int i = 0; i < 600; i++) strcat(line, "\xC3\xA9");
    GenerateOptions o;
    flags_parse_text(&generate_table, &o, line, NULL);
}

static void test_long_prompt(void) {
    CHECK(test_fails(2, "--prompt takes at most 1023 bytes, but 1200 were given; a file may hold more: --prompt-file",
                     give_long_prompt, NULL), "%s", test_message);
}

static const Test tests[] = {
    {"flags/jump", "a warm-up that reaches into the decay is refused, one that ends before is not", test_jump},
    {"flags/long-prompt", "bytes are counted, and the flag for more is named", test_long_prompt},
    {"flags/defaults", "no flags give the table's defaults", test_defaults},
    {"flags/forms", "--name value, --name=value, - or _, alone, repeated, patterns", test_forms},
    {"flags/given", "what the user set is told apart from defaults", test_given},
    {"flags/text", "flags in one string are as on a command line", test_text},
    {"flags/one-meaning", "a flag of two programs means the same in both", test_one_meaning},
    {"flags/rows", "no row forgets what its kind needs", test_rows},
    {"flags/aliases", "an older spelling works, with a note", test_aliases},
    {"flags/widths", "a width is another way to say a format, and nothing of it is left", test_widths},
    {"flags/suggestions", "what resembles nothing gets no suggestion", test_suggestions},
    {"flags/presets", "a preset stands for flags, and flags beside it win", test_presets},
    {"flags/round-trip", "every flag is read back from its own text", test_round_trip},
    {"flags/reals", "numbers are printed as short as they read back equal", test_reals},
    {"flags/summary", "what differs from the defaults, ready for a shell", test_summary},
    {"flags/quote", "values as a shell needs them", test_quote},
    {"flags/bad-lines", "every mistake gets one line that says what to do", test_bad_lines},
    {"flags/help", "the help names every flag, default and preset, without colour in a file", test_help},
    {"flags/derived", "0 is derived as the help says", test_derived},
    {"flags/derived-by-kind", "layers that differ have their own derived sizes", test_derived_by_kind},
    {"flags/biases", "--bias, and what speaks for a part of it", test_biases},
    {"flags/refused", "impossible or ignored combinations are refused with the reason", test_refused},
    {"flags/refused-at-default", "a flag for another --data is refused, whatever its value", test_refused_at_default},
    {"flags/needs", "what a flag belongs to exists", test_needs_exist},
    {"flags/resolve-twice", "resolving again changes nothing", test_resolve_twice},
};
REGISTER_TESTS(tests)
