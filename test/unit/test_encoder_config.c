#include "core/model/cross_encoder_stored.h"
#include "core/model/tokenizer_read.h"
#include "unit.h"

static SermArena arena;

static SermStatus
read_config(const char *json, SermEncoderConfig *config, SermError *error)
{
	*error = (SermError){0};
	return serm_encoder_config_read(json, strlen(json), &arena, config, error);
}

static void
refused(const char *json, SermStatus expected, const char *fragment)
{
	SermEncoderConfig config;
	SermError error;
	SermStatus status = read_config(json, &config, &error);

	CHECK(status == expected && strstr(error.message, fragment) != NULL, "refused: %s", fragment);
	if (status != expected || strstr(error.message, fragment) == NULL)
		printf("# %d %s\n", status, error.message);
}

#define BERT(rest) "{\"model_type\":\"bert\",\"architectures\":[\"BertForSequenceClassification\"]" rest "}"
#define MODERN(rest) "{\"model_type\":\"modernbert\"" rest "}"

static bool
same(const SermEncoderConfig *a, const SermEncoderConfig *b)
{
	return a->architecture == b->architecture && a->layers == b->layers && a->hidden == b->hidden &&
	       a->heads == b->heads && a->intermediate == b->intermediate && a->vocab == b->vocab &&
	       a->positions == b->positions && a->types == b->types && a->labels == b->labels &&
	       a->pad_id == b->pad_id && a->activation == b->activation &&
	       a->classifier_activation == b->classifier_activation && a->pooling == b->pooling &&
	       a->eps == b->eps && a->hidden_dropout == b->hidden_dropout &&
	       a->attention_dropout == b->attention_dropout && a->classifier_dropout == b->classifier_dropout &&
	       a->initializer_range == b->initializer_range && a->global_every == b->global_every &&
	       a->local_window == b->local_window && a->global_theta == b->global_theta &&
	       a->local_theta == b->local_theta && a->attention_bias == b->attention_bias &&
	       a->mlp_bias == b->mlp_bias && a->norm_bias == b->norm_bias &&
	       a->classifier_bias == b->classifier_bias && a->sigmoid == b->sigmoid &&
	       a->match_types == b->match_types;
}

static void
round_trip(const char *json, const char *what)
{
	SermEncoderConfig config, again;
	SermError error;
	size_t length;
	char *written;

	CHECK(read_config(json, &config, &error) == SERM_OK, "%s is read", what);
	if (error.message[0] != '\0')
		printf("# %s\n", error.message);
	written = serm_encoder_config_write(&config, &arena, &length);
	CHECK(
	    serm_encoder_config_read(written, length, &arena, &again, &error) == SERM_OK && same(&config, &again),
	    "%s is written and read back as it was", what);
}

