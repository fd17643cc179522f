// hf_config_keys.c: the keys of config.json, as tables: which flag a key is, which keys have only some values that we
// can compute, which do not matter. A key that is in no table is nobody's: transformers passes it over, and so do we,
// with a note. Facts are from the modeling and configuration files of transformers 5.23; tests/config_walk.py edits
// every field of every class and holds the tables against it.
#include "formats/hf_config.h"

// Where transformers has a default, so have we; where it is a size that no model here would have by chance (a width of
// 4096), the key must be there.
const HfKey hf_keys[] = {
    {ROTARY | GPT2, "vocab_size", "vocab", NULL, NULL},
    {ROTARY, "hidden_size", "width", NULL, NULL},
    {ROTARY, "num_hidden_layers", "layers", NULL, NULL},
    {ROTARY, "num_attention_heads", "heads", NULL, NULL},
    {LLAMA | OLMO | OLMOE, "num_key_value_heads", "kv_heads", "0", "0"},
    {MISTRAL | MINISTRAL | MIXTRAL, "num_key_value_heads", "kv_heads", "8", "0"},
    {QWEN2 | QWEN3, "num_key_value_heads", "kv_heads", "32", "0"},
    {SMOLLM3, "num_key_value_heads", "kv_heads", "4", "0"},
    {QWEN3_NEXT, "num_key_value_heads", "kv_heads", "2", NULL},
    {QWEN3_MOE, "num_key_value_heads", "kv_heads", "4", NULL},
    {ROTARY & ~(LATENT | QWEN3 | QWEN3_NEXT), "head_dim", "head_dim", "0", "0"},
    {QWEN3, "head_dim", "head_dim", "128", NULL},
    {QWEN3_NEXT, "head_dim", "head_dim", "256", NULL},
    {ROTARY & ~(MIXTRAL | OLMOE), "intermediate_size", "ffn_width", NULL, NULL},
    {MIXTRAL | OLMOE, "intermediate_size", "expert_width", NULL, NULL},
    {LLAMA | OLMO | DEEPSEEK2, "max_position_embeddings", "context", "2048", NULL},
    {OLMOE | DEEPSEEK, "max_position_embeddings", "context", "4096", NULL},
    {QWEN2 | QWEN3 | QWEN3_NEXT | QWEN3_MOE | SMOLLM3, "max_position_embeddings", "context", "32768", NULL},
    {MISTRAL | MINISTRAL | MIXTRAL, "max_position_embeddings", "context", "131072", NULL},
    {QWEN3_NEXT, "linear_conv_kernel_dim", "short_conv", "4", NULL},
    {QWEN3_NEXT, "linear_key_head_dim", "state_dim", "128", NULL},
    {ROTARY & ~(MIXTRAL | OLMO | OLMOE), "rms_norm_eps", "norm_eps", "1e-6", NULL},
    {MIXTRAL | OLMO | OLMOE, "rms_norm_eps", "norm_eps", "1e-5", NULL},
    {ROTARY & ~SMOLLM3, "tie_word_embeddings", "tie", "0", NULL},
    {GPT2 | SMOLLM3, "tie_word_embeddings", "tie", "1", NULL},
    {WINDOWED & ~(MIXTRAL | SMOLLM3), "sliding_window", "window", "4096", "0"},
    {MIXTRAL | SMOLLM3, "sliding_window", "window", "0", "0"},
    {MIXTRAL, "num_local_experts", "experts", "8", NULL},
    {MIXTRAL, "num_experts_per_tok", "top_k", "2", NULL},
    {QWEN3_MOE, "num_experts", "experts", "128", NULL},
    {OLMOE, "num_experts", "experts", "64", NULL},
    {QWEN3_MOE | OLMOE, "num_experts_per_tok", "top_k", "8", NULL},
    {QWEN3_MOE, "moe_intermediate_size", "expert_width", "768", NULL},
    {QWEN3_MOE | OLMOE, "norm_topk_prob", "norm_topk", "0", NULL},
    {LATENT, "q_lora_rank", "q_rank", "1536", "0"},
    {LATENT, "kv_lora_rank", "kv_rank", NULL, NULL},
    {LATENT, "qk_nope_head_dim", "nope_dim", NULL, NULL},
    {LATENT, "qk_rope_head_dim", "rope_dim", NULL, NULL},
    {LATENT, "v_head_dim", "v_dim", NULL, NULL},
    {DEEPSEEK, "first_k_dense_replace", "first_dense", "3", NULL},
    {DEEPSEEK2, "first_k_dense_replace", "first_dense", "0", NULL},
    {LATENT, "n_routed_experts", "experts", NULL, NULL},
    {LATENT, "num_experts_per_tok", "top_k", NULL, NULL},
    {DEEPSEEK, "n_shared_experts", "shared_experts", "1", NULL},
    {DEEPSEEK2, "n_shared_experts", "shared_experts", "2", NULL},
    {LATENT, "moe_intermediate_size", "expert_width", NULL, NULL},
    {DEEPSEEK, "norm_topk_prob", "norm_topk", "1", "0"},
    {DEEPSEEK, "routed_scaling_factor", "route_scale", "2.5", NULL},
    {DEEPSEEK2, "routed_scaling_factor", "route_scale", "1", NULL},
    {GPT2, "n_embd", "width", NULL, NULL},
    {GPT2, "n_layer", "layers", NULL, NULL},
    {GPT2, "n_head", "heads", NULL, NULL},
    {GPT2, "n_positions", "context", NULL, NULL},
    {GPT2, "n_inner", "ffn_width", "0", "0"},
    {GPT2, "layer_norm_epsilon", "norm_eps", "1e-5", NULL},
    {0, NULL, NULL, NULL, NULL},
};

