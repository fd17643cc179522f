// bytelevel_class.c: which class of tokenizer AutoTokenizer.from_pretrained takes for a directory, and what that class
// makes of tokenizer.json: most keep it as it is written; GPT2Tokenizer, Qwen2Tokenizer and two others take its
// vocabulary and merges, and cut texts in a way of their own. As in transformers 5.23; `make oracle` compares.
#include "data/bytelevel.h"
#include <stdlib.h>
#include <string.h>

#define END "<|endoftext|>"
#define AS_WRITTEN "as_written.PreTrainedTokenizerFast"
#define ENGLISH "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define REST "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

typedef struct {
    const char *name, *types;        // model types whose tokenizers are of this class, if nothing else is named
    const char *against;             // of these, those that are of this class whatever a directory says
    bool nfc, template, readds;      // readds: every special token again, without white space at its sides
    const char *pattern;             // NULL: that of ByteLevel
    const char *bos, *eos, *unk, *pad;
} Class;

static const Class classes[] = {
    {.name = "GPT2Tokenizer",
     .types = "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip instructblipvideo jais2 "
              "opt phi starcoder2",
     .against = "hyperclovax_vision_v2", .template = true, .bos = END, .eos = END, .unk = END},
    {.name = "Qwen2Tokenizer",
     .types = "audioflamingo3 colqwen2 cosmos3_omni dots3_note fun_asr_nano hunyuan_vl internvl lighton_ocr "
              "moss_transcribe_diarize ovis2 qianfan_ocr qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe qwen2_vl "
              "qwen3 qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vibevoice",
     .against = "qwen2", .nfc = true, .template = true, .readds = true,
     .pattern = ENGLISH "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+" REST,
     .eos = END, .unk = END, .pad = END},
    {.name = "Qwen3_5Tokenizer", .types = "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp",
     .against = "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen4_exp", .nfc = true, .template = true,
     .pattern = ENGLISH "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+" REST,
     .eos = END, .unk = END, .pad = END},
    {.name = "GPTNeoXTokenizer", .types = "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm", .nfc = true,
     .bos = END, .eos = END, .unk = END, .pad = "<|padding|>"},
};

// Model types whose tokenizer.json counts as it is written, whatever class a directory names.
static const char as_written[] =
    "EvollaModel arctic aria beam bigbird_pegasus camembertv2-base canary chatlm cohere_asr ernie4_5 ernie4_5_moe "
    "flex_olmo fuyu glm glm4 glm4_moe glm4_moe_lite glm4v glm4v_moe glm_image glmasr got_ocr2 gpt_bigcode "
    "gradium_phonon_tts granite granitemoe granitemoehybrid granitemoeshared h2ovl_chat hyperclovax hyperclovax_vlm "
    "internlm2 internlm3 iquestcoder jamba kimi_k25 kimi_linear kosmos-2 llava llava_next mimo_v2_flash minicpm3 "
    "minicpm_ocr minicpmv minicpmv4_6 minicpmv4_7 minimax_m2 ministral ministral3 mistral mistral3 mistral_large4 "
    "mixtral modernbert modernbert-decoder molmo molmo2 nemo_speechlm nemotron nvfp4 nystromformer olmo2 olmo3 "
    "olmo_hybrid opencua openvla paddleocr_vl pegasus_x persimmon phi3 phi3_v phimoe pix2struct pixtral pocket_tts "
    "smolvlm stablelm step3_vl umt5 vipllava voxtral voxtral_realtime xlm-roberta-xl";

// Classes that build tokenizers of their own, which are not read.
static const char others[] =
    "AlbertTokenizer BartTokenizer BarthezTokenizer BartphoTokenizer BertJapaneseTokenizer BertTokenizer "
    "BertweetTokenizer BigBirdTokenizer BioGptTokenizer BlenderbotSmallTokenizer BlenderbotTokenizer ByT5Tokenizer "
    "CLIPTokenizer CTRLTokenizer CamembertTokenizer CanineTokenizer ClvpTokenizer CodeLlamaTokenizer CohereTokenizer "
    "CpmAntTokenizer CpmTokenizer DPRQuestionEncoderTokenizer DebertaTokenizer DebertaV2Tokenizer DiaTokenizer "
    "EsmTokenizer EsmcTokenizer FSMTTokenizer FlaubertTokenizer FunnelTokenizer GPTNeoXJapaneseTokenizer "
    "GemmaTokenizer HerbertTokenizer LEDTokenizer LasrTokenizer LayoutLMv2Tokenizer LayoutLMv3Tokenizer "
    "LayoutXLMTokenizer LlamaTokenizer LukeTokenizer LxmertTokenizer MBart50Tokenizer MBartTokenizer MPNetTokenizer "
    "MarkupLMTokenizer MgpstrTokenizer MobileBertTokenizer MvpTokenizer MyT5Tokenizer NllbTokenizer NougatTokenizer "
    "OpenAIGPTTokenizer PLBartTokenizer PegasusTokenizer PerceiverTokenizer PhobertTokenizer ProphetNetTokenizer "
    "RagTokenizer ReformerTokenizer RemBertTokenizer RoCBertTokenizer RoFormerTokenizer RobertaTokenizer "
    "SeamlessM4TTokenizer Siglip2Tokenizer SplinterTokenizer T5Tokenizer TapasTokenizer UdopTokenizer "
    "VideoPrismTokenizer VitsTokenizer Wav2Vec2CTCTokenizer Wav2Vec2PhonemeCTCTokenizer WhisperTokenizer "
    "XGLMTokenizer XLMRobertaTokenizer XLMTokenizer XLNetTokenizer CodeGenTokenizer";