static void
test_read(void)
{
	SermEncoderConfig config;
	SermError error;

	CHECK(read_config(BERT(",\"num_hidden_layers\":6,\"hidden_size\":384,\"num_attention_heads\":12,"
	                       "\"intermediate_size\":1536,\"vocab_size\":30522,\"layer_norm_eps\":1e-12,"
	                       "\"id2label\":{\"0\":\"LABEL_0\"},\"hidden_act\":\"gelu\",\"pad_token_id\":0,"
	                       "\"sbert_ce_default_activation_function\":\"torch.nn.modules.linear.Identity\","
	                       "\"classifier_dropout\":null,\"gradient_checkpointing\":false"),
	          &config, &error) == SERM_OK &&
	          config.architecture == SERM_ENCODER_BERT && config.layers == 6 && config.hidden == 384 &&
	          config.heads == 12 && config.intermediate == 1536 && config.labels == 1 &&
	          config.eps == 1e-12 && config.activation == SERM_ACTIVATION_GELU && !config.sigmoid &&
	          config.positions == 512 && config.types == 2 && config.classifier_dropout == .1,
	    "MiniLM's config");
	CHECK(serm_encoder_tokens_max(&config) == 512, "BERT reads as many tokens as it has positions");
	CHECK(
	    read_config(
	        "{\"model_type\":\"xlm-roberta\",\"architectures\":[\"XLMRobertaForSequenceClassification\"],"
	        "\"max_position_embeddings\":514,\"pad_token_id\":1,\"type_vocab_size\":1,\"vocab_size\":250002,"
	        "\"id2label\":{\"0\":\"LABEL_0\"},\"layer_norm_eps\":1e-5}",
	        &config, &error) == SERM_OK &&
	        config.architecture == SERM_ENCODER_ROBERTA && config.sigmoid &&
	        serm_encoder_tokens_max(&config) == 512,
	    "XLM-R counts positions from behind the padding id");
	CHECK(
	    read_config(
	        MODERN(
	            ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\",\"rope_theta\":80000.0},"
	            "\"sliding_attention\":{\"rope_theta\":5000.0}},\"classifier_pooling\":\"mean\","
	            "\"num_hidden_layers\":4,"
	            "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"sliding_attention\",\"full_"
	            "attention\"]"),
	        &config, &error) == SERM_OK &&
	        config.global_theta == 80000 && config.local_theta == 5000 && config.global_every == 3 &&
	        config.pooling == SERM_POOLING_MEAN && config.labels == 2 && !config.sigmoid &&
	        config.eps == 1e-5,
	    "ModernBERT's newer form");
	CHECK(read_config(MODERN(",\"global_rope_theta\":5000,\"local_rope_theta\":null,\"rope_scaling\":null,"
	                         "\"head_dim\":64,\"position_embedding_type\":\"absolute\""),
	          &config, &error) == SERM_OK &&
	          config.local_theta == 5000,
	    "local positions that turn as the global ones");
	round_trip(BERT(",\"id2label\":{\"0\":\"a\"},\"hidden_dropout_prob\":0.3"), "BERT");
	round_trip(BERT(",\"type_vocab_size\":4,\"match_types\":true"), "marks of matches");
	round_trip("{\"model_type\":\"roberta\",\"num_labels\":4,\"max_position_embeddings\":514,\"hidden_act\":"
	           "\"gelu_new\","
	           "\"initializer_range\":0.0123456789}",
	    "RoBERTa");
	round_trip(
	    MODERN(",\"norm_bias\":true,\"mlp_bias\":true,\"attention_bias\":true,\"classifier_bias\":true,"
	           "\"classifier_activation\":\"silu\",\"classifier_pooling\":\"mean\",\"local_attention\":64,"
	           "\"global_attn_every_n_layers\":2,\"embedding_dropout\":0.25,\"id2label\":{\"0\":\"a\"},"
	           "\"sentence_transformers\":{\"activation_fn\":\"torch.nn.modules.linear.Identity\"}"),
	    "ModernBERT");
}

