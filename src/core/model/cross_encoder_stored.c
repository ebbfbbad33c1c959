#include "core/model/cross_encoder_stored.h"

#include "core/model/encoder_pair.h"

SermStatus
serm_encoder_fits(const SermEncoderConfig *config, const SermTokenizer *tokenizer, SermError *error)
{
	const uint32_t types = config->match_types ? SERM_MATCH_TYPE : config->types > 0 ? config->types : 1;

	if (serm_tokenizer_vocab(tokenizer) > config->vocab)
		return serm_fail(error, SERM_ERR_CORRUPT, "the tokenizer has %u tokens, the encoder only %u",
		    serm_tokenizer_vocab(tokenizer), config->vocab);
	if (serm_tokenizer_types(tokenizer) > types)
		return serm_fail(error, SERM_ERR_CORRUPT,
		    "the tokenizer uses %u token types, the encoder has only %u", serm_tokenizer_types(tokenizer),
		    types);
	if (serm_encoder_stored_tokens_max(config, tokenizer) <= serm_tokenizer_overhead(tokenizer, true))
		return serm_fail(error, SERM_ERR_CORRUPT, "the longest input has no room for a pair of texts");
	return SERM_OK;
}

uint32_t
serm_encoder_stored_tokens_max(const SermEncoderConfig *config, const SermTokenizer *tokenizer)
{
	const uint32_t encoder = serm_encoder_tokens_max(config), said = serm_tokenizer_tokens_max(tokenizer);

	return said != 0 && said < encoder ? said : encoder;
}

SermStatus
serm_encoder_stored_open(const SermTensorSet *tensors, const SermWatch *watch, SermArena *arena,
    SermEncoderConfig *config, const SermTokenizer **tokenizer, SermError *error)
{
	const uint64_t any = 0;
	const SermTensor *json, *tables;
	SermStatus status =
	    serm_tensor_require(tensors, SERM_ENCODER_CONFIG_TENSOR, SERM_DTYPE_U8, 1, &any, &json, error);

	if (status == SERM_OK)
		status = serm_tensor_require(
		    tensors, SERM_ENCODER_TOKENIZER_TENSOR, SERM_DTYPE_U8, 1, &any, &tables, error);
	if (status == SERM_OK)
		status = serm_encoder_config_read(json->data, json->bytes, arena, config, error);
	if (status == SERM_OK)
		status = serm_tokenizer_open(tables->data, tables->bytes, arena, tokenizer, error);
	if (status == SERM_OK)
		status = serm_encoder_fits(config, *tokenizer, error);
	return status == SERM_OK ? serm_encoder_tensors_check(config, tensors, watch, error) : status;
}
