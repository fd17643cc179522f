// hf.h: Hugging Face's names and configurations for our models, so that transformers opens what we
// train and we open what transformers saved. Llama, Mistral, Ministral, SmolLM3, Qwen2, Qwen3, Qwen3-MoE, Qwen3-Next
// (without its experts), OLMo-2, OLMo-3, OLMoE, Mixtral, DeepSeek-V2, DeepSeek-V3 and GPT-2 are known; any other
// combination of flags is saved as model_type "receipts" under our own names (model.h).
// The tensors themselves are not touched here: safetensors.h reads and writes the files.
#ifndef HF_H
#define HF_H
#include "model.h"
#include "formats/safetensors.h"

// The architecture of transformers that computes what a resolved config computes ("LlamaForCausalLM"),
// or NULL; then hf_obstacle says what would have to differ ("LlamaForCausalLM needs --ffn swiglu").
const char *hf_architecture(const Config *c);
const char *hf_obstacle(const Config *c);   // NULL where hf_architecture is not

// Writes model.safetensors, in the numbers of --save-dtype, and config.json into the directory, which exists.
// config.json also has an object "receipts" with every flag as text, so that a run of ours is read back exactly.
void hf_save(const Model *m, const char *dir);
// Any arena with the layout of the parameters under the names that hf_save gives them. As it stands: of the norms
// whose distance from 1 Qwen3-Next stores, the gradients are the same.
void hf_write_tensors(const Model *m, const real *arena, const char *path);

// Fills in what the directory's config.json fixes: sizes and everything else that decides what the
// model computes; the context where positions are learned. Flags of training are left as they are.
// config_resolve must follow.
// Fails with one line that names file and key where a model cannot be represented by our flags, where values contradict
// each other, and where the keys say another model than the flags of the run that wrote them. Keys that nobody reads
// are named on stderr.
void hf_config(Config *c, const char *dir);
// Every flag of the run of ours that wrote the directory; fails like hf_config. False (c untouched) if none of ours
// did.
bool hf_flags(Config *c, const char *dir);
// The section quant.def as a run of ours was trained; false, with c untouched, where nothing was rounded.
bool hf_rounding(Config *c, const char *dir);
// One line on stderr where a run has rounded weights (--quant), for those who round them again: not every format brings
// its own numbers back. why: the exact ones are not used, half a sentence.
void hf_note_rounded(const char *dir, const char *why);
// The tokens of context that the model of a directory was trained on, or is said to be good for.
size_t hf_trained_context(const char *dir);
// One line on stderr that names what generation_config.json, or config.json where there is none, would change in a text
// and the flags at hand do not, and which flag would. Not what changes nothing, nor what a given flag has decided.
// table: with the section sampling.def.
void hf_note_generation(const char *dir, const FlagTable *table, const void *flags, const bool *given);
// Fills the parameters from model.safetensors, or from the shards that model.safetensors.index.json
// names. Every shape is checked, nothing may be missing or left over, but layers that predict further tokens
// (DeepSeek-V3) are passed over with a note. A head beside a tied embedding must be equal to it.
// A model that rounds its weights gets the exact ones of a run that was trained so, from its state.safetensors, so that
// they become what was trained, to the bit; where it cannot, hf_note_rounded.
void hf_load(Model *m, const char *dir);
void hf_load_exact(Model *m, const char *dir);    // of that: those of the state, and what is to be said
#endif