static void
test_refused(void)
{
	SermEncoderConfig config;
	SermError error;
	char *large = malloc((1 << 20) + 2);

	refused("", SERM_ERR_CORRUPT, "not acceptable as JSON");
	refused("[]", SERM_ERR_CORRUPT, "no JSON object");
	refused("{}", SERM_ERR_INVALID, "supported are bert");
	refused("{\"model_type\":\"distilbert\"}", SERM_ERR_INVALID, "supported are bert");
	refused("{\"model_type\":\"bert\",\"architectures\":[\"BertForMaskedLM\"]}", SERM_ERR_INVALID,
	    "supported are bert");
	refused("{\"model_type\":\"bert\",\"architectures\":[\"RobertaForSequenceClassification\"]}",
	    SERM_ERR_INVALID, "supported are bert");
	refused("{\"model_type\":\"bert\",\"architectures\":7}", SERM_ERR_INVALID, "supported are bert");
	refused(BERT(",\"num_hidden_layers\":\"6\""), SERM_ERR_CORRUPT,
	    "\"num_hidden_layers\" is not a whole number");
	refused(BERT(",\"num_hidden_layers\":4294967296"), SERM_ERR_CORRUPT,
	    "\"num_hidden_layers\" is not a whole number");
	refused(BERT(",\"match_types\":true"), SERM_ERR_INVALID, "4 token types");
	refused(BERT(",\"match_types\":4"), SERM_ERR_CORRUPT, "\"match_types\" is not true or false");
	refused(BERT(",\"layer_norm_eps\":\"x\""), SERM_ERR_CORRUPT, "\"layer_norm_eps\" is not a number");
	refused(BERT(",\"is_decoder\":1"), SERM_ERR_CORRUPT, "\"is_decoder\" is not true or false");
	refused(BERT(",\"is_decoder\":true"), SERM_ERR_INVALID, "a decoder is not supported");
	refused(BERT(",\"position_embedding_type\":\"relative_key\""), SERM_ERR_INVALID, "besides absolute ones");
	refused(BERT(",\"hidden_act\":\"mish\""), SERM_ERR_INVALID, "an activation besides");
	refused(BERT(",\"num_labels\":11"), SERM_ERR_INVALID,
	    "a head of 11 labels is not supported: 1 label is a score");
	refused(BERT(",\"id2label\":{}"), SERM_ERR_INVALID, "a head of 0 labels");
	refused(BERT(",\"num_labels\":4,\"problem_type\":\"multi_label_classification\""), SERM_ERR_INVALID,
	    "of one label");
	refused(BERT(",\"num_labels\":1,\"sentence_transformers\":{\"activation_fn\":\"torch.nn.Tanh\"}"),
	    SERM_ERR_INVALID, "an activation of the score");
	refused(BERT(",\"num_hidden_layers\":0"), SERM_ERR_INVALID, "num_hidden_layers of 0");
	refused(BERT(",\"num_hidden_layers\":97"), SERM_ERR_INVALID, "num_hidden_layers of 97");
	refused(BERT(",\"hidden_size\":8193"), SERM_ERR_INVALID, "hidden_size of 8193");
	refused(BERT(",\"num_attention_heads\":0"), SERM_ERR_INVALID, "num_attention_heads of 0");
	refused(BERT(",\"num_attention_heads\":7"), SERM_ERR_INVALID, "not a multiple of 7");
	refused(BERT(",\"intermediate_size\":32769"), SERM_ERR_INVALID, "intermediate_size of 32769");
	refused(BERT(",\"vocab_size\":0"), SERM_ERR_INVALID, "vocab_size of 0");
	refused(BERT(",\"vocab_size\":2000000"), SERM_ERR_INVALID, "vocab_size of 2000000");
	refused(BERT(",\"max_position_embeddings\":7"), SERM_ERR_INVALID, "max_position_embeddings of 7");
	refused(BERT(",\"type_vocab_size\":0"), SERM_ERR_INVALID, "type_vocab_size of 0");
	refused(BERT(",\"pad_token_id\":30522"), SERM_ERR_INVALID, "pad_token_id of 30522");
	refused(BERT(",\"layer_norm_eps\":0"), SERM_ERR_INVALID, "out of range");
	refused(BERT(",\"hidden_dropout_prob\":1"), SERM_ERR_INVALID, "out of range");
	refused("{\"model_type\":\"roberta\",\"max_position_embeddings\":9,\"pad_token_id\":1}", SERM_ERR_INVALID,
	    "max_position_embeddings of 9");
	refused(MODERN(",\"global_attn_every_n_layers\":0"), SERM_ERR_INVALID, "global_attn_every_n_layers of 0");
	refused(MODERN(",\"local_attention\":1"), SERM_ERR_INVALID, "local_attention of 1");
	refused(MODERN(",\"global_rope_theta\":0.5"), SERM_ERR_INVALID, "rotary positions need");
	refused(MODERN(",\"hidden_size\":36"), SERM_ERR_INVALID, "rotary positions need");
	refused(MODERN(",\"classifier_pooling\":\"max\""), SERM_ERR_INVALID, "a pooling besides");
	refused(MODERN(",\"rope_parameters\":{}"), SERM_ERR_INVALID, "\"rope_parameters\"");
	refused(MODERN(",\"rope_scaling\":{\"type\":\"linear\"}"), SERM_ERR_INVALID, "a scaled form");
	refused(MODERN(",\"head_dim\":32"), SERM_ERR_INVALID, "\"head_dim\"");
	refused(MODERN(",\"embedding_dropout\":1"), SERM_ERR_INVALID, "a dropout");
	refused(MODERN(",\"layer_types\":[\"full_attention\"]"), SERM_ERR_INVALID, "another length");
	refused(
	    MODERN(",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"yarn\"},\"sliding_attention\":{}}"),
	    SERM_ERR_INVALID, "a scaled form");
	refused(MODERN(",\"layer_types\":[\"sliding_attention\"]"), SERM_ERR_INVALID,
	    "an order of global and local layers");
	memset(large, ' ', (1 << 20) + 1);
	large[(1 << 20) + 1] = '\0';
	CHECK(read_config(large, &config, &error) == SERM_ERR_LIMIT, "a config of more than 1 MiB is refused");
	free(large);
}