static bool lists(const char *words, const char *word, size_t n) {
    while (words && *words) {
        size_t length = strcspn(words, " ");
        if (length == n && memcmp(words, word, n) == 0) return true;
        words += length + strspn(words + length, " ");
    }
    return false;
}

// The one that a model type implies; NULL: none, or as it is written (*plain).
static const Class *implied(const char *type, bool *plain) {
    *plain = lists(as_written, type, strlen(type));
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (lists(classes[i].types, type, strlen(type))) return &classes[i];
    return NULL;
}

static const char *text_of(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

// In a qwen2 model's directory AutoTokenizer takes Qwen2Tokenizer whatever is named, unless there is a word of code of
// its own; that is not run unless one asks for it.
json_t *bytelevel_as_written(json_t *config) {
    json_object_set_new(config, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    json_object_set_new(config, "auto_map", json_pack("{s:[s, s]}", "AutoTokenizer", AS_WRITTEN, AS_WRITTEN));
    return config;
}

static bool is_ours(const json_t *map) {
    const char *code = json_string_value(json_array_get(json_object_get(map, "AutoTokenizer"), 0));
    return code && strcmp(code, AS_WRITTEN) == 0;
}

// The class that is used, NULL: tokenizer.json as it is written.
static const Class *class_of(const BesideTokens *beside, const char *dir) {
    const json_t *map = json_object_get(beside->config, "auto_map");
    const char *type = text_of(beside->model, "model_type"), *named = text_of(beside->config, "tokenizer_class");
    bool plain, own_code = json_is_array(map) || json_object_get(map, "AutoTokenizer");
    const Class *of_type = implied(type, &plain);
    if (!*named) named = text_of(beside->model, "tokenizer_class");
    size_t n = strlen(named);
    if (n > 4 && strcmp(named + n - 4, "Fast") == 0) n -= 4;
    if (own_code && !is_ours(map))
        print_line(stderr, "note     %s: its tokenizer_config.json names code of its own (auto_map), which is not run; "
                   "its tokenizer.json is\n", dir);
    if (n == 0) return of_type;
    if (lists("LlamaTokenizer", named, n) && !own_code && !(of_type && lists(of_type->against, type, strlen(type))))
        return NULL;                            // they see that it is byte-level
    if (!own_code && of_type && lists(of_type->against, type, strlen(type))) return of_type;
    if (!own_code && plain) return NULL;
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (lists(classes[i].name, named, n)) return &classes[i];
    if (lists(others, named, n))
        fail("%s: its tokenizer is a %.*s, which transformers builds in a way that is not read here; if its "
             "tokenizer.json says all, set \"tokenizer_class\" to \"PreTrainedTokenizerFast\"", dir, (int)n, named);
    return NULL;
}

// ---- what the class makes of it ----------------------------------------------------------------------
static json_t *bytes_json(bool prefix_space, bool use_regex) {
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", prefix_space, "trim_offsets", 1,
                     "use_regex", use_regex);
}

static json_t *cutting(const Class *c, bool prefix_space) {
    json_t *bytes = bytes_json(prefix_space, c->pattern == NULL);
    if (!c->pattern) return bytes;
    return json_pack("{s:s, s:[{s:s, s:{s:s}, s:s, s:b}, o]}", "type", "Sequence", "pretokenizers", "type", "Split",
                     "pattern", "Regex", c->pattern, "behavior", "Isolated", "invert", 0, bytes);
}

static void rebuild(const Class *c, json_t *root, json_t *settings) {
    json_t *model = json_object_get(root, "model");
    const char *const key[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    const char *const value[] = {c->bos, c->eos, c->unk, c->pad};
    const json_t *decoder = json_object_get(root, "decoder");
    json_object_set_new(model, "ignore_merges", json_false());
    json_object_set_new(root, "normalizer", c->nfc ? json_pack("{s:s}", "type", "NFC") : json_null());
    json_object_set_new(root, "pre_tokenizer", cutting(c, json_is_true(json_object_get(settings, "add_prefix_space"))));
    if (!decoder || json_is_null(decoder))
        json_object_set_new(root, "decoder", bytes_json(true, true));
    if (!c->template) json_object_set_new(root, "post_processor", json_null());
    json_object_set_new(root, "added_tokens", json_array());
    for (size_t i = 0; i < 4; i++)
        if (value[i] && !json_object_get(settings, key[i]))
            json_object_set_new(settings, key[i], json_string(value[i]));
    json_object_set_new(settings, "readds_special_tokens", json_boolean(c->readds));
}

// An object of extra tokens is named tokens of that model, beside the list that they may have too.
static void move_object(json_t *settings) {
    static const char key[] = "model_specific_special_tokens";
    json_t *extra = json_object_get(settings, "extra_special_tokens"), *all = json_object_get(settings, key);
    if (!json_is_object(extra)) return;
    all = json_is_object(all) ? json_copy(all) : json_object();
    json_object_update(all, extra);
    json_object_set_new(settings, key, all);
    json_object_del(settings, "extra_special_tokens");
}

// special_tokens_map.json, where tokenizer_config.json lists no tokens.
static void merge_special(json_t *settings, const json_t *special) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)special, key, value) {
        const json_t *before = json_object_get(settings, key);
        json_t *new = json_is_array(value) ? json_array() : json_copy(value);
        bool extra = strcmp(key, "extra_special_tokens") == 0;
        if (json_is_array(value) && extra && json_is_array(before)) json_array_extend(new, (json_t *)before);
        if (json_is_array(value)) json_array_extend(new, value);
        if (json_is_object(value) && !extra) {
            json_object_set_new(new, "special", json_true());
            json_object_set_new(new, "__type", json_string("AddedToken"));
        }
        json_object_set_new(settings, key, new);
    }
}