// The first value is the one that we write, where it is written. A model whose class has no such field may still read
// it from the file (is_causal), or be read otherwise by DeepSeek's own code (scoring_func).
const HfFixed hf_fixed[] = {
    {ROTARY, "hidden_act", "[\"silu\", \"swish\"]", HF_WRITTEN},
    {GPT2, "activation_function", "[\"gelu_new\", \"gelu_pytorch_tanh\", \"gelu_fast\"]", HF_WRITTEN},
    {QWEN3_NEXT, "attention_bias", "[false]", HF_WRITTEN},
    {DEEPSEEK, "topk_method", "[\"noaux_tc\"]", HF_ALLOWED},
    {DEEPSEEK, "scoring_func", "[\"sigmoid\"]", HF_ALLOWED},
    {DEEPSEEK2, "topk_method", "[\"greedy\", \"group_limited_greedy\"]", HF_ALLOWED},
    {DEEPSEEK2, "scoring_func", "[\"softmax\"]", HF_ALLOWED},
    {DEEPSEEK2, "mlp_bias", "[false]", HF_WRITTEN},
    {LATENT, "moe_layer_freq", "[1]", HF_ALLOWED},
    {OLMOE, "clip_qkv", "[null]", HF_WRITTEN},
    {OLMOE, "sliding_window", "[null]", HF_ALLOWED},
    {GPT2, "scale_attn_weights", "[true]", HF_WRITTEN},
    {GPT2, "scale_attn_by_inverse_layer_idx", "[false]", HF_WRITTEN},
    {GPT2, "add_cross_attention", "[false]", HF_WRITTEN},
    {EVERYONE, "is_causal", "[true]", HF_ALLOWED},
    {EVERYONE, "is_encoder_decoder", "[false]", HF_ALLOWED},
    {EVERYONE, "quantization_config", "[null]", HF_ALLOWED},
    {EVERYONE, "compression_config", "[null]", HF_ALLOWED},
    {EVERYONE, "per_layer_config", "[null]", HF_ALLOWED},
    {EVERYONE, "transformers_weights", "[null]", HF_ALLOWED},
    {0, NULL, NULL, HF_ALLOWED},
};

// These set the same number as the key that they stand for, and win where both are there.
const HfAlias hf_aliases[] = {
    {GPT2, "hidden_size", "n_embd"},
    {GPT2, "num_hidden_layers", "n_layer"},
    {GPT2, "num_attention_heads", "n_head"},
    {GPT2, "max_position_embeddings", "n_positions"},
    {MIXTRAL, "num_experts", "num_local_experts"},
    {QWEN3_MOE | OLMOE, "num_local_experts", "num_experts"},
    {DEEPSEEK, "num_local_experts", "n_routed_experts"},
    {DEEPSEEK2, "num_experts", "n_routed_experts"},
    {DEEPSEEK, "num_mtp_layers", "num_nextn_predict_layers"},
    {0, NULL, NULL},
};

// At any value they change nothing that is computed here: names of things, training, generation, what is returned.
const HfHarmless hf_harmless[] = {
    {EVERYONE, "model_type architectures auto_map transformers_version _name_or_path name_or_path _commit_hash "
               "receipts dtype torch_dtype return_dict output_hidden_states output_attentions attn_implementation "
               "experts_implementation _attn_implementation _attn_implementation_autoset use_cache id2label label2id "
               "num_labels problem_type chunk_size_feed_forward initializer_range bos_token_id eos_token_id "
               "pad_token_id sep_token_id decoder_start_token_id tokenizer_class task_specific_params torchscript "
               "is_decoder tie_encoder_decoder gradient_checkpointing classifier_dropout"},
    {EVERYONE, "max_length min_length do_sample early_stopping num_beams temperature top_k top_p typical_p "
               "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
               "num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id "
               "remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens "
               "num_beam_groups diversity_penalty"},
    {ROTARY, "attention_dropout pretraining_tp rope_theta rope_scaling rope_parameters partial_rotary_factor "
             "layer_types original_max_position_embeddings"},           // the last six are read by hf_config_read.c
    {BIASABLE, "attention_bias"},                                       // and so are these
    {BIASED, "mlp_bias"},
    {SWITCHED, "use_sliding_window"},
    {QWEN2 | QWEN3, "max_window_layers"},
    {SMOLLM3, "no_rope_layers no_rope_layer_interval"},
    {QWEN3_MOE, "decoder_sparse_step mlp_only_layers"},
    {QWEN3_NEXT, "full_attention_interval linear_num_key_heads linear_num_value_heads linear_value_head_dim "
                 "decoder_sparse_step mlp_only_layers num_experts"},
    {LATENT, "head_dim rope_interleave n_group topk_group"},
    {DEEPSEEK, "num_nextn_predict_layers"},                             // to here
    {QWEN3_NEXT, "moe_intermediate_size shared_expert_intermediate_size num_experts_per_tok norm_topk_prob"},
    {MIXTRAL | QWEN3_MOE | OLMOE | LATENT | QWEN3_NEXT, "output_router_logits router_aux_loss_coef"},
    {MIXTRAL, "router_jitter_noise"},
    {LATENT, "num_key_value_heads qk_head_dim ep_size seq_aux aux_loss_alpha"},  // all its heads have keys of their own
    {DEEPSEEK2, "norm_topk_prob"},                                      // its router does not read it
    {GPT2, "n_ctx resid_pdrop embd_pdrop attn_pdrop hidden_dropout reorder_and_upcast_attn summary_type "
           "summary_use_proj summary_activation summary_proj_to_labels summary_first_dropout"},
    {0, NULL},
};