/* --- tensors */

static void
used(const SermEncoderConfig *config, const char *name, const char *canonical)
{
	char out[SERM_TENSOR_NAME_MAX];

	CHECK(serm_encoder_tensor_name(config, name, out) == SERM_TENSOR_USED && strcmp(out, canonical) == 0,
	    "%s is stored as %s", name, canonical);
}

static void
test_names(void)
{
	SermEncoderConfig bert, roberta, modern;
	SermError error;
	char out[SERM_TENSOR_NAME_MAX], long_name[201];

	(void) read_config(BERT(",\"num_hidden_layers\":2"), &bert, &error);
	(void) read_config("{\"model_type\":\"roberta\",\"max_position_embeddings\":514}", &roberta, &error);
	(void) read_config(MODERN(""), &modern, &error);
	used(&bert, "bert.embeddings.word_embeddings.weight", "embeddings.word_embeddings.weight");
	used(&bert, "embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight");
	used(&bert, "bert.encoder.layer.1.output.LayerNorm.beta", "encoder.layer.1.output.LayerNorm.bias");
	used(&bert, "classifier.weight", "classifier.weight");
	used(&roberta, "roberta.encoder.layer.11.attention.output.LayerNorm.weight",
	    "encoder.layer.11.attention.output.LayerNorm.weight");
	used(&roberta, "classifier.out_proj.bias", "classifier.out_proj.bias");
	used(&modern, "model.layers.21.attn.Wqkv.weight", "layers.21.attn.Wqkv.weight");
	used(&modern, "head.norm.weight", "head.norm.weight");
	CHECK(serm_encoder_tensor_name(&bert, "bert.embeddings.position_ids", out) == SERM_TENSOR_IGNORED &&
	          serm_encoder_tensor_name(&bert, "cls.predictions.bias", out) == SERM_TENSOR_IGNORED &&
	          serm_encoder_tensor_name(&roberta, "lm_head.bias", out) == SERM_TENSOR_IGNORED &&
	          serm_encoder_tensor_name(&roberta, "roberta.pooler.dense.bias", out) == SERM_TENSOR_IGNORED &&
	          serm_encoder_tensor_name(&modern, "decoder.bias", out) == SERM_TENSOR_IGNORED,
	    "buffers and heads of pre-training are not needed");
	CHECK(serm_encoder_tensor_name(&bert, "bert.encoder.layer.2.output.dense.weight", out) ==
	              SERM_TENSOR_UNKNOWN &&
	          serm_encoder_tensor_name(&bert, "adapter.weight", out) == SERM_TENSOR_UNKNOWN &&
	          serm_encoder_tensor_name(&modern, "model.layers.0.attn_norm.weight", out) ==
	              SERM_TENSOR_UNKNOWN &&
	          serm_encoder_tensor_name(&modern, "head.dense.bias", out) == SERM_TENSOR_UNKNOWN,
	    "others are unknown");
	memset(long_name, 'x', 200);
	long_name[200] = '\0';
	CHECK(serm_encoder_tensor_name(&bert, long_name, out) == SERM_TENSOR_UNKNOWN, "also very long ones");
	CHECK(serm_encoder_tensor_count(&bert) == 5 + 2 * 16 + 4 &&
	          serm_encoder_tensor_count(&roberta) == 5 + 12 * 16 + 4 &&
	          serm_encoder_tensor_count(&modern) == 2 + 22 * 6 - 1 + 5,
	    "how many there are");
	modern.norm_bias = modern.mlp_bias = modern.attention_bias = modern.classifier_bias = true;
	CHECK(serm_encoder_tensor_count(&modern) == 3 + 22 * 12 - 2 + 8, "and with every bias");
	used(&modern, "head.dense.bias", "head.dense.bias");
}