static bool is_text(const json_t *token, const char *text) {
    const char *content = json_string_value(json_is_object(token) ? json_object_get(token, "content") : token);
    return content && strcmp(content, text) == 0;
}

static bool names_token(const json_t *settings, const char *text) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
                                        "mask_token"};
    const json_t *list = json_object_get(settings, "extra_special_tokens");
    for (size_t i = 0; i < 7; i++)
        if (is_text(json_object_get(settings, names[i]), text)) return true;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (is_text(json_array_get(list, i), text)) return true;
    return false;
}

// added_tokens.json, {text: number}, and the list of tokenizer.json, as the list of tokenizer_config.json that is not
// there.
static json_t *listed_tokens(const json_t *settings, const json_t *added, const json_t *marks) {
    json_t *list = json_object(), *value;
    const char *text;
    char number[24];
    json_object_foreach((json_t *)added, text, value) {
        bool special = names_token(settings, text);
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        json_object_set_new(list, number, json_pack("{s:s, s:b, s:b}", "content", text, "special", special,
                                                    "normalized", !special));
    }
    for (size_t i = 0; i < json_array_size(marks); i++) {
        const json_t *mark = json_array_get(marks, i);
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(json_object_get(mark, "id")));
        json_object_set(list, number, (json_t *)mark);
    }
    return list;
}

json_t *bytelevel_settings(json_t *root, const BesideTokens *beside, const char *dir, bool *changed) {
    const Class *c = class_of(beside, dir);
    const char *named = text_of(beside->config, "tokenizer_class");
    bool plain = lists("PreTrainedTokenizerFast TokenizersBackend LlamaTokenizer LlamaTokenizerFast", named,
                       strlen(named));
    bool listed = json_object_get(beside->config, "added_tokens_decoder");
    *changed = c || (beside->config && !plain) || (!listed && (beside->special || beside->added));
    json_t *settings = beside->config ? json_copy((json_t *)beside->config) : json_object();
    const json_t *extra = json_object_get(settings, "extra_special_tokens");
    const json_t *additional = json_object_get(settings, "additional_special_tokens");
    if (additional && !json_array_size(extra) && !json_object_size(extra)) {
        json_object_set(settings, "extra_special_tokens", (json_t *)additional);
        json_object_del(settings, "additional_special_tokens");
    }
    move_object(settings);
    json_t *marks = json_incref(json_object_get(root, "added_tokens"));
    if (!json_object_get(settings, "added_tokens_decoder")) {
        merge_special(settings, beside->special);
        move_object(settings);
        json_object_set_new(settings, "added_tokens_decoder", listed_tokens(settings, beside->added, marks));
    }
    additional = json_object_get(settings, "additional_special_tokens");
    if (additional && !json_object_get(settings, "extra_special_tokens"))
        json_object_set(settings, "extra_special_tokens", (json_t *)additional);
    if (c) rebuild(c, root, settings);
    json_decref(marks);
    return settings;
}