/* Every tensor of a small model, zeroed. */
static SermTensor *
make_tensors(const SermEncoderConfig *config, uint32_t *count)
{
	SermTensor *tensors;

	*count = serm_encoder_tensor_count(config);
	tensors = serm_arena_array(&arena, *count, sizeof(SermTensor));
	for (uint32_t i = 0; i < *count; i++) {
		SermEncoderTensor needed;

		serm_encoder_tensor(config, i, &needed);
		memcpy(tensors[i].name, needed.name, sizeof(needed.name));
		tensors[i].dtype = i % 3 == 0 ? SERM_DTYPE_F32 : i % 3 == 1 ? SERM_DTYPE_F16 : SERM_DTYPE_BF16;
		tensors[i].rank = needed.rank;
		memcpy(tensors[i].shape, needed.shape, sizeof(needed.shape));
		(void) serm_tensor_bytes(tensors[i].dtype, needed.rank, needed.shape, &tensors[i].bytes);
		tensors[i].data = serm_arena_alloc(&arena, tensors[i].bytes);
	}
	return tensors;
}

static void
test_tensors(void)
{
	static const char *const configs[] = {BERT(",\"num_hidden_layers\":2,\"hidden_size\":8,\"num_attention_"
	                                           "heads\":2,\"intermediate_size\":16,\"vocab_size\":9"),
	    "{\"model_type\":\"roberta\",\"num_hidden_layers\":1,\"hidden_size\":8,\"num_attention_heads\":2,"
	    "\"intermediate_size\":16,\"vocab_size\":9}",
	    MODERN(
	        ",\"num_hidden_layers\":4,\"hidden_size\":8,\"num_attention_heads\":2,\"intermediate_size\":16,"
	        "\"vocab_size\":9,\"pad_token_id\":0")};
	SermEncoderConfig config;
	SermTensor *tensors;
	SermError error;
	uint32_t count;

	for (unsigned c = 0; c < SERM_LENGTH(configs); c++) {
		(void) read_config(configs[c], &config, &error);
		tensors = make_tensors(&config, &count);
		CHECK(serm_encoder_tensors_check(&config, &(SermTensorSet){tensors, count}, NULL, &error) == SERM_OK,
		    "a complete set is accepted (%s)", serm_encoder_architecture_name(config.architecture));
		CHECK(serm_encoder_tensors_check(&config, &(SermTensorSet){tensors + 1, count - 1}, NULL, &error) ==
		          SERM_ERR_CORRUPT,
		    "without its first tensor it is not");
		tensors[count - 1].shape[0]++;
		CHECK(serm_encoder_tensors_check(&config, &(SermTensorSet){tensors, count}, NULL, &error) ==
		          SERM_ERR_CORRUPT,
		    "nor with another shape");
		tensors[count - 1].shape[0]--;
		for (uint32_t i = 0; i < 3; i++) {
			static const uint32_t infinite[] = {0x7f800000, 0x7c00, 0xff80};
			static const uint32_t big[] = {0x7f7fffff, 0x7bff, 0xff7f};
			unsigned char *last = (unsigned char *) tensors[i].data + tensors[i].bytes - (i == 0 ? 4 : 2);

			memcpy(last, &big[i], i == 0 ? 4 : 2);
			CHECK(serm_encoder_tensors_check(&config, &(SermTensorSet){tensors, count}, NULL, &error) ==
			          SERM_OK,
			    "the largest %s is fine", serm_dtype_name(tensors[i].dtype));
			memcpy(last, &infinite[i], i == 0 ? 4 : 2);
			CHECK(serm_encoder_tensors_check(&config, &(SermTensorSet){tensors, count}, NULL, &error) ==
			              SERM_ERR_CORRUPT &&
			          strstr(error.message, "not finite") != NULL,
			    "an infinite one is not");
			memset(last, 0, i == 0 ? 4 : 2);
		}
		tensors[0].dtype = SERM_DTYPE_I32;
		CHECK(serm_encoder_tensors_check(&config, &(SermTensorSet){tensors, count}, NULL, &error) ==
		          SERM_ERR_CORRUPT,
		    "integers are no weights");
	}
}

/* --- a stored model */

static SermTensor
bytes_tensor(const char *name, const void *bytes, size_t length)
{
	SermTensor tensor = {
	    .dtype = SERM_DTYPE_U8, .rank = 1, .shape = {length}, .data = bytes, .bytes = length};

	snprintf(tensor.name, sizeof(tensor.name), "%s", name);
	return tensor;
}

/* Open a model of `json` with a WordPiece of nine tokens that says how long an input may be. */
static SermStatus
open_stored(const char *json, uint32_t tokens_max, uint32_t left_out, SermError *error)
{
	static const char vocab[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nblue\npill\n##ow\n##s\n";
	const SermTokenizerFiles files = {.vocab_txt = {vocab, sizeof(vocab) - 1}};
	SermEncoderConfig config, again;
	const SermTokenizer *tokenizer;
	const unsigned char *tables;
	SermTensor *tensors, *all;
	SermTokenizerSpec spec;
	size_t length, json_length;
	uint32_t count;
	char *written;

	*error = (SermError){0};
	(void) read_config(json, &config, error);
	tensors = make_tensors(&config, &count);
	(void) serm_tokenizer_read(&files, &arena, &spec, error);
	spec.tokens_max = tokens_max;
	(void) serm_tokenizer_write(&spec, &arena, &tables, &length, error);
	written = serm_encoder_config_write(&config, &arena, &json_length);
	all = serm_arena_array(&arena, count + 2, sizeof(SermTensor));
	all[0] = bytes_tensor(SERM_ENCODER_CONFIG_TENSOR, written, json_length);
	all[1] = bytes_tensor(SERM_ENCODER_TOKENIZER_TENSOR, tables, length);
	memcpy(all + 2, tensors, count * sizeof(SermTensor));
	if (left_out < count + 2)
		all[left_out] = all[count + 1];
	return serm_encoder_stored_open(&(SermTensorSet){all, count + (left_out < count + 2 ? 1 : 2)}, NULL,
	    &arena, &again, &tokenizer, error);
}

static void
test_stored(void)
{
#define SMALL(rest)                                                                                          \
	BERT(",\"num_hidden_layers\":1,\"hidden_size\":8,\"num_attention_heads\":2,\"intermediate_size\":"       \
	     "16" rest)
	SermError error;

	CHECK(open_stored(SMALL(",\"vocab_size\":9"), 0, 99, &error) == SERM_OK, "a stored model opens");
	CHECK(open_stored(SMALL(",\"vocab_size\":9"), 0, 0, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "\"config\" is missing") != NULL,
	    "not without its config");
	CHECK(open_stored(SMALL(",\"vocab_size\":9"), 0, 1, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "\"tokenizer\" is missing") != NULL,
	    "not without its tokenizer");
	CHECK(open_stored(SMALL(",\"vocab_size\":9"), 0, 5, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "is missing") != NULL,
	    "not without one of its weights");
	CHECK(open_stored(SMALL(",\"vocab_size\":8"), 0, 99, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "9 tokens, the encoder only 8") != NULL,
	    "not with ids that the encoder does not have");
	CHECK(open_stored(SMALL(",\"vocab_size\":9,\"type_vocab_size\":1"), 0, 99, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "2 token types") != NULL,
	    "nor with types that it does not have");
	CHECK(open_stored(SMALL(",\"vocab_size\":9"), 3, 99, &error) == SERM_ERR_CORRUPT &&
	          strstr(error.message, "no room for a pair") != NULL,
	    "nor where special tokens fill the input");
}

int
main(void)
{
	arena = unit_arena();
	test_read();
	test_refused();
	test_names();
	test_tensors();
	test_stored();
	serm_arena_free(&arena);
	DONE();
}
